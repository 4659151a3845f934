"""NVML as a library of our own making, with the functions and numbers of NVIDIA's nvml.h."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t handle, unsigned long long *energy) {
    if (handle != &device) return 2;
    *energy = number("FOLDER/energy"); /* mJ */
    return *energy ? 0 : 3;
}
"""


def make_nvml(folder: Path) -> str:
    """The library, which reads what it tells from the files reasons, clock and energy of a folder, in hexadecimal."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make a library with")
    (folder / "nvml.c").write_text(SOURCE.replace("FOLDER", str(folder)))
    made = folder / "libnvidia-ml-made.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, folder / "nvml.c"], check=True)
    (folder / "reasons").write_text("0")
    (folder / "clock").write_text("7bc")
    (folder / "energy").write_text("0")
    return str(made)
