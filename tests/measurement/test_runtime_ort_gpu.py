"""ONNX Runtime's providers for NVIDIA GPUs: what is told where they cannot be used, and what needs no GPU."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from esm_onnx.architectures import sample
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.inputs import random_inputs
from esm_onnx.measurement.runtime import find_runtime, list_runtimes
from esm_onnx.testing import tiny_space

gpus = importlib.import_module("esm_onnx.runtimes.gpus")
ort_gpu = importlib.import_module("esm_onnx.runtimes.ort_gpu")

PROVIDERS = {"ort-cuda": "CUDAExecutionProvider", "ort-trt": "TensorrtExecutionProvider"}
EXTRAS = {"ort-cuda": "cuda", "ort-trt": "ort-trt"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_one_that_cannot_be_used_is_listed_with_one_line(name: str) -> None:
    (entry,) = (entry for entry in list_runtimes() if name in entry.names)
    if entry.problem is None:
        pytest.skip(f"{name} can be used here")
    assert "\n" not in entry.problem
    with pytest.raises(InputError, match=f"runtime '{name}' cannot be used here: ImportError: "):
        find_runtime(name)
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        assert f"is the one without {PROVIDERS[name]}: pip install 'esm-onnx[{EXTRAS[name]}]'" in entry.problem
        assert "uninstall onnxruntime" in entry.problem


def test_the_alias_means_the_same_runtime() -> None:
    assert ("ort-cuda", "cuda") in {entry.names for entry in list_runtimes()}  # the alias comes second


def test_where_there_is_no_driver_its_library_is_named() -> None:
    with pytest.raises(ImportError, match=r"no NVIDIA driver: libno-such\.so\.1: cannot open"):
        gpus.list_gpus("libno-such.so.1")


@pytest.fixture
def two() -> list[object]:
    return [gpus.CudaGpu(number, f"GPU {number}", f"0000:0{number}:00.0", 1 << 20, 1 - number) for number in (0, 1)]


def test_a_gpu_is_chosen_by_its_number(two: list[object]) -> None:
    for device, number in ((None, 0), ("cuda", 0), ("0", 0), ("cuda:0", 0), ("1", 1), ("cuda:1", 1)):
        assert gpus.choose_gpu(device, two, "mine") is two[number]
    for device in ("2", "cuda:2", "cpu", "", "gpu 0", "-1"):
        with pytest.raises(InputError, match=r"on mine, expected one of 0 \(GPU 0\), 1 \(GPU 1\)$"):
            gpus.choose_gpu(device, two, "mine")


class Clock:
    """A device whose runs take the times of a list, the last one again and again."""

    def __init__(self, durations: Iterator[int]) -> None:
        self.now, self.runs, self._durations = 0, 0, durations

    def __call__(self) -> int:
        return self.now

    def run(self) -> None:
        self.runs += 1
        self.now += next(self._durations)


def test_settling_ends_once_two_tens_of_runs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "LEAST_SETTLING_S", 0.0)
    rising = Clock(max(1000, 3000 - 50 * i) for i in range(10**9))  # at its speed from run 40 on
    gpus.settle(rising.run, rising)
    assert 40 <= rising.runs <= 61
    steady = Clock(1000 for _ in range(10**9))
    gpus.settle(steady.run, steady)
    assert steady.runs == 20


def test_settling_ends_after_its_time_where_runs_never_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "MOST_SETTLING_S", 0.05)
    slowing = Clock(int(1000 * 1.01 ** (i % 600)) for i in range(10**9))
    gpus.settle(slowing.run, slowing)
    assert slowing.runs > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bound_memory_gives_the_outputs_of_each_run(precision: str, tmp_path: Path) -> None:
    space = tiny_space()
    (architecture,) = sample(space, 1, strategy="random", rng=Random(0))
    subnet = write_subnet(space, architecture, tmp_path, ExportSettings(batch=2, precision=precision)).path
    session = onnxruntime.InferenceSession(str(subnet), providers=["CPUExecutionProvider"])
    feed = random_inputs(subnet, 1)
    bound = ort_gpu.Bound(session, feed, ort_gpu.output_shapes(subnet), ("cpu", 0))
    for seed in (1, 2):
        for name, value in random_inputs(subnet, seed).items():
            feed[name][:] = value
        bound.copy()
        bound.run()
        assert disagreement(bound.outputs(), expected_outputs(subnet, random_inputs(subnet, seed)), precision) is None


@pytest.mark.parametrize(("left_out", "in_int32"), [((), True), (ort_gpu.WHOLE_BIASES, False)])
def test_biases_stay_in_fp32_for_tensorrt(left_out: tuple[str, ...], in_int32: bool, tmp_path: Path) -> None:
    space = tiny_space()
    architecture = sample(space, 1, strategy="random", rng=Random(0))[0]
    subnet = write_subnet(space, architecture, tmp_path, ExportSettings(precision="int8")).path
    options = onnxruntime.SessionOptions()
    # what is done before providers see the graph
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        str(subnet), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out, enable_fallback=0
    )
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    stored = {kinds.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"}
    assert TensorProto.INT8 in stored
    assert (TensorProto.INT32 in stored) is in_int32


def test_outputs_need_fixed_sides(tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT
    x, y = (onnx.helper.make_tensor_value_info(name, kind, ["rows", 4]) for name in ("x", "y"))
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])), tmp_path / "rows.onnx")
    with pytest.raises(InputError, match=r"output y has sides without a size"):
        ort_gpu.output_shapes(tmp_path / "rows.onnx")
    subnet = write_subnet(tiny_space(), *sample(tiny_space(), 1, strategy="random", rng=Random(0)), tmp_path).path
    assert ort_gpu.output_shapes(subnet) == {"logits": ((1, 10), np.dtype(np.float32))}


def test_the_libraries_that_a_provider_needs_are_read_from_it(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make libraries with")
    (tmp_path / "empty.c").write_text("")
    made = [tmp_path / name for name in ("libnvinfer.so.10", "libcudart.so.13", "libother.so.1")]
    for path in made:
        call = ["gcc", "-shared", f"-Wl,-soname,{path.name}", "-o", path, tmp_path / "empty.c"]
        subprocess.run(call, check=True)
    provider = tmp_path / "libprovider.so"
    subprocess.run(["gcc", "-shared", "-Wl,--no-as-needed", "-o", provider, tmp_path / "empty.c", *made], check=True)
    assert ort_gpu.needed_by(provider) == ["libcudart.so.13", "libnvinfer.so.10"]


@pytest.mark.parametrize("before", [None, "1"])
@pytest.mark.parametrize("value", [None, "0"])
def test_the_environment_is_as_it_was_afterwards(
    monkeypatch: pytest.MonkeyPatch, before: str | None, value: str | None
) -> None:
    monkeypatch.delenv("ESM_ONNX_TEST", raising=False)
    if before is not None:
        monkeypatch.setenv("ESM_ONNX_TEST", before)
    with ort_gpu.environment("ESM_ONNX_TEST", value):
        assert os.environ.get("ESM_ONNX_TEST") == value
    assert os.environ.get("ESM_ONNX_TEST") == before


def test_folders_that_were_not_used_for_longest_go(tmp_path: Path) -> None:
    folders = [ort_gpu.kept_folder(tmp_path / "engines", key, most=3) for key in "abc"]
    for age, folder in enumerate(folders):
        (folder / "engine").write_text("built")
        os.utime(folder, ns=(age, age))
    again = ort_gpu.kept_folder(tmp_path / "engines", "a", most=3)
    assert (again / "engine").read_text() == "built"
    (tmp_path / "engines" / "gone").symlink_to("whither")  # as of a folder that another process has just removed
    ort_gpu.kept_folder(tmp_path / "engines", "d", most=3)
    (tmp_path / "engines" / "gone").unlink()
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == ["a", "c", "d"]
