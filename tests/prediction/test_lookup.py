"""Lookup tables: read from a store, summed over architectures, drawn into a graph."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from export.small_spaces import narrow
from hypothesis import given, settings
from onnx import TensorProto, helper
from prediction.made_up import drawn, measured, moderate_spaces, rows, session_of

from esm_onnx.architectures import Architecture, Options, Space, find_space
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, export_facts
from esm_onnx.export.cost import graph_of
from esm_onnx.measurement.record import REFERENCE, Failure
from esm_onnx.measurement.runtime import find_runtime
from esm_onnx.measurement.store import OPEN, REJECTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.lookup import find_table, measuring_time_s, read_table
from esm_onnx.prediction.lookup_encoding import ENTRIES, NO_TABLE, Lookup
from esm_onnx.prediction.lut import Lut, fit_lut, fit_lut_bias
from esm_onnx.prediction.surrogate import Examples, Nodes

DRY: ModuleType = sys.modules[find_runtime("dry").__module__]
USUAL = ExportSettings()
OFA = replace(
    find_space("ofa-mobilenetv3"), network=(replace(find_space("ofa-mobilenetv3").network[0], options=(128, 224)),)
)
SPACES = [narrow("resnet"), narrow("mobilenetv3"), OFA]


def target_of(space: Space, name: str = "somewhere", **facts: str | int) -> Target:
    """What `profile` writes down of a space's architectures."""
    return Target(name, {"device": "abacus", "runtime": "dry", "threads": 2, **export_facts(space, USUAL), **facts})


def latency_of(part: Architecture) -> float:
    """A latency in ms for each part, whatever its space: something by unit, place, kernel and resolution."""
    (block,) = part.units[0]
    name, resolution = str(block["part"]), float(part.network.get("resolution", 100)) / 100
    if name in ("stem", "head"):
        return resolution * {"stem": 0.7, "head": 0.4}[name]
    unit, which = name[1:].split(".")
    own = sum(float(value) for feature, value in block.items() if feature != "part")
    return resolution**2 * (0.1 * int(unit) + 0.01 * own) * (2 if which == "first" else 1)


def sum_of_parts(space: Space, architecture: Architecture) -> float:
    """The sum over an architecture's parts, block by block."""

    def part(name: str, block: Options) -> float:
        options = Options({"part": name, **block})
        return latency_of(Architecture(f"{space.name}.blocks", ((options,),), architecture.network))

    total = sum(part(end, space.combinations[0]) for end in ("stem", "head"))
    for u, blocks in enumerate(architecture.units, 1):
        for j, block in enumerate(blocks):
            total += part(f"u{u}.rest" if j else f"u{u}.first", block)
    return total


def whole_table(store: Store, space: Space) -> Lookup:
    """The table of a space whose every part was measured once."""
    blocks = block_space(space)
    measured(store, blocks, target_of(blocks), [(entry, latency_of(entry)) for entry in table_entries(space)])
    return read_table(store, space, target_of(space))


def examples(space: Space, architectures: Sequence[Architecture], y: Sequence[float]) -> Examples:
    x = ENTRIES.encode(space, rows(space, architectures))
    return Examples(x, np.array(y), tuple(ENTRIES.columns(space)))


def lut_of_dry(space: Space, device: Any, count: int) -> tuple[Lut, Examples]:
    """What the formula of dry gives for the parts of a space and for some of its architectures."""
    blocks, architectures = block_space(space), drawn(space, count)
    parts = [DRY.cost_ms(graph_of(blocks, entry, USUAL), device) for entry in table_entries(space)]
    real = [DRY.cost_ms(graph_of(space, architecture, USUAL), device) for architecture in architectures]
    networks = len(space.network[0].options) if space.network else 1
    encoded = examples(space, architectures, real)
    return fit_lut(encoded, Lookup(encoded.columns, np.array(parts).reshape(networks, -1), 0.0)), encoded


def run_drawn(lut: Lut, x: np.ndarray) -> np.ndarray:
    """What the surrogate's nodes give in ONNX Runtime, [n]."""
    graph = Nodes()
    result = lut.draw(graph, "x")
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, x.shape[1]])
    gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, 1])
    inner = helper.make_graph(graph.nodes, "lut", [takes], [gives], graph.constants)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    found: np.ndarray = session_of(model).run(None, {"x": x.astype(np.float32)})[0]
    assert found.shape == (len(x), 1)
    return found[:, 0]


# the encoding


