"""What this machine's processors give to a measurement: the facts of a target, and the state right after the runs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection
from pathlib import Path

from esm_onnx.measurement.machine import SYSTEM, read_machine
from esm_onnx.measurement.quantities import HOST_STATE
from esm_onnx.measurement.target import Fact


def processor_facts(root: Path = SYSTEM, cores: Collection[int] | None = None) -> dict[str, Fact]:
    """What a latency depends on where this machine's processors compute: facts of a target.

    `device` is the board or processor, `machine` the architecture of the kernel, `userland_bits` what programs are made
    for (a Raspberry Pi may run 32-bit ones on a 64-bit kernel), `governor` what sets the frequency, where it is told. A
    container has those of the machine that it runs on.

    Args:
        root: the folder that holds `proc` and `sys`.
        cores: the usable logical cores; None asks the system.
    """
    machine = read_machine(root, cores)
    return {
        "device": machine.processor or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "userland_bits": sys.maxsize.bit_length() + 1,
        "cores": os.cpu_count() or 1,
        **({"governor": ", ".join(machine.governors)} if machine.governors else {}),
    }


def processor_state(root: Path = SYSTEM) -> dict[str, float]:
    """What this machine tells of itself now, by the names of `HOST_STATE`, as far as it does."""
    machine = read_machine(root, ())  # nothing of single cores
    hottest_c = max((degrees_c for _, degrees_c in machine.temperatures_c), default=None)
    # No quantity is negative, and no latency depends on how far below freezing a board is.
    told = (None if hottest_c is None else max(0.0, hottest_c), machine.pi_throttle)
    return {name: float(value) for name, value in zip(HOST_STATE, told, strict=True) if value is not None}
