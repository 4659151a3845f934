"""What of a session can be believed: how far its references wander.

Plain timing follows the paper (ESM, Section V): when one reference scatters beyond the tolerance, the whole session is
rejected. With paired timing each stretch between two rounds of references is judged by itself. A round is good when
the mean of its references lies within the tolerance of what is known of them, and none of them is off by more than
one and a half times that. What lies between two good rounds stands.

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

SINGLE = 1.5
"""How many tolerances one reference of a round may be off: the mean of three scatters less than each of them."""
APART = 1.5
"""How many tolerances two neighbouring rounds may differ."""
GREATEST_SHIFT = math.log(1.25)
"""A regime in which the ratios differ by more than this is not brought over, but measured again."""

STATES = ("steady", "drifting", "unreliable")
"""Of references: within half the tolerance; beyond that; and what is measured beside them does not stand."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Where the references of a session stand.

    Attributes:
        share: how far the last round is off what is known of them, as a share; timed plainly, the relative standard
            deviation of the one that scatters most.
        tolerance: the protocol's.
        alarm: what is wrong with that round, or with the plain session; empty when nothing is.
    """

    share: float
    tolerance: float
    alarm: str = ""

    @property
    def state(self) -> str:
        """One of `STATES`."""
        steady, drifting, unreliable = STATES
        if self.alarm:
            return unreliable
        return drifting if abs(self.share) > self.tolerance / 2 else steady

    @property
    def gravity(self) -> tuple[int, float]:
        """The greater, the worse."""
        return STATES.index(self.state), abs(self.share) / self.tolerance


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
        drift: where the references stand; None while there is nothing to compare them with.
    """

    spreads: Mapping[str, float]
    tolerance: float
    stands: tuple[bool, ...] = ()
    shifts: tuple[float, ...] = ()
    alarms: Mapping[int, str] = field(default_factory=dict)
    subjects: tuple[int, int] = (0, 0)
    rounds: int = 0
    drift: Drift | None = None

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
class Level:
    """What references are known to show: their latencies in ms, and the device's speed at which they showed it."""

    latency_ms: Mapping[Architecture, float]
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class _Round:
    """References measured one after the other, from record `start` to before record `end`.

    Attributes:
        at_level: whether the device had the level's speed.
        shift: mean of the logarithms of latency over what is known.
        alarm: what is wrong with it; empty when it is good.
    """

    start: int
    end: int
    speed: float
    at_level: bool
    shift: float
    alarm: str


def level_of(references: Iterable[Measurement]) -> Level | None:
    """The level that measurements of references show, all of them believed; None where there are none."""
    every = list(references)
    if not every:
        return None
    medians = {reference: float(np.median(values)) for reference, values in reference_latencies(every).items()}
    return Level(medians, float(np.median([member.speed for member in every])))


def judge(records: Sequence[Measurement], protocol: Protocol, known: Level | None = None) -> Quality:
    """The verdict on a session.

    Args:
        records: all its measurements, in the order of measuring.
        known: what references showed in sessions that were accepted before.
    """
    return _judge_stretches(records, protocol, known) if protocol.paired else _judge_whole(records, protocol)


def _judge_whole(records: Sequence[Measurement], protocol: Protocol) -> Quality:
    spreads = _spreads(records)
    wrong = [
        f"{name} {100 * spread:.1f} % relative standard deviation"
        for name, spread in spreads.items()
        if not spread <= protocol.tolerance
    ]
    subjects = sum(record.role != REFERENCE for record in records)
    alarm = ", ".join(wrong)
    repeated = any(len(latencies) > 1 for latencies in reference_latencies(records).values())
    return Quality(
        spreads,
        protocol.tolerance,
        (not wrong,) * len(records),
        (1.0,) * len(records),
        {0: alarm} if wrong else {},
        (0 if wrong else subjects, subjects),
        drift=Drift(max(spreads.values()), protocol.tolerance, alarm) if repeated else None,
    )


def _judge_stretches(records: Sequence[Measurement], protocol: Protocol, known: Level | None) -> Quality:
    places = _rounds(records, protocol)
    level = _level([_members(records, start, end) for start, end in places], protocol, known)
    rounds = [_examine(records, start, end, level, protocol) for start, end in places]
    stands, shifts = [False] * len(records), [1.0] * len(records)
    for examined in rounds:
        for i in range(examined.start, examined.end):
            stands[i] = examined.at_level and not examined.alarm and protocol.is_known(records[i])
    for before, after in pairwise(rounds):
        for i in range(before.end, after.start):
            shift = _shift(records[i], before, after, level, protocol)
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
        _drift(rounds, protocol, known),
    )


def _drift(rounds: Sequence[_Round], protocol: Protocol, known: Level | None) -> Drift | None:
    """Of the last round; the first one of all is only compared with itself."""
    if not rounds or (known is None and len(rounds) == 1 and not rounds[0].alarm):
        return None
    return Drift(math.expm1(rounds[-1].shift), protocol.tolerance, rounds[-1].alarm)


