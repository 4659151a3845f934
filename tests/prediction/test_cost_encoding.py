"""The encoding `cost`: a table made from a few graphs, against a walk over each architecture's own graph."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from export import small_spaces as s
from prediction.made_up import drawn, encoded_by_graph, rows, session_of

from esm_onnx.architectures import Architecture, Export, Feature, Options, Space, find_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import graph_of, node_counts
from esm_onnx.prediction import cost_encoding
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.predictor_onnx import build_model
from esm_onnx.prediction.surrogates import usual_encoding
from esm_onnx.prediction.training import TrainSettings, train

MOBILENETS = {
    "name": "mobilenets",
    "units": 3,
    "depth": [[1, 2, 3], [2, 4], [1]],
    "block": {"kernel": [3, 5]},
    "unit": {"expansion": [1, 4], "se": [0, 1]},
    "network": {"resolution": [32, 36, 48, 60, 64, 96]},
    "export": {"writer": "mobilenetv3", "widths": [8, 16, 24], "stem": 8, "head": [32, 24], "classes": 10},
}
DENSENETS = {
    "name": "densenets",
    "units": 3,
    "depth": [1, 2, 3, 4],
    "unit": {"kernel": [1, 3]},
    "network": {"resolution": [32, 48, 64, 96]},
    "export": {"writer": "densenet", "growth": 8, "bottleneck": 24, "stem": 16, "classes": 10},
}
ADDITIVE = {
    "resnet": find_space("resnet"),
    "mobilenetv3": find_space("mobilenetv3"),
    "ofa-mobilenetv3": find_space("ofa-mobilenetv3"),
    "ofa-proxyless": find_space("ofa-proxyless"),
    "compofa-fixed": find_space("compofa-fixed"),
    "compofa-elastic": find_space("compofa-elastic"),
    "several resolutions": space_from_table(MOBILENETS),
    "one resolution of a choice of one": space_from_table(MOBILENETS | {"network": {"resolution": [48]}}),
    "no unit of more than one block": space_from_table(MOBILENETS | {"depth": [1]}),
    "no unit of one or two blocks": space_from_table(MOBILENETS | {"depth": [3, 5]}),
    "narrow resnet": s.narrow("resnet"),
    "odd sides": s.narrow("mobilenetv3", resolution=49),
}
"""Spaces in which what a block does depends on nothing but its place, its options and the network's."""
WITH_DEPTHS = {
    "densenet": find_space("densenet"),
    "small densenets": space_from_table({name: part for name, part in DENSENETS.items() if name != "network"}),
    "depths with gaps": space_from_table(
        {**DENSENETS, "depth": [[2], [1, 3], [1, 4]], "network": {"resolution": [64]}}
    ),
}
"""Spaces in which a block reads what the blocks before it made."""
DENSE_RESOLUTIONS = space_from_table(DENSENETS)
ELASTIC_WIDTHS = find_space("ofa-resnet50")
"""A unit's width is another's input, and the stem has features of its own."""
ONE_RESOLUTION = replace(
    ELASTIC_WIDTHS, name="one", network=(Feature("resolution", (144,)), *ELASTIC_WIDTHS.network[1:])
)


def walked(space: Space, architecture: Architecture) -> tuple[Counter[str], Counter[str]]:
    """What the blocks do, and what all else does: the counts of each node of the architecture's own graph."""
    blocks, ends = Counter[str](), Counter[str]()
    for name, counts in node_counts(graph_of(space, architecture, ExportSettings())):
        (blocks if re.match(r"u\d+\.b\d+\.", name) else ends).update(counts)
    return blocks, ends


def assert_equal(encoded: np.ndarray, expected: list[Counter[str]], columns: list[str]) -> None:
    """The first columns of the vectors are these quantities, to nine digits of what is usual for each."""
    real = np.array([[counts[name] for name in columns] for counts in expected], float)
    scale = np.abs(real).max(axis=0)
    assert (scale > 0).all()
    np.testing.assert_allclose(encoded / scale, real / scale, rtol=1e-9, atol=1e-9)


