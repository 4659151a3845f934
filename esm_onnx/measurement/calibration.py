"""The nominal latency of the calibration subnet: what its ratio to other subnets is multiplied by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from esm_onnx.architectures import Architecture
from esm_onnx.errors import WorkError
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import Calibration
from esm_onnx.measurement.timing import SPEED_RANGE, Timing
from esm_onnx.measurement.worker import Lost, Measurer

CALIBRATION_RUNS = 100
"""Runs of each subnet, in each pass, beside which the calibration subnet is timed: five blocks."""
PASSES = 2
"""A slow second of the device must not set the nominal latency, so it is looked for over some of them."""


def establish(
    worker: Measurer, architecture: Architecture, subnet: Path, beside: Iterable[Path], protocol: Protocol, at: float
) -> Calibration:
    """Times the calibration subnet beside others, again where no run of it was clean.

    Args:
        subnet: the calibration subnet's file.
        beside: files of others, the references.
        at: the time now, in seconds since 1970.

    Raises:
        WorkError: a subnet cannot be timed, or every run was contaminated.
    """
    time = partial(
        worker.time,
        runs=CALIBRATION_RUNS,
        warmup=protocol.warmup,
        deadline_s=protocol.deadline_s,
        calibration=subnet,
    )

    def timings() -> Iterator[Timing]:
        for path in others * PASSES:
            reply = time(path)
            if isinstance(reply, Lost):  # once may be an accident, a process killed from outside
                reply = time(path)
            if isinstance(reply, Lost):
                raise WorkError(f"the calibration subnet cannot be timed ({reply.kind}): {reply.message}")
            yield reply

    others = list(beside)
    for _ in range(protocol.attempts):
        found = calibrate(architecture, timings(), at)
        if found is not None:
            return found
    raise WorkError(
        f"every run of the calibration subnet was contaminated, {protocol.attempts} times over: something else "
        f"computes on this device; `esm-onnx doctor` tells what, and --plain measures nevertheless"
    )


def calibrate(architecture: Architecture, timings: Iterable[Timing], started_at: float) -> Calibration | None:
    """The calibration that paired timings without a nominal latency show; None where no block of them was clean.

    Nominal is the median over the blocks that are within the range of the fastest: the speed of a device that nothing
    slows down, as a quiet measurement would find it.
    """
    blocks: list[float] = []
    for timing in timings:
        paired = zip(timing.calibration_ns, timing.dropped, strict=True)
        blocks += dict.fromkeys(beside for beside, dropped in paired if not dropped & Reason.UNPAIRED)
    if not blocks:
        return None
    every = np.array(blocks)
    usual = every[every <= SPEED_RANGE * every.min()]
    return Calibration(architecture, float(np.median(usual)) / 1e6, float(usual.std() / usual.mean()), started_at)
