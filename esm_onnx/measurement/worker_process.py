"""The process that times: `python -m esm_onnx.measurement.worker_process FD RUNTIME SETTINGS MEMORY_BYTES QUANTITY …`.

It imports neither torch nor sklearn. Jobs and replies are JSON on a channel of their own, FD, because runtimes print to
standard output when something goes wrong. First message out: the runtime's facts, and what energy is read from. Then
for each job
`{"job": 7, "subnet": "…", "check": false, "runs": 150, "warmup": 10, "calibration": "…", …}` one reply with the same
number: `{"job": 7, "timing": {…}}` or `{"job": 7, "kind": "load", "message": "…"}`. It ends when the channel closes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import EsmError
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.containment import die_with_parent, is_out_of_memory, limit_this_process
from esm_onnx.measurement.meter import Meter
from esm_onnx.measurement.quantities import Unmeasurable
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings, find_runtime, outputs_of
from esm_onnx.measurement.timing import Instruments, time_pairs, time_runs
from esm_onnx.measurement.worker import CALIBRATION_LOST, UNMEASURABLE

LAYER_ROUNDS = 5
"""Readings of layer times; one alone may have met something else on the machine."""
EXPECTATIONS = 32
"""Subnets whose right outputs are kept: references come again in each round, and are not many."""
OVERRIDES = {
    "NVIDIA_TF32_OVERRIDE": "NVIDIA's libraries compute in fp32 or TF32 whatever they are told",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "so does PyTorch",
    "CUBLAS_EMULATE_SINGLE_PRECISION": "cuBLAS puts fp32 together from bf16",
    "CUBLAS_WORKSPACE_CONFIG": "cuBLAS takes other kernels",
    "CUDA_LAUNCH_BLOCKING": "the host waits for each kernel",
    "TORCHDYNAMO_DISABLE": "torch.compile compiles nothing",
    "TORCH_COMPILE_DISABLE": "the same",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "PyTorch asks the driver for each tensor's memory",
    "ONEDNN_DEFAULT_FPMATH_MODE": "oneDNN, in PyTorch and OpenVINO, computes fp32 in bf16, fp16 or TF32",
    "DNNL_DEFAULT_FPMATH_MODE": "its older name",
    "ONEDNN_MAX_CPU_ISA": "oneDNN leaves instructions of the processor unused",
    "DNNL_MAX_CPU_ISA": "its older name",
    "ONEDNN_VERBOSE": "oneDNN prints a line for each operator",
    "DNNL_VERBOSE": "its older name",
}
"""Environment variables that are taken away, and what they do: they change what is measured, and no fact would tell."""


class JobFailure(Exception):
    """Why a job brings no runs: the kind and message of the `Lost` that the parent makes of it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def serve(channel: Connection, runtime: Runtime, meter: Meter) -> None:
    """Answers jobs until the channel closes."""
    first = {"facts": dict(runtime.facts()), "energy_counter": meter.energy_counter}
    channel.send_bytes(json.dumps(first).encode())
    with ExitStack() as kept:
        calibrator = Calibrator(runtime, kept)
        while True:
            try:
                job = json.loads(channel.recv_bytes())
            except (EOFError, ConnectionError):
                return
            try:
                reply = _layers(runtime, job) if "layers" in job else _perform(runtime, meter, calibrator, job)
            except JobFailure as failure:
                reply = {"kind": failure.kind, "message": failure.message}
            channel.send_bytes(json.dumps({"job": job["job"], **reply}).encode())


@dataclass(frozen=True)
class Content:
    """A file, equal to another of the same path as long as what it holds is the same."""

    path: Path
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.path.read_bytes()).hexdigest())


class Calibrator:
    """The calibration subnet, which stays loaded from job to job."""

    def __init__(self, runtime: Runtime, kept: ExitStack) -> None:
        self._runtime, self._kept = runtime, kept
        self._loaded: dict[str, Callable[[], object]] = {}

    def ready(self, subnet: str | None) -> Callable[[], object] | None:
        """Its inference, loaded where it is not yet; None where there is no such subnet."""
        if subnet is None:
            return None
        if subnet not in self._loaded:
            try:
                self._loaded[subnet] = _ready(self._runtime, Path(subnet), self._kept, check=False)
            except JobFailure as failure:  # not the fault of the subnet that is to be timed
                raise JobFailure(CALIBRATION_LOST, f"{failure.kind}: {failure.message}") from failure
        return self._loaded[subnet]


