"""Timing the runs of one subnet: plainly, or in blocks that alternate with a calibration subnet.

The speed of a shared or throttling device wanders by tens of per cent within seconds; the ratio to a calibration subnet
that is timed beside it hardly does. A subnet finds the caches filled by the other one, though, and needs a few runs
until it is as fast as it is by itself (on a server core with 2 MB of cache the first run took up to 34 % longer, the
fifth 1 %). So the two alternate in blocks, and the first runs of each block are not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from esm_onnx.measurement.conditions import Counters, Reason, fast_reasons, slow_reasons
from esm_onnx.measurement.estimate import Values, relative_error, trimmed_mean

BLOCK = 20
"""Timed runs of the subnet in one block."""
CALIBRATIONS = 8
"""Timed runs of the calibration subnet in one block."""
SETTLING = 4
"""Untimed runs at the beginning of a block."""
LEAST_CALIBRATIONS = 4
"""Clean calibration runs that the blocks before and after must have between them."""
LEAST_BLOCKS = 2
"""Blocks before a measurement may be known well enough: what one block has in common shows only beside another."""
SPEED_RANGE = 1.15
"""Factor by which the calibration may differ from its nominal latency before the device counts as in another regime."""

Infer = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a run is timed and watched with: a clock in ns, and the system's counters."""

    clock: Callable[[], int]
    counters: Callable[[], Counters]


@dataclass(frozen=True, slots=True)
class Timing:
    """Timed runs, in the order of running.

    Attributes:
        runs_ns: duration of each, in ns.
        dropped: for each the bits of `Reason`.
        calibration_ns: for each, the trimmed mean of the calibration runs before and after its block; empty if plain.
        calibrating_ns: time that all runs of the calibration subnet took, untimed ones included.
    """

    runs_ns: list[int]
    dropped: list[int]
    calibration_ns: list[float]
    calibrating_ns: int = 0


class Stopwatch:
    """Times runs one by one and notes what disturbed them."""

    def __init__(self, instruments: Instruments) -> None:
        self._clock, self._counters = instruments.clock, instruments.counters
        self._fastest: int | None = None
        self._readings: list[int] = []
        self.runs_ns: list[int] = []
        self.dropped: list[int] = []
        self.spent_ns = 0

    def time(self, infer: Infer, count: int) -> None:
        """Performs `count` runs, timed."""
        for _ in range(count):
            before = self._counters()
            start = self._clock()
            infer()
            wall = self._clock() - start
            after = self._counters()
            self.runs_ns.append(wall)
            self.dropped.append(int(fast_reasons(before, after, wall)))
            self._readings.append(before.reading)
            if after.reading != before.reading:
                self._look_back(before, after)

    def _look_back(self, before: Counters, after: Counters) -> None:
        """What a slow reading shows holds for every run since the one before it."""
        self._fastest = max(filter(None, (self._fastest, before.frequency, after.frequency)), default=None)
        reasons = int(slow_reasons(before, after, self._fastest))
        at = len(self.dropped) - 1
        while reasons and at >= 0 and self._readings[at] == before.reading:
            self.dropped[at] |= reasons
            at -= 1


def time_runs(
    infer: Infer, instruments: Instruments, *, runs: int, warmup: int, target_error: float | None = None
) -> Timing:
    """Times a subnet by itself, as the paper does.

    Args:
        runs: timed runs; the cap where there is a target error.
        warmup: untimed runs before them.
        target_error: stops once half the 95 % confidence interval of the trimmed mean is within this share of it; None
            always performs all runs.
    """
    for _ in range(warmup):
        infer()
    watch = Stopwatch(instruments)
    while len(watch.runs_ns) < runs:
        watch.time(infer, min(BLOCK, runs - len(watch.runs_ns)))
        if _known(np.array(watch.runs_ns, dtype=float), target_error, len(watch.runs_ns)):
            break
    return Timing(watch.runs_ns, watch.dropped, [])


def time_pairs(
    infer: Infer,
    calibrate: Infer,
    instruments: Instruments,
    *,
    runs: int,
    warmup: int,
    nominal_ns: float | None = None,
    target_error: float | None = None,
) -> Timing:
    """Times a subnet in blocks between blocks of the calibration subnet.

    Args:
        runs: the cap.
        warmup: untimed runs of the subnet before its first block.
        nominal_ns: latency of the calibration subnet at the device's usual speed; None where it is not known yet.
        target_error: stops once half the 95 % confidence interval of the mean ratio is within this share of it; None
            always performs all runs.
    """
    subject = Stopwatch(instruments)
    calibration_ns: list[float] = []
    before = _calibration_block(calibrate, instruments)
    spent = before.spent_ns
    while len(subject.runs_ns) < runs:
        for _ in range(SETTLING if calibration_ns else max(SETTLING, warmup)):
            infer()
        count = min(BLOCK, runs - len(subject.runs_ns))
        subject.time(infer, count)
        after = _calibration_block(calibrate, instruments)
        beside_ns, reason = _beside(before, after, nominal_ns)
        calibration_ns += [beside_ns] * count
        subject.dropped[-count:] = [bits | reason for bits in subject.dropped[-count:]]
        before, spent = after, spent + after.spent_ns
        clean = np.array(subject.dropped) == 0
        ratios = np.array(subject.runs_ns)[clean] / np.array(calibration_ns)[clean]
        if _known(ratios, target_error, len(clean)):
            break
    return Timing(subject.runs_ns, subject.dropped, calibration_ns, spent)


def _calibration_block(calibrate: Infer, instruments: Instruments) -> Stopwatch:
    start = instruments.clock()
    for _ in range(SETTLING):
        calibrate()
    watch = Stopwatch(instruments)
    watch.time(calibrate, CALIBRATIONS)
    watch.spent_ns = instruments.clock() - start
    return watch


def _beside(before: Stopwatch, after: Stopwatch, nominal_ns: float | None) -> tuple[float, Reason]:
    """The calibration's latency beside a block, and what its state says of that block's runs."""
    durations = np.array([*before.runs_ns, *after.runs_ns], dtype=float)
    clean = np.array([*before.dropped, *after.dropped]) == 0
    if clean.sum() < LEAST_CALIBRATIONS:
        return trimmed_mean(durations), Reason.UNPAIRED
    beside_ns = trimmed_mean(durations[clean])
    at_speed = nominal_ns is None or 1 / SPEED_RANGE <= beside_ns / nominal_ns <= SPEED_RANGE
    return beside_ns, Reason(0) if at_speed else Reason.OTHER_SPEED


def _known(values: Values, target_error: float | None, runs: int) -> bool:
    """Whether those values, of so many runs, tell the latency well enough."""
    if target_error is None or runs < LEAST_BLOCKS * BLOCK or len(values) < BLOCK:
        return False
    return relative_error(values) <= target_error
