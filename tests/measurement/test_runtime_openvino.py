"""OpenVINO, really run; what needs it is skipped where it cannot be had."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from random import Random

import onnx
import pytest
from export.small_spaces import ELASTIC, FAMILIES, narrow

from esm_onnx.architectures import sample
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.layers import times_by_block
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings, find_runtime, list_runtimes, outputs_of

REASON = next(entry.problem for entry in list_runtimes() if "openvino" in entry.names)
needs_openvino = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def opened(**settings: object) -> Runtime:
    return find_runtime("openvino")(RuntimeSettings(**settings))  # type: ignore[arg-type]


def written(family: str, folder: Path, **settings: object) -> Path:
    space = narrow(family)
    (architecture,) = sample(space, 1, strategy="random", rng=Random(3))
    return write_subnet(space, architecture, folder, ExportSettings(**settings)).path  # type: ignore[arg-type]


def problem_of(runtime: Runtime, subnet: Path, fp32: Path) -> str | None:
    with runtime.load(subnet) as infer:
        outputs = outputs_of(infer)
    return disagreement(outputs, expected_outputs(fp32, runtime.inputs(subnet)), runtime.settings.precision)


def python(code: str, folder: Path, *arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    command, environ = [sys.executable, "-c", code, *arguments], {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", [*FAMILIES, *ELASTIC])
def test_every_family_computes_what_onnx_runtime_does(family: str, precision: str, tmp_path: Path) -> None:
    subnet, fp32 = written(family, tmp_path, precision=precision), written(family, tmp_path)
    assert problem_of(opened(precision=precision), subnet, fp32) is None


@needs_openvino
def test_a_batch_of_two(tmp_path: Path) -> None:
    runtime, subnet = opened(), written("resnet", tmp_path, batch=2)
    with runtime.load(subnet) as infer:
        (output,) = outputs_of(infer)
    assert output.shape == (2, 10)
    assert problem_of(runtime, subnet, subnet) is None


@needs_openvino
def test_facts_name_what_a_latency_depends_on() -> None:
    facts = opened(threads=2).facts()
    assert facts["device"] == find_runtime("ort-cpu")(RuntimeSettings()).facts()["device"]
    assert str(facts["openvino"]).startswith(version("openvino"))
    assert (facts["threads"], facts["arithmetic"], facts["machine"]) == (2, "f32", platform.machine())


@needs_openvino
def test_the_driver_of_a_device_that_tells_it_is_a_fact() -> None:
    """There is none here: its property is made up, by the name that the plug-in for GPUs gives it."""
    made_up = {"SUPPORTED_PROPERTIES": {"FULL_DEVICE_NAME": "RO", "GPU_DRIVER_VERSION": "RO"}, "GPU_DRIVER_VERSION": 7}
    runtime = opened()

    class WithDriver(type(runtime)):  # type: ignore[misc]
        def _property(self, name: str) -> object:
            return made_up.get(name) or super()._property(name)

    assert "driver" not in runtime.facts()
    assert WithDriver(RuntimeSettings()).facts()["driver"] == "7"


IN_FP16 = """
import sys
from pathlib import Path
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime, outputs_of
subnet, fp32 = map(Path, sys.argv[1:])
runtime = find_runtime("openvino")(RuntimeSettings(precision="fp16"))
with runtime.load(subnet) as infer:
    outputs = outputs_of(infer)
print(runtime.facts()["arithmetic"], disagreement(outputs, expected_outputs(fp32, runtime.inputs(subnet)), "fp16"))
"""


@needs_openvino
@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN's limit of instructions is x86's")
def test_a_processor_without_fp16_computes_it_in_fp32_and_says_so(tmp_path: Path) -> None:
    """Not in bf16, which OpenVINO takes for the hint f16 there."""
    files = [written("resnet", tmp_path, precision=precision) for precision in ("fp16", "fp32")]
    assert python(IN_FP16, tmp_path, *map(str, files), ONEDNN_MAX_CPU_ISA="AVX2") == "f32 None\n"


@needs_openvino
def test_one_thread_is_the_calling_thread_alone(tmp_path: Path) -> None:
    with opened().load(written("mobilenetv3", tmp_path)) as infer:
        infer()
        all_before, mine_before = time.process_time_ns(), time.thread_time_ns()
        for _ in range(50):
            infer()
        mine, everyone = time.thread_time_ns() - mine_before, time.process_time_ns() - all_before
    assert everyone < 1.1 * mine


@needs_openvino
def test_more_threads_than_openvino_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^threads is 4096, openvino takes \d+ here; ask for at most that$"):
        with opened(threads=4096).load(written("resnet", tmp_path)):
            pass


@needs_openvino
def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"^device 'NPU.7' on openvino, expected one of .*CPU"):
        opened(device="NPU.7")


@needs_openvino
@pytest.mark.parametrize("family", [*FAMILIES, *ELASTIC])
def test_layers_are_named_after_the_nodes(family: str, tmp_path: Path) -> None:
    path = written(family, tmp_path)
    subnet = onnx.load(path, load_external_data=False)
    with opened().load(path) as infer:
        assert isinstance(infer, Inference)
        assert infer.layers is not None
        layers = infer.layers()
    names = {name.split("/")[0] for name in layers}
    missing = [node for node in subnet.graph.node if not names & {node.name, *node.output}]
    assert {node.op_type for node in missing} <= {"BatchNormalization"}, "folded into the activation behind it"
    assert min(layers.values()) >= 0
    blocks = times_by_block(subnet, layers)
    assert sum(blocks.values()) == pytest.approx(sum(layers.values()))
    assert min(blocks.values()) > 0
    for block in blocks:
        # whatever its name says, a convolution's time is its own block's
        convolutions = {f"{n.name}/WithoutBiases" for n in subnet.graph.node if n.op_type == "Conv"}
        mine = sum(ms for name, ms in layers.items() if name in convolutions and name.startswith(f"{block}."))
        assert blocks[block] >= mine * (1 - 1e-9)


@needs_openvino
def test_a_broken_file_is_refused_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no onnx at all")
    runtime = opened()
    with pytest.raises(Exception, match="pars"), runtime.load(broken):  # of onnx or of openvino
        pass
    assert capfd.readouterr() == ("", "")


def test_missing_software_is_said_in_one_line(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["openvino"] = None
from esm_onnx.measurement.runtime import list_runtimes
print(*(entry.problem for entry in list_runtimes() if "openvino" in entry.names), sep="")
"""
    said = python(code, tmp_path)
    assert said == "ImportError: openvino is not installed: pip install 'esm-onnx[openvino]'\n"


@needs_openvino
def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('telemetry')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    plain = "try:\n    import openvino\nexcept SystemExit as end:\n    print(end)"
    assert python(plain, tmp_path, PYTHONPATH=path) == "telemetry\n", "what openvino does by itself"
    code = "from esm_onnx.measurement.runtime import find_runtime; print(find_runtime('openvino').name)"
    assert python(code, tmp_path, PYTHONPATH=path) == "openvino\n"
