"""What an NVIDIA GPU says of its own clock, energy and state, through NVML, the library that comes with its driver."""

from __future__ import annotations

import ctypes
from typing import Any

from esm_onnx.measurement.quantities import GPU_STATE

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK, MEMORY_CLOCK = 1, 2
LONGEST_NAME = 256
UNKNOWN_STATE = 32
INSUFFICIENT_SIZE = 7
SLOWED_BY_HARDWARE, HEAT_BY_SOFTWARE, HEAT_BY_HARDWARE, POWER_BRAKE = 0x08, 0x20, 0x40, 0x80
THROTTLING = SLOWED_BY_HARDWARE | HEAT_BY_SOFTWARE | HEAT_BY_HARDWARE | POWER_BRAKE
"""The clock reasons (nvml.h, nvmlClocksThrottleReason*) by which a GPU protects itself. Its power cap (0x04) is none of
them: a GPU that computes at its cap all the time is at its usual speed."""


class Gpu:
    """One GPU, by its number in NVML's order.

    Args:
        library: file name of NVML.

    Raises:
        OSError: there is no NVML, or no such GPU.
    """

    def __init__(self, index: int, library: str = LIBRARY) -> None:
        self._nvml = ctypes.CDLL(library)
        self._handle = ctypes.c_void_p()
        self._demand("nvmlInit_v2")
        self._demand("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self._handle))

    def is_throttled(self) -> bool:
        """Whether it protects itself now; False where it does not tell."""
        return bool((self.throttle_reasons() or 0) & THROTTLING)

    def throttle_reasons(self) -> int | None:
        """The bits of nvmlClocksThrottleReason* that hold now; None where it does not tell."""
        return self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong())

    def clock_mhz(self) -> int | None:
        """The clock of its multiprocessors now, in MHz; None where it does not tell."""
        return self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), ctypes.c_int(SM_CLOCK))

    def energy_mj(self) -> int | None:
        """Energy of the whole board since its driver was loaded, in mJ; None where it does not tell."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())

    def power_state(self) -> int | None:
        """Its performance state now, from 0, the fastest, to 15; None where it does not tell."""
        state = self._number("nvmlDeviceGetPerformanceState", ctypes.c_int())
        return state if state != UNKNOWN_STATE else None

    def processes(self) -> int | None:
        """Number of processes that compute on it now, this one among them; None where it does not tell."""
        count = ctypes.c_uint(0)
        status = self._call("nvmlDeviceGetComputeRunningProcesses_v3", self._handle, ctypes.byref(count), None)
        return count.value if status in (0, INSUFFICIENT_SIZE) else None  # the number is told though there is no room

    def name(self) -> str:
        """Its full name, `NVIDIA GeForce RTX 2080 Ti`; empty where it does not tell."""
        text = ctypes.create_string_buffer(LONGEST_NAME)
        self._call("nvmlDeviceGetName", self._handle, text, ctypes.c_uint(LONGEST_NAME))
        return text.value.decode(errors="replace")

    def cores(self) -> int | None:
        """Its CUDA cores; None where it does not tell."""
        return self._number("nvmlDeviceGetNumGpuCores", ctypes.c_uint())

    def memory_bytes(self) -> int | None:
        """The size of its memory; None where it does not tell."""
        told = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
        return int(told[0]) if self._call("nvmlDeviceGetMemoryInfo", self._handle, told) == 0 else None

    def bandwidth_gbs(self) -> float | None:
        """What its memory moves at its highest clock, in GB/s, two transfers in each cycle; None where it does not
        tell."""
        bits = self._number("nvmlDeviceGetMemoryBusWidth", ctypes.c_uint())
        clock_mhz = self._number("nvmlDeviceGetMaxClockInfo", ctypes.c_uint(), ctypes.c_int(MEMORY_CLOCK))
        return 2 * clock_mhz * bits / 8 / 1000 if bits and clock_mhz else None

    def state(self) -> dict[str, float]:
        """What it tells of itself now, by the names of `GPU_STATE`."""
        told = (self.clock_mhz(), self.power_state(), self.throttle_reasons(), self.processes())
        return {name: float(value) for name, value in zip(GPU_STATE, told, strict=True) if value is not None}

    def _number(self, name: str, number: Any, *arguments: object) -> int | None:
        status = self._call(name, self._handle, *arguments, ctypes.byref(number))
        return int(number.value) if status == 0 else None

    def _call(self, name: str, *arguments: object) -> int:
        try:
            status: int = getattr(self._nvml, name)(*arguments)
        except AttributeError:  # an NVML without this function
            return -1
        return status

    def _demand(self, name: str, *arguments: object) -> None:
        status = self._call(name, *arguments)
        if status != 0:
            raise OSError(f"NVML: {name} gave status {status}")


def find_gpu(index: int | None) -> Gpu | None:
    """The GPU of that number; None where none is meant or NVML knows none."""
    if index is None:
        return None
    try:
        return Gpu(index)
    except OSError:
        return None
