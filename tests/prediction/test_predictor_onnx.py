"""The graph of predictor.onnx: what it computes, which rows it refuses, and how it is written."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from prediction.made_up import (
    checked,
    dataset,
    drawn,
    encoded_by_graph,
    moderate_spaces,
    predictor_of,
    random_mlp,
    rows,
    session_of,
)

from esm_onnx import __version__
from esm_onnx.architectures import Feature, Space, divide, find_space, from_genome, genome_columns, sample
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.dataset import depths_of
from esm_onnx.prediction.encodings import ENCODINGS, find_encoding
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.predictor_onnx import build_model, write_predictor
from esm_onnx.prediction.surrogate import Matrix, Nodes
from esm_onnx.prediction.training import TrainSettings, train

FAMILIES = ("resnet", "mobilenetv3", "densenet")
ODD_VALUES = (-(2**63), -(2**32), -2, -1, 0, 1, 2, 2**24 + 1, 2**32, 2**53 + 1, 2**63 - 1)
UNEVEN = Space(
    "uneven",
    ((2, 4), (1, 3, 6), (1,)),
    block=(Feature("kernel", (3, 5, 7)), Feature("op", ("conv", "pool"))),
    unit=(Feature("expansion", (0.5, 1)), Feature("se", (0, 1))),
    network=(Feature("resolution", (160, 192, 224)), Feature("stem", ("a", "b"))),
)


QUICK = TrainSettings(surrogate="linear")


def predictor_for(space: Space, encoding: str = "fcc", seed: int = 0, count: int = 30) -> tuple[Predictor, np.ndarray]:
    genomes = rows(space, drawn(space, count, seed))
    return predictor_of(space, encoding, random_mlp(space, encoding, genomes, seed), genomes), genomes


def run(model: onnx.ModelProto, genomes: np.ndarray) -> list[np.ndarray]:
    return session_of(model).run(["latency_ms", "lower_ms", "upper_ms"], {"genome": genomes})


def accepted(space: Space, row: np.ndarray) -> bool:
    try:
        from_genome(space, row.tolist())
    except InputError:
        return False
    return True


def damaged(space: Space, genomes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows in which something may be wrong: a place, a whole slot, two slots exchanged, or everything."""
    rng = np.random.default_rng(seed)
    head, width, slots = len(space.network), len(space.features), sum(space.slots)
    result = genomes[rng.integers(len(genomes), size=count)].copy()
    for row in result:
        for _ in range(rng.integers(1, 3)):
            place = rng.integers(len(row))
            one, other = (slice(head + s * width, head + (s + 1) * width) for s in rng.integers(slots, size=2))
            kind = rng.integers(6)
            if kind == 0:
                row[place] = rng.integers(-2, 6)
            elif kind == 1:
                row[place] = rng.choice(ODD_VALUES)
            elif kind == 2:
                row[one] = -1
            elif kind == 3:
                row[one], row[other] = row[other].copy(), row[one].copy()
            elif kind == 4:
                row[one] = row[other]
            else:
                row[:] = rng.integers(-1, 4, size=len(row))
    return result


def assert_verdicts(space: Space, genomes: np.ndarray, results: list[np.ndarray]) -> int:
    """NaN in all three exactly where `from_genome` refuses; gives the number of rows that it accepts."""
    valid = np.array([accepted(space, row) for row in genomes])
    for values in results:
        np.testing.assert_array_equal(~np.isnan(values), valid)
    return int(valid.sum())


# what the graph computes


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=20, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 9))
def test_the_graph_encodes_as_numpy_does(encoding: str, space: Space, seed: int) -> None:
    genomes = rows(space, drawn(space, 10, seed))
    expected = find_encoding(encoding).encode(space, genomes)
    np.testing.assert_allclose(encoded_by_graph(space, encoding, genomes), expected, rtol=1e-6, atol=1e-12)


def test_equal_blocks_deviate_by_exactly_nothing_in_float32_too() -> None:
    space = Space("toy", ((7,), (3, 7)), block=(Feature("kernel", (0.1, 0.3, 7)), Feature("expansion", (1e5, 1e-5))))
    genomes = np.array(
        [[k, e] * 10 + ([k, e] * 4 if deep else [-1] * 8) for k in range(3) for e in (0, 1) for deep in (0, 1)]
    )
    encoded = encoded_by_graph(space, "statistical", genomes)
    deviations = [".std." in column for column in find_encoding("statistical").columns(space)]
    assert sum(deviations) == 4
    assert (encoded[:, deviations] == 0).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("space", [*map(find_space, FAMILIES), UNEVEN], ids=lambda space: space.name)