def _perform(runtime: Runtime, meter: Meter, calibrator: Calibrator, job: dict[str, Any]) -> dict[str, Any]:
    limits = {"runs": job["runs"], "warmup": job["warmup"], "target_error": job["target_error"]}
    host = time.perf_counter_ns if runtime.device_clock else None
    instruments = Instruments(runtime.clock, runtime.counters, host)
    subnet, fp32 = Path(job["subnet"]), None if job["fp32"] is None else Path(job["fp32"])
    with _failing_as("run"):
        calibrate = calibrator.ready(job["calibration"])
        with ExitStack() as loaded:
            infer = _ready(runtime, subnet, loaded, check=job["check"], fp32=fp32)
            settle(infer)
            if calibrate is None:
                timing = time_runs(infer, instruments, **limits)
            else:
                timing = time_pairs(infer, calibrate, instruments, nominal_ns=job["nominal_ns"], **limits)
            quantities = meter.of_loaded(infer)
        quantities |= meter.of_loading(subnet, quantities)
        return {"timing": asdict(replace(timing, quantities=quantities))}


def _layers(runtime: Runtime, job: dict[str, Any]) -> dict[str, Any]:
    """The median time of each layer over some inferences, in the order of the first."""
    with _failing_as("run"), ExitStack() as loaded:
        infer = _ready(runtime, Path(job["subnet"]), loaded, check=False)
        layers = infer.layers if isinstance(infer, Inference) else None
        if layers is None:
            raise Unmeasurable(f"runtime {runtime.name!r} tells no layer times, expected another: ort-cpu does")
        settle(infer)
        rounds = [layers() for _ in range(LAYER_ROUNDS)]
    return {"layers": {name: median(times[name] for times in rounds if name in times) for name in rounds[0]}}


def _ready(
    runtime: Runtime, subnet: Path, loaded: ExitStack, *, check: bool, fp32: Path | None = None
) -> Callable[[], object]:
    """A subnet that was checked if need be, is loaded, and was run once with the outputs that it should have.

    Args:
        fp32: the file that says what they should be.
    """
    if check:
        with _failing_as("refused"):
            from esm_onnx.export.untrusted import check_untrusted  # only strangers' files need it

            check_untrusted(subnet)
    with _failing_as("load"):
        infer = loaded.enter_context(runtime.load(subnet))
    outputs = outputs_of(infer)
    if problem := _not_finite(outputs):
        raise JobFailure("nan", problem)
    if outputs is not None and not runtime.own_inputs:
        content = Content(subnet)
        expected = _expected(runtime, content, content if fp32 is None else Content(fp32))
        if problem := disagreement(outputs, expected, runtime.settings.precision):
            raise JobFailure("wrong", problem)
    return infer


@lru_cache(maxsize=EXPECTATIONS)
def _expected(runtime: Runtime, subnet: Content, fp32: Content) -> list[NDArray[Any]]:
    """What a subnet should compute, worked out once for each."""
    return expected_outputs(fp32.path, runtime.inputs(subnet.path))


def settle(infer: Callable[[], object]) -> None:
    """Brings a device that was idle while outputs were compared back to its speed, where it needs that."""
    if isinstance(infer, Inference) and infer.settle is not None:
        infer.settle()


@contextmanager
def _failing_as(kind: str) -> Iterator[None]:
    """Whatever a runtime raises is the subnet's failure, not the session's."""
    try:
        yield
    except JobFailure:
        raise
    except Unmeasurable as error:
        raise JobFailure(UNMEASURABLE, str(error)) from error
    except Exception as error:
        text = str(error) if isinstance(error, EsmError) else f"{type(error).__name__}: {error}"
        raise JobFailure("memory" if is_out_of_memory(text) else kind, " ".join(text.split())[:1000]) from error


def _not_finite(outputs: Any) -> str | None:
    """What is wrong with the outputs of an inference; None also where a runtime has none, or other than numbers."""
    for number, output in enumerate(() if outputs is None else outputs):
        if isinstance(output, np.ndarray) and output.dtype.kind in "fc":
            wrong = output.size - int(np.count_nonzero(np.isfinite(output)))
            if wrong:
                return f"{wrong} of the {output.size} values of output {number} are NaN or infinite"
    return None


def main() -> None:
    """Opens the channel and the runtime that the command line names."""
    die_with_parent()
    for name in OVERRIDES:
        os.environ.pop(name, None)
    channel, name, settings = Connection(int(sys.argv[1])), sys.argv[2], RuntimeSettings(**json.loads(sys.argv[3]))
    try:
        runtime = find_runtime(name)(settings)
        meter = Meter(runtime, sys.argv[5:])
    except Exception as error:
        channel.send_bytes(json.dumps({"problem": str(error)}).encode())
        return
    limit_this_process(int(sys.argv[4]))
    serve(channel, runtime, meter)


if __name__ == "__main__":
    main()
