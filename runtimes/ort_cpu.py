"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

ERRORS_ONLY = 3

TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({kind.__name__})": kind for kind in (np.int8, np.int16, np.int32, np.int64)},
    **{f"tensor({kind.__name__})": kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64)},
}


class OrtCpu(Runtime):
    """ONNX Runtime's CPU provider, all graph optimisations on, one thread unless asked otherwise."""

    name = "ort-cpu"

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
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        session = onnxruntime.InferenceSession(str(subnet), options, providers=["CPUExecutionProvider"])
        rng, inputs = np.random.default_rng(self.settings.seed), session.get_inputs()
        feed = {x.name: values(x.type, [axis if isinstance(axis, int) else 1 for axis in x.shape], rng) for x in inputs}
        yield lambda: session.run(None, feed)


def values(kind: str, shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.generic]:
    """An input of a kind as ONNX Runtime names it: random floats, and zeros, which every table has a row for."""
    if kind not in TYPES:
        raise ValueError(f"an input is {kind}, expected one of {', '.join(TYPES)}")
    if np.issubdtype(TYPES[kind], np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(TYPES[kind], copy=False)
    return np.zeros(shape, TYPES[kind])


def processor() -> str:
    """What the CPU, or the board it sits on, calls itself."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text().strip("\0\n ")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
