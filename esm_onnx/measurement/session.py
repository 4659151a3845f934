"""Profiling: sessions of subjects among references, until every architecture is measured in an accepted one.

A session begins with a round of references, has one after every few subjects and one at its end. When a reference
scatters beyond the tolerance, the session is rejected and what it covers is measured again. A session that was
interrupted is continued with a round of references: what was measured before stands if they still agree.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from esm_onnx.architectures import Architecture, Space, divide, extend
from esm_onnx.architectures.sampling import left_in_bins
from esm_onnx.errors import ExportError, ThresholdNotMet, WorkError
from esm_onnx.export import ExportSettings, Subnet, export_facts, write_subnet
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import Quality, judge
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Failure, Measurement
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
from esm_onnx.measurement.store import ACCEPTED, REJECTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.measurement.worker import Lost, Worker

GREATEST_FAILURES = 2
"""After so many failures on one target an architecture is not attempted again, unless failures are to be retried."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where profiling stands.

    Attributes:
        total: architectures asked for.
        done: those in accepted sessions, and those measured in the session that is running.
        failed: architectures without a latency.
        message: something to be told once; empty otherwise.
    """

    total: int
    done: int
    failed: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What profiling left in the store, in numbers of architectures.

    Attributes:
        measured, already_measured: by this call, and before it.
        weakly_measured: those of `already_measured` that had fewer runs or a greater tolerance than is asked for now.
        failures: the last failure of each architecture without a latency.
        sessions: the qualities of the sessions that this call closed.
    """

    target: Target
    measured: int
    already_measured: int
    weakly_measured: int
    failures: tuple[Failure, ...]
    sessions: tuple[Quality, ...]


