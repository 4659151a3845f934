"""All records, in one SQLite file with a write-ahead log.

Every run of every measurement is kept; statistics are derived, and stored for those who read with SQL. A record is on
disk when `append` returns. Sessions are `open` while they are measured, then `accepted` or `rejected`; datasets are
taken from accepted ones, without the measurements that do not stand. Opening a store looks for damage first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from esm_onnx.architectures import Architecture, Space, from_genome
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError, WorkError
from esm_onnx.measurement import lock
from esm_onnx.measurement.integrity import WAIT_S, check, unusable
from esm_onnx.measurement.record import SUBJECT, Calibration, Failure, Measurement
from esm_onnx.measurement.rows import (
    CALIBRATION,
    FAILURE,
    MEASUREMENT,
    calibration_of_row,
    failure_of_row,
    measurement_of_row,
    row_of_calibration,
    row_of_failure,
    row_of_measurement,
    rows_of_quantities,
)
from esm_onnx.measurement.tables import SCHEMA, insert, make_tables, migrate, update
from esm_onnx.measurement.target import Target

OPEN, ACCEPTED, REJECTED = "open", "accepted", "rejected"
NOTHING: Mapping[int, float] = MappingProxyType({})
HAS = "EXISTS (SELECT 1 FROM quantities WHERE measurement = measurements.id AND name = ?)"
SESSIONS = "(sessions JOIN spaces ON spaces.id = space JOIN targets ON targets.id = target)"
OF_BOTH = "spaces.fingerprint = ? AND targets.fingerprint = ?"
STANDS = "status = 'accepted' AND stands"
NEXT_STEPS = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "make room on its disk, or mend it",  # a full disk too, when the log's index cannot grow
    sqlite3.SQLITE_READONLY: "make it writable",
    sqlite3.SQLITE_BUSY: "wait until the process that holds it has ended",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What a store holds of one space on one target: numbers of accepted subjects and of failures."""

    space: Space
    target: Target
    measurements: int
    failures: int

    def matches(self, space: Space | None, target: str | None) -> bool:
        """Whether it is of that space, and of that target by its name or the beginning of its digest; None is any."""
        if space is not None and self.space.fingerprint != space.fingerprint:
            return False
        return target is None or self.target.name == target or (bool(target) and self.target.digest.startswith(target))


