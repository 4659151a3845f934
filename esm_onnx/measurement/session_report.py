"""What a session was like: drift of its references, noise, what was left out and why, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esm_onnx.architectures import Space
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.quantities import SPENT
from esm_onnx.measurement.record import REFERENCE, Measurement
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target


@dataclass(frozen=True, slots=True)
class ReferencePoint:
    """One measurement of a reference, as ESM's Fig. 6 plots it.

    Attributes:
        at_s: seconds since the session's first measurement.
        reference: number of the reference, from 1.
        latency_ms, trimmed_ms: the statistic that is believed, and the trimmed mean of all runs, in ms.
        speed: the device's, of 1 for the calibration subnet's nominal latency.
        stands: whether its round is good, and the session accepted.
    """

    at_s: float
    reference: int
    depth: int
    latency_ms: float
    trimmed_ms: float
    speed: float
    stands: bool


@dataclass(frozen=True, slots=True)
class SessionReport:
    """The report of one session.

    Attributes:
        protocol: how it was measured; empty for what was measured elsewhere.
        started_at: of its first measurement, in seconds since 1970; None of an empty session.
        subjects: number of measurements of subjects, and of those that stand.
        capped: measurements whose interval was still wider than the target error when the last run was done.
        noise_floor: relative standard deviation of the references that stand, as a share; None where unknown.
        runs: number of timed runs of subjects and references.
        dropped: how many of them were contaminated, by reason; a run may have more than one. Paired timing leaves them
            out, plain timing does not.
        spent_s: seconds by purpose: timed runs of subjects and of references, runs of the calibration subnet, and the
            rest: export, loading, untimed runs.
        failures: number of failures by kind.
        noise_floors: relative standard deviation of each other quantity of those references, as a share, where known.
    """

    number: int
    status: str
    verdict: str
    protocol: Mapping[str, Any]
    started_at: float | None
    references: tuple[ReferencePoint, ...]
    subjects: int
    standing: int
    capped: int
    noise_floor: float | None
    runs: int
    dropped: Mapping[str, int]
    spent_s: Mapping[str, float]
    failures: Mapping[str, int]
    noise_floors: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


MANY_CONTAMINATED = 0.2
"""Share of contaminated runs that is worth a word: as many as trimming drops at one end."""


def remarks(records: Sequence[Measurement], protocol: Protocol) -> list[str]:
    """What a user should hear of the records of a session, as pyperf warns of an unstable benchmark; often nothing."""
    found = []
    wanted = protocol.target_error
    inexact = 0 if wanted is None else sum(record.error > wanted for record in records)
    if wanted is not None and inexact:
        found.append(
            f"{inexact} of {len(records)} measurements not known within {100 * wanted:g} % after {protocol.runs} runs"
        )
    runs = sum(len(record.runs_ms) for record in records)
    contaminated = sum(bool(bits) for record in records for bits in record.dropped)
    if contaminated > MANY_CONTAMINATED * runs:
        found.append(f"{100 * contaminated / runs:.0f} % of the runs contaminated: `esm-onnx doctor` tells by what")
    return found


def report_sessions(store: Store, space: Space, target: Target) -> Iterator[SessionReport]:
    """The report of each session of a space on a target, oldest first."""
    return (report for report, _ in read_sessions(store, space, target))


def read_sessions(store: Store, space: Space, target: Target) -> Iterator[tuple[SessionReport, list[Measurement]]]:
    """The report of each session of a space on a target, oldest first, with those of its measurements that stand."""
    for number, status, provenance, verdict in store.sessions(space, target):
        records = list(store.measurements(space, session=number))
        standing = store.standing(number) if status == ACCEPTED else [False] * len(records)
        failures = Counter(failure.kind for failure in store.failures(space, target, session=number))
        protocol = provenance.get("protocol", {})
        target_error = protocol.get("target_error")
        capped = 0 if target_error is None else store.inexact(number, target_error)
        report = _report(number, status, verdict, protocol, records, standing, failures, capped)
        yield report, [record for record, stands in zip(records, standing, strict=True) if stands]


def _report(
    number: int,
    status: str,
    verdict: str,
    protocol: Mapping[str, Any],
    records: Sequence[Measurement],
    standing: Sequence[bool],
    failures: Mapping[str, int],
    capped: int,
) -> SessionReport:
    judged = list(zip(records, standing, strict=True))
    subjects = [(record, stands) for record, stands in judged if record.role != REFERENCE]
    dropped: Counter[str] = Counter()
    for record in records:
        dropped.update({reason.words: count for reason, count in record.reasons.items()})
    return SessionReport(
        number=number,
        status=status,
        verdict=verdict,
        protocol=protocol,
        started_at=records[0].started_at if records else None,
        references=tuple(_points(judged)),
        subjects=len(subjects),
        standing=sum(stands for _, stands in subjects),
        capped=capped,
        noise_floor=noise_floor(record for record, stands in judged if stands),
        runs=sum(len(record.runs_ms) for record in records),
        dropped=dict(dropped.most_common()),
        spent_s=_spent_s(records),
        failures=dict(failures),
        noise_floors=dict(_noise_floors([record for record, stands in judged if stands])),
    )


def _noise_floors(records: Sequence[Measurement]) -> Iterator[tuple[str, float]]:
    for quantity in SPENT:
        floor = noise_floor(filter(None, (record.of(quantity) for record in records)))
        if floor is not None:
            yield quantity, floor


def _points(judged: Sequence[tuple[Measurement, bool]]) -> Iterator[ReferencePoint]:
    numbers: dict[object, int] = {}
    for record, stands in judged:
        if record.role == REFERENCE:
            architecture = record.architecture
            reference = numbers.setdefault(architecture, len(numbers) + 1)
            at_s = record.started_at - judged[0][0].started_at
            latencies = record.latency_ms, record.trimmed_ms
            yield ReferencePoint(at_s, reference, architecture.depth, *latencies, record.speed, stands)


def _spent_s(records: Sequence[Measurement]) -> dict[str, float]:
    subjects = sum(sum(record.runs_ms) for record in records if record.role != REFERENCE) / 1e3
    references = sum(sum(record.runs_ms) for record in records if record.role == REFERENCE) / 1e3
    calibration = sum(record.pairing.spent_ms for record in records if record.pairing is not None) / 1e3
    elapsed = sum(record.elapsed_s for record in records)
    rest = max(0.0, elapsed - subjects - references - calibration)  # a virtual clock may run ahead of the real one
    return {"subjects": subjects, "references": references, "calibration": calibration, "rest": rest}
