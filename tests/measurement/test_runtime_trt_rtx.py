"""TensorRT for RTX builds engines without a GPU, so its builder is really run here; its engines are not.

Its software is that of the environment, or of the folder `tensorrt-rtx` below $ESM_ONNX_TRT_BINDINGS, made by

    pip install --target FOLDER/tensorrt-rtx tensorrt-rtx==1.7.1.116
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import onnx
import pytest
from esm_onnx.runtimes.trt_engine import build_engine, stopwatch
from export import small_spaces as s
from onnx import TensorProto, helper

from esm_onnx.architectures import Architecture, Space, find_space
from esm_onnx.errors import WorkError
from esm_onnx.export import ExportSettings, write_subnet

FOLDER = Path(os.environ.get("ESM_ONNX_TRT_BINDINGS", "build/tensorrt")).resolve() / "tensorrt-rtx"


@pytest.fixture(scope="module")
def rtx() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER.is_dir():
            patch.syspath_prepend(str(FOLDER))
        yield pytest.importorskip("tensorrt_rtx", reason="no TensorRT for RTX here", exc_type=ImportError)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def write(space: Space, architecture: Architecture, folder: Path, precision: str) -> Path:
    return write_subnet(space, architecture, folder, ExportSettings(precision=precision)).path


def assert_holds(engine: bytes, subnet: Path) -> None:
    """An engine has the subnet's nodes by name and its weights, those of the last layer as they are in the pool; the
    places of int8's are the kernel's."""
    graph = onnx.load(subnet).graph
    weights = {tensor.name: tensor.raw_data for tensor in graph.initializer}
    assert [node.name for node in graph.node if node.name.encode() not in engine] == []
    assert weights.get("head.fc.weight", b"") in engine
    assert len(engine) > sum(map(len, weights.values()))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("family", s.FAMILIES)
def test_it_builds_the_subnets_of_every_family(rtx: ModuleType, folder: Path, family: str, precision: str) -> None:
    space = s.narrow(family)
    for architecture in (s.smallest(space), *s.several(space, 1, seed=3)):
        subnet = write(space, architecture, folder, precision)
        assert_holds(build_engine(rtx, subnet), subnet)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("family", ["resnet", "mobilenetv3"])
def test_it_builds_subnets_as_they_are_measured(rtx: ModuleType, folder: Path, family: str, precision: str) -> None:
    space = find_space(family)
    subnet = write(space, s.several(space, 1)[0], folder, precision)
    assert_holds(build_engine(rtx, subnet), subnet)


def test_tf32_is_off_unless_it_is_asked_for(rtx: ModuleType, folder: Path) -> None:
    space = s.narrow("resnet")
    subnet = write(space, s.smallest(space), folder, "fp32")
    seen = []

    def note(options: object) -> object:
        seen.append(options.get_flag(rtx.BuilderFlag.TF32))
        raise WorkError("seen")

    for tf32 in (False, True):
        with pytest.raises(WorkError, match="seen"):
            build_engine(rtx, subnet, tf32=tf32, adapted=note)
    assert seen == [False, True]


def test_a_file_that_it_cannot_read_is_told_in_one_line_and_nothing_is_printed(
    rtx: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no onnx at all")
    with pytest.raises(WorkError, match=r"tensorrt_rtx cannot read broken.onnx: .*Failed to parse") as raised:
        build_engine(rtx, broken)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_it_does_not_know_is_named(rtx: ModuleType, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    node = helper.make_node("Wonder", ["x"], ["y"], "u1.b1.wonder", domain="stranger")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "wonder.onnx")
    with pytest.raises(WorkError, match=r"Wonder.*u1\.b1\.wonder"):
        build_engine(rtx, tmp_path / "wonder.onnx")


def test_errors_of_one_subnet_are_not_told_of_the_next(rtx: ModuleType, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.onnx").write_bytes(b"no onnx at all")
        with pytest.raises(WorkError, match=f"cannot read {name}") as raised:
            build_engine(rtx, tmp_path / f"{name}.onnx")
        assert str(raised.value).count("Failed to parse") == 1


def test_times_of_layers_of_one_name_are_added_up(rtx: ModuleType) -> None:
    watch = stopwatch(rtx)
    for name, ms in (("a + b", 0.5), ("c", 0.25), ("a + b", 1.0)):
        watch.report_layer_time(name, ms)
    assert watch.layers == {"a + b": 1.5, "c": 0.25}


def reason(before: str, where: Path) -> str:
    """Why `trt-rtx` cannot be used by a process that runs `before`."""
    ask = "from esm_onnx.measurement.runtime import find_runtime; find_runtime('trt-rtx')"
    places = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": places}
    code = f"import sys; {before}\ntry: {ask}\nexcept Exception as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=where, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def test_missing_software_is_told_with_the_line_that_installs_it(tmp_path: Path) -> None:
    told = reason("sys.modules['tensorrt_rtx'] = None", tmp_path)
    assert told.count("\n") == 1
    assert "runtime 'trt-rtx' cannot be used here" in told
    assert "tensorrt_rtx" in told
    assert "pip install 'esm-onnx[trt-rtx]'" in told


@pytest.mark.usefixtures("rtx")
def test_a_machine_without_a_gpu_is_told(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="no cuda-bindings here", exc_type=ImportError)
    told = reason("pass", tmp_path)
    assert told.count("\n") == 1
    assert "no NVIDIA driver" in told or "no NVIDIA GPU" in told