class Store:
    """A store, opened or made anew; a context manager. One of an older schema is brought to this one in place.

    Args:
        path: the file.
        create: make it where it is absent.
        looked_at: this process has opened it before: every byte of a large store is not looked at again.
        clock: gives seconds since 1970.

    Raises:
        InputError: absent, no store, a damaged store, or one of a schema of the future.
        WorkError: the disk is full. Every method that writes raises it where the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        create: bool = True,
        looked_at: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self._clock = Path(path), clock
        there = self.path.is_file() and self.path.stat().st_size > 0
        if not create and not there:
            raise InputError("no store there: measure one with `esm-onnx profile`, or `data import`", file=path)
        if there and not looked_at:
            check(self.path)
        try:
            self._db = sqlite3.connect(self.path, timeout=WAIT_S)
        except sqlite3.Error as error:
            raise unusable(self.path, error) from None
        try:
            self._prepare()
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise unusable(self.path, error) from None
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    @contextmanager
    def alone(self, target: Target) -> Iterator[None]:
        """No other process measures on this target's device into this store meanwhile.

        Raises:
            InputError: another process does; the message names it.
        """
        device = str(target.facts["device"])
        name = hashlib.blake2b(device.encode(), digest_size=4).hexdigest()
        try:
            with lock.held(Path(f"{self.path}.{name}.lock")):
                yield
        except lock.Busy as busy:
            raise InputError(
                f"process {busy.holder} measures on {device!r} into this store, expected nobody to: wait for it",
                file=self.path,
            ) from None

    def open_session(self, space: Space, target: Target, provenance: Mapping[str, Any], *, status: str = OPEN) -> int:
        """Begins a session; gives its number.

        Args:
            provenance: how its records came about, as JSON data: the protocol, or the file they were imported from.
        """
        with self._writing():
            return self._insert_session(space, target, provenance, status)

    def unfinished_session(self, space: Space, target: Target, provenance: Mapping[str, Any]) -> int | None:
        """The session that an interrupted command left open, if any with the same space, target and provenance."""
        row = self._db.execute(
            f"SELECT sessions.id FROM {SESSIONS} WHERE {OF_BOTH} AND status = ? AND provenance = ? "
            "ORDER BY sessions.id DESC LIMIT 1",
            (space.fingerprint, target.digest, OPEN, _dumps(provenance)),
        ).fetchone()
        return row[0] if row else None

    def append(self, session: int, space: Space, record: Measurement | Failure) -> None:
        """Writes one record; it is on disk when this returns."""
        with self._writing():
            if isinstance(record, Failure):
                insert(self._db, "failures", session=session, **row_of_failure(space, record))
            else:
                self._insert_measurement(session, space, record)

    def close_session(
        self,
        session: int,
        *,
        status: str,
        verdict: str,
        fallen: Collection[int] = (),
        shifts: Mapping[int, float] = NOTHING,
    ) -> None:
        """Ends a session as accepted or rejected, with the reason.

        Args:
            fallen: measurements that are not to be believed although the session is accepted, by their places in
                `measurements(space, session=session)`, from 0.
            shifts: by the same places, the factor that brings a measurement over from another regime.
        """
        with self._writing():
            update(self._db, "sessions", session, status=status, verdict=verdict)
            rows = self._db.execute("SELECT id FROM measurements WHERE session = ? ORDER BY id", (session,)).fetchall()
            for place in fallen:
                update(self._db, "measurements", rows[place][0], stands=0)
            measurements = list(self.measurements(self._space_of(session), session=session)) if shifts else []
            for place, shift in shifts.items():
                latency_ms = replace(measurements[place], shift=shift).latency_ms
                update(self._db, "measurements", rows[place][0], shift=shift, latency_ms=latency_ms)

    def add(
        self, space: Space, target: Target, provenance: Mapping[str, Any], measurements: Iterable[Measurement]
    ) -> int:
        """Writes measurements from elsewhere as one accepted session, all or none; gives their number.

        A second time with the same provenance adds nothing.
        """
        with self._writing():
            known = self._db.execute("SELECT 1 FROM sessions WHERE provenance = ?", (_dumps(provenance),)).fetchone()
            if known:
                return 0
            session = self._insert_session(space, target, provenance, ACCEPTED)
            added = list(measurements)
            for measurement in added:
                self._insert_measurement(session, space, measurement)
            return len(added)

    def calibration(self, space: Space, target: Target) -> Calibration | None:
        """The calibration subnet of a space on a target, once it is established."""
        row = self._db.execute(
            f"SELECT {CALIBRATION} FROM calibrations WHERE space = (SELECT id FROM spaces WHERE fingerprint = ?) "
            "AND target = (SELECT id FROM targets WHERE fingerprint = ?)",
            (space.fingerprint, target.digest),
        ).fetchone()
        return calibration_of_row(space, row) if row else None

    def set_calibration(self, space: Space, target: Target, calibration: Calibration) -> None:
        """Keeps the calibration subnet of a space on a target, in place of one that was there."""
        with self._writing():
            both = {"space": self._insert_space(space), "target": self._insert_target(target)}
            self._db.execute("DELETE FROM calibrations WHERE space = :space AND target = :target", both)
            insert(self._db, "calibrations", **both, **row_of_calibration(space, calibration))

    def measurements(
        self, space: Space, target: Target | None = None, *, session: int | None = None, role: str | None = None
    ) -> Iterator[Measurement]:
        """Measurements of a space, as they were made.

        Args:
            target: only those that stand, of accepted sessions on this target.
            session: only those of this session.
            role: only those of this role.
        """
        conditions: dict[str, tuple[object, ...]] = {"spaces.fingerprint = ?": (space.fingerprint,)}
        if target is not None:
            conditions[f"targets.fingerprint = ? AND {STANDS}"] = (target.digest,)
        if session is not None:
            conditions["session = ?"] = (session,)
        if role is not None:
            conditions["role = ?"] = (role,)
        rows = self._db.execute(
            f"SELECT {MEASUREMENT} FROM measurements JOIN {SESSIONS} ON sessions.id = session "
            f"WHERE {' AND '.join(conditions)} ORDER BY measurements.id",
            tuple(itertools.chain(*conditions.values())),
        )
        for row in rows:
            beside = self._db.execute("SELECT name, numbers FROM quantities WHERE measurement = ? ORDER BY id", row[:1])
            yield measurement_of_row(space, row, beside)

    def sessions(self, space: Space, target: Target) -> Iterator[tuple[int, str, dict[str, Any], str]]:
        """Number, status, provenance and verdict of each session of a space on a target, oldest first."""
        rows = self._db.execute(
            f"SELECT sessions.id, status, provenance, verdict FROM {SESSIONS} WHERE {OF_BOTH} ORDER BY sessions.id",
            (space.fingerprint, target.digest),
        )
        for number, status, provenance, verdict in rows:
            yield number, status, json.loads(provenance), verdict

    def standing(self, session: int) -> list[bool]:
        """Of each of `measurements(space, session=session)` whether it stands, if the session is accepted."""
        rows = self._db.execute("SELECT stands FROM measurements WHERE session = ? ORDER BY id", (session,))
        return [bool(stands) for (stands,) in rows]

    def inexact(self, session: int, target_error: float) -> int:
        """How many measurements of a session are not known within a relative error (`Measurement.error`)."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM measurements WHERE session = ? AND (error IS NULL OR error > ?)",
            (session, target_error),
        ).fetchone()
        return int(count)

    def failures(self, space: Space, target: Target, *, session: int | None = None) -> list[Failure]:
        """Every failure of a space on a target, or of one session of them, oldest first."""
        rows = self._db.execute(
            f"SELECT {FAILURE} FROM failures JOIN {SESSIONS} ON sessions.id = session WHERE {OF_BOTH} "
            "AND session = coalesce(?, session) ORDER BY failures.id",
            (space.fingerprint, target.digest, session),
        )
        return [failure_of_row(space, row) for row in rows]

    def measured(self, space: Space, target: Target, quantities: Collection[str] = ()) -> set[Architecture]:
        """The subjects of accepted sessions that stand, and hold these quantities beside their latency."""
        return {architecture for architecture, _ in self.measured_how(space, target, quantities)}

    def measured_how(
        self, space: Space, target: Target, quantities: Collection[str] = ()
    ) -> Iterator[tuple[Architecture, dict[str, Any]]]:
        """Each of those subjects, with the provenance of its session, or of each of its sessions."""
        provenances = {session: provenance for session, _, provenance, _ in self.sessions(space, target)}
        rows = self._db.execute(
            f"SELECT DISTINCT genome, session FROM measurements JOIN {SESSIONS} ON sessions.id = session "
            f"WHERE {' AND '.join([OF_BOTH, STANDS, 'role = ?', *[HAS] * len(quantities)])}",
            (space.fingerprint, target.digest, SUBJECT, *quantities),
        )
        for genome, session in rows:
            yield from_genome(space, json.loads(genome)), provenances[session]

    def contents(self, quantities: Collection[str] = ()) -> list[Content]:
        """What the store holds, by space and target; of measurements those that hold these quantities too."""
        rows = self._db.execute(
            "SELECT definition, name, facts, "
            "(SELECT count(*) FROM measurements JOIN sessions ON sessions.id = session WHERE space = spaces.id "
            f"  AND target = targets.id AND {' AND '.join([STANDS, *[HAS] * len(quantities)])} AND role = 'subject'), "
            "(SELECT count(*) FROM failures JOIN sessions ON sessions.id = session WHERE space = spaces.id "
            "  AND target = targets.id) "
            "FROM (SELECT DISTINCT space, target FROM sessions) pairs "
            "JOIN spaces ON spaces.id = pairs.space JOIN targets ON targets.id = pairs.target "
            "ORDER BY spaces.id, targets.id",
            tuple(quantities),
        )
        return [
            Content(space_from_table(json.loads(definition)), Target(name, json.loads(facts)), measurements, failures)
            for definition, name, facts, measurements, failures in rows
        ]

    def _prepare(self) -> None:
        if self._version() != SCHEMA:
            self._log_ahead()
            with self._writing():
                version = self._version()  # another process may have been faster
                if version != SCHEMA:
                    migrate(self._db, version) if version else make_tables(self._db)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")

    def _log_ahead(self) -> None:
        """Turns on the write-ahead log; SQLite does not wait here when another process does the same at once."""
        until = time.monotonic() + WAIT_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        return version

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it is on disk at the end, or none."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.OperationalError as error:
            step = NEXT_STEPS.get(error.sqlite_errorcode & 0xFF, "see to its disk")
            raise WorkError(
                f"{self.path}: cannot be written ({error}); every record before this one is kept: {step}, "
                "and the same command goes on where it was"
            ) from None

    def _space_of(self, session: int) -> Space:
        (definition,) = self._db.execute(
            "SELECT definition FROM sessions JOIN spaces ON spaces.id = space WHERE sessions.id = ?", (session,)
        ).fetchone()
        return space_from_table(json.loads(definition))

    def _insert_session(self, space: Space, target: Target, provenance: Mapping[str, Any], status: str) -> int:
        return insert(
            self._db,
            "sessions",
            space=self._insert_space(space),
            target=self._insert_target(target),
            provenance=_dumps(provenance),
            status=status,
            started_at=self._clock(),
        )

    def _insert_measurement(self, session: int, space: Space, measurement: Measurement) -> None:
        row = insert(self._db, "measurements", session=session, **row_of_measurement(space, measurement))
        for beside in rows_of_quantities(measurement):
            insert(self._db, "quantities", measurement=row, **beside)

    def _insert_space(self, space: Space) -> int:
        """The id of a space, which is added where it is new; the order of its features is the genome's."""
        known = self._db.execute("SELECT id FROM spaces WHERE fingerprint = ?", (space.fingerprint,)).fetchone()
        values = {"fingerprint": space.fingerprint, "definition": json.dumps(space.table(export=True))}
        return known[0] if known else insert(self._db, "spaces", **values)

    def _insert_target(self, target: Target) -> int:
        """The id of a target, which is added where it is new."""
        known = self._db.execute("SELECT id FROM targets WHERE fingerprint = ?", (target.digest,)).fetchone()
        values = {"fingerprint": target.digest, "name": target.name, "facts": _dumps(target.facts)}
        return known[0] if known else insert(self._db, "targets", **values)


def _dumps(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), sort_keys=True)
