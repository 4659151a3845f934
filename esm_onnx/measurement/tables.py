"""The tables of a store, and the seal of each row: a digest by which a flipped byte is noticed."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

import numpy as np

from esm_onnx.measurement.estimate import trimmed_mean

SCHEMA = 3
APPLICATION = 0x45534D4F
PAGE_BYTES = 4096

TABLES = """
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    definition TEXT NOT NULL,
    digest BLOB NOT NULL
);
CREATE TABLE targets (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    facts TEXT NOT NULL,
    digest BLOB NOT NULL
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces,
    target INTEGER NOT NULL REFERENCES targets,
    provenance TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'accepted', 'rejected')),
    verdict TEXT NOT NULL DEFAULT '',
    started_at REAL NOT NULL,
    digest BLOB NOT NULL
);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions,
    role TEXT NOT NULL CHECK (role IN ('subject', 'reference')),
    genome TEXT NOT NULL,
    latency_ms REAL NOT NULL,
    trimmed_ms REAL NOT NULL,
    error REAL,
    stands INTEGER NOT NULL DEFAULT 1,
    shift REAL NOT NULL DEFAULT 1,
    nominal_ms REAL,
    calibrating_ms REAL,
    started_at REAL NOT NULL,
    elapsed_s REAL NOT NULL DEFAULT 0,
    runs_ms BLOB NOT NULL,
    calibration_ms BLOB,
    dropped BLOB,
    digest BLOB NOT NULL
);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions,
    genome TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    started_at REAL NOT NULL,
    digest BLOB NOT NULL
);
CREATE TABLE calibrations (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces,
    target INTEGER NOT NULL REFERENCES targets,
    genome TEXT NOT NULL,
    nominal_ms REAL NOT NULL,
    spread REAL NOT NULL,
    started_at REAL NOT NULL,
    digest BLOB NOT NULL,
    UNIQUE (space, target)
);
CREATE INDEX measurements_of_session ON measurements (session);
CREATE INDEX failures_of_session ON failures (session);
"""
QUANTITIES = """
CREATE TABLE quantities (
    id INTEGER PRIMARY KEY,
    measurement INTEGER NOT NULL REFERENCES measurements,
    name TEXT NOT NULL,
    numbers BLOB NOT NULL,
    digest BLOB NOT NULL
);
CREATE INDEX quantities_of_measurement ON quantities (measurement);
"""
"""What schema 3 adds to schema 2."""
NAMES = ("spaces", "targets", "sessions", "measurements", "failures", "calibrations", "quantities")
"""Every table, those that others refer to first."""


def make_tables(db: sqlite3.Connection) -> None:
    """Makes the tables in the transaction that is open."""
    _make(db, TABLES + QUANTITIES)


def _make(db: sqlite3.Connection, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def seal(table: str, row: tuple[Any, ...]) -> bytes:
    """Eight bytes (BLAKE2b) of a row without its last column, which holds them."""
    return hashlib.blake2b(ascii((table, *row)).encode(), digest_size=8).digest()


def is_sound(table: str, row: tuple[Any, ...]) -> bool:
    """Whether a whole row is what was written."""
    return bool(seal(table, row[:-1]) == row[-1])


def insert(db: sqlite3.Connection, table: str, **values: object) -> int:
    """Adds a sealed row; gives its id."""
    marks = ", ".join("?" * len(values))
    row = db.execute(f"INSERT INTO {table} ({', '.join(values)}, digest) VALUES ({marks}, x'')", (*values.values(),))
    assert row.lastrowid is not None
    _seal(db, table, row.lastrowid)
    return row.lastrowid


def update(db: sqlite3.Connection, table: str, row: int, **values: object) -> None:
    """Changes some columns of a row and seals it again."""
    changes = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"UPDATE {table} SET {changes} WHERE id = ?", (*values.values(), row))
    _seal(db, table, row)


def _seal(db: sqlite3.Connection, table: str, row: int) -> None:
    """Seals what the file holds: SQLite turns an integer into a float where the column is one."""
    written = db.execute(f"SELECT * FROM {table} WHERE id = ?", (row,)).fetchone()
    db.execute(f"UPDATE {table} SET digest = ? WHERE id = ?", (seal(table, written[:-1]), row))


def migrate(db: sqlite3.Connection, schema: int) -> None:
    """Brings a store of schema 1 or 2 to this one in the transaction that is open."""
    if schema == 1:
        _migrate_from_1(db)
    else:
        _make(db, QUANTITIES)  # what is there stays as it is, seals included


def _migrate_from_1(db: sqlite3.Connection) -> None:
    """Every table is made anew, so that the tables are those of a new store to the letter."""
    old = ("spaces", "targets", "sessions", "measurements", "failures")
    for table in reversed(old):
        db.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM main.{table}")
        db.execute(f"DROP TABLE main.{table}")
    make_tables(db)
    for table in old:
        rows = db.execute(f"SELECT * FROM temp.old_{table} ORDER BY id")
        names = ["fingerprint" if name == "digest" else name for name, *_ in rows.description]
        for row in rows:
            values = dict(zip(names, row, strict=True))
            if table == "measurements":
                values["latency_ms"] = values["trimmed_ms"] = trimmed_mean(np.frombuffer(values["runs_ms"], "<f8"))
            insert(db, table, **values)
    for table in old:
        db.execute(f"DROP TABLE temp.old_{table}")