def encode(space: Space, count: int, seed: int = 1) -> tuple[list[Architecture], np.ndarray, list[str]]:
    chosen = drawn(space, count, seed)
    encoding = find_encoding("cost")
    columns = encoding.columns(space)
    assert all(column.startswith("cost.") for column in columns)
    return chosen, encoding.encode(space, rows(space, chosen)), [column.removeprefix("cost.") for column in columns]


@pytest.mark.parametrize("space", ADDITIVE.values(), ids=ADDITIVE)
def test_what_the_blocks_do_is_what_their_own_graph_says(space: Space) -> None:
    chosen, encoded, columns = encode(space, 20)
    several = sum(len(feature.options) for feature in space.network) > 1
    assert [column for column in columns if column.startswith("ends.")] == ["ends.macs"] * several
    counted = [walked(space, architecture) for architecture in chosen]
    every = {name for blocks, _ in counted for name in blocks if any(blocks[name] for blocks, _ in counted)}
    kernels = sorted(name for name in every if name.startswith("depthwise."))  # k3, k5, k7
    assert set(columns) - {"ends.macs"} == every - set(kernels[:1]), "the smallest kernel's say nothing of their own"
    inside = [i for i, column in enumerate(columns) if column != "ends.macs"]
    assert_equal(encoded[:, inside], [blocks for blocks, _ in counted], [columns[i] for i in inside])
    if several:
        macs = [Counter({"macs": sum(n for name, n in ends.items() if "macs." in name)}) for _, ends in counted]
        assert_equal(encoded[:, :1], macs, ["macs"])
        assert len(set(encoded[:, 0])) > 1


@pytest.mark.parametrize("space", WITH_DEPTHS.values(), ids=WITH_DEPTHS)
def test_where_layers_read_all_before_them_the_whole_graph_is_summed(space: Space) -> None:
    chosen, encoded, columns = encode(space, 20)
    whole = [blocks + ends for blocks, ends in (walked(space, architecture) for architecture in chosen)]
    assert set(columns) == {name for counts in whole for name in counts}
    assert_equal(encoded, whole, columns)


def test_layers_that_read_all_before_them_at_several_resolutions_are_summed_as_well_as_a_line_can() -> None:
    """What a layer reads would have to be a product of depths and resolution; what it puts out need not."""
    chosen, encoded, columns = encode(DENSE_RESOLUTIONS, 60)
    counted = [walked(DENSE_RESOLUTIONS, architecture) for architecture in chosen]
    whole = [blocks + ends for blocks, ends in counted]
    assert set(columns) == {name for counts in whole for name in counts}
    exact = [i for i, name in enumerate(columns) if name in ("layers", "macs.k3", "macs.k7", "pooled", "strided")]
    assert len(exact) == 5
    assert_equal(encoded[:, exact], whole, [columns[i] for i in exact])
    for name in ("macs.pointwise", "parameters", "traffic"):
        real = np.array([counts[name] for counts in whole], float)
        found = encoded[:, columns.index(name)]
        assert np.corrcoef(found, real)[0, 1] > 0.97
        assert np.abs(found / real - 1).mean() < 0.1


@pytest.mark.parametrize("space", [ELASTIC_WIDTHS, ONE_RESOLUTION], ids=lambda space: space.name)
def test_where_widths_are_elastic_the_sums_are_near(space: Space) -> None:
    """Multiply-adds are off by less than 1 % as a rule, and by 3 % at most; what has no width is exact."""
    chosen, encoded, columns = encode(space, 100)
    whole = [blocks + ends for blocks, ends in (walked(space, architecture) for architecture in chosen)]
    assert set(columns) == {name for counts in whole for name in counts}
    exact = [i for i, name in enumerate(columns) if name in ("layers", "pooled", "strided")]
    assert_equal(encoded[:, exact], whole, [columns[i] for i in exact])

    def off(names: list[str]) -> np.ndarray:
        real = np.array([sum(counts[name] for name in names) for counts in whole])
        return np.abs(encoded[:, [columns.index(name) for name in names]].sum(axis=1) / real - 1)

    macs = off([name for name in columns if name.startswith("macs.")])
    assert np.median(macs) < 0.01
    assert macs.max() < 0.03
    for name in ("traffic", "parameters"):
        assert np.median(off([name])) < 0.005
        assert off([name]).max() < 0.03


