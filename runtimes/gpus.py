"""The NVIDIA GPUs of this machine, asked of the driver's own libraries: every runtime for them shares this."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esm_onnx.errors import InputError
from esm_onnx.measurement.nvml import LIBRARY as NVML

CUDA = "libcuda.so.1"
L2_CACHE_SIZE = 38
"""Of CUdevice_attribute (cuda.h)."""
LONGEST_NAME = 256

WINDOW = 10
SETTLED = 0.02
LEAST_SETTLING_S, MOST_SETTLING_S = 0.2, 3.0
"""A GPU that was idle raises its clocks in steps, within some tenths of a second."""


@dataclass(frozen=True, slots=True)
class CudaGpu:
    """A GPU as CUDA counts them, which environment variables may reorder and hide.

    Attributes:
        number: the device's number for CUDA.
        name: its full name.
        bus: its PCI address.
        l2_bytes: size of its L2 cache.
        nvml_index: its number in NVML's order; None where NVML does not tell.
    """

    number: int
    name: str
    bus: str
    l2_bytes: int
    nvml_index: int | None


def list_gpus(library: str = CUDA) -> list[CudaGpu]:
    """The GPUs that CUDA may use; at least one.

    Raises:
        ImportError: there is none, or no driver; one line for the list of runtimes.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise ImportError(f"no NVIDIA driver: {error}") from None
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise ImportError(f"no NVIDIA GPU that CUDA can use: status {status}, {count.value} devices")
    return [_gpu(cuda, number) for number in range(count.value)]


def choose_gpu(device: str | None, gpus: Sequence[CudaGpu], runtime: str) -> CudaGpu:
    """The GPU that a user means by `cuda:1` or `1`; the first where nothing is said.

    Raises:
        InputError: there is no such GPU.
    """
    for gpu in gpus:
        if device in (None, "cuda", str(gpu.number), f"cuda:{gpu.number}"):
            return gpu
    known = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in gpus)
    raise InputError(f"device {device!r} on {runtime}, expected one of {known}")


def driver_version() -> str:
    """The version of NVIDIA's driver, as NVML tells it."""
    text = ctypes.create_string_buffer(LONGEST_NAME)
    nvml = _nvml()
    told = nvml is not None and nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(LONGEST_NAME)) == 0
    return text.value.decode(errors="replace") if told else "unknown"


def settle(run: Callable[[], object], clock: Callable[[], int]) -> None:
    """Runs until clocks no longer rise: two tens of runs in a row have medians within 2 %, or 3 s have passed.

    Args:
        clock: gives ns; that of the device where it has one.
    """
    start = time.monotonic()
    runs_ns: deque[int] = deque(maxlen=2 * WINDOW)
    while (elapsed_s := time.monotonic() - start) < MOST_SETTLING_S:
        before = clock()
        run()
        runs_ns.append(clock() - before)
        if elapsed_s > LEAST_SETTLING_S and len(runs_ns) == 2 * WINDOW:
            earlier, later = (statistics.median(list(runs_ns)[i : i + WINDOW]) for i in (0, WINDOW))
            if abs(later - earlier) <= SETTLED * earlier:
                return


def _gpu(cuda: ctypes.CDLL, number: int) -> CudaGpu:
    device, l2_bytes = ctypes.c_int(), ctypes.c_int()
    name, bus = ctypes.create_string_buffer(LONGEST_NAME), ctypes.create_string_buffer(LONGEST_NAME)
    status = (
        cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetName(name, LONGEST_NAME, device)
        or cuda.cuDeviceGetPCIBusId(bus, LONGEST_NAME, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(l2_bytes), L2_CACHE_SIZE, device)
    )
    if status:
        raise ImportError(f"CUDA gives status {status} when asked for GPU {number}")
    return CudaGpu(number, name.value.decode(), bus.value.decode(), l2_bytes.value, _nvml_index(bus.value))


def _nvml_index(bus: bytes) -> int | None:
    handle, index, nvml = ctypes.c_void_p(), ctypes.c_uint(), _nvml()
    if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
        return None
    return None if nvml.nvmlDeviceGetIndex(handle, ctypes.byref(index)) else index.value


def _nvml() -> ctypes.CDLL | None:
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return None
    return nvml if nvml.nvmlInit_v2() == 0 else None
