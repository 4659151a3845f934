"""The measuring process: what it loads, and that nothing a subnet does to it reaches the parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plugins import install_faulty

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import InputError
from esm_onnx.export import write_subnet
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Worker

HEAVY = ("torch", "sklearn", "ray", "click", "rich")


def loaded_by(code: str) -> list[str]:
    program = f"import sys\n{code}\nimport json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_a_measuring_process_imports_nothing_heavy() -> None:
    code = (
        "import esm_onnx, esm_onnx.measurement.worker_process, esm_onnx.measurement.session\n"
        "from esm_onnx.measurement.runtime import find_runtime\n"
        "find_runtime('ort-cpu'), find_runtime('dry')"
    )
    assert loaded_by(code) == []


def test_the_check_above_would_notice() -> None:
    assert loaded_by("import click") == ["click"]


@pytest.fixture
def subnet(tiny: Space, eight: list[Architecture], tmp_path: Path) -> Path:
    return write_subnet(tiny, eight[0], tmp_path / "subnets").path


def test_one_process_serves_job_after_job(subnet: Path) -> None:
    with Worker("ort-cpu", RuntimeSettings()) as worker:
        for _ in range(3):
            reply = worker.time(subnet, runs=5, warmup=1, deadline_s=60)
            assert isinstance(reply, Timing)
            assert len(reply.runs_ns) == 5
            assert min(reply.runs_ns) > 0


def test_a_wrong_device_is_told_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match="'abacus' on dry, expected one of gpu"):
        Worker("dry", RuntimeSettings(device="abacus"))


def test_a_hanging_worker_dies_with_its_parent(subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_faulty(tmp_path, monkeypatch)
    program = (
        "import sys; from pathlib import Path; from esm_onnx.measurement.runtime import RuntimeSettings\n"
        "from esm_onnx.measurement.worker import Worker\n"
        "worker = Worker('faulty', RuntimeSettings(device='hang'))\n"
        "print(worker._process.pid, flush=True)\n"
        "worker.time(Path(sys.argv[1]), runs=1, warmup=0, deadline_s=600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(subnet)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"process {child} is still there")


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_too_little_memory_for_any_runtime_is_refused(memory_bytes: int) -> None:
    with pytest.raises(InputError, match=f"memory is {memory_bytes} bytes, expected at least"):
        Worker("dry", RuntimeSettings(), memory_bytes=memory_bytes)


def test_a_worker_that_was_killed_while_idle_is_replaced_and_the_next_job_knows_nothing_of_it(subnet: Path) -> None:
    with Worker("dry", RuntimeSettings()) as worker:
        first = worker.process_id
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert isinstance(worker.time(subnet, runs=5, warmup=1, deadline_s=60), Timing)
        assert worker.process_id != first
