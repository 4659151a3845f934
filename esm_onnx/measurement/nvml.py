"""What an NVIDIA GPU says of its own clock and energy, through NVML, the library that comes with its driver."""

from __future__ import annotations

import ctypes

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK = 1
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
        reasons = ctypes.c_ulonglong()
        told = self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle, ctypes.byref(reasons)) == 0
        return told and bool(reasons.value & THROTTLING)

    def clock_mhz(self) -> int | None:
        """The clock of its multiprocessors now, in MHz; None where it does not tell."""
        clock = ctypes.c_uint()
        told = self._call("nvmlDeviceGetClockInfo", self._handle, ctypes.c_int(SM_CLOCK), ctypes.byref(clock)) == 0
        return clock.value if told else None

    def energy_mj(self) -> int | None:
        """Energy of the whole board since its driver was loaded, in mJ; None where it does not tell."""
        energy = ctypes.c_ulonglong()
        told = self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, ctypes.byref(energy)) == 0
        return energy.value if told else None

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
