"""The nominal latency of the calibration subnet: what its ratio to other subnets is multiplied by."""

from __future__ import annotations

import numpy as np

from esm_onnx.architectures import Architecture
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.record import Calibration
from esm_onnx.measurement.timing import SPEED_RANGE, Timing

CALIBRATION_RUNS = 200
"""Runs of the subnet beside which the calibration subnet is timed: ten blocks of it, some seconds on a CPU."""


def calibrate(architecture: Architecture, timing: Timing, started_at: float) -> Calibration | None:
    """The calibration that a paired timing without a nominal latency shows; None where no block of it was clean.

    Nominal is the median over the blocks that are within the range of the fastest: the speed of a device that nothing
    slows down, as a quiet measurement would find it.
    """
    paired = [
        beside
        for beside, dropped in zip(timing.calibration_ns, timing.dropped, strict=True)
        if not dropped & Reason.UNPAIRED
    ]
    blocks = np.array(list(dict.fromkeys(paired)))
    if not len(blocks):
        return None
    usual = blocks[blocks <= SPEED_RANGE * blocks.min()]
    return Calibration(architecture, float(np.median(usual)) / 1e6, float(usual.std() / usual.mean()), started_at)