def _rounds(records: Sequence[Measurement], protocol: Protocol) -> list[tuple[int, int]]:
    """Where each round begins and ends: a row of references in which none that was known comes again."""
    places: list[tuple[int, int]] = []
    seen: set[Architecture] = set()
    for i, record in enumerate(records):
        if record.role != REFERENCE:
            seen.clear()
            continue
        follows = bool(places) and places[-1][1] == i
        if not follows or record.architecture in seen:
            places.append((i, i))
            seen.clear()
        if protocol.is_known(record):
            seen.add(record.architecture)
        places[-1] = (places[-1][0], i + 1)
    return places


def _members(records: Sequence[Measurement], start: int, end: int) -> list[Measurement]:
    """The references of a round: of one that was tried again, the last attempt."""
    return list({record.architecture: record for record in records[start:end]}.values())


def _has_speed(speed: float, other: float) -> bool:
    return abs(math.log(speed / other)) <= math.log(SPEED_RANGE)


def _level(rounds: Sequence[Sequence[Measurement]], protocol: Protocol, known: Level | None) -> Level:
    """The level that is known already, with the references that it lacks as they stand beside the others now."""
    now = _agreed(rounds, protocol)
    if known is None:
        return now
    both = [math.log(known.latency_ms[a] / now.latency_ms[a]) for a in now.latency_ms.keys() & known.latency_ms.keys()]
    factor = math.exp(float(np.mean(both))) if both else 1.0
    lacking = {reference: factor * latency for reference, latency in now.latency_ms.items()}
    return Level({**lacking, **known.latency_ms}, known.speed)


def _agreed(rounds: Sequence[Sequence[Measurement]], protocol: Protocol) -> Level:
    """The level that most rounds agree on, the earliest where two have as many.

    Of the rounds at the usual speed (of all that are known, where there are none), the most that lie within the
    tolerance of one another at one speed; the median over them.
    """
    sound = [members for members in rounds if all(protocol.is_known(member) for member in members)]
    sound = [members for members in sound if all(member.at_usual_speed for member in members)] or sound
    whole = level_of([member for members in sound for member in members])
    if whole is None:
        return Level({})
    at = [np.mean([math.log(m.latency_ms / whole.latency_ms[m.architecture]) for m in members]) for members in sound]
    speeds = [_speed(members) for members in sound]
    windows = [
        [i for i in range(len(sound)) if low <= at[i] <= low + protocol.tolerance and _has_speed(speeds[i], speed)]
        for low, speed in zip(at, speeds, strict=True)
    ]
    chosen = max(windows, key=lambda window: (len(window), [-i for i in window]))
    return level_of([member for i in chosen for member in sound[i]]) or whole


def _speed(members: Sequence[Measurement]) -> float:
    return float(np.exp(np.mean([math.log(member.speed) for member in members])))


def _examine(records: Sequence[Measurement], start: int, end: int, level: Level, protocol: Protocol) -> _Round:
    """What a round says: how far it is from what is known, and what is wrong with it."""
    members, tolerance = _members(records, start, end), protocol.tolerance
    has_speed = [_has_speed(member.speed, level.speed) for member in members]
    strangers = [member for member in members if member.architecture not in level.latency_ms]
    offsets = [] if strangers else [math.log(m.latency_ms / level.latency_ms[m.architecture]) for m in members]
    shift = float(np.mean(offsets)) if offsets else 0.0
    scatter = max((abs(offset - shift) for offset in offsets), default=0.0)
    worst = max(map(abs, offsets), default=0.0)
    off = f"{100 * math.expm1(shift):+.1f} %"
    alarm = ""
    if not all(protocol.is_known(member) for member in members):
        alarm = "too few clean runs, or too noisy ones"
    elif strangers:
        alarm = "no round that it could be compared with"
    elif any(has_speed) and not all(has_speed):
        alarm = "the device changed its speed within"
    elif scatter > SINGLE * tolerance:
        alarm = f"references disagree by {100 * scatter:.1f} %"
    elif all(has_speed) and abs(shift) > tolerance:
        alarm = off
    elif all(has_speed) and worst > SINGLE * tolerance:
        alarm = f"{off}, one reference {100 * worst:.1f} %"
    elif abs(shift) > GREATEST_SHIFT:
        alarm = f"{off} in another regime"
    return _Round(start, end, _speed(members), all(has_speed), shift, alarm)


def _shift(subject: Measurement, before: _Round, after: _Round, level: Level, protocol: Protocol) -> float | None:
    """The factor that brings a subject between two rounds to the level; None when it cannot be believed."""
    apart = abs(before.shift - after.shift)
    if before.alarm or after.alarm or not protocol.is_known(subject) or apart > APART * protocol.tolerance:
        return None
    at_level = _has_speed(subject.speed, level.speed)
    if before.at_level and after.at_level:
        return 1.0 if at_level else None
    if before.at_level or after.at_level or at_level:
        return None
    between = math.sqrt(before.speed * after.speed)
    return math.exp(-(before.shift + after.shift) / 2) if _has_speed(subject.speed, between) else None


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
