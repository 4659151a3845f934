"""What an attempt to measure leaves behind: a measurement with all its runs, or a failure with its kind."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Architecture
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.estimate import Values, relative_error, trimmed_mean
from esm_onnx.measurement.quantities import LATENCY
from esm_onnx.measurement.timing import LEAST_BLOCKS, Timing

LEAST_CLEAN = 10
"""Clean runs that make a measurement, or half of the runs where that is fewer: an interval of fewer says little."""

SUBJECT, REFERENCE = "subject", "reference"


@dataclass(frozen=True, slots=True)
class Pairing:
    """The calibration runs that alternated with the runs of a measurement.

    Attributes:
        calibration_ms: for each run the median of the calibration runs before and after its block, in ms.
        nominal_ms: the calibration subnet's nominal latency on the target, in ms.
        spent_ms: time that all calibration runs took, in ms.
    """

    calibration_ms: tuple[float, ...]
    nominal_ms: float
    spent_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One architecture timed once.

    Attributes:
        role: "subject" for an architecture that is to be known, "reference" for one that watches the session.
        runs_ms: every timed run in the order of running, in ms.
        started_at: seconds since 1970.
        dropped: for each run the bits of `Reason` for which it is left out, 0 for a clean one; empty: not watched.
        pairing: the calibration runs beside it; None for plain timing.
        shift: factor by which references brought it over from another regime; 1 for none.
        elapsed_s: time from writing the subnet to its last run, in s; 0 where unknown.
        host_ms: for each run how long the host waited for it, in ms, where a device's own clock timed it; else empty.
        quantities: what else was measured of the subnet, by name with unit, of `BESIDE`.
    """

    architecture: Architecture
    role: str
    runs_ms: tuple[float, ...]
    started_at: float
    dropped: tuple[int, ...] = ()
    pairing: Pairing | None = None
    shift: float = 1.0
    elapsed_s: float = 0.0
    host_ms: tuple[float, ...] = ()
    quantities: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def latency_ms(self) -> float:
        """What is believed of it, in ms: the paired statistic where there is one, else the trimmed mean."""
        if self.pairing is None:
            return self.trimmed_ms
        return self.shift * self.pairing.nominal_ms * trimmed_mean(self.values)

    @property
    def trimmed_ms(self) -> float:
        """Trimmed mean of all runs, in ms: the paper's statistic."""
        return trimmed_mean(np.asarray(self.runs_ms))

    def plain(self) -> Measurement:
        """The same runs as the paper's protocol sees them."""
        return replace(self, pairing=None, shift=1.0)

    def of(self, quantity: str) -> Measurement | None:
        """A quantity by its field in place of the latency, as if it were a plain run of so many ms; None without it.

        So what judges latencies judges it too.
        """
        if quantity == LATENCY.field:
            return self
        value = self.quantities.get(quantity)
        return None if value is None else replace(self.plain(), runs_ms=(value,), dropped=(), host_ms=())

    @property
    def error(self) -> float:
        """Half the 95 % confidence interval of the latency over the latency; what all its runs share is not in it."""
        return relative_error(self.values)

    @property
    def values(self) -> Values:
        """What the statistic is taken from: each used run over the calibration beside it, or in ms if plain."""
        runs = np.asarray(self.runs_ms, dtype=float)
        return runs if self.pairing is None else (runs / np.asarray(self.pairing.calibration_ms))[self.used]

    @property
    def used(self) -> NDArray[np.bool_]:
        """The runs that count: the clean ones; where too few, those clean but for the speed; where too few, all.

        The paper's protocol, which is plain, drops no run but by trimming.
        """
        everything = np.ones(len(self.runs_ms), dtype=bool)
        candidates = (self._without(Reason(0)), self._without(Reason.OTHER_SPEED))
        return next((mask for mask in candidates if self._enough(mask)), everything)

    @property
    def is_known(self) -> bool:
        """Whether enough runs were clean; without them this is a record, but no latency."""
        return self._enough(self._without(Reason.OTHER_SPEED))

    @property
    def at_usual_speed(self) -> bool:
        """Whether enough runs were clean while the calibration was near its nominal latency."""
        return self._enough(self._without(Reason(0)))

    @property
    def speed(self) -> float:
        """The calibration's nominal latency over its latency beside the used runs; 1 for plain timing."""
        if self.pairing is None:
            return 1.0
        return self.pairing.nominal_ms / float(np.median(np.asarray(self.pairing.calibration_ms)[self.used]))

    @property
    def reasons(self) -> Counter[Reason]:
        """How many runs have each reason."""
        bits = np.asarray(self.dropped, np.int64)
        counts = ((reason, int(np.count_nonzero(bits & int(reason)))) for reason in Reason)
        return Counter({reason: count for reason, count in counts if count})

    def _without(self, allowed: Reason) -> NDArray[np.bool_]:
        """The runs that have no reason but those allowed."""
        if self.pairing is None or not self.dropped:
            return np.ones(len(self.runs_ms), dtype=bool)
        clean: NDArray[np.bool_] = (np.asarray(self.dropped) & ~int(allowed)) == 0
        return clean

    def _enough(self, mask: NDArray[np.bool_]) -> bool:
        """Ten runs of two blocks: what a block has in common shows only beside another."""
        if self.pairing is not None:
            blocks = self.pairing.calibration_ms
            if len(set(itertools.compress(blocks, mask))) < min(LEAST_BLOCKS, len(set(blocks))):
                return False
        return int(mask.sum()) >= min(LEAST_CLEAN, -(-len(mask) // 2))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration subnet of a space on a target: established once.

    Attributes:
        nominal_ms: its latency while the device is at its usual speed, in ms.
        spread: relative standard deviation of that latency over the stretches it was established from, as a share.
        started_at: seconds since 1970.
    """

    architecture: Architecture
    nominal_ms: float
    spread: float
    started_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that gave no latency.

    Attributes:
        kind: "export", "refused", "load", "memory", "run", "nan", "wrong", "exit", "crash" or
            "deadline".
        message: what was seen, one line.
        started_at: seconds since 1970.
    """

    architecture: Architecture
    kind: str
    message: str
    started_at: float


def as_measurement(
    architecture: Architecture,
    role: str,
    timing: Timing,
    calibration: Calibration | None,
    started_at: float,
    elapsed_s: float,
) -> Measurement:
    """The record of a timing; a calibration where it was paired."""
    pairing = None
    if calibration is not None:
        beside_ms = tuple(beside / 1e6 for beside in timing.calibration_ns)
        pairing = Pairing(beside_ms, calibration.nominal_ms, timing.calibrating_ns / 1e6)
    runs_ms = tuple(run / 1e6 for run in timing.runs_ns)
    return Measurement(
        architecture,
        role,
        runs_ms,
        started_at,
        tuple(timing.dropped),
        pairing,
        elapsed_s=max(0.0, elapsed_s),
        host_ms=tuple(waited / 1e6 for waited in timing.host_ns),
        quantities=timing.quantities,
    )