@settings(max_examples=30, deadline=None)
@given(space=moderate_spaces())
def test_the_encoding_counts_how_often_each_entry_is_needed(space: Space) -> None:
    architectures = drawn(space, 10)
    expected = []
    for architecture in architectures:
        count: Counter[str] = Counter({"stem": 1, "head": 1})
        count.update(f"{name}={value}" for name, value in architecture.network.items())
        for u, blocks in enumerate(architecture.units, 1):
            for j, block in enumerate(blocks):
                options = ",".join(f"{name}={value}" for name, value in block.items())
                count[f"u{u}.{'rest' if j else 'first'}.{options}"] += 1
        expected.append(count)
    columns = ENTRIES.columns(space)
    assert len(set(columns)) == len(columns)
    found = ENTRIES.encode(space, rows(space, architectures))
    assert [Counter({c: int(n) for c, n in zip(columns, row, strict=True) if n}) for row in found] == expected


# from a store


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_latency_is_the_sum_of_its_parts(store: Store, space: Space) -> None:
    table = whole_table(store, space)
    assert table.entries == len(table_entries(space))
    architectures = drawn(space, 50)
    encoded = examples(space, architectures, np.ones(len(architectures)))
    found = fit_lut(encoded, table).predict(encoded.x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [sum_of_parts(space, architecture) for architecture in architectures], rtol=1e-5)
    np.testing.assert_allclose(run_drawn(fit_lut(encoded, table), encoded.x), found, rtol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_without_launch_overlap_the_parts_of_dry_add_up_to_the_whole(space: Space) -> None:
    """Nodes then take their time one after another."""
    lut, encoded = lut_of_dry(space, replace(DRY.DEVICES["cpu"], launch_us=0.0), 10)
    np.testing.assert_allclose(lut.predict(encoded.x), encoded.y, rtol=1e-5)


def test_with_launch_overlap_they_add_up_to_more() -> None:
    """Inside of a network a node is launched while the one before runs, at the beginning of a part none does."""
    lut, encoded = lut_of_dry(find_space("resnet"), DRY.DEVICES["gpu"], 5)
    assert (lut.predict(encoded.x) > 1.05 * encoded.y).all()


def test_a_densenet_s_table_ranks_well_though_its_layers_differ() -> None:
    lut, encoded = lut_of_dry(narrow("densenet"), replace(DRY.DEVICES["cpu"], launch_us=0.0), 20)
    found, real = lut.predict(encoded.x), encoded.y
    assert 0.03 < np.abs(found / real - 1).mean() < 0.3
    assert np.corrcoef(found, real)[0, 1] > 0.95


def test_an_entry_is_the_mean_of_what_stands(store: Store, tiny: Space) -> None:
    blocks, entries = block_space(tiny), table_entries(tiny)
    there = target_of(blocks)
    measured(store, blocks, there, [(entry, 1.0) for entry in entries])
    measured(store, blocks, there, [(entries[3], 4.0)])
    measured(store, blocks, there, [(entries[3], 99.0)], status=REJECTED)
    measured(store, blocks, there, [(entries[3], 99.0)], role=REFERENCE)
    expected = [1.0] * len(entries)
    expected[3] = 2.5
    assert read_table(store, tiny, target_of(tiny)).latency_ms.tolist() == [expected]


def test_only_parts_measured_in_the_same_way_are_taken(store: Store, tiny: Space) -> None:
    blocks, entries = block_space(tiny), table_entries(tiny)
    wider = replace(tiny, export=replace(tiny.export, settings={**tiny.export.settings, "stem": 16}))
    others = [target_of(blocks, threads=1), target_of(blocks, batch=8), target_of(block_space(wider)), target_of(tiny)]
    for other in others:
        measured(store, blocks, other, [(entry, 9.0) for entry in entries])
    with pytest.raises(InputError, match="18 of the 18 entries"):
        read_table(store, tiny, target_of(tiny))
    measured(store, blocks, target_of(blocks, "some other name"), [(entry, 1.0) for entry in entries])
    assert set(read_table(store, tiny, target_of(tiny)).latency_ms[0]) == {1.0}
    # the facts of the measurements say how they were written, not the space as it is now
    assert set(read_table(store, wider, target_of(tiny)).latency_ms[0]) == {1.0}
    assert set(read_table(store, replace(tiny, export=None), target_of(tiny)).latency_ms[0]) == {1.0}
    assert set(read_table(store, tiny, target_of(wider)).latency_ms[0]) == {9.0}


def test_missing_entries_are_told_with_the_command_that_measures_them(store: Store, tiny: Space) -> None:
    blocks, entries = block_space(tiny), table_entries(tiny)
    there = target_of(blocks)
    measured(store, blocks, there, [(entry, 1.0) for entry in entries[5:]])
    session = store.open_session(blocks, there, {"of": "failures"})
    for failed in (entries[0], entries[0], entries[1], entries[7]):
        store.append(session, blocks, Failure(failed, "crash", "segmentation fault", 0.0))
    with pytest.raises(InputError) as caught:
        read_table(store, tiny, target_of(tiny))
    assert str(caught.value) == (
        f"5 of the 18 entries of the lookup table of 'tiny' on 'somewhere' are missing, 2 of them failed: measure them "
        f"with `esm-onnx profile --lookup-table --space tiny --runtime dry --store {store.path}` and the options that "
        f"the architectures were measured with"
    )
    assert find_table(store, tiny, target_of(tiny)) == str(caught.value)
    measured(store, blocks, there, [(entry, 1.0) for entry in entries[:5]])
    assert isinstance(find_table(store, tiny, target_of(tiny)), Lookup)


@pytest.mark.parametrize(
    "facts",
    [{}, {"writer": "resnet"}, {"writer": "resnet", "writer_settings": "{"}, {"writer": "x", "writer_settings": "3"}],
)
def test_where_the_writer_is_unknown_there_is_no_table(store: Store, tiny: Space, facts: dict[str, str]) -> None:
    with pytest.raises(InputError, match="the facts of 'imported' do not tell how its architectures were written"):
        read_table(store, tiny, Target("imported", {"device": "abacus", **facts}))


def test_the_measuring_time_is_that_of_everything_that_was_measured_for_it(store: Store, tiny: Space) -> None:
    blocks, entries = block_space(tiny), table_entries(tiny)
    there = target_of(blocks)
    assert measuring_time_s(store, blocks, there) == 0
    measured(store, blocks, there, [(entry, 1.0) for entry in entries], elapsed_s=0.5)
    measured(store, blocks, there, [(entries[0], 1.0)], role=REFERENCE, elapsed_s=2.0)
    measured(store, blocks, there, [(entries[0], 1.0)], status=REJECTED, elapsed_s=4.0)
    measured(store, blocks, there, [(entries[0], 1.0)], status=OPEN, elapsed_s=8.0)
    measured(store, blocks, target_of(blocks, threads=1), [(entries[0], 1.0)], elapsed_s=99.0)
    measured(store, tiny, target_of(tiny), [(drawn(tiny, 1)[0], 1.0)], elapsed_s=32.0)
    assert measuring_time_s(store, blocks, there) == 18 * 0.5 + 2 + 4 + 8
    assert measuring_time_s(store, tiny, target_of(tiny)) == 32
    assert read_table(store, tiny, target_of(tiny)).measuring_time_s == 18 * 0.5 + 2 + 4 + 8


# the surrogates


def test_the_bias_correction_is_found_by_least_squares(store: Store, tiny: Space) -> None:
    table, architectures = whole_table(store, tiny), drawn(tiny, 40)
    sums = np.array([sum_of_parts(tiny, architecture) for architecture in architectures])
    exact = fit_lut_bias(examples(tiny, architectures, 3.0 + 0.8 * sums), table)
    assert (exact.name, exact.factor, exact.bias) == ("lut-bias", pytest.approx(0.8, 1e-4), pytest.approx(3.0, 1e-4))
    noisy = 3.0 + 0.8 * sums + np.random.default_rng(0).normal(0, 0.1, len(sums))
    encoded = examples(tiny, architectures, noisy)
    fitted = fit_lut_bias(encoded, table)
    slope = np.cov(sums, noisy, ddof=0)[0, 1] / sums.var()
    assert fitted.factor == pytest.approx(slope, 1e-4)
    assert fitted.bias == pytest.approx(noisy.mean() - slope * sums.mean(), 1e-4)
    np.testing.assert_allclose(run_drawn(fitted, encoded.x), fitted.predict(encoded.x), rtol=1e-5)


def test_rows_that_the_table_cannot_tell_apart_give_their_mean(store: Store, tiny: Space) -> None:
    table, (same,) = whole_table(store, tiny), drawn(tiny, 1)
    encoded = examples(tiny, [same] * 3, [1.0, 2.0, 6.0])
    np.testing.assert_allclose(fit_lut_bias(encoded, table).predict(encoded.x), 3.0, rtol=1e-5)


def test_a_table_needs_measurements_and_its_own_encoding(store: Store, tiny: Space) -> None:
    encoded = examples(tiny, drawn(tiny, 3), [1.0, 2.0, 3.0])
    table = whole_table(store, tiny)
    for fit in (fit_lut, fit_lut_bias):
        with pytest.raises(InputError, match="measure one with `esm-onnx profile --lookup-table`"):
            fit(encoded, NO_TABLE)
        with pytest.raises(InputError, match="stands on the encoding 'entries' alone, expected no other --encoding"):
            fit(replace(encoded, columns=("a", "b")), table)
