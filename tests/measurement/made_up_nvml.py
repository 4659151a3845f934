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
int nvmlDeviceGetPerformanceState(nvmlDevice_t handle, int *state) {
    if (handle != &device) return 2;
    *state = (int)number("FOLDER/state"); /* NVML_PSTATE_0 is 0, NVML_PSTATE_UNKNOWN 32 */
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count, void *infos) {
    unsigned int there = (unsigned int)number("FOLDER/processes");
    if (handle != &device) return 2;
    if (*count < there) { *count = there; return 7; } /* NVML_ERROR_INSUFFICIENT_SIZE */
    *count = there;
    return infos || !there ? 0 : 2;
}
int nvmlDeviceGetName(nvmlDevice_t handle, char *name, unsigned int length) {
    if (handle != &device) return 2;
    snprintf(name, length, "NVIDIA GeForce RTX 2080 Ti");
    return 0;
}
int nvmlDeviceGetNumGpuCores(nvmlDevice_t handle, unsigned int *cores) {
    if (handle != &device) return 2;
    *cores = (unsigned int)number("FOLDER/cores");
    return *cores ? 0 : 3;
}
int nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, unsigned long long *memory) { /* nvmlMemory_t: total, free, used */
    if (handle != &device) return 2;
    memory[0] = number("FOLDER/memory");
    memory[1] = memory[0] - 1;
    memory[2] = 1;
    return 0;
}
int nvmlDeviceGetMemoryBusWidth(nvmlDevice_t handle, unsigned int *bits) {
    if (handle != &device) return 2;
    *bits = 352;
    return 0;
}
int nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, int type, unsigned int *clock) {
    if (handle != &device || type != 2) return 2; /* NVML_CLOCK_MEM is 2 */
    *clock = 7000;
    return 0;
}
"""


def make_nvml(folder: Path) -> str:
    """The library. What it tells is in files of the folder, as hexadecimal numbers."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make a library with")
    (folder / "nvml.c").write_text(SOURCE.replace("FOLDER", str(folder)))
    made = folder / "libnvidia-ml-made.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, folder / "nvml.c"], check=True)
    (folder / "reasons").write_text("0")
    (folder / "clock").write_text("7bc")
    (folder / "energy").write_text("0")
    (folder / "state").write_text("2")
    (folder / "processes").write_text("1")
    (folder / "cores").write_text(f"{4352:x}")
    (folder / "memory").write_text(f"{11 * 2**30:x}")
    return str(made)
