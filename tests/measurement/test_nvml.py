"""NVML through a library of our own making, with the functions and numbers of NVIDIA's nvml.h."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from esm_onnx.measurement.conditions import HostCounters, Reason, slow_reasons
from esm_onnx.measurement.nvml import Gpu, find_gpu

SOURCE = """
#include <stdio.h>
typedef void *nvmlDevice_t;
static int device;
static unsigned long long number(const char *name) {
    unsigned long long value = 0;
    FILE *file = fopen(name, "r");
    if (file) { if (fscanf(file, "%llx", &value) != 1) value = 0; fclose(file); }
    return value;
}
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *handle) {
    if (index > 1) return 6; /* NVML_ERROR_NOT_FOUND */
    *handle = &device;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle, unsigned long long *reasons) {
    if (handle != &device) return 2; /* NVML_ERROR_INVALID_ARGUMENT */
    *reasons = number("FOLDER/reasons");
    return 0;
}
int nvmlDeviceGetClockInfo(nvmlDevice_t handle, int type, unsigned int *clock) {
    if (handle != &device || type != 1) return 2; /* NVML_CLOCK_SM is 1 */
    *clock = (unsigned int)number("FOLDER/clock");
    return *clock ? 0 : 3; /* NVML_ERROR_NOT_SUPPORTED */
}
"""


@pytest.fixture
def library(tmp_path: Path) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make a library with")
    (tmp_path / "nvml.c").write_text(SOURCE.replace("FOLDER", str(tmp_path)))
    made = tmp_path / "libnvidia-ml-made.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, tmp_path / "nvml.c"], check=True)
    (tmp_path / "reasons").write_text("0")
    (tmp_path / "clock").write_text("7bc")
    return str(made)


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [(0x0, False), (0x1, False), (0x2, False), (0x4, False), (0x8, True), (0x20, True), (0x40, True), (0x81, True)],
)
def test_a_gpu_is_throttled_where_it_protects_itself(
    library: str, tmp_path: Path, reasons: int, throttled: bool
) -> None:
    (tmp_path / "reasons").write_text(f"{reasons:x}")
    assert Gpu(0, library).is_throttled() == throttled


def test_its_clock_is_read_where_it_tells_it(library: str, tmp_path: Path) -> None:
    gpu = Gpu(1, library)
    assert gpu.clock_mhz() == 1980
    (tmp_path / "clock").write_text("0")
    assert gpu.clock_mhz() is None


def test_a_gpu_or_library_that_is_not_there_is_told(library: str) -> None:
    with pytest.raises(OSError, match="status 6"):
        Gpu(2, library)
    with pytest.raises(OSError, match="no-such"):
        Gpu(0, "libno-such.so.1")
    assert find_gpu(None) is None


def test_the_counters_of_a_gpu_take_the_place_of_the_processors(library: str, tmp_path: Path) -> None:
    now = 0

    def clock() -> int:
        return now

    counters = HostCounters(one_thread=False, gpu=Gpu(0, library), clock=clock)
    calm = counters()
    (tmp_path / "reasons").write_text("40")
    (tmp_path / "clock").write_text("320")
    now = 10**9
    hot = counters()
    assert (calm.frequency, calm.throttled, hot.frequency, hot.throttled) == (1980, False, 800, True)
    assert calm.cpu_ns is None
    assert slow_reasons(calm, hot, 1980) == Reason.THROTTLED | Reason.SLOWED