def test_few_graphs_are_drawn_where_resolutions_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is a sum of a few functions of the resolution: not each needs a graph of each combination."""
    drawn_at: list[object] = []

    def counted(space: Space, architecture: Architecture, settings: ExportSettings) -> onnx.ModelProto:
        drawn_at.append(architecture.network["resolution"])
        return graph_of(space, architecture, settings)

    monkeypatch.setattr(cost_encoding, "graph_of", counted)
    space = find_space("ofa-mobilenetv3")
    (resolution,) = space.network
    cost_encoding.build_cost(space)
    assert set(drawn_at) == set(resolution.options)
    assert len(drawn_at) < len(resolution.options) * len(space.combinations) * 2 / 3


EVERY = {**ADDITIVE, **WITH_DEPTHS, "densenets at several resolutions": DENSE_RESOLUTIONS, "widths": ELASTIC_WIDTHS}


@pytest.mark.parametrize("space", EVERY.values(), ids=EVERY)
def test_the_graph_of_a_predictor_sums_the_same_in_float32(space: Space) -> None:
    genomes = rows(space, drawn(space, 50, seed=2))
    for name in ("cost", "counts+cost", "cost+statistical"):
        encoding = find_encoding(name)
        expected = encoding.encode(space, genomes)
        scale = np.maximum(np.abs(expected).max(axis=0), 1e-30)
        found = encoded_by_graph(space, name, genomes)
        np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["linear", "hybrid"])
@pytest.mark.parametrize("name", ["ofa-resnet50", "ofa-proxyless", "compofa-fixed"])
def test_a_file_that_stands_on_costs_predicts_what_python_does(name: str, kind: str) -> None:
    """Latencies go by the traffic, and 1 % of noise."""
    space = find_space(name)
    chosen, encoded, columns = encode(space, 60)
    traffic = encoded[:, columns.index("traffic")]
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(len(traffic))
    target = {"name": "somewhere", "facts": {}}
    whole = Dataset(space, rows(space, chosen), (1 + 10 * traffic / traffic.mean()) * noise, target)
    predictor, _ = train(whole, TrainSettings(surrogate=kind, encoding="cost", held_out=0.2))
    others = rows(space, drawn(space, 500, seed=3))
    expected = predictor.predict(others)
    given = session_of(build_model(predictor)).run(["latency_ms", "lower_ms", "upper_ms"], {"genome": others})
    assert np.ptp(expected[0]) > 1
    for found, wanted in zip(given, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_first_block_costs_what_it_costs_there() -> None:
    """A first block of ResNet has a shortcut, and often a stride and narrower inputs: by hand, in one unit."""
    space = space_from_table(
        {
            "name": "r",
            "units": 1,
            "depth": [1, 2],
            "block": {"kernel": [3], "expansion": [1]},
            "export": {"writer": "resnet", "widths": [32], "stem": 16, "classes": 10, "resolution": 32},
        }
    )
    _, encoded, columns = encode(space, 2)
    one, two = encoded[np.argsort(encoded[:, columns.index("layers")])]
    middle, area = 8, 8 * 8  # 32 / 4 channels; 32 pixels, halved twice
    assert one[columns.index("layers")] == 4
    assert two[columns.index("layers")] == 7
    assert one[columns.index("macs.pointwise")] == area * (16 * 32 + 16 * middle + middle * 32)
    assert two[columns.index("macs.pointwise")] == one[columns.index("macs.pointwise")] + area * 2 * 32 * middle
    assert one[columns.index("macs.k3")] == area * 9 * middle * middle
    assert two[columns.index("macs.k3")] == 2 * area * 9 * middle * middle
    first = (16 * 32 + 32) + (16 * middle + middle) + (9 * middle * middle + middle) + (middle * 32 + 32)
    assert one[columns.index("parameters")] == first
    assert two[columns.index("parameters")] == first + (32 * 8 + 8) + (9 * 8 * 8 + 8) + (8 * 32 + 32)


def test_no_rows_give_no_rows() -> None:
    for space in (ADDITIVE["resnet"], ADDITIVE["several resolutions"], WITH_DEPTHS["small densenets"]):
        columns = find_encoding("cost").columns(space)
        none = np.empty((0, rows(space, drawn(space, 1)).shape[1]), np.int64)
        assert find_encoding("cost").encode(space, none).shape == (0, len(columns))


# what has no costs


UNWRITTEN = replace(ADDITIVE["several resolutions"], export=None)
TWO_FEATURES = replace(ADDITIVE["several resolutions"], network=(*UNWRITTEN.network, Feature("stem", (8, 16))))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (UNWRITTEN, r"space 'mobilenets' has no \[export\], so it cannot be written as ONNX"),
        (
            replace(UNWRITTEN, export=Export("my_supernet:make")),
            "space 'mobilenets' is written by 'my_supernet:make', whose graphs do not tell blocks apart: take another",
        ),
        (TWO_FEATURES, r"feature 'stem' in \[network\] is unknown to the writer"),
        (replace(UNWRITTEN, export=Export("mobilenetv3")), "writer 'mobilenetv3': no setting 'widths', expected a li"),
        (replace(UNWRITTEN, export=Export("resnet", {"widths": [8] * 3})), "unknown to the writer"),
    ],
)
def test_a_space_without_costs_is_refused_and_its_counts_are_enough(space: Space, message: str) -> None:
    for name in ("cost", "cost+fcc", "fc+cost"):
        with pytest.raises(InputError, match=message):
            find_encoding(name).columns(space)
    assert usual_encoding("hybrid", space) == "counts"
    assert usual_encoding("linear", space) == "fcc"


@pytest.mark.parametrize("space", EVERY.values(), ids=EVERY)
def test_a_space_that_our_writers_draw_has_them(space: Space) -> None:
    assert usual_encoding("hybrid", space) == "cost+counts"
    assert usual_encoding("mlp", space) == "fcc"


def test_more_options_than_graphs_can_be_drawn_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = space_from_table(MOBILENETS | {"name": "many", "network": {"resolution": list(range(32, 1100))}})
    with pytest.raises(InputError, match="'many' has too many resolutions for the encoding cost: take another"):
        find_encoding("cost").columns(many)
    large = space_from_table(MOBILENETS | {"name": "large"})
    monkeypatch.setattr(cost_encoding, "GREATEST_TABLE", 100)
    with pytest.raises(InputError, match="'large' has too many combinations of options for the encoding cost"):
        find_encoding("cost").columns(large)


def test_four_times_the_area_is_four_times_the_work_and_no_more_parameters() -> None:
    """At sides that stay whole when halved, and without squeeze-excite, whose maps are of one pixel at any size."""
    space = ADDITIVE["several resolutions"]
    units = next(a.units for a in drawn(space, 100) if not any(block["se"] for unit in a.units for block in unit))
    twice = [Architecture(space.name, units, Options({"resolution": side})) for side in (32, 64)]
    columns = [column.removeprefix("cost.") for column in find_encoding("cost").columns(space)]
    small, large = find_encoding("cost").encode(space, rows(space, twice))
    for name in ("macs.pointwise", "macs.depthwise", "traffic", "strided"):
        assert large[columns.index(name)] == pytest.approx(4 * small[columns.index(name)])
    for name in ("parameters", "layers"):
        assert large[columns.index(name)] == pytest.approx(small[columns.index(name)])
