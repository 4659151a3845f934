"""Timing the runs of one subnet: plainly, or in blocks that alternate with a calibration subnet.

The speed of a shared or throttling device wanders by tens of per cent within seconds; the ratio to a calibration subnet
that is timed beside it hardly does. A subnet finds the caches filled by the other one, though, and needs a few runs
until it is as fast as it is by itself (on a server core with 2 MB of cache the first run took up to 34 % longer, the
fifth 1 %). So the two alternate in blocks, and the first runs of each block are not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from esm_onnx.measurement.conditions import Counters, Reason, fast_reasons, slow_reasons
from esm_onnx.measurement.estimate import Values, relative_error

BLOCK = 20
"""Timed runs of the subnet in one block."""
CALIBRATIONS = 8
"""Timed runs of the calibration subnet in one block."""
SETTLING = 4
"""Untimed runs at the beginning of a block."""
LEAST_CALIBRATIONS = 2
"""Clean calibration runs that each of the blocks before and after must have."""
LEAST_BLOCKS = 2
"""Blocks before a measurement may be known well enough: what one block has in common shows only beside another."""
SPEED_RANGE = 1.15
"""Factor by which the calibration may differ from its nominal latency before the device counts as in another regime."""
CHANGE_RANGE = 1.08
"""Factor by which the calibration may differ before and after a block. The medians of eight runs that scatter by 5 %
differ by more in one block of a hundred; a block during which the speed changed is off by half of it at most."""

Infer = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a run is timed and watched with: a clock in ns, and the system's counters.

    Attributes:
        host: the host's clock in ns, where `clock` is another one: that of a device.
    """

    clock: Callable[[], int]
    counters: Callable[[], Counters]
    host: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Timed runs, in the order of running.

    Attributes:
        runs_ns: duration of each, in ns.
        dropped: for each the bits of `Reason`.
        calibration_ns: for each, the median of the calibration runs before and after its block; empty if plain.
        calibrating_ns: time that all runs of the calibration subnet took, untimed ones included.
        host_ns: for each run how long the host waited for it; empty where the host's clock timed it.
        quantities: what else was measured of the subnet, by name with unit.
    """

    runs_ns: list[int]
    dropped: list[int]
    calibration_ns: list[float]
    calibrating_ns: int = 0
    host_ns: list[int] = field(default_factory=list)
    quantities: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Times runs one by one and notes what disturbed them.

    Args:
        alone: nothing else runs between its runs. Else the device's clock at the beginning of a stretch, and after it,
            may be that of another subnet: a GPU at its power cap has a lower one for more work, at its usual speed.
    """

    def __init__(self, instruments: Instruments, *, alone: bool = True) -> None:
        self._alone = alone
        self._clock, self._counters = instruments.clock, instruments.counters
        self._host = instruments.host or instruments.clock
        self._apart = instruments.host is not None
        self._fastest: int | None = None
        self._last: Counters | None = None
        self._readings: list[int] = []
        self.runs_ns: list[int] = []
        self.host_ns: list[int] = []
        self.dropped: list[int] = []

    def time(self, infer: Infer, count: int) -> None:
        """Performs a stretch of `count` runs, timed."""
        for number in range(count):
            before = self._counters()
            self._look(before, within=number > 0)
            start, host_start = self._clock(), self._host()
            infer()
            waited, run = self._host() - host_start, self._clock() - start
            after = self._counters()
            self.runs_ns.append(run)
            if self._apart:
                self.host_ns.append(waited)
            self.dropped.append(int(fast_reasons(before, after, waited)))
            self._readings.append(before.reading)
            self._look(after)

    def look(self) -> None:
        """Judges the last runs by a slow reading that came after them, where there is one by now."""
        self._look(self._counters(), within=False)

    def _look(self, now: Counters, *, within: bool = True) -> None:
        if self._last is not None and now.reading == self._last.reading:
            return
        if not (within or self._alone):
            now = replace(now, frequency=None)
        if self._last is not None:
            self._look_back(self._last, now)
        self._last = now

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
        if _known(np.array(watch.runs_ns, dtype=float), target_error, blocks=len(watch.runs_ns) // BLOCK):
            break
    return Timing(watch.runs_ns, watch.dropped, [], host_ns=watch.host_ns)


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
    subject, beside = Stopwatch(instruments, alone=False), Stopwatch(instruments, alone=False)
    calibration_ns: list[float] = []
    spent_ns = 0

    def calibration_block() -> slice:
        nonlocal spent_ns
        start = instruments.clock()
        for _ in range(SETTLING):
            calibrate()
        beside.time(calibrate, CALIBRATIONS)
        spent_ns += instruments.clock() - start
        return slice(len(beside.runs_ns) - CALIBRATIONS, len(beside.runs_ns))

    before = calibration_block()
    while len(subject.runs_ns) < runs:
        for _ in range(SETTLING if calibration_ns else max(SETTLING, warmup)):
            infer()
        count = min(BLOCK, runs - len(subject.runs_ns))
        subject.time(infer, count)
        beside.look()
        after = calibration_block()
        subject.look()
        latency_ns, reason = _beside(beside, before, after, nominal_ns)
        calibration_ns += [latency_ns] * count
        subject.dropped[-count:] = [bits | reason for bits in subject.dropped[-count:]]
        before = after
        clean = np.flatnonzero(np.array(subject.dropped) == 0)
        ratios = np.array(subject.runs_ns)[clean] / np.array(calibration_ns)[clean]
        if _known(ratios, target_error, blocks=len(np.unique(clean // BLOCK))):
            break
    return Timing(subject.runs_ns, subject.dropped, calibration_ns, spent_ns, subject.host_ns)


def _beside(watch: Stopwatch, before: slice, after: slice, nominal_ns: float | None) -> tuple[float, Reason]:
    """The calibration's latency beside a block, and what its state says of that block's runs.

    The median of few runs: one spike among them must not count.
    """
    clean = [
        [run for run, bits in zip(watch.runs_ns[block], watch.dropped[block], strict=True) if not bits]
        for block in (before, after)
    ]
    if min(map(len, clean)) < LEAST_CALIBRATIONS:
        return float(np.median([*watch.runs_ns[before], *watch.runs_ns[after]])), Reason.UNPAIRED
    latency_ns = float(np.median(clean[0] + clean[1]))
    low, high = sorted(float(np.median(runs)) for runs in clean)
    if high > CHANGE_RANGE * low:
        return latency_ns, Reason.CHANGING
    at_speed = nominal_ns is None or 1 / SPEED_RANGE <= latency_ns / nominal_ns <= SPEED_RANGE
    return latency_ns, Reason(0) if at_speed else Reason.OTHER_SPEED


def _known(values: Values, target_error: float | None, *, blocks: int) -> bool:
    """Whether clean values from so many blocks tell the latency well enough."""
    if target_error is None or blocks < LEAST_BLOCKS or len(values) < BLOCK:
        return False
    return relative_error(values) <= target_error
