"""Where a search's numbers come from: predictors, capacity, and other people's accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prediction.made_up import checked, drawn, predictor_of, random_mlp, rows
from prediction.predictors import file_of, thousand
from prediction.test_surrogates import UNWRITTEN, WRITTEN

from esm_onnx.architectures import Space, find_space, genome_length
from esm_onnx.errors import InputError
from esm_onnx.export.cost import cost_of
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.search.estimates import capacity_of, predicted_by, read_accuracy

LENGTH = genome_length(UNWRITTEN)
GENOMES = rows(UNWRITTEN, drawn(UNWRITTEN, 30))


@pytest.mark.parametrize("space", [WRITTEN, find_space("ofa-mobilenetv3"), find_space("resnet")], ids=lambda s: s.name)
def test_capacity_is_the_multiply_adds_of_the_graph(space: Space) -> None:
    architectures = drawn(space, 5, seed=3)
    capacity = capacity_of(space)
    assert capacity.name == "multiply_adds"
    counted = [cost_of(space, architecture).multiply_adds for architecture in architectures]
    np.testing.assert_allclose(capacity.estimate(rows(space, architectures)), counted, rtol=1e-6)
    assert capacity.title == "multiply-adds, M"


def test_capacity_that_is_not_exact_says_so() -> None:
    """Of the widths of Once-for-All's ResNet50 each depends on another."""
    space = find_space("ofa-resnet50")
    architectures = drawn(space, 20, seed=3)
    capacity = capacity_of(space)
    assert capacity.title == "multiply-adds, about, M"
    counted = np.array([cost_of(space, architecture).multiply_adds for architecture in architectures])
    off = capacity.estimate(rows(space, architectures)) / counted - 1
    assert 1e-4 < np.abs(off).max() < 0.04


def test_capacity_is_the_number_of_blocks_where_no_writer_of_ours_draws_the_space() -> None:
    architectures = drawn(UNWRITTEN, 20)
    capacity = capacity_of(UNWRITTEN)
    assert capacity.name == "blocks"
    expected = [sum(len(blocks) for blocks in architecture.units) for architecture in architectures]
    assert capacity.estimate(rows(UNWRITTEN, architectures)).tolist() == expected


def test_a_predictor_limits_what_it_predicts_or_its_upper_bound(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(file_of("mlp"))
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    latency, _, upper = loaded.predict(thousand("mlp"))
    np.testing.assert_array_equal(predicted_by(loaded, "value")(thousand("mlp")), latency)
    np.testing.assert_array_equal(predicted_by(loaded, "upper")(thousand("mlp")), upper)
    assert (latency < upper).all()


def test_infinite_bounds_limit_nothing_and_are_refused(tmp_path: Path) -> None:
    interval = Interval(0.9, ((1, 10),), (float("inf"),), 3)
    predictor = predictor_of(UNWRITTEN, "fc", random_mlp(UNWRITTEN, "fc", GENOMES), GENOMES, interval=interval)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, GENOMES))
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    assert np.isfinite(predicted_by(loaded, "value")(GENOMES)).all()
    with pytest.raises(InputError, match=r"p\.onnx: its upper_ms is infinite, .* or let --bound value"):
        predicted_by(loaded, "upper")


def write_accuracy(
    path: Path,
    *,
    takes: tuple[str, int, list[object]] = ("genome", TensorProto.INT64, ["batch", LENGTH]),
    gives: tuple[str, int, list[object]] = ("accuracy", TensorProto.FLOAT, ["batch"]),
    divide_by: float = 1.0,
) -> Path:
    """The sum of a genome's numbers, divided by a number, as somebody may write it."""
    name, kind, shape = gives
    nodes = [
        helper.make_node("Cast", [takes[0]], ["x"], to=kind),
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=len(shape) - 1),
        helper.make_node("Div", ["total", "divisor"], [name]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("divisor", kind, [], [divide_by]),
    ]
    inputs = [helper.make_tensor_value_info(*takes)]
    graph = helper.make_graph(nodes, "accuracy", inputs, [helper.make_tensor_value_info(name, kind, shape)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("shape", [["batch"], ["batch", 1]])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_an_accuracy_comes_as_a_row_or_a_column(tmp_path: Path, kind: int, shape: list[object]) -> None:
    objective = read_accuracy(write_accuracy(tmp_path / "a.onnx", gives=("accuracy", kind, shape)), UNWRITTEN)
    assert objective.name == "accuracy"
    for count in (30, 1):
        np.testing.assert_array_equal(objective.estimate(GENOMES[:count]), GENOMES[:count].sum(axis=1))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no onnx"), "not an ONNX file that ONNX Runtime can load"),
        (lambda path: path.unlink(missing_ok=True), "no such file"),
        (
            lambda path: write_accuracy(path, takes=("row", TensorProto.INT64, ["batch", LENGTH])),
            rf"takes row tensor\(int64\) .*expected genome tensor\(int64\) \[batch, {LENGTH}\] for space 'unwritten'",
        ),
        (lambda path: write_accuracy(path, takes=("genome", TensorProto.INT32, ["batch", LENGTH])), "int32"),
        (lambda path: write_accuracy(path, takes=("genome", TensorProto.INT64, ["batch", 3])), r"'batch', 3\]"),
        (lambda path: write_accuracy(path, takes=("genome", TensorProto.INT64, [8, LENGTH])), r"\[8, "),
        (lambda path: write_accuracy(path, gives=("top1", TensorProto.FLOAT, ["batch"])), "expected an output 'acc"),
        (lambda path: write_accuracy(path, gives=("accuracy", TensorProto.INT64, ["batch"]), divide_by=1), "floats"),
    ],
)
def test_a_file_that_predicts_no_accuracy_of_this_space_is_refused(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=rf"a\.onnx: .*{message}"):
        read_accuracy(tmp_path / "a.onnx", UNWRITTEN)


def test_an_accuracy_that_is_no_number_is_refused(tmp_path: Path) -> None:
    objective = read_accuracy(write_accuracy(tmp_path / "a.onnx", divide_by=0.0), UNWRITTEN)
    with pytest.raises(InputError, match=r"a\.onnx: accuracy is (inf|-inf|nan) for genome \[.*\], expected a number"):
        objective.estimate(GENOMES)


def test_an_accuracy_of_many_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    takes = helper.make_tensor_value_info("genome", TensorProto.INT64, ["batch", LENGTH])
    gives = helper.make_tensor_value_info("accuracy", TensorProto.FLOAT, None)
    node = helper.make_node("Cast", ["genome"], ["accuracy"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "accuracy", [takes], [gives])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(InputError, match=rf"accuracy of 30 genomes has shape \[30, {LENGTH}\], expected \[batch\]"):
        read_accuracy(path, UNWRITTEN).estimate(GENOMES)