def test_onnx_runtime_agrees_with_python(space: Space, encoding: str) -> None:
    predictor, _ = predictor_for(space, encoding)
    genomes = rows(space, drawn(space, 300, seed=1))
    for given_, expected in zip(run(build_model(predictor), genomes), predictor.predict(genomes), strict=True):
        assert given_.dtype == np.float32
        np.testing.assert_allclose(given_, expected, rtol=1e-4)
    assert np.ptp(expected) > 0


@settings(max_examples=40, deadline=None)
@given(space=moderate_spaces(), encoding=st.sampled_from(list(ENCODINGS)), seed=st.integers(0, 9))
def test_onnx_runtime_agrees_with_python_in_any_space(space: Space, encoding: str, seed: int) -> None:
    predictor, genomes = predictor_for(space, encoding, seed)
    for given_, expected in zip(run(build_model(predictor), genomes), predictor.predict(genomes), strict=True):
        np.testing.assert_allclose(given_, expected, rtol=1e-4)


@pytest.mark.parametrize("batch", [0, 1, 2, 257])
def test_any_batch(batch: int) -> None:
    predictor, genomes = predictor_for(UNEVEN)
    genomes = np.resize(genomes, (batch, genomes.shape[1]))
    results = run(build_model(predictor), genomes)
    one_by_one = [run(build_model(predictor), row[None]) for row in genomes[:3]]
    assert [values.shape for values in results] == [(batch,)] * 3
    for i, alone in enumerate(one_by_one):
        np.testing.assert_allclose([values[i] for values in results], np.ravel(alone), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 9), data=st.data())
def test_bounds_are_the_width_of_the_row_s_bin_around_the_prediction(
    space: Space, seed: int, data: st.DataObject
) -> None:
    bins = divide(space)
    widths = tuple(data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0, math.inf])) for _ in bins.ranges)
    genomes = rows(space, drawn(space, 40, seed))
    interval = Interval(0.9, bins.ranges, widths, 50)
    predictor = predictor_of(space, "fc", random_mlp(space, "fc", genomes, seed), genomes, interval=interval)
    latency, lower, upper = run(build_model(predictor), genomes)
    for row, (middle, low, high) in zip(genomes, zip(latency, lower, upper, strict=True), strict=True):
        width = widths[bins.index(from_genome(space, row.tolist()).depth)]
        assert low == pytest.approx(max(0, 1 - width) * middle, rel=1e-6)
        assert high == pytest.approx((1 + width) * middle, rel=1e-6)
    for given_, expected in zip((latency, lower, upper), predictor.predict(genomes), strict=True):
        np.testing.assert_allclose(given_, expected, rtol=1e-4)


def test_each_bin_of_a_family_has_bounds_of_its_own() -> None:
    for space in (find_space("resnet"), find_space("densenet"), UNEVEN):
        bins = divide(space)
        assert len(bins) == (4 if space is UNEVEN else 5)
        genomes = rows(space, sample(space, 20 * len(bins), strategy="balanced", rng=Random(0)))
        interval = Interval(0.9, bins.ranges, (0.1, 0.2, 0.3, 0.4, 0.5)[: len(bins)], 50)
        predictor = predictor_of(space, "fc", random_mlp(space, "fc", genomes), genomes, interval=interval)
        latency, _, upper = run(build_model(predictor), genomes)
        of_bin = np.array([bins.index(int(depth)) for depth in depths_of(space, genomes)])
        assert np.bincount(of_bin).tolist() == [20] * len(bins)
        np.testing.assert_allclose(upper / latency - 1, 0.1 * (of_bin + 1), rtol=1e-5)


@pytest.mark.parametrize("width", [0.0, 1 - 1e-7, 1.0, 1 + 1e-7, 3.0, math.inf])
def test_bounds_of_any_width_agree_and_are_no_negative_times(tmp_path: Path, width: float) -> None:
    _, genomes = predictor_for(UNEVEN)
    predictor = predictor_of(UNEVEN, "fc", random_mlp(UNEVEN, "fc", genomes), genomes, width)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, genomes))
    latency, lower, upper = session_of(tmp_path / "p.onnx").run(None, {"genome": genomes})
    assert (lower >= 0).all()
    assert (lower <= latency).all()
    assert (upper >= latency).all()
    assert (upper == np.inf).all() == (width == math.inf)


