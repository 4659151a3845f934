"""`esm-onnx time`: any ONNX file on any runtime, and what a user sees of those that cannot be timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export import ExportSettings, write_subnet


def esm(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from esm_onnx.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture
def sound(tiny: Space, eight: list[Architecture], tmp_path: Path) -> Path:
    return write_subnet(tiny, eight[0], tmp_path, ExportSettings(embed_weights=True), name="sound.onnx").path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that takes weights from somewhere else."""
    weights = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../../etc/passwd")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    path = tmp_path / "outside.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return path


@pytest.fixture
def infinite(tmp_path: Path) -> Path:
    """A file that is all right and whose output is not."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph = helper.make_graph([helper.make_node("Div", ["x", "zero"], ["y"])], "g", [x], [y], [zero])
    path = tmp_path / "infinite.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_table_has_a_row_for_each_file(sound: Path, infinite: Path) -> None:
    done = esm("time", sound, infinite, "--runtime", "ort-cpu", "--runs", 30)
    header, first, second = done.stdout.splitlines()
    assert header.split() == ["file", "latency", "ms", "±", "ms", "minimum", "ms", "spread", "failure"]
    name, latency_ms, error_ms, minimum_ms, *_ = first.split()
    assert name == str(sound)
    assert float(latency_ms) >= float(minimum_ms) > 0
    assert float(error_ms) >= 0
    assert "nan: 4 of the 4 values of output 0 are NaN or infinite" in second
    assert done.stderr == ""


def test_json_holds_every_run_and_what_it_was_measured_on(sound: Path, infinite: Path) -> None:
    told = json.loads(esm("time", sound, infinite, "--runtime", "cpu", "--runs", 10, "--json").stdout)
    assert told["facts"]["runtime"] == "ort-cpu"
    assert told["facts"]["device"]
    first, second = told["files"]
    assert first["file"] == str(sound)
    assert len(first["runs_ms"]) == 10
    assert first["minimum_ms"] == min(first["runs_ms"]) <= first["latency_ms"] <= max(first["runs_ms"])
    assert first["spread"] >= 0
    assert (second["file"], second["kind"]) == (str(infinite), "nan")


def test_a_file_that_is_refused_is_misuse_and_the_others_are_told_all_the_same(
    sound: Path, outside: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    done = esm("time", outside, sound, pipe, tmp_path, "--runtime", "ort-cpu", "--runs", 3, "--json", code=2)
    kinds = [row.get("kind") for row in json.loads(done.stdout)["files"]]
    assert kinds == ["refused", None, "refused", "refused"]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {outside}: takes the values of 'w' from '../../etc/passwd'")
    assert line.endswith("(and 2 more files refused)")


def test_nothing_timed_is_a_failure(infinite: Path) -> None:
    done = esm("time", infinite, "--runtime", "ort-cpu", code=1)
    assert done.stderr.startswith("error: no file could be timed: nan: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.onnx", "--runtime", "ort-cpu"], "'absent.onnx' does not exist"),
        (["--runtime", "ort-cpu"], "Missing argument"),
        ([__file__], "Missing option '--runtime'"),
        ([__file__, "--runtime", "abacus"], "no runtime 'abacus'"),
        ([__file__, "--runtime", "ort-cpu", "--memory", "0.1"], "--memory"),
        ([__file__, "--runtime", "ort-cpu", "--space", "resnet"], "--space"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    done = esm("time", *arguments, code=2)
    (line,) = done.stderr.splitlines()
    assert message in line
    assert done.stdout == ""


def test_the_limit_on_memory_reaches_the_subnet(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    size = helper.make_tensor("size", TensorProto.INT64, [1], [1 << 28])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["most"], axes=[0]),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    path = tmp_path / "greedy.onnx"
    made = helper.make_graph(nodes, "g", [x], [y], [size])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    done = esm("time", path, "--runtime", "ort-cpu", "--memory", "0.5", "--runs", 1, "--json", code=1)
    assert json.loads(done.stdout)["files"][0]["kind"] == "memory"


def test_a_file_in_fp32_is_not_timed_as_fp16(
    sound: Path, tiny: Space, eight: list[Architecture], tmp_path: Path
) -> None:
    refused = esm("time", sound, "--runtime", "ort-cpu", "--precision", "fp16", code=2)
    assert "sound.onnx: written in another precision, expected fp16" in refused.stderr
    narrow = write_subnet(tiny, eight[0], tmp_path, ExportSettings(precision="fp16", embed_weights=True), name="n.onnx")
    timed = json.loads(
        esm("time", narrow.path, "--runtime", "ort-cpu", "--precision", "fp16", "--runs", 10, "--json").stdout
    )
    assert timed["facts"]["precision"] == "fp16"
    assert timed["files"][0]["latency_ms"] > 0
