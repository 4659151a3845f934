"""All records, in one SQLite file with a write-ahead log.

Every run of every measurement is kept; statistics are derived. A record is on disk when `append` returns. Sessions are
`open` while they are measured, then `accepted` or `rejected`; datasets are taken from accepted ones.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from esm_onnx.architectures import Architecture, Space, from_genome, to_genome
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.measurement.record import SUBJECT, Failure, Measurement
from esm_onnx.measurement.target import Target

SCHEMA = 1
APPLICATION = 0x45534D4F
OPEN, ACCEPTED, REJECTED = "open", "accepted", "rejected"

TABLES = """
CREATE TABLE spaces (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, definition TEXT NOT NULL);
CREATE TABLE targets (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, name TEXT NOT NULL, facts TEXT NOT NULL);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces,
    target INTEGER NOT NULL REFERENCES targets,
    provenance TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'accepted', 'rejected')),
    verdict TEXT NOT NULL DEFAULT '',
    started_at REAL NOT NULL
);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions,
    role TEXT NOT NULL CHECK (role IN ('subject', 'reference')),
    genome TEXT NOT NULL,
    runs_ms BLOB NOT NULL,
    started_at REAL NOT NULL
);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions,
    genome TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    started_at REAL NOT NULL
);
CREATE INDEX measurements_of_session ON measurements (session);
CREATE INDEX failures_of_session ON failures (session);
"""


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
    """A store, opened or made anew; a context manager.

    Args:
        path: the file.
        create: make it where it is absent.
        clock: gives seconds since 1970.

    Raises:
        InputError: absent, no store, or a store of another schema.
    """

    def __init__(self, path: Path | str, *, create: bool = True, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(path), clock
        if not create and not (self.path.is_file() and self.path.stat().st_size):
            raise InputError("no store there: measure one with `esm-onnx profile`, or `data import`", file=path)
        try:
            self._db = sqlite3.connect(self.path, timeout=30)
        except sqlite3.Error as error:
            raise InputError(f"cannot be used as a store: {error}", file=path) from None
        try:
            self._prepare()
        except (sqlite3.Error, InputError) as error:
            self._db.close()
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot be used as a store: {error}", file=path) from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    @contextmanager
    def alone(self, target: Target) -> Iterator[None]:
        """Nobody else measures this target into this store meanwhile.

        Raises:
            InputError: another process does.
        """
        place = int(target.digest, 16) % 2**62  # one byte of the lock file for each target
        with open(f"{self.path}.lock", "ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                message = f"another process measures {target.name!r} into this store, expected to be alone: wait for it"
                raise InputError(message, file=self.path) from None
            yield

    def open_session(self, space: Space, target: Target, provenance: Mapping[str, Any], *, status: str = OPEN) -> int:
        """Begins a session; gives its number.

        Args:
            provenance: how its records came about, as JSON data: the protocol, or the file they were imported from.
        """
        with self._db:
            return self._insert_session(space, target, provenance, status)

    def unfinished_session(self, space: Space, target: Target, provenance: Mapping[str, Any]) -> int | None:
        """The session that an interrupted command left open, if any with the same space, target and provenance."""
        row = self._db.execute(
            "SELECT sessions.id FROM sessions JOIN spaces ON spaces.id = space JOIN targets ON targets.id = target "
            "WHERE status = ? AND fingerprint = ? AND digest = ? AND provenance = ? ORDER BY sessions.id DESC LIMIT 1",
            (OPEN, space.fingerprint, target.digest, _dumps(provenance)),
        ).fetchone()
        return row[0] if row else None

    def append(self, session: int, space: Space, record: Measurement | Failure) -> None:
        """Writes one record; it is on disk when this returns."""
        with self._db:
            self._insert(session, space, record)

    def close_session(self, session: int, *, status: str, verdict: str) -> None:
        """Ends a session as accepted or rejected, with the reason."""
        with self._db:
            self._db.execute("UPDATE sessions SET status = ?, verdict = ? WHERE id = ?", (status, verdict, session))

    def add(
        self, space: Space, target: Target, provenance: Mapping[str, Any], measurements: Iterable[Measurement]
    ) -> int:
        """Writes measurements from elsewhere as one accepted session, all or none; gives their number.

        A second time with the same provenance adds nothing.
        """
        with self._db:
            known = self._db.execute("SELECT 1 FROM sessions WHERE provenance = ?", (_dumps(provenance),)).fetchone()
            if known:
                return 0
            session = self._insert_session(space, target, provenance, ACCEPTED)
            added = list(measurements)
            for measurement in added:
                self._insert(session, space, measurement)
            return len(added)

    def measurements(
        self, space: Space, target: Target | None = None, *, session: int | None = None
    ) -> Iterator[Measurement]:
        """The measurements of one session, or of all accepted sessions of a space on a target, as they were made."""
        where, values = ("session = ?", (session,)) if target is None else self._accepted(space, target)
        rows = self._db.execute(
            f"SELECT role, genome, runs_ms, measurements.started_at FROM measurements "
            f"JOIN sessions ON sessions.id = session WHERE {where} ORDER BY measurements.id",
            values,
        )
        for role, genome, runs, started_at in rows:
            architecture = from_genome(space, json.loads(genome))
            yield Measurement(architecture, role, tuple(np.frombuffer(runs, "<f8").tolist()), started_at)

    def sessions(self, space: Space, target: Target) -> Iterator[tuple[int, str, dict[str, Any], str]]:
        """Number, status, provenance and verdict of each session of a space on a target, oldest first."""
        rows = self._db.execute(
            "SELECT sessions.id, status, provenance, verdict FROM sessions JOIN spaces ON spaces.id = space "
            "JOIN targets ON targets.id = target WHERE fingerprint = ? AND digest = ? ORDER BY sessions.id",
            (space.fingerprint, target.digest),
        )
        for number, status, provenance, verdict in rows:
            yield number, status, json.loads(provenance), verdict

    def failures(self, space: Space, target: Target) -> list[Failure]:
        """Every failure of a space on a target, oldest first."""
        rows = self._db.execute(
            "SELECT genome, kind, message, failures.started_at FROM failures "
            "JOIN sessions ON sessions.id = session JOIN spaces ON spaces.id = space "
            "JOIN targets ON targets.id = target WHERE fingerprint = ? AND digest = ? ORDER BY failures.id",
            (space.fingerprint, target.digest),
        )
        return [Failure(from_genome(space, json.loads(genome)), *rest) for genome, *rest in rows]

    def measured(self, space: Space, target: Target) -> set[Architecture]:
        """The subjects of accepted sessions."""
        return {architecture for architecture, _ in self.measured_how(space, target)}

    def measured_how(self, space: Space, target: Target) -> Iterator[tuple[Architecture, dict[str, Any]]]:
        """Each subject of an accepted session with the provenance of that session."""
        where, values = self._accepted(space, target)
        rows = self._db.execute(
            f"SELECT DISTINCT genome, provenance FROM measurements JOIN sessions ON sessions.id = session "
            f"WHERE {where} AND role = ?",
            (*values, SUBJECT),
        )
        for genome, provenance in rows:
            yield from_genome(space, json.loads(genome)), json.loads(provenance)

    def contents(self) -> list[Content]:
        """What the store holds, by space and target."""
        rows = self._db.execute(
            "SELECT definition, name, facts, "
            "(SELECT count(*) FROM measurements m JOIN sessions s ON s.id = m.session WHERE s.space = spaces.id "
            "  AND s.target = targets.id AND s.status = 'accepted' AND m.role = 'subject'), "
            "(SELECT count(*) FROM failures f JOIN sessions s ON s.id = f.session WHERE s.space = spaces.id "
            "  AND s.target = targets.id) "
            "FROM (SELECT DISTINCT space, target FROM sessions) pairs "
            "JOIN spaces ON spaces.id = pairs.space JOIN targets ON targets.id = pairs.target "
            "ORDER BY spaces.id, targets.id"
        )
        return [
            Content(space_from_table(json.loads(definition)), Target(name, json.loads(facts)), measurements, failures)
            for definition, name, facts, measurements, failures in rows
            if measurements or failures
        ]

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        if (version, application) == (0, 0) and not self._tables():
            self._make_tables()
        elif application != APPLICATION:
            raise InputError("an SQLite file of another program, expected a store of esm-onnx", file=self.path)
        elif version != SCHEMA:
            raise InputError(
                f"a store of schema {version}, expected {SCHEMA}: open it with the esm-onnx that made it, "
                f"and bring it over by `data export` and `data import`",
                file=self.path,
            )
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")

    def _tables(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return count

    def _make_tables(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            if not self._tables():  # another process may have been faster
                for statement in filter(str.strip, TABLES.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _accepted(self, space: Space, target: Target) -> tuple[str, tuple[str, ...]]:
        where = (
            "status = ? AND space = (SELECT id FROM spaces WHERE fingerprint = ?) "
            "AND target = (SELECT id FROM targets WHERE digest = ?)"
        )
        return where, (ACCEPTED, space.fingerprint, target.digest)

    def _insert_session(self, space: Space, target: Target, provenance: Mapping[str, Any], status: str) -> int:
        self._db.execute(
            "INSERT INTO spaces (fingerprint, definition) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (space.fingerprint, json.dumps(space.table(export=True))),  # the order of features is the genome's
        )
        self._db.execute(
            "INSERT INTO targets (digest, name, facts) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (target.digest, target.name, _dumps(target.facts)),
        )
        cursor = self._db.execute(
            "INSERT INTO sessions (space, target, provenance, status, started_at) VALUES "
            "((SELECT id FROM spaces WHERE fingerprint = ?), (SELECT id FROM targets WHERE digest = ?), ?, ?, ?)",
            (space.fingerprint, target.digest, _dumps(provenance), status, self._clock()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _insert(self, session: int, space: Space, record: Measurement | Failure) -> None:
        genome = json.dumps(to_genome(space, record.architecture), separators=(",", ":"))
        if isinstance(record, Failure):
            self._db.execute(
                "INSERT INTO failures (session, genome, kind, message, started_at) VALUES (?, ?, ?, ?, ?)",
                (session, genome, record.kind, record.message, record.started_at),
            )
        else:
            self._db.execute(
                "INSERT INTO measurements (session, role, genome, runs_ms, started_at) VALUES (?, ?, ?, ?, ?)",
                (session, record.role, genome, np.asarray(record.runs_ms, "<f8").tobytes(), record.started_at),
            )


def _dumps(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), sort_keys=True)