def test_a_latency_is_never_below_nothing() -> None:
    genomes = rows(UNEVEN, drawn(UNEVEN, 100))
    mlp = random_mlp(UNEVEN, "fc", genomes)
    encoded = find_encoding("fc").encode(UNEVEN, genomes)
    below = replace(mlp, target_mean=mlp.target_mean - np.median(mlp.predict(encoded)))
    raw = below.predict(encoded)
    assert (raw < 0).sum() == 50
    predictor = predictor_of(UNEVEN, "fc", below, genomes)
    for values, expected in zip(run(build_model(predictor), genomes), predictor.predict(genomes), strict=True):
        assert ((values >= 0) & (values < 1e-5))[raw < 0].all()
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


# which rows it refuses


@settings(max_examples=60, deadline=None)
@given(space=moderate_spaces(), encoding=st.sampled_from(list(ENCODINGS)), seed=st.integers(0, 2**32 - 1))
def test_exactly_the_rows_that_are_no_genomes_are_refused(space: Space, encoding: str, seed: int) -> None:
    predictor, genomes = predictor_for(space, encoding, seed % 10, count=10)
    some = np.concatenate([genomes, damaged(space, genomes, 100, seed)])
    assert assert_verdicts(space, some, run(build_model(predictor), some)) >= len(genomes)


@pytest.mark.parametrize("space", [*map(find_space, FAMILIES), UNEVEN], ids=lambda space: space.name)
def test_damaged_rows_of_families_are_refused(space: Space) -> None:
    predictor, genomes = predictor_for(space)
    some = np.concatenate([genomes, damaged(space, genomes, 1000, 0)])
    valid = assert_verdicts(space, some, run(build_model(predictor), some))
    assert len(genomes) + 20 < valid < len(some) - 20


@pytest.mark.parametrize(
    "space",
    [
        Space("one", ((1, 3),), block=(Feature("a", (1, 2)),), unit=(Feature("b", (1, 2)),)),
        Space("two", ((2,), (1, 2)), block=(), unit=(Feature("b", (1, 2)),), network=(Feature("n", (1, 2)),)),
        Space("gap", ((1, 4),), block=(Feature("a", (1,)),), network=(Feature("n", ("x", "y", "z")),)),
    ],
    ids=lambda space: space.name,
)
def test_every_row_of_small_numbers_is_judged_right(space: Space) -> None:
    predictor, genomes = predictor_for(space)
    every = np.array(list(itertools.product(range(-2, 4), repeat=genomes.shape[1])))
    assert assert_verdicts(space, every, run(build_model(predictor), every)) == space.size


E_ = (0, 0)  # expansion and se of a unit
VALID = [0, 0, *([0, 0, *E_] * 2 + [-1] * 8), *([0, 0, *E_] + [-1] * 20), 0, 0, *E_]


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (0, [3]),  # no such network option
        (0, [-1]),  # a network option absent
        (2, [3]),  # no such option
        (2, [2**40]),
        (2, [-(2**40)]),
        (2, [-1]),  # one feature of a block absent
        (6, [-1, -1, -1, -1]),  # one block where 2 or 4 are allowed
        (10, [0, 0, 0, 0]),  # three
        (14, [0, 0, 0, 0]),  # a gap
        (4, [1]),  # a unit feature that differs between blocks
        (18, [-1, -1, -1, -1]),  # an empty unit
        (22, [0, 0, 0, 0]),  # two blocks where 1, 3 or 6 are allowed
    ],
)
def test_each_fault_alone_is_refused(place: int, values: list[int]) -> None:
    predictor, _ = predictor_for(UNEVEN)
    wrong = VALID.copy()
    wrong[place : place + len(values)] = values
    results = run(build_model(predictor), np.array([VALID, wrong, VALID]))
    for column in results:
        assert np.isnan(column).tolist() == [False, True, False]


# how it is written