class Profiler:
    """Measures architectures of one space on one target into a store; a context manager that owns a worker.

    Args:
        runtime: name of the runtime.
        name: what the target shall be called; None makes a name of runtime and device.
        folder: where subnets and the weight pool are written; each subnet is deleted once it is timed.
        retry_failed: failures of earlier calls do not count.
        report: told of progress.
        clock: gives seconds since 1970.
    """

    def __init__(
        self,
        space: Space,
        store: Store,
        runtime: str,
        *,
        folder: Path,
        settings: RuntimeSettings | None = None,
        export: ExportSettings | None = None,
        protocol: Protocol | None = None,
        name: str | None = None,
        retry_failed: bool = False,
        report: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.space, self.store, self.folder = space, store, folder
        self.settings = settings or RuntimeSettings()
        self.export = export or ExportSettings()
        self.protocol = protocol or Protocol()
        self._report, self._clock = report, clock
        self._started = clock()
        self._retry_failed = retry_failed
        self._subnet_name = f"subnet-{secrets.token_hex(8)}.onnx"  # others may profile in the same folder
        self.references = draw_references(space, self.protocol)
        with suppress(ExportError):  # a wrong [export] is told before a process is started or a session opened
            self._write(self.references[0]).path.unlink()
        runtime = find_runtime(runtime).name
        self.worker = Worker(runtime, self.settings)
        facts = {**export_facts(space, self.export), "runtime": runtime, **self.worker.facts}
        self.target = Target(name or f"{runtime} {facts['device']}", facts)

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.worker.close()

    def profile(self, architectures: Iterable[Architecture], *, enough: Callable[[], bool] = lambda: False) -> Outcome:
        """Measures what the store does not hold yet.

        Args:
            enough: asked before each subject; once it says so, the session is brought to its end and no other begun.

        Raises:
            ThresholdNotMet: the references scattered in every attempt; what was accepted before is kept.
            WorkError: a reference cannot be measured.
        """
        asked = list(dict.fromkeys(architectures))
        with self.store.alone(self.target):
            known = dict(self.store.measured_how(self.space, self.target))
            already = [architecture for architecture in asked if architecture in known]
            qualities = self._sessions(asked, enough)
        measured = self.store.measured(self.space, self.target)
        failures = self._failures(asked)
        return Outcome(
            self.target,
            sum(architecture in measured for architecture in asked) - len(already),
            len(already),
            sum(self.protocol.asks_more_than(known[architecture]) for architecture in already),
            tuple(failure for architecture, failure in failures.items() if architecture not in measured),
            tuple(qualities),
        )

    def _sessions(self, asked: Sequence[Architecture], enough: Callable[[], bool]) -> list[Quality]:
        """Sessions until nothing is left to measure, or it is enough."""
        qualities: list[Quality] = []
        rejected = 0
        while (todo := self._todo(asked)) and not enough():
            quality = self._session(todo, asked, enough)
            qualities.append(quality)
            rejected = 0 if quality.accepted else rejected + 1
            if rejected == self.protocol.attempts:
                raise ThresholdNotMet(
                    f"{rejected} sessions in a row were rejected: {quality}. Make the machine quieter, or allow more "
                    f"with a greater tolerance; what was accepted is kept in {self.store.path}"
                )
        return qualities

    def _todo(self, asked: Sequence[Architecture]) -> list[Architecture]:
        measured = self.store.measured(self.space, self.target)
        attempts = Counter(
            failure.architecture
            for failure in self.store.failures(self.space, self.target)
            if not self._retry_failed or failure.started_at >= self._started
        )
        return [a for a in asked if a not in measured and attempts[a] < GREATEST_FAILURES]

    def _failures(self, asked: Sequence[Architecture]) -> dict[Architecture, Failure]:
        """The last failure of each architecture asked for that has one."""
        wanted = set(asked)
        failures = self.store.failures(self.space, self.target)
        return {failure.architecture: failure for failure in failures if failure.architecture in wanted}

    def _session(
        self, todo: Sequence[Architecture], asked: Sequence[Architecture], enough: Callable[[], bool]
    ) -> Quality:
        """One session over the first of `todo`, continued where it was interrupted, and its verdict."""
        provenance = {"protocol": self.protocol.as_json()}
        session = self.store.unfinished_session(self.space, self.target, provenance)
        if session is None:
            session = self.store.open_session(self.space, self.target, provenance)
        before = {m.architecture for m in self.store.measurements(self.space, session=session) if m.role == SUBJECT}
        room = max(0, self.protocol.session_size - len(before))
        subjects = [architecture for architecture in todo if architecture not in before][:room]
        done = len(asked) - len(todo) + len(before.intersection(todo))
        failed = 0
        every = self.protocol.reference_every
        for start in range(0, max(1, len(subjects)), every):
            self._round(session)
            for architecture in subjects[start : start + every]:
                if enough():
                    break
                record = self._measure(architecture, SUBJECT)
                self.store.append(session, self.space, record)
                failed += isinstance(record, Failure)
                done += 1
                self._report(Progress(len(asked), done, failed))
            else:
                continue
            break  # it is enough: no rounds for subjects that are not measured
        self._round(session)
        quality = judge(self.store.measurements(self.space, session=session), self.protocol.tolerance)
        status = ACCEPTED if quality.accepted else REJECTED
        self.store.close_session(session, status=status, verdict=str(quality))
        left = len(self._todo(asked))
        self._report(Progress(len(asked), len(asked) - left, failed, f"session {session} {status}: {quality}"))
        return quality

    def _round(self, session: int) -> None:
        for reference in self.references:
            record = self._measure(reference, REFERENCE)
            self.store.append(session, self.space, record)
            if isinstance(record, Failure):
                raise WorkError(
                    f"a reference cannot be measured ({record.kind}): {record.message}; another --seed draws others"
                )

    def _write(self, architecture: Architecture) -> Subnet:
        return write_subnet(self.space, architecture, self.folder, self.export, name=self._subnet_name)

    def _measure(self, architecture: Architecture, role: str) -> Measurement | Failure:
        started_at = self._clock()
        try:
            subnet = self._write(architecture)
        except ExportError as error:
            return Failure(architecture, "export", str(error), started_at)
        protocol = self.protocol
        try:
            reply = self.worker.time(
                subnet.path, runs=protocol.runs, warmup=protocol.warmup, deadline_s=protocol.deadline_s
            )
        finally:
            subnet.path.unlink(missing_ok=True)
        if isinstance(reply, Lost):
            return Failure(architecture, reply.kind, reply.message, started_at)
        return Measurement(architecture, role, tuple(duration / 1e6 for duration in reply), started_at)


def draw_references(space: Space, protocol: Protocol) -> list[Architecture]:
    """The references of a protocol: architectures of the space, spread evenly over its depths."""
    bins = divide(space)
    count = protocol.references
    places = Counter((2 * i + 1) * len(bins) // (2 * count) for i in range(count))
    left = left_in_bins(space, bins, ())
    quotas = [min(places[i], left[i]) for i in range(len(bins))]
    drawn = extend(space, quotas, bins=bins, rng=Random(protocol.seed))
    return sorted(drawn, key=lambda architecture: architecture.depth)
