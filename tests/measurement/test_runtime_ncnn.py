"""ncnn by way of pnnx, really run; what needs them is skipped where they cannot be had."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from export.small_spaces import ELASTIC, FAMILIES, largest, narrow
from onnx import TensorProto, helper

from esm_onnx.architectures import find_space, sample
from esm_onnx.errors import InputError, WorkError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings, find_runtime, list_runtimes, outputs_of
from esm_onnx.measurement.scratch import scratch
from esm_onnx.measurement.session import written_for

REASON = next(entry.problem for entry in list_runtimes() if "ncnn" in entry.names)
needs_ncnn = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def opened(**settings: object) -> Runtime:
    return find_runtime("ncnn")(RuntimeSettings(**settings))  # type: ignore[arg-type]


def written(family: str, folder: Path, **settings: object) -> Path:
    space = narrow(family)
    (architecture,) = sample(space, 1, strategy="random", rng=Random(3))
    return write_subnet(space, architecture, folder, ExportSettings(**settings)).path  # type: ignore[arg-type]


def one_node(operator: str, folder: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    path = folder / f"{operator}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def python(code: str, folder: Path) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_ncnn
@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 0.0, 1e-5), ("fp16", 1e-4, 1e-2)])
@pytest.mark.parametrize("family", [*FAMILIES, *ELASTIC])
def test_every_family_computes_what_onnx_runtime_does(
    family: str, precision: str, least: float, most: float, tmp_path: Path
) -> None:
    """fp16 is as far off as its rounding, 11 bits a number, and fp32 is not."""
    subnet, fp32 = written(family, tmp_path, precision=precision), written(family, tmp_path)
    runtime = opened(precision=precision)
    with runtime.load(subnet) as infer:
        (output,) = outputs_of(infer)
    (right,) = expected_outputs(fp32, runtime.inputs(subnet))
    assert disagreement([output], [right], precision) is None
    assert least <= np.abs(output - right).max() / np.abs(right).max() < most


@needs_ncnn
def test_the_largest_mobilenet_of_full_size(tmp_path: Path) -> None:
    space = find_space("mobilenetv3")
    subnet = write_subnet(space, largest(space), tmp_path).path
    runtime = opened()
    with runtime.load(subnet) as infer:
        assert disagreement(outputs_of(infer), expected_outputs(subnet, runtime.inputs(subnet)), "fp32") is None


@needs_ncnn
def test_a_batch_of_two_is_refused(tmp_path: Path) -> None:
    subnet = written("resnet", tmp_path, batch=2)
    expected = r"^input input has the shape \[2, 3, 64, 64\], ncnn takes one image at a time: batch 1$"
    with pytest.raises(InputError, match=expected), opened().load(subnet):
        pass


@needs_ncnn
def test_a_batch_of_two_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match=r"^batch 2 on ncnn, expected at most 1$"):
        written_for("ncnn", RuntimeSettings(), ExportSettings(batch=2))


@needs_ncnn
def test_facts_name_what_a_latency_depends_on() -> None:
    facts = opened(threads=2).facts()
    assert facts["device"] == find_runtime("ort-cpu")(RuntimeSettings()).facts()["device"]
    assert str(facts["ncnn"]).startswith(version("ncnn"))
    assert (facts["pnnx"], facts["threads"], facts["arithmetic"]) == (version("pnnx"), 2, "f32")


@needs_ncnn
def test_a_device_that_is_no_cpu_is_refused() -> None:
    with pytest.raises(InputError, match=r"^device 'vulkan' on ncnn, expected cpu$"):
        opened(device="vulkan")


@needs_ncnn
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_so_many_threads_compute_as_were_asked_for(threads: int, tmp_path: Path) -> None:
    subnet = written("resnet", tmp_path)
    code = f"""
import os
from pathlib import Path
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
runtime = find_runtime("ncnn")(RuntimeSettings(threads={threads}))
before = len(os.listdir("/proc/self/task"))
with runtime.load(Path({str(subnet)!r})) as infer:
    infer()
    print(len(os.listdir("/proc/self/task")) - before)
"""
    assert python(code, tmp_path) == f"{threads - 1}\n"


@needs_ncnn
def test_a_first_layer_that_works_in_place_leaves_the_input_as_it_was(tmp_path: Path) -> None:
    subnet = one_node("Erf", tmp_path)
    runtime = opened()
    expected = expected_outputs(subnet, runtime.inputs(subnet))
    with runtime.load(subnet) as infer:
        assert [disagreement(outputs_of(infer), expected, "fp32") for _ in range(3)] == [None] * 3


@needs_ncnn
def test_an_operator_that_ncnn_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"^ncnn cannot run Hardmax\.onnx: it has no Hardmax"):
        with opened().load(one_node("Hardmax", tmp_path)):
            pass


@needs_ncnn
def test_what_pnnx_said_is_in_the_error_and_nowhere_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subnet = one_node("Nonsense", tmp_path)
    runtime = opened()
    with pytest.raises(WorkError, match=r"^pnnx cannot convert Nonsense.onnx \(exit .*No Op registered") as raised:
        with runtime.load(subnet):
            pass
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    with runtime.load(written("resnet", tmp_path)) as infer:
        infer()
    assert capfd.readouterr() == ("", "")


@needs_ncnn
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, folder = tmp_path / "temporary", tmp_path / "subnets"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    subnet = written("resnet", folder)
    there = sorted(folder.iterdir())
    with opened().load(subnet) as infer:
        infer()
        assert list(temporary.iterdir()) == []
    with pytest.raises(WorkError), opened().load(one_node("Nonsense", tmp_path)):
        pass
    assert list(temporary.iterdir()) == []
    assert sorted(folder.iterdir()) == there


@needs_ncnn
def test_what_a_killed_process_left_is_deleted_and_what_belongs_to_others_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "subnets"
    subnet = written("resnet", folder)
    there = sorted(folder.iterdir())
    dead = "0123456789abcdef"
    for name in (f"scratch-{dead}.lock", f"ncnn-{dead}.onnx", f"ncnn-{dead}.pnnxsim.onnx", f"ncnn-{dead}.bin"):
        (folder / name).write_bytes(b"")
    with scratch(folder) as word:
        (folder / f"ncnn-{word}.onnx").write_bytes(b"")
        with opened(folder=str(folder)).load(subnet) as infer:
            infer()
            left = {path.name for path in folder.iterdir()} - {path.name for path in there}
            assert left == {f"scratch-{word}.lock", f"ncnn-{word}.onnx"}
    assert sorted(folder.iterdir()) == there


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("ncnn", "ImportError: ncnn is not installed: pip install 'esm-onnx[ncnn]'"),
        ("pnnx", "ImportError: pnnx is not installed: pip install --no-deps pnnx"),
    ],
)
def test_missing_software_is_said_in_one_line(package: str, line: str, tmp_path: Path) -> None:
    if package == "pnnx":
        pytest.importorskip("ncnn", reason="ncnn, which is looked for first, is not installed")
    code = f"""
import sys
sys.modules[{package!r}] = None
from esm_onnx.measurement.runtime import find_runtime
try:
    find_runtime("ncnn")
except Exception as error:
    print(error)
"""
    assert python(code, tmp_path) == f"runtime 'ncnn' cannot be used here: {line}\n"
