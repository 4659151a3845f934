"""Which rows are genomes, and of how many blocks, against `from_genome`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from prediction.made_up import drawn, rows, session_of
from strategies import coupled_spaces, spaces

from esm_onnx.architectures import Coupled, Feature, Space, find_space, from_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Nodes
from esm_onnx.prediction.validity import draw_depth

ONE, TWO, THREE = (Feature(name, tuple(range(1, n + 1))) for name, n in (("one", 1), ("two", 2), ("three", 3)))


def depths_by_graph(space: Space, genomes: np.ndarray) -> np.ndarray:
    graph = Nodes()
    depth = draw_depth(graph, space, graph.add("Cast", "row", "genome", to=TensorProto.FLOAT))
    takes = helper.make_tensor_value_info("genome", TensorProto.INT64, [None, genomes.shape[1]])
    gives = helper.make_tensor_value_info(depth, TensorProto.FLOAT, [None, 1])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "validity", [takes], [gives], graph.constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return session_of(model).run(None, {"genome": genomes})[0][:, 0]  # type: ignore[no-any-return]


def depth(space: Space, row: np.ndarray) -> int:
    try:
        return from_genome(space, row.tolist()).depth
    except InputError:
        return 0


@pytest.mark.parametrize(
    ("depths", "features"),
    [
        (((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),), 1),
        (((2, 3, 5, 6),), 2),
        (((1, 6),), 2),
        (((3,), (1, 4)), 2),
        (((1, 2, 4),), 3),
        (((1, 3), (1, 2)), 3),
        (((4,),), 3),
    ],
)
def test_each_pattern_of_absent_places_is_judged_right(depths: tuple[tuple[int, ...], ...], features: int) -> None:
    space = Space("patterns", depths, block=(ONE, TWO, THREE)[:features])
    length = sum(space.slots) * features
    every = np.array(list(itertools.product((-1, 0), repeat=length)))
    expected = [depth(space, row) for row in every]
    assert sum(map(bool, expected)) == np.prod([len(allowed) for allowed in depths])
    np.testing.assert_array_equal(depths_by_graph(space, every), expected)


@pytest.mark.parametrize("features", [(TWO,), (TWO, TWO)])
def test_each_disagreement_of_blocks_is_found(features: tuple[Feature, ...]) -> None:
    unit = tuple(Feature(f"{feature.name}{i}", feature.options) for i, feature in enumerate(features))
    space = Space("agreement", ((2, 3), (1, 2)), block=(ONE,) if len(unit) == 1 else (), unit=unit)
    every = np.array(list(itertools.product((-1, 0, 1), repeat=sum(space.slots) * len(space.features))))
    every = every[:: 1 + len(every) // 20_000]
    some = np.concatenate([every, rows(space, drawn(space, 100))])
    expected = [depth(space, row) for row in some]
    assert len(set(expected)) == 4  # 0, and 3 to 5 blocks
    np.testing.assert_array_equal(depths_by_graph(space, some), expected)


@pytest.mark.parametrize(
    ("depths", "unit"),
    [(((1, 3), (2,)), ()), (((1, 2, 4),), (TWO,)), (((1,), (1, 2)), (TWO,)), (((1, 2), (1, 2)), ())],
)
def test_each_option_that_its_depth_does_not_decide_is_found(
    depths: tuple[tuple[int, ...], ...], unit: tuple[Feature, ...]
) -> None:
    coupled = Coupled.of("c", {depth: ("a", "b", "c", "a")[depth - 1] for of_unit in depths for depth in of_unit})
    space = Space("coupling", depths, block=(), unit=unit, coupled=(coupled,))
    options = [range(-1, len(feature.options)) for feature in space.features] * sum(space.slots)
    every = np.array(list(itertools.product(*options)))
    expected = [depth(space, row) for row in every]
    assert sum(map(bool, expected)) == space.size
    np.testing.assert_array_equal(depths_by_graph(space, every), expected)


@pytest.mark.parametrize("name", ["compofa-fixed", "compofa-elastic"])
def test_a_unit_of_another_expansion_than_its_depths_is_none(name: str) -> None:
    space = find_space(name)
    genomes = rows(space, drawn(space, 300))
    at, width = len(space.network), len(space.features)
    free = rows(space.uncoupled, drawn(space.uncoupled, 2000))
    other = genomes.copy()
    for u in range(5):  # whole units, each block of which agrees
        places = slice(at + 4 * width * u + width - 1, at + 4 * width * (u + 1), width)
        chosen = np.arange(len(other)) % 5 == u
        other[chosen, places] = np.where(other[chosen, places] < 0, -1, (other[chosen, places] + 1) % 3)
    assert (depths_by_graph(space.uncoupled, np.vstack([genomes, free, other])) > 0).all()
    assert (depths_by_graph(space, genomes) > 0).all()
    assert (depths_by_graph(space, other) == 0).all()
    expected = [depth(space, row) for row in free]
    assert 0 < sum(map(bool, expected)) < 100
    np.testing.assert_array_equal(depths_by_graph(space, free), expected)


@settings(max_examples=100, deadline=None)
@given(space=spaces() | coupled_spaces(), seed=st.integers(0, 2**32 - 1))
def test_rows_are_judged_as_from_genome_does(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genomes, free = (rows(each, drawn(each, 40, seed)) for each in (space, space.uncoupled))
    greatest = max(len(feature.options) for feature in space.network + space.features)
    damaged = np.vstack([genomes, free])
    damaged[np.arange(len(damaged)), rng.integers(0, genomes.shape[1], len(damaged))] += rng.choice([-1, 1])
    anything = rng.integers(-2, greatest + 1, (40, genomes.shape[1]))
    some = np.vstack([genomes, free, damaged, anything])
    np.testing.assert_array_equal(depths_by_graph(space, some), [depth(space, row) for row in some])


def test_a_space_without_coupled_features_has_no_node_for_them() -> None:
    def operators(space: Space) -> list[str]:
        graph = Nodes()
        draw_depth(graph, space, "row")
        return [node.op_type for node in graph.nodes]

    usual = ["Clip", "Sub", "ReduceSumSquare", "HardSigmoid", "Gemm", "Gemm", "Mul", "Gemm", "Relu"]
    assert operators(find_space("resnet")) == usual
    elastic = find_space("compofa-elastic")
    assert len(operators(elastic)) == len(operators(elastic.uncoupled)) + 4


@pytest.mark.parametrize("value", [2, 3, -2, 2**24 + 1, -(2**31), 2**32, 2**53 + 1, 2**62, 2**63 - 1, -(2**63)])
def test_a_number_out_of_range_is_found_at_every_place(value: int) -> None:
    space = Space("ranges", ((1, 2, 3),), block=(TWO,), unit=(TWO,), network=(Feature("n", ("a", "b")),))
    genome = rows(space, drawn(space, 1))
    wrong = np.repeat(genome, genome.shape[1] + 1, axis=0)
    wrong[np.arange(genome.shape[1]), np.arange(genome.shape[1])] = value
    wrong[-1] = value
    assert (depths_by_graph(space, genome) > 0).all()
    np.testing.assert_array_equal(depths_by_graph(space, wrong), 0)


def test_many_blocks_are_judged_right_and_too_many_refused() -> None:
    deep = Space("deep", (tuple(range(1, 81)), (50, 80)), block=(TWO, THREE))
    genomes = rows(deep, drawn(deep, 50))
    expected = [depth(deep, row) for row in genomes]
    np.testing.assert_array_equal(depths_by_graph(deep, genomes), expected)
    genomes[:, -2:] = np.where(genomes[:, -2:] < 0, 0, -1)
    np.testing.assert_array_equal(depths_by_graph(deep, genomes), 0)
    deeper = Space("deeper", (tuple(range(1, 501)),), block=(TWO, THREE))
    with pytest.raises(InputError, match="'deeper' has too many blocks"):
        draw_depth(Nodes(), deeper, "row")
