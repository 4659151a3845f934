"""Profiling: sessions of subjects among references, until every architecture is measured and believed.

A session begins with a round of references, has rounds at random places and one at its end. What the references do not
vouch for (`quality`) is measured again in the next session. A session that was interrupted is continued with a round of
references; one that cannot be continued, because other options are asked for now, is judged as far as it came.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import onnx

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import EsmError, ExportError, InputError, ThresholdNotMet, WorkError
from esm_onnx.export import ExportSettings, Subnet, export_facts, write_subnet
from esm_onnx.export.settings import PRECISIONS
from esm_onnx.export.writers import FAMILIES, export_of
from esm_onnx.measurement.calibration import establish
from esm_onnx.measurement.claims import Claims
from esm_onnx.measurement.layers import times_by_block
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import Drift, Level, Quality, judge
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Calibration, Failure, Measurement, as_measurement
from esm_onnx.measurement.references import choose_calibration, draw_places, draw_references
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
from esm_onnx.measurement.scratch import scratch
from esm_onnx.measurement.session_report import remarks
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.measurement.turns import in_turn
from esm_onnx.measurement.verdict import BOARD, close_session, known_level, open_sessions, standing_subjects
from esm_onnx.measurement.worker import CALIBRATION_LOST, Lost, Measurer, Worker

GREATEST_FAILURES = 2
"""After so many failures on one target an architecture is not attempted again, unless failures are to be retried."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where profiling stands.

    Attributes:
        total: architectures asked for.
        done: those in accepted sessions, and those measured in the session that is running.
        failed: those that the profiler tried and that gave no latency.
        message: something to be told once; empty otherwise.
        drift: where the references of the running session stand; None before they can be compared with others.
        source: who measures, where there are several: a device of a fleet, a runtime.
    """

    total: int
    done: int
    failed: int
    message: str = ""
    drift: Drift | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What profiling left in the store, in numbers of architectures.

    Attributes:
        measured, already_measured: by this call, and before it.
        weakly_measured: those of `already_measured` that were made with less care than is asked for now.
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
        worker: makes what measures.
        board: which of several devices of one kind it is: its sessions, references and calibration are its own.
        claims: shared with other devices: it measures what it can take of them.

    Attributes:
        target: where its records go.
        own: a target of this board alone: where its calibration is kept.
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
        worker: Callable[..., Measurer] = Worker,
        board: str | None = None,
        claims: Claims | None = None,
    ) -> None:
        self.space, self.store, self.folder = space, store, folder
        self.settings = replace(settings or RuntimeSettings(), folder=str(folder))
        self.export = written_for(runtime, self.settings, export or ExportSettings())
        self.protocol = protocol or Protocol()
        self._report, self._clock = report, clock
        self._board, self.claims = board, claims
        self._started = clock()
        self._retry_failed = retry_failed
        self.references = draw_references(space, self.protocol)
        with ExitStack() as kept:
            self._scratch = kept.enter_context(scratch(folder))
            with suppress(ExportError):  # a wrong [export] is told before a process is started or a session opened
                self._write(self.references[0], "subnet")
            runtime = find_runtime(runtime).name
            memory, quantities = self.protocol.memory_bytes, self.protocol.quantities
            self.worker = kept.enter_context(worker(runtime, self.settings, memory_bytes=memory, quantities=quantities))
            facts = {
                **export_facts(space, self.export),
                "runtime": runtime,
                **self.worker.facts,
                "precision": self.settings.precision,
            }
            self.target = Target(name or f"{runtime} {facts['device']}", facts)
            self.own = replace(self.target, name=f"{self.target.name} {board}") if board else self.target
            self._kept = kept.pop_all()
        self._narrow = self.export.precision != "fp32"
        self._calibration: Calibration | None = None
        self._calibration_subnet: Path | None = None
        self._known: dict[Architecture, dict[str, Any]] = {}
        self._failing: set[Architecture] = set()
        self._drift: Drift | None = None
        self._level: Level | None = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self._kept.close()

    def profile(self, architectures: Iterable[Architecture], *, enough: Callable[[], bool] = lambda: False) -> Outcome:
        """Measures what the store does not hold yet.

        Args:
            enough: asked before each subject; once it says so, the session is brought to its end and no other begun.

        Raises:
            ThresholdNotMet: the references wandered in every attempt; what was accepted before is kept.
            WorkError: a reference or the calibration subnet cannot be measured.
            Unmeasurable: a quantity that the protocol asks for cannot be measured here.
        """
        with self.store.alone(self.target):
            (outcome,) = in_turn([self.steps(architectures, enough=enough)])
        if isinstance(outcome, EsmError):
            raise outcome
        return outcome

    def steps(
        self,
        architectures: Iterable[Architecture],
        *,
        enough: Callable[[], bool] = lambda: False,
        known: dict[Architecture, dict[str, Any]] | None = None,
    ) -> Generator[None, None, Outcome]:
        """What `profile` does, a subject at a time; the caller sees to it that nobody else measures on this device.

        Args:
            known: what stands on the target, with its provenance, shared by all who measure on it now: each adds what
                stands of its own. None reads it from the store.
        """
        asked = list(dict.fromkeys(architectures))
        if known is None:
            known = dict(self.store.measured_how(self.space, self.target, self.protocol.fields))
        self._known = known
        already = [architecture for architecture in asked if architecture in known]
        self.close_sessions(but=self.store.unfinished_session(self.space, self.target, self._provenance()))
        qualities = yield from self._sessions(asked, enough)
        failures = self._failures(asked)
        return Outcome(
            self.target,
            sum(architecture in known for architecture in asked) - len(already),
            len(already),
            sum(self.protocol.asks_more_than(known[architecture]) for architecture in already),
            tuple(failure for architecture, failure in failures.items() if architecture not in known),
            tuple(qualities),
        )

    def _sessions(
        self, asked: Sequence[Architecture], enough: Callable[[], bool]
    ) -> Generator[None, None, list[Quality]]:
        """Sessions until nothing is left to measure, or it is enough."""
        qualities: list[Quality] = []
        rejected = 0
        if not (todo := self._todo(asked)):
            self._tell(len(asked), len(asked))
        while todo and not enough():
            if self.protocol.paired and self._calibration is None:
                self._calibrate()
            quality, todo = yield from self._session(todo, len(asked), enough)
            qualities.append(quality)
            rejected = 0 if quality.accepted else rejected + 1
            if rejected == self.protocol.attempts:
                raise ThresholdNotMet(
                    f"{rejected} sessions in a row were rejected: {quality}. Make the machine quieter (ask "
                    f"`esm-onnx doctor`), or allow a greater tolerance; what was accepted is kept in {self.store.path}"
                )
        return qualities

    def _todo(self, among: Iterable[Architecture]) -> list[Architecture]:
        """Those that do not stand, were not tried too often, and have not been taken by another device."""
        attempts = Counter(
            failure.architecture
            for failure in self.store.failures(self.space, self.target)
            if not self._retry_failed or failure.started_at >= self._started
        )
        open_to_us = (a for a in among if self.claims is None or self.claims.is_open_to(a, self._board or ""))
        return [a for a in open_to_us if a not in self._known and attempts[a] < GREATEST_FAILURES]

    def _taken(self, todo: Iterable[Architecture]) -> Iterator[Architecture]:
        """Those that no other device has taken, each asked for when it is its turn."""
        return (a for a in todo if self.claims is None or self.claims.take(a, self._board or ""))

    def _failures(self, asked: Sequence[Architecture]) -> dict[Architecture, Failure]:
        """The last failure of each architecture asked for that has one."""
        wanted = set(asked)
        failures = self.store.failures(self.space, self.target)
        return {failure.architecture: failure for failure in failures if failure.architecture in wanted}

    def _session(
        self, todo: Sequence[Architecture], total: int, enough: Callable[[], bool]
    ) -> Generator[None, None, tuple[Quality, list[Architecture]]]:
        """One session over the first of `todo`, continued where it was interrupted; its verdict, and what is left."""
        provenance = self._provenance()
        session = self.store.unfinished_session(self.space, self.target, provenance)
        if session is None:
            session = self.store.open_session(self.space, self.target, provenance)
        before = {m.architecture for m in self.store.measurements(self.space, session=session) if m.role == SUBJECT}
        room = max(0, self.protocol.session_size - len(before))
        subjects = [architecture for architecture in todo if architecture not in before]
        done = total - len(todo) + len(before.intersection(todo))
        self._drift, self._level = None, known_level(self.store, self.space, self.target, self._board)
        tell = partial(self._tell, total)
        tell(done)
        rng = Random(f"{self.protocol.seed} {session}")
        places = draw_places(min(room, len(subjects)), self.protocol.reference_every, rng)
        self._round(session, partial(tell, done))
        for place, architecture in enumerate(islice(self._taken(subjects), room)):
            if enough():
                break  # no rounds for subjects that are not measured
            if place in places:
                self._round(session, partial(tell, done))
            record = self._measure_well(session, architecture, SUBJECT)
            self._failing.discard(architecture)
            if isinstance(record, Failure):
                self._failing.add(architecture)
            done += 1
            tell(done)
            yield
        self._round(session)
        quality, status = self._close(session, self.protocol)
        left = self._todo(todo)
        records = list(self.store.measurements(self.space, session=session))
        self._drift = quality.drift
        tell(total - len(left), "; ".join([f"session {session} {status}: {quality}", *remarks(records, self.protocol)]))
        return quality, left

    def _close(self, session: int, protocol: Protocol) -> tuple[Quality, str]:
        """Judges a session, and notes what stands of it."""
        verdict = close_session(self.store, self.space, self.target, session, protocol, self._board)
        how = {"protocol": protocol.as_json()}
        stood = standing_subjects(self.store, self.space, self.target, session, self.protocol)
        self._known.update((architecture, how) for architecture in stood)
        return verdict

    def _tell(self, total: int, done: int, message: str = "") -> None:
        self._report(Progress(total, done, len(self._failing), message, self._drift, self._board or ""))

    def close_sessions(self, *, but: int | None = None) -> None:
        """Judges the sessions that this device or an interrupted command left open, but for one."""
        for session, protocol, board in open_sessions(self.store, self.space, self.target):
            if session != but and board == self._board:
                self._close(session, protocol)

    def _provenance(self) -> dict[str, Any]:
        """How the records of a session come about: the protocol, the counter that energy is read from, the board."""
        counter = self.worker.energy_counter
        board = {BOARD: self._board} if self._board else {}
        return {"protocol": self.protocol.as_json(), **({"energy_counter": counter} if counter else {}), **board}

    def _round(self, session: int, tell: Callable[[str], None] | None = None) -> None:
        """Measures every reference, and tells at once where they stand."""
        for reference in self.references:
            _demand_measured(partial(self._measure_well, session, reference, REFERENCE))
        if tell is None:
            return
        quality = judge(list(self.store.measurements(self.space, session=session)), self.protocol, self._level)
        self._drift = quality.drift
        alarm = quality.alarms.get(quality.rounds) if self.protocol.paired else None
        beside = f"round {quality.rounds} of references: {alarm}; what lies beside it will be measured again"
        tell(beside if alarm else "")

    def _calibrate(self) -> None:
        """Makes the calibration subnet, and establishes its nominal latency where the store does not know it yet."""
        architecture = choose_calibration(self.space)
        subnet = self._write(architecture, "calibration")
        self._calibration_subnet = subnet.path
        self._calibration = self.store.calibration(self.space, self.own)
        if self._calibration is None or self._calibration.architecture != architecture:
            beside = [self._write(reference, f"beside-{i}").path for i, reference in enumerate(self.references)]
            self._calibration = establish(self.worker, architecture, subnet.path, beside, self.protocol, self._clock())
            for path in beside:
                path.unlink()
            self.store.set_calibration(self.space, self.own, self._calibration)

    def reference_latencies(self) -> dict[Architecture, float]:
        """The latency of each reference in ms, measured once now and not stored.

        Raises:
            WorkError: one cannot be measured.
        """
        if self.protocol.paired and self._calibration is None:
            self._calibrate()
        records = [_demand_measured(partial(self._measure, reference, REFERENCE)) for reference in self.references]
        return {record.architecture: record.latency_ms for record in records}

    def time_layers(self, architecture: Architecture) -> dict[str, float] | Failure:
        """The time of each of its blocks, of `stem` and of `head` in ms, by the runtime's own layer times (`layers`).

        Nothing is stored.

        Raises:
            InputError: the runtime tells no layer times, or the writer does not name nodes after blocks.
        """
        if (writer := export_of(self.space).writer) not in FAMILIES:
            raise InputError(
                f"writer {writer!r} does not name nodes after blocks, expected one of {', '.join(FAMILIES)}"
            )
        started_at = self._clock()
        try:
            subnet = self._write(architecture, "subnet")
        except ExportError as error:
            return Failure(architecture, "export", str(error), started_at)
        try:
            reply = self.worker.layers(subnet.path, deadline_s=self.protocol.deadline_s)
            if isinstance(reply, Lost):
                return Failure(architecture, reply.kind, reply.message, started_at)
            times = times_by_block(onnx.load(subnet.path, load_external_data=False), reply)
            return Failure(architecture, "layers", times, started_at) if isinstance(times, str) else times
        finally:
            subnet.path.unlink(missing_ok=True)

    def _write(self, architecture: Architecture, name: str, export: ExportSettings | None = None) -> Subnet:
        name = f"{name}-{self._scratch}.onnx"
        return write_subnet(self.space, architecture, self.folder, export or self.export, name=name)

    def _measure_well(self, session: int, architecture: Architecture, role: str) -> Measurement | Failure:
        """Measures, and again at once where too few runs were clean or they disagree; every record is kept."""
        for _ in range(self.protocol.attempts):
            record = self._measure(architecture, role)
            self.store.append(session, self.space, record)
            if isinstance(record, Failure) or self.protocol.is_known(record):
                break
        return record

    def _measure(self, architecture: Architecture, role: str) -> Measurement | Failure:
        started_at = self._clock()
        try:
            subnet = self._write(architecture, "subnet")
            fp32 = self._write(architecture, "fp32", replace(self.export, precision="fp32")) if self._narrow else None
        except ExportError as error:
            return Failure(architecture, "export", str(error), started_at)
        protocol, calibration = self.protocol, self._calibration
        try:
            reply = self.worker.time(
                subnet.path,
                runs=protocol.runs,
                warmup=protocol.warmup,
                target_error=protocol.target_error,
                deadline_s=protocol.deadline_s,
                calibration=self._calibration_subnet,
                nominal_ns=None if calibration is None else 1e6 * calibration.nominal_ms,
                fp32=None if fp32 is None else fp32.path,
            )
        finally:
            for written in filter(None, (subnet, fp32)):
                written.path.unlink(missing_ok=True)
        if isinstance(reply, Lost):
            if reply.kind == CALIBRATION_LOST:
                raise WorkError(f"the calibration subnet can be timed no more: {reply.message}")
            return Failure(architecture, reply.kind, reply.message, started_at)
        return as_measurement(architecture, role, reply, calibration, started_at, self._clock() - started_at)


def _demand_measured(measure: Callable[[], Measurement | Failure]) -> Measurement:
    """The measurement of a reference, after a second attempt where need be.

    Raises:
        WorkError: both failed.
    """
    record = measure()
    if isinstance(record, Failure):  # once may be an accident, a process killed from outside
        record = measure()
    if isinstance(record, Failure):
        raise WorkError(
            f"a reference cannot be measured ({record.kind}): {record.message}; another --seed draws others"
        )
    return record


def written_for(runtime: str, settings: RuntimeSettings, export: ExportSettings) -> ExportSettings:
    """How subnets are written for the precision of a runtime: in fp32 where it is not one that subnets are written in.

    Raises:
        InputError: the runtime has no such precision, or takes no such batch.
    """
    found = find_runtime(runtime)
    found.check_precision(settings.precision)
    if found.most_images is not None and export.batch > found.most_images:
        raise InputError(f"batch {export.batch} on {found.name}, expected at most {found.most_images}")
    wanted = found.written.get(settings.precision, settings.precision)
    return replace(export, precision=wanted if wanted in PRECISIONS else "fp32")


def profile_together(profilers: Sequence[Profiler], architectures: Iterable[Architecture]) -> list[Outcome | EsmError]:
    """Measures the same architectures on several targets, one after the other on each: what disturbs one disturbs all.

    Args:
        profilers: of one space and one store.

    Returns:
        For each target its outcome, or the error that `Profiler.profile` would raise; the others go on without it.
    """
    asked = list(architectures)
    by_device = {profiler.target.facts["device"]: profiler for profiler in profilers}
    with ExitStack() as held:
        for profiler in by_device.values():
            held.enter_context(profiler.store.alone(profiler.target))
        return in_turn([profiler.steps(asked) for profiler in profilers])
