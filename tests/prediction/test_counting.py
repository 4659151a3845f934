"""Counts as digits of sums of powers, against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from prediction.made_up import session_of

from esm_onnx.prediction.counting import MOST_SLOTS, Counted, digits_of, draw_floors
from esm_onnx.prediction.surrogate import Nodes


def counts_by_graph(counted: list[Counted], rows: np.ndarray) -> np.ndarray:
    graph = Nodes()
    floors = draw_floors(graph, counted, "x")
    result = graph.add("MatMul", "counts", floors.name, graph.floats("digits", floors.digits))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "counting",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, rows.shape[1]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in (result, floors.name)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    counts, whole = session_of(model).run(None, {"x": rows.astype(np.float32)})
    assert (whole <= floors.greatest).all()
    return counts  # type: ignore[no-any-return]


def plain_counts(rows: np.ndarray, combinations: int) -> np.ndarray:
    return np.stack([(rows == combination).sum(axis=1) for combination in range(combinations)], axis=1)


def hard_rows(slots: int, combinations: int, rng: np.random.Generator) -> np.ndarray:
    """All slots alike, all but one alike, and slots that hold anything, absent ones (any negative number) included."""
    alike = np.repeat(np.arange(combinations)[:, None], slots, axis=1)
    but_one = np.repeat(alike, 4, axis=0)
    but_one[:, rng.integers(slots)] = rng.integers(-1, combinations, len(but_one))
    anything = rng.integers(rng.integers(-3, 1, (300, 1)), combinations, (300, slots))
    return np.concatenate([alike, but_one, anything, np.full((1, slots), -1), np.full((1, slots), -combinations)])


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 7, 8, 15, 20, 31, 32, 62, MOST_SLOTS, MOST_SLOTS + 1, 150])
def test_any_number_of_slots_is_counted_exactly(slots: int) -> None:
    rng = np.random.default_rng(slots)
    for combinations in (1, 2, 3, 9, 10, 24, 60):
        rows = hard_rows(slots, combinations, rng)
        found = counts_by_graph([Counted(np.eye(slots), combinations)], rows)
        np.testing.assert_array_equal(found, plain_counts(rows, combinations))


@settings(max_examples=50, deadline=None)
@given(groups=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=4), seed=st.integers(0))
def test_several_groups_are_counted_side_by_side(groups: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(-1, combinations, (50, slots)) for slots, combinations in groups]
    places = np.split(np.eye(sum(slots for slots, _ in groups)), np.cumsum([slots for slots, _ in groups])[:-1], axis=1)
    counted = [Counted(numbers, combinations) for numbers, (_, combinations) in zip(places, groups, strict=True)]
    expected = [plain_counts(part, combinations) for part, (_, combinations) in zip(rows, groups, strict=True)]
    np.testing.assert_array_equal(counts_by_graph(counted, np.hstack(rows)), np.hstack(expected))


def test_every_sum_has_a_digit_and_an_end() -> None:
    for slots in range(1, MOST_SLOTS + 1):
        base, greatest = digits_of(slots)
        assert base > slots
        assert base.bit_count() == 1
        assert greatest >= 1
        assert slots * base**greatest < 2**24  # float32 holds every whole number up to here
