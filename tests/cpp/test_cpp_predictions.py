"""What C++ predicts is what Python predicts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpp.programs import ELASTIC, OFA, Programs, drawn, predictor_file
from onnx import helper, numpy_helper
from prediction.made_up import rows
from prediction.predictors import KINDS, file_of, thousand
from prediction.test_table_of_layers import EXTRACT, written

from esm_onnx.architectures import to_json
from esm_onnx.measurement.importers_lut import read_lookup_table
from esm_onnx.measurement.quantities import ENERGY
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.testing import tiny_space


@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_equals_pythons_bit_by_bit(kind: str, programs: Programs, path: Path) -> None:
    path.write_bytes(file_of(kind))
    genomes = np.resize(thousand(kind), (10_000, thousand(kind).shape[1]))
    random = np.random.default_rng(0)
    spoiled = random.integers(0, len(genomes), 2000)
    genomes[spoiled, random.integers(0, genomes.shape[1], 2000)] = random.integers(-3, 7, 2000)
    genomes[7], genomes[8] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    expected = np.array(LoadedPredictor.open(path, threads=1).predict(genomes))
    assert 100 < np.isnan(expected[0]).sum() < 2000
    found = programs.predict(path, genomes, batch=len(genomes))
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("kind", ["mlp", "tree"])
def test_threads_agree_on_one_predictor(kind: str, programs: Programs, path: Path) -> None:
    path.write_bytes(file_of(kind))
    found = programs.predict(path, thousand(kind), batch=64, threads=8)  # it fails where two of them differ
    expected = LoadedPredictor.open(path).predict(thousand(kind))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_python_is_linked(plain: Programs) -> None:
    for name in ("predict", "search", "bench"):
        linked = subprocess.run(["ldd", plain.folder / name], capture_output=True, text=True, check=True).stdout
        assert "libonnxruntime" in linked
        assert "libpython" not in linked


def test_predict_prints_what_python_predicts(plain: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(OFA, ENERGY))
    architectures = drawn(OFA, 20)
    found = plain.answers("predict", path, given=[to_json(OFA, a) for a in architectures])
    expected = np.array(LoadedPredictor.open(path).predict(rows(OFA, architectures)))
    assert [list(each) for each in found] == [list(ENERGY.outputs)] * 20
    np.testing.assert_allclose(np.array([list(each.values()) for each in found]).T, expected, rtol=1e-5)
    lists = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 176}
    done = plain.run("predict", path, given=json.dumps(lists) + "\n\n" + json.dumps(lists | {"r": 1}))
    assert done.returncode == 2
    assert done.stdout.count(b"energy_mj") == 1
    assert done.stderr.startswith(b"line 3: network: resolution is 1, expected one of")


def test_a_lookup_table_promises_no_bounds(programs: Programs, path: Path) -> None:
    """Its self-test has infinite ones, which JSON calls null."""
    loaded = written(read_lookup_table(EXTRACT[0]), ELASTIC, path)
    architectures = drawn(loaded.space, 20)
    latency_ms, lower, upper = programs.predict(path, rows(loaded.space, architectures), batch=20)
    np.testing.assert_allclose(latency_ms, loaded.predict(rows(loaded.space, architectures))[0], rtol=1e-6)
    assert (lower == 0).all()
    assert np.isposinf(upper).all()
    assert len(programs.lines("search", path, "--budget", 1000, "--generations", 3, "--top", 2)) == 2
    done = programs.run("search", path, "--budget", 1000, "--generations", 3, "--bound", "upper")
    assert done.returncode == 1
    assert b"none within the budget: the least upper_ms found is inf" in done.stderr


def test_predict_writes_an_infinite_bound_as_null(plain: Programs, path: Path) -> None:
    loaded = written(read_lookup_table(EXTRACT[0]), ELASTIC, path)
    found = plain.answers("predict", path, given=[to_json(loaded.space, each) for each in drawn(loaded.space, 3)])
    assert {(each["lower_ms"], each["upper_ms"]) for each in found} == {(0.0, None)}


def test_bench_times_the_predictor_and_its_layers(plain: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(tiny_space()))
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    floats = [helper.make_tensor_value_info(*each) for each in (("x", 1, ["n", 3]), ("y", 1, ["n", 1]))]
    constants = [numpy_helper.from_array(np.ones((3, 1), np.float32), "w")]
    graph = helper.make_graph([layer], "layers", floats[:1], floats[1:], constants)
    layers = path.parent / "layers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), layers)
    words = ("bench", path, "--layers", layers, "--seconds", "0.01", "--batches", "2,70")
    found = json.loads(plain.output(*words))
    assert list(found) == ["one_us", "one_bound_us", "batches", "layers"]
    assert found["one_us"]["p99"] >= found["one_us"]["median"] > 0
    for part in ("batches", "layers"):
        assert list(found[part]) == ["2", "70"]
        assert all(rates["per_second"] > 0 for rates in found[part].values())
