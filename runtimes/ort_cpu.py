"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from esm_onnx.errors import InputError
from esm_onnx.measurement.inputs import random_inputs
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

ERRORS_ONLY = 3


class OrtCpu(Runtime):
    """ONNX Runtime's CPU provider, all graph optimisations on, one thread unless asked otherwise.

    In fp32 it is what other runtimes are compared with, so its own outputs are not compared.
    """

    name = "ort-cpu"
    precisions = ("fp32", "fp16")
    switches = MappingProxyType({"spinning": True})

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        if settings.device not in (None, "cpu"):
            raise InputError(f"device {settings.device!r} on ort-cpu, expected cpu")

    def facts(self) -> Mapping[str, Fact]:
        return {
            "device": processor(),
            "machine": platform.machine(),
            "cores": os.cpu_count() or 1,
            "onnxruntime": onnxruntime.__version__,
            "threads": self.settings.threads,
            **({} if self.is_on("spinning") else {"spinning": "off"}),
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.is_on("spinning"))))
        session = onnxruntime.InferenceSession(str(subnet), options, providers=["CPUExecutionProvider"])
        narrow = self.settings.precision != "fp32"
        feed = self.inputs(subnet) if narrow else random_inputs(subnet, self.settings.seed)
        yield lambda: session.run(None, feed)


def processor() -> str:
    """What the CPU, or the board it sits on, calls itself."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text().strip("\0\n ")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
