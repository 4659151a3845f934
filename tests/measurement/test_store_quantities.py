"""Quantities and the host's waiting in a store: bit for bit, through damage and from the schema before."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurement.damaging import damage

from esm_onnx.architectures import sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import BESIDE
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement
from esm_onnx.measurement.rescue import rescue
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space

SPACE, TARGET = tiny_space(), Target("t", {"device": "d"})
TEN = sample(SPACE, 10, strategy="random", rng=Random(0))
NUMBERS = st.floats(1e-9, 1e9)


@st.composite
def measurements(draw: st.DrawFn, place: int) -> Measurement:
    runs = draw(st.lists(NUMBERS, min_size=1, max_size=20))
    return Measurement(
        TEN[place],
        draw(st.sampled_from([SUBJECT, REFERENCE])),
        tuple(runs),
        1.5,
        host_ms=tuple(draw(st.just([]) | st.lists(NUMBERS, min_size=len(runs), max_size=len(runs)))),
        quantities=draw(st.dictionaries(st.sampled_from(BESIDE), NUMBERS)),
    )


@settings(max_examples=25, deadline=None)
@given(records=st.tuples(*map(measurements, range(4))))
def test_every_quantity_and_waiting_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, records: tuple[Measurement, ...]
) -> None:
    path = tmp_path_factory.mktemp("store") / "esm.db"
    with Store(path) as store:
        session = store.open_session(SPACE, TARGET, {})
        for record in records[:2]:
            store.append(session, SPACE, record)
        store.close_session(session, status=ACCEPTED, verdict="")
        store.add(SPACE, TARGET, {"imported": "a file"}, records[2:])
    with Store(path) as store:
        assert list(store.measurements(SPACE, TARGET)) == list(records)
        for asked in ((), ("energy_mj",), ("energy_mj", "memory_mb")):
            holding = {r.architecture for r in records if r.role == SUBJECT and set(asked) <= r.quantities.keys()}
            assert store.measured(SPACE, TARGET, asked) == holding
            assert store.contents(asked)[0].measurements == len(holding)


def fill(path: Path) -> list[Measurement]:
    """A store of ten measurements with all that there is beside a latency."""
    records = [
        Measurement(
            a, SUBJECT, (1.0 + i, 2.0), 1.0, host_ms=(1.5 + i, 2.5), quantities={"energy_mj": 8.0 + i, "copy_ms": 0.5}
        )
        for i, a in enumerate(TEN)
    ]
    with Store(path) as store:
        session = store.open_session(SPACE, TARGET, {})
        for record in records:
            store.append(session, SPACE, record)
        store.close_session(session, status=ACCEPTED, verdict="")
    return records


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE quantities SET numbers = x'00' WHERE id = 7", "1 rows of quantities"),
        ("UPDATE quantities SET measurement = measurement + 1", "30 rows of quantities"),
        ("UPDATE quantities SET name = 'memory_mb' WHERE name = 'energy_mj'", "10 rows of quantities"),
        ("DROP INDEX quantities_of_measurement", "its structure (definition of quantities_of_measurement)"),
        ("DROP TABLE quantities", "its structure (definition of quantities, quantities_of_measurement)"),
        ("PRAGMA user_version = 2", "its structure (tables of another schema)"),
        ("PRAGMA user_version = 1", "its structure (tables of another schema)"),
    ],
)
def test_damage_to_quantities_is_noticed(tmp_path: Path, statement: str, said: str) -> None:
    fill(tmp_path / "esm.db")
    damage(tmp_path / "esm.db", statement)
    with pytest.raises(InputError) as caught:
        Store(tmp_path / "esm.db")
    assert f"damaged: {said}; it is left as it is" in str(caught.value)


def test_what_is_readable_of_quantities_is_rescued(tmp_path: Path) -> None:
    path, into = tmp_path / "esm.db", tmp_path / "rescued.db"
    records = fill(path)
    damage(path, "UPDATE quantities SET numbers = x'00' WHERE measurement = 3 AND name = 'energy_mj'")
    damage(path, "UPDATE quantities SET numbers = x'00' WHERE measurement = 4 AND name = 'host_ms'")
    damage(path, "UPDATE measurements SET genome = '[0]' WHERE id = 5")
    losses = rescue(path, into)
    assert losses.unreadable == {"measurements": 1, "quantities": 2}
    with Store(into) as store:
        kept = list(store.measurements(SPACE, TARGET))
        rows = store._db.execute("SELECT count(*) FROM quantities").fetchone()
    assert rows == (3 * 9 - 2,)
    assert [(m.quantities, m.host_ms) for m in kept[:4]] == [
        (records[0].quantities, records[0].host_ms),
        (records[1].quantities, records[1].host_ms),
        ({"copy_ms": 0.5}, records[2].host_ms),
        (records[3].quantities, ()),
    ]
    assert kept[4:] == records[5:]


SCHEMA_2 = """
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
PRAGMA application_id = 0x45534D4F;
PRAGMA user_version = 2;
PRAGMA journal_mode = WAL;
"""
OLD = ("spaces", "targets", "sessions", "measurements", "failures", "calibrations")


def put(db: sqlite3.Connection, table: str, *row: Any) -> None:
    """A row with the seal that schema 2 has."""
    seal = hashlib.blake2b(ascii((table, *row)).encode(), digest_size=8).digest()
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))}, ?)", (*row, seal))


def fill_schema_2(path: Path) -> list[Measurement]:
    records = [Measurement(a, SUBJECT, (1.0 + i, 2.0 + i, 3.0 + i), 4.0) for i, a in enumerate(TEN)]
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA_2)
        put(db, "spaces", 1, SPACE.fingerprint, json.dumps(SPACE.table(export=True)))
        put(db, "targets", 1, TARGET.digest, TARGET.name, json.dumps(dict(TARGET.facts)))
        put(db, "sessions", 1, 1, 1, '{"runs": 3}', "accepted", "good", 2.0)
        for i, record in enumerate(records):
            genome = json.dumps(to_genome(SPACE, record.architecture))
            blob = np.asarray(record.runs_ms, "<f8").tobytes()
            put(
                *(db, "measurements", i + 1, 1, "subject", genome, 2.0 + i, 2.0 + i, None, 1, 1.0, None, None, 4.0),
                *(0.0, blob, None, None),
            )
        put(db, "failures", 1, 1, genome, "crash", "ended", 3.0)
        put(db, "calibrations", 1, 1, 1, genome, 1.5, 0.01, 3.0)
    return records


def rows(path: Path) -> dict[str, list[Any]]:
    """Every row of the tables that schema 2 has, and the definitions of all that it has."""
    with closing(sqlite3.connect(path)) as db:
        names = "name NOT LIKE '%quantities%' ORDER BY name"
        found = {table: db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in OLD}
        return {**found, "": db.execute(f"SELECT name, sql FROM sqlite_master WHERE {names}").fetchall()}


def test_a_store_of_schema_2_goes_on_in_place(tmp_path: Path) -> None:
    path = tmp_path / "esm.db"
    records = fill_schema_2(path)
    before = rows(path)
    new = Measurement(TEN[0], SUBJECT, (5.0,), 6.0, host_ms=(7.0,), quantities={"memory_mb": 8.0})
    with Store(path, create=False) as store:
        assert list(store.measurements(SPACE, TARGET)) == records
        assert len(store.failures(SPACE, TARGET)) == 1
        assert store.calibration(SPACE, TARGET) is not None
    assert rows(path) == before
    with Store(path, create=False) as store:
        store.add(SPACE, TARGET, {"another": 1}, [new])
    with Store(path, create=False) as store, Store(tmp_path / "new.db") as made:
        assert list(store.measurements(SPACE, TARGET)) == [*records, new]
        definitions = [set(s._db.execute("SELECT name, sql FROM sqlite_master")) for s in (store, made)]
        assert definitions[0] == definitions[1]
        assert store._db.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_damaged_store_of_schema_2_is_refused_and_rescued(tmp_path: Path) -> None:
    path = tmp_path / "esm.db"
    records = fill_schema_2(path)
    damage(path, "UPDATE measurements SET genome = '[0]' WHERE id = 3")
    before = path.read_bytes()
    with pytest.raises(InputError, match="damaged: 1 rows of measurements"):
        Store(path)
    rescue(path, tmp_path / "rescued.db")
    assert path.read_bytes() == before
    with Store(tmp_path / "rescued.db") as store:
        assert list(store.measurements(SPACE, TARGET)) == records[:2] + records[3:]
