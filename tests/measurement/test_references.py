"""What watches a session: references over all depths, rounds at places nobody can keep in step with, a calibration."""

from __future__ import annotations

import statistics
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from esm_onnx.architectures import Space, divide, find_space, from_genome, to_genome
from esm_onnx.errors import InputError
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.references import choose_calibration, draw_places, draw_references
from esm_onnx.testing import tiny_space


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_references_are_different_and_spread_over_the_depths(tiny: Space, count: int) -> None:
    references = draw_references(tiny, Protocol(references=count))
    bins = divide(tiny)
    assert len(set(references)) == count
    assert len({bins.index(reference.depth) for reference in references}) == min(count, len(bins))
    assert references == draw_references(tiny, Protocol(references=count))
    assert references != draw_references(tiny, Protocol(references=count, seed=1))


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"references": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}, {"attempts": 0}]
)
def test_an_impossible_protocol_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Protocol(**wrong)  # type: ignore[arg-type]


@given(st.integers(0, 300), st.integers(1, 50), st.integers(0, 2**32))
def test_places_lie_within_the_session_and_not_too_far_apart(subjects: int, every: int, seed: int) -> None:
    places = draw_places(subjects, every, Random(seed))
    assert all(0 < place < subjects for place in places)
    edges = [0, *sorted(places), subjects]
    assert all(after - before < 2 * every for before, after in pairwise(edges))
    assert places == draw_places(subjects, every, Random(seed))


@pytest.mark.parametrize("every", [1, 2, 7, 20])
def test_rounds_lie_as_far_apart_as_asked_on_average_and_every_distance_occurs(every: int) -> None:
    places = [0, *sorted(draw_places(2000 * every, every, Random(0)))]
    distances = [after - before for before, after in pairwise(places)]
    assert statistics.fmean(distances) == pytest.approx(every, rel=0.05)
    assert set(distances) == set(range(1, 2 * every))


def assert_is_a_valid_architecture_of_least_depth(space: Space) -> None:
    chosen = choose_calibration(space)
    assert from_genome(space, to_genome(space, chosen)) == chosen
    assert [len(unit) for unit in chosen.units] == [min(depths) for depths in space.depths]


@given(spaces())
def test_the_calibration_subnet_is_a_valid_architecture_of_least_depth(space: Space) -> None:
    assert_is_a_valid_architecture_of_least_depth(space)


@pytest.mark.parametrize("name", ["resnet", "mobilenetv3", "densenet"])
def test_each_family_has_a_calibration_subnet(name: str) -> None:
    assert_is_a_valid_architecture_of_least_depth(find_space(name))


def test_the_calibration_subnet_of_tiny_has_one_block_a_unit_with_the_last_options() -> None:
    space = tiny_space()
    chosen = choose_calibration(space)
    assert to_genome(space, chosen) == (1, 1, *[-1] * 6, 1, 1, *[-1] * 6)
