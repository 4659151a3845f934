"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from esm_onnx.errors import InputError
from esm_onnx.measurement.inputs import Arrays, random_inputs
from esm_onnx.measurement.processor import processor_facts
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

ERRORS_ONLY = 3
KERNEL = "_kernel_time"
PROFILED_RUNS = 10


class OrtCpu(Runtime):
    """ONNX Runtime's CPU provider, all graph optimisations on, one thread unless asked otherwise.

    In fp32 it is what other runtimes are compared with, so its own outputs are not compared. Its int8 kernels for x86
    want activations in uint8; where there is a zero point, its optimiser leaves nothing in fp32 for ReLU's sake.
    """

    name = "ort-cpu"
    precisions = ("fp32", "fp16", "int8")
    written = MappingProxyType({"int8": "uint8"})
    switches = MappingProxyType({"spinning": True})

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        if settings.device not in (None, "cpu"):
            raise InputError(f"device {settings.device!r} on ort-cpu, expected cpu")

    def facts(self) -> Mapping[str, Fact]:
        return {
            **processor_facts(),
            "onnxruntime": onnxruntime.__version__,
            "threads": self.settings.threads,
            **({} if self.is_on("spinning") else {"spinning": "off"}),
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        session = self._session(subnet, self._options())
        narrow = self.settings.precision != "fp32"
        feed = self.inputs(subnet) if narrow else random_inputs(subnet, self.settings.seed)
        yield Inference(lambda: session.run(None, feed), layers=lambda: self._layers(subnet, feed))

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.is_on("spinning"))))
        return options

    def _session(self, subnet: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(subnet), options, providers=["CPUExecutionProvider"])

    def _layers(self, subnet: Path, feed: Arrays) -> dict[str, float]:
        """By ONNX Runtime's own profile, in a session of its own: being watched costs time."""
        with TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
            session = self._session(subnet, options)
            for _ in range(PROFILED_RUNS):
                session.run(None, feed)
            return kernel_times(json.loads(Path(session.end_profiling()).read_text()), PROFILED_RUNS)


def kernel_times(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, float]:
    """The median time of each node in ms over the later half of so many runs, in the order of execution.

    Args:
        events: ONNX Runtime's profile. A kernel that the optimiser put between two nodes has a name that says nothing.
    """
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]
    count = len(kernels) // runs
    times: dict[str, float] = {}
    for place in range(count):
        name = f"{place} {kernels[place]['name'].removesuffix(KERNEL)}"
        durations_us = [kernels[run * count + place]["dur"] for run in range(runs // 2, runs)]
        times[name] = float(np.median(durations_us)) / 1e3
    return times
