"""What of a session can be believed: how far its references wander.

Plain timing follows the paper (ESM, Section V): when one reference scatters beyond the tolerance, the whole session is
rejected. With paired timing each stretch between two rounds of references is judged by itself. A round is good when
the mean of its references lies within the tolerance of what is known of them, and none of them is off by more than
twice that. What lies between two good rounds stands.

A device that changes into another regime (its calibration subnet is off its nominal latency) changes the ratios too, by
some per cent. What was measured there, between two rounds in that same regime, is brought over by the factor that the
references show; a subject whose rounds were in another regime than itself is measured again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from esm_onnx.architectures import Architecture
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import REFERENCE, Measurement
from esm_onnx.measurement.timing import SPEED_RANGE

SINGLE = 2.0
"""How many tolerances one reference of a round may be off: the mean of three scatters less than each of them."""
APART = 1.5
"""How many tolerances two neighbouring rounds may differ."""
GREATEST_SHIFT = math.log(1.25)
"""A regime in which the ratios differ by more than this is not brought over, but measured again."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The verdict on a session.

    Attributes:
        spreads: relative standard deviation of each reference over the rounds that are good, as a share.
        tolerance: the protocol's.
        stands: for each record of the session, in order, whether it is believed.
        shifts: for each record the factor that brings it over; 1 for none.
        alarms: what is wrong with each round that is not good, by its number from 1.
        subjects: number of subjects that stand, and of all.
        rounds: number of rounds of references.
    """

    spreads: Mapping[str, float]
    tolerance: float
    stands: tuple[bool, ...] = ()
    shifts: tuple[float, ...] = ()
    alarms: Mapping[int, str] = field(default_factory=dict)
    subjects: tuple[int, int] = (0, 0)
    rounds: int = 0

    @property
    def last_round_failed(self) -> bool:
        """Whether the newest round is not good."""
        return self.rounds in self.alarms

    @property
    def accepted(self) -> bool:
        """Whether anything of the session is believed; one without subjects is, when nothing is wrong."""
        return self.subjects[0] > 0 or (self.subjects[1] == 0 and not self.alarms)

    def __str__(self) -> str:
        limit = f"{100 * self.tolerance:g} %"
        if not self.alarms:
            fallen = self.subjects[1] - self.subjects[0]
            others = f"; {fallen} subjects had too few clean runs, or another speed than they" if fallen else ""
            return f"all {len(self.spreads)} references within {limit}{others}"
        first = list(self.alarms.items())[:3]
        told = "; ".join(f"round {number}: {text}" if number else text for number, text in first)
        kept = f"{self.subjects[0]} of {self.subjects[1]} subjects stand" if self.subjects[0] else "nothing stands"
        return f"{kept}: references beyond {limit}: {told}"


@dataclass(frozen=True, slots=True)
class _Round:
    """References measured one after the other, from record `start` to before record `end`."""

    start: int
    end: int
    members: tuple[Measurement, ...]
    usual: bool
    shift: float
    alarm: str

    @property
    def speed(self) -> float:
        return float(np.mean([member.speed for member in self.members]))


def judge(
    records: Sequence[Measurement], protocol: Protocol, known: Mapping[Architecture, float] | None = None
) -> Quality:
    """The verdict on a session.

    Args:
        records: all its measurements, in the order of measuring.
        known: latency of references in ms from sessions that were accepted before.
    """
    return (_judge_stretches if protocol.paired else _judge_whole)(records, protocol, known or {})


def _judge_whole(records: Sequence[Measurement], protocol: Protocol, _known: Mapping[Architecture, float]) -> Quality:
    spreads = _spreads(records)
    wrong = [
        f"{name} {100 * spread:.1f} % relative standard deviation"
        for name, spread in spreads.items()
        if not spread <= protocol.tolerance
    ]
    subjects = sum(record.role != REFERENCE for record in records)
    return Quality(
        spreads,
        protocol.tolerance,
        (not wrong,) * len(records),
        (1.0,) * len(records),
        {0: ", ".join(wrong)} if wrong else {},
        (0 if wrong else subjects, subjects),
    )


def _judge_stretches(
    records: Sequence[Measurement], protocol: Protocol, known: Mapping[Architecture, float]
) -> Quality:
    places = _rounds(records)
    level = {**_level([records[start:end] for start, end in places], protocol.tolerance), **known}
    rounds = [_examine(records, start, end, level, protocol.tolerance) for start, end in places]
    stands, shifts = [False] * len(records), [1.0] * len(records)
    for examined in rounds:
        for i in range(examined.start, examined.end):
            stands[i] = examined.usual and not examined.alarm
    for before, after in pairwise(rounds):
        for i in range(before.end, after.start):
            shift = _shift(records[i], before, after, protocol.tolerance)
            stands[i], shifts[i] = shift is not None, shift or 1.0
    subjects = [stand for record, stand in zip(records, stands, strict=True) if record.role != REFERENCE]
    return Quality(
        _spreads([record for record, stand in zip(records, stands, strict=True) if stand]),
        protocol.tolerance,
        tuple(stands),
        tuple(shifts),
        {number: examined.alarm for number, examined in enumerate(rounds, 1) if examined.alarm},
        (sum(subjects), len(subjects)),
        len(rounds),
    )


def _rounds(records: Sequence[Measurement]) -> list[tuple[int, int]]:
    """Where each unbroken row of references begins and ends."""
    is_reference = [False, *(record.role == REFERENCE for record in records), False]
    edges = [i for i, (left, right) in enumerate(pairwise(is_reference)) if left != right]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _level(rounds: Sequence[Sequence[Measurement]], tolerance: float) -> dict[Architecture, float]:
    """The latency of each reference in ms that most rounds agree on; the earlier where two levels have as many.

    Of the rounds at the usual speed, the most that lie within the tolerance of one another; the median over them.
    """
    usual = [[m for m in members if m.at_usual_speed] for members in rounds]
    every: dict[Architecture, list[float]] = {}
    for members in usual:
        for member in members:
            every.setdefault(member.architecture, []).append(member.latency_ms)
    middle = {architecture: float(np.median(latencies)) for architecture, latencies in every.items()}
    at = [float(np.mean([math.log(m.latency_ms / middle[m.architecture]) for m in ms])) for ms in usual if ms]
    windows = [[i for i, x in enumerate(at) if low <= x <= low + tolerance] for low in at]
    chosen = max(windows, key=lambda window: (len(window), [-i for i in window]), default=[])
    agreed: dict[Architecture, list[float]] = {}
    kept = [members for members in usual if members]
    for i in chosen:
        for member in kept[i]:
            agreed.setdefault(member.architecture, []).append(member.latency_ms)
    return {architecture: float(np.median(latencies)) for architecture, latencies in agreed.items()}


def _examine(
    records: Sequence[Measurement], start: int, end: int, level: Mapping[Architecture, float], tolerance: float
) -> _Round:
    """What a round says: how far it is from what is known, and what is wrong with it."""
    members = tuple(records[start:end])
    usual = [member.at_usual_speed for member in members]
    strangers = [member for member in members if member.architecture not in level]
    offsets = [] if strangers else [math.log(m.latency_ms / level[m.architecture]) for m in members]
    shift = float(np.mean(offsets)) if offsets else 0.0
    scatter = max((abs(offset - shift) for offset in offsets), default=0.0)
    alarm = ""
    if not all(member.is_known for member in members):
        alarm = "too few clean runs"
    elif strangers:
        alarm = "never measured at the device's usual speed"
    elif any(usual) and not all(usual):
        alarm = "the device changed its speed within"
    elif scatter > SINGLE * tolerance:
        alarm = f"references disagree by {100 * scatter:.1f} %"
    elif all(usual) and abs(shift) > tolerance:
        alarm = f"{100 * math.expm1(shift):+.1f} %"
    elif abs(shift) > GREATEST_SHIFT:
        alarm = f"{100 * math.expm1(shift):+.1f} % in another regime"
    return _Round(start, end, members, all(usual), shift, alarm)


def _shift(subject: Measurement, before: _Round, after: _Round, tolerance: float) -> float | None:
    """The factor that brings a subject between two rounds to the usual regime; None when it cannot be believed."""
    if before.alarm or after.alarm or not subject.is_known or abs(before.shift - after.shift) > APART * tolerance:
        return None
    if before.usual and after.usual:
        return 1.0 if subject.at_usual_speed else None
    if before.usual or after.usual or subject.at_usual_speed:
        return None
    away = math.log(subject.speed / math.sqrt(before.speed * after.speed))
    return math.exp(-(before.shift + after.shift) / 2) if abs(away) <= math.log(SPEED_RANGE) else None


def _spreads(records: Iterable[Measurement]) -> dict[str, float]:
    return {
        f"reference {number} (depth {architecture.depth})": relative_std(latencies)
        for number, (architecture, latencies) in enumerate(reference_latencies(records).items(), 1)
    }


def noise_floor(measurements: Iterable[Measurement]) -> float | None:
    """The relative standard deviation that repeated measurements of one architecture show, as a share.

    Pooled over all references and all sessions given: what no predictor can be better than. None where no reference
    was measured twice.
    """
    groups = [np.asarray(latencies) for latencies in reference_latencies(measurements).values() if len(latencies) > 1]
    if not groups:
        return None
    squares = sum(float(((group / group.mean() - 1) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))


def relative_std(latencies: list[float]) -> float:
    """Standard deviation (of the sample, n − 1) over mean; 0 for a single value."""
    return float(np.std(latencies, ddof=1) / np.mean(latencies)) if len(latencies) > 1 else 0.0


def reference_latencies(measurements: Iterable[Measurement]) -> dict[Architecture, list[float]]:
    """The latencies of each reference in ms, in the order of measuring."""
    latencies: dict[Architecture, list[float]] = {}
    for measurement in measurements:
        if measurement.role == REFERENCE:
            latencies.setdefault(measurement.architecture, []).append(measurement.latency_ms)
    return latencies