def test_the_file_is_plain_onnx() -> None:
    for space in (UNEVEN, find_space("densenet")):
        for encoding in ENCODINGS:
            predictor, genomes = predictor_for(space, encoding, count=5)
            model = build_model(predictor)
            onnx.checker.check_model(model, full_check=True)
            assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
            assert {node.domain for node in model.graph.node} == {""}
            assert model.ir_version == 8  # the first with opset 17
            assert {t.data_type for t in model.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
            names = ("genome", "latency_ms", "lower_ms", "upper_ms")
            for name, value in zip(names, (*model.graph.input, *model.graph.output), strict=True):
                tensor = value.type.tensor_type
                shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
                assert value.name == name
                assert shape == (["batch", genomes.shape[1]] if name == "genome" else ["batch"])
                assert tensor.elem_type == (TensorProto.INT64 if name == "genome" else TensorProto.FLOAT)


@pytest.mark.parametrize(("held_out", "trained", "calibrated"), [(None, 100, 100), (0.2, 80, 20)])
def test_the_metadata_tell_everything(tmp_path: Path, held_out: float | None, trained: int, calibrated: int) -> None:
    whole = dataset(100, noise=0.02)
    predictor, evaluation = train(whole, replace(QUICK, encoding="fc", coverage=0.8, held_out=held_out))
    write_predictor(predictor, tmp_path / "p.onnx", check=whole)
    found = strict_metadata(tmp_path / "p.onnx")
    space = find_space("resnet")
    assert found["schema"] == 2
    assert found["tool"] == f"esm-onnx {__version__}"
    assert found["space"] == space.table(export=True)
    assert found["fingerprint"] == space.fingerprint
    assert found["genome"] == genome_columns(space)
    assert found["target"] == {"name": "somewhere", "facts": {"device": "abacus", "threads": 2}}
    assert found["encoding"] == {"name": "fc", "columns": find_encoding("fc").columns(space)}
    assert found["surrogate"] == "linear"
    assert found["measurements"] == {"trained": trained, "calibrated": calibrated}
    assert found["accuracy"] == evaluation.as_json()
    depths, widths = [list(pair) for pair in divide(space).ranges], list(predictor.interval.widths)
    assert found["interval"] == {"coverage": 0.8, "depths": depths, "widths": widths, "rows": calibrated}
    assert len(set(widths)) == 5
    assert found["dataset"] == whole.digest
    assert len(set(found["trained_on"].split())) == trained  # type: ignore[attr-defined]
    assert len(set(found["calibrated_on"].split())) == calibrated  # type: ignore[attr-defined]


def test_an_unbounded_interval_is_null_in_the_metadata(tmp_path: Path) -> None:
    whole, test = dataset(30), dataset(8, seed=5)
    predictor, _ = train(whole, QUICK, held_out=test)
    write_predictor(predictor, tmp_path / "p.onnx", check=test)
    found = strict_metadata(tmp_path / "p.onnx")
    depths = [list(pair) for pair in divide(whole.space).ranges]
    assert found["interval"] == {"coverage": 0.9, "depths": depths, "widths": [None] * 5, "rows": 8}
    assert found["accuracy"]["coverage"]["measured"] is None


def strict_metadata(path: Path) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (text,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == "esm_onnx"]
    return json.loads(text, parse_constant=refuse)  # type: ignore[no-any-return]


class Exaggerating:
    """Predicts in Python a little more than what it draws."""

    name = "exaggerating"

    def __init__(self, honest: object, factor: float) -> None:
        self.honest, self.factor = honest, factor

    def predict(self, x: Matrix) -> np.ndarray:
        result = self.honest.predict(x).copy()  # type: ignore[attr-defined]
        result[-1] *= np.float32(self.factor)
        return result

    def draw(self, graph: Nodes, x: str) -> str:
        return self.honest.draw(graph, x)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("factor", "written"), [(1.0, True), (1.00005, True), (1.0003, False), (math.nan, False)])
def test_nothing_is_written_that_predicts_otherwise(tmp_path: Path, factor: float, written: bool) -> None:
    path = tmp_path / "p.onnx"
    path.write_bytes(b"the old one")
    honest, genomes = predictor_for(UNEVEN)
    check = checked(honest, genomes)
    predictor = predictor_of(UNEVEN, "fcc", Exaggerating(honest.surrogate, 1.0), genomes)
    predictor.surrogate.factor = factor  # type: ignore[attr-defined]
    if written:
        write_predictor(predictor, path, check=check)
        assert session_of(path).get_modelmeta().producer_name == "esm-onnx"
    else:
        with pytest.raises(WorkError, match=r"latency_ms of row 29 is .* in ONNX Runtime and .* in Python"):
            write_predictor(predictor, path, check=check)
        assert path.read_bytes() == b"the old one"
    assert [left.name for left in tmp_path.iterdir()] == ["p.onnx"]


def test_a_prediction_near_nothing_is_judged_by_what_was_measured(tmp_path: Path) -> None:
    honest, genomes = predictor_for(UNEVEN)
    predictor = predictor_of(UNEVEN, "fcc", Exaggerating(honest.surrogate, 1.0), genomes)
    predictor.surrogate.factor = 1.0003  # type: ignore[attr-defined]
    check = checked(honest, genomes)
    write_predictor(predictor, tmp_path / "p.onnx", check=replace(check, latency_ms=4 * check.latency_ms))
    with pytest.raises(WorkError):
        write_predictor(predictor, tmp_path / "p.onnx", check=replace(check, latency_ms=0.1 * check.latency_ms))


def test_the_same_predictor_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = dataset(40)
    files = []
    for name in ("a.onnx", "b.onnx"):
        predictor, _ = train(whole, TrainSettings())
        write_predictor(predictor, tmp_path / name, check=whole)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
