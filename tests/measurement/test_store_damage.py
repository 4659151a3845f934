"""Flipped bytes: noticed on opening, and what is readable gets out. And stores of the schema before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import pytest
from cli.calls import WITHOUT_EXPORT
from measurement.damaging import damage

from esm_onnx.architectures import sample, to_genome
from esm_onnx.cli import commands
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import exported_lines
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Calibration, Failure, Measurement, Pairing
from esm_onnx.measurement.rescue import rescue
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.measurement.wal import FRAME_BYTES, HEADER_BYTES
from esm_onnx.testing import tiny_space

TARGET = Target("t", {"device": "d"})
FLIPS = 150
RUNS = 40


def fill(path: Path) -> None:
    """A store of 20 subjects in two sessions, 17 of them standing, with all else that a store holds."""
    space, rng = tiny_space(), Random(0)
    architectures = sample(space, 20, strategy="random", rng=rng)
    with Store(path, clock=lambda: 5.0) as store:
        store.set_calibration(space, TARGET, Calibration(architectures[0], 1.5, 0.01, 0.0))
        for part in (architectures[:10], architectures[10:]):
            session = store.open_session(space, TARGET, {"protocol": len(part)})
            for architecture in part:
                runs = tuple(rng.uniform(1, 2) for _ in range(RUNS))
                record = Measurement(architecture, SUBJECT, runs, 1.0, (0,) * RUNS, Pairing(runs[::-1], 1.5))
                store.append(
                    session, space, replace(record, host_ms=runs[1:] + runs[:1], quantities={"energy_mj": 8.5})
                )
            store.append(session, space, Measurement(part[0], REFERENCE, (1.0,), 1.0))
            store.append(session, space, Failure(part[0], "crash", "ended with signal SIGSEGV", 3.0))
            store.close_session(session, status=ACCEPTED, verdict="good", fallen=[3] if session == 2 else [3, 4])


def everything(store: Store) -> list[Any]:
    """All that the methods of a store tell of it."""
    space = tiny_space()
    return [
        *exported_lines(store, runs=True),
        *store.contents(),
        *store.failures(space, TARGET),
        *store.sessions(space, TARGET),
        *[m for session in (1, 2) for m in store.measurements(space, session=session)],
        store.calibration(space, TARGET),
    ]


def rescued(path: Path, into: Path) -> list[str]:
    """The architecture and all numbers of each measurement that is rescued."""
    try:
        rescue(path, into, space=tiny_space())
        with Store(into) as store:
            return essence(exported_lines(store, runs=True))
    except InputError:
        return []


def essence(lines: Any) -> list[str]:
    told = ("architecture", "latency_ms", "trimmed_ms", "runs_ms", "calibration_ms", "dropped", "nominal_ms", "shift")
    return [json.dumps({name: line.get(name) for name in told}) for line in lines]


def test_a_flipped_byte_is_noticed_or_does_not_matter_and_nearly_every_row_is_rescued(tmp_path: Path) -> None:
    path, flipped = tmp_path / "esm.db", tmp_path / "flipped.db"
    fill(path)
    sound = path.read_bytes()
    with Store(path) as store:
        right, lines = everything(store), essence(exported_lines(store, runs=True))
    counts, refused = [], 0
    for seed in range(FLIPS):
        rng = Random(seed)
        content = bytearray(sound)
        content[rng.randrange(len(content) * seed // FLIPS, len(content) * (seed + 1) // FLIPS)] ^= rng.randrange(
            1, 256
        )
        flipped.write_bytes(content)
        try:
            with Store(flipped, create=False) as store:
                assert everything(store) == right, seed
        except InputError:
            refused += 1
            assert flipped.read_bytes() == content, seed
            got = rescued(flipped, tmp_path / f"{seed}.db")
            assert set(got) <= set(lines), seed
            counts.append(len(got))
            assert flipped.read_bytes() == content, seed
        for beside in tmp_path.glob("flipped.db-*"):
            beside.unlink()
    assert refused > FLIPS / 10
    assert median(counts) >= len(lines) - 1


def test_a_flipped_byte_of_the_log_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "esm.db"
    with Store(path), closing(sqlite3.connect(path)) as keep:
        keep.execute("SELECT count(*) FROM sessions").fetchone()  # while it is open, nobody empties the log
        fill(path)
        content, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        with Store(path) as store:
            lines = essence(exported_lines(store, runs=True))
    counts = []
    for seed in range(FLIPS // 3):
        rng = Random(seed)
        copy = tmp_path / f"{seed}.db"  # both files as a killed process leaves them
        copy.write_bytes(content)
        flipped = bytearray(log)
        flipped[rng.randrange(len(log) - FRAME_BYTES)] ^= rng.randrange(1, 256)
        Path(f"{copy}-wal").write_bytes(flipped)
        with pytest.raises(InputError, match="records of its log"):
            Store(copy, create=False)
        assert (copy.read_bytes(), Path(f"{copy}-wal").read_bytes()) == (content, flipped)
        got = rescued(copy, tmp_path / f"{seed}-rescued.db")
        assert set(got) <= set(lines), seed
        counts.append(len(got))
    assert median(counts) >= len(lines) - 1


def test_what_a_killed_process_left_unfinished_in_the_log_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "esm.db"
    with Store(path), closing(sqlite3.connect(path)) as keep:
        keep.execute("SELECT count(*) FROM sessions").fetchone()
        fill(path)
        content, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    frames = (len(log) - HEADER_BYTES) // FRAME_BYTES
    for seed in range(20):
        copy = tmp_path / f"{seed}.db"
        copy.write_bytes(content)
        whole = Random(seed).randrange(frames)
        Path(f"{copy}-wal").write_bytes(log[: HEADER_BYTES + whole * FRAME_BYTES + 100 * seed])
        with Store(copy) as store:
            assert len(list(store.measurements(tiny_space()))) <= 22


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE measurements SET genome = '[0]' WHERE id = 3", "1 rows of measurements"),
        ("UPDATE measurements SET runs_ms = CAST(runs_ms AS TEXT)", "22 rows of measurements"),
        ("UPDATE sessions SET verdict = 'bad'", "2 rows of sessions"),
        ("UPDATE failures SET started_at = 1, id = id + 9", "2 rows of failures"),
        ("DROP INDEX measurements_of_session", "its structure (definition of measurements_of_session)"),
    ],
)
def test_the_refusal_says_what_is_damaged_and_what_to_do(tmp_path: Path, statement: str, said: str) -> None:
    path = tmp_path / "esm.db"
    fill(path)
    damage(path, statement)
    with pytest.raises(InputError) as caught:
        Store(path)
    assert str(caught.value).startswith(
        f"{path}: damaged: {said}; it is left as it is: `esm-onnx data export --rescue`"
    )


@pytest.mark.parametrize(
    ("statement", "options", "exported", "said"),
    [
        ("SELECT 1", [], 17, "every row could be read"),
        ("UPDATE measurements SET genome = '[0]' WHERE id < 4", [], 14, "at least 3 rows of measurements"),
        ("UPDATE sessions SET status = 'rejected' WHERE id = 2", [], 17, "11 measurements are of a session"),
        ("UPDATE targets SET name = 'x'", ["--target", "target-1"], 17, "at least 1 rows of targets"),
        ("UPDATE spaces SET definition = '{}'", [], None, "22 measurements are left out"),
        ("UPDATE spaces SET definition = '{}'", ["--space", "tiny.toml"], 17, "at least 1 rows of spaces"),
    ],
)
def test_rescue_tells_what_it_could_not_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statement: str,
    options: list[str],
    exported: int | None,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(WITHOUT_EXPORT)
    fill(Path("esm.db"))
    damage(Path("esm.db"), statement)
    before = Path("esm.db").read_bytes()
    command = ["data", "export", "--rescue", "--out", "out.jsonl", *options]
    if exported is None:
        with pytest.raises(InputError, match=r"esm.db: no accepted measurement"):
            commands.main(command, standalone_mode=False)
    else:
        commands.main(command, standalone_mode=False)
        assert len(Path("out.jsonl").read_text().splitlines()) == exported
    assert said in capsys.readouterr().err
    assert Path("esm.db").read_bytes() == before


def test_what_is_no_store_cannot_be_rescued(tmp_path: Path) -> None:
    for name, content in (
        ("notes.txt", b"these are my notes\n" * 1000),
        ("empty.db", b""),
        ("random", Random(0).randbytes(9999)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="no row can be read"):
            rescue(tmp_path / name, tmp_path / "into.db")
    with pytest.raises(InputError, match="no store there"):
        rescue(tmp_path / "absent.db", tmp_path / "into.db")


SCHEMA_1 = """
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
PRAGMA application_id = 0x45534D4F;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


def test_a_store_of_schema_1_goes_on_as_one_of_schema_3(tmp_path: Path) -> None:
    space, path = tiny_space(), tmp_path / "esm.db"
    architectures = sample(space, 6, strategy="random", rng=Random(0))
    records = [Measurement(a, SUBJECT, (1.0 + i, 2.0, 9.0, 3.0, 1.5), 4.0) for i, a in enumerate(architectures)]
    failure = Failure(architectures[0], "crash", "ended", 3.0)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA_1)
        db.execute("INSERT INTO spaces VALUES (1, ?, ?)", (space.fingerprint, json.dumps(space.table(export=True))))
        db.execute("INSERT INTO targets VALUES (1, ?, ?, ?)", (TARGET.digest, TARGET.name, json.dumps(TARGET.facts)))
        db.execute("INSERT INTO sessions VALUES (1, 1, 1, '{\"runs\": 5}', 'accepted', 'good', 2.0)")
        for i, record in enumerate(records):
            row = (
                i + 1,
                json.dumps(to_genome(space, record.architecture)),
                np.asarray(record.runs_ms, "<f8").tobytes(),
            )
            db.execute("INSERT INTO measurements VALUES (?, 1, 'subject', ?, ?, 4)", row)
        genome = json.dumps(to_genome(space, failure.architecture))
        db.execute("INSERT INTO failures VALUES (1, 1, ?, 'crash', 'ended', 3)", (genome,))
    for _ in range(2):
        with Store(path, create=False) as store:
            assert list(store.measurements(space, TARGET)) == records
            assert store.failures(space, TARGET) == [failure]
            assert list(store.sessions(space, TARGET)) == [(1, ACCEPTED, {"runs": 5}, "good")]
            assert store.calibration(space, TARGET) is None
            rows = store._db.execute("SELECT latency_ms, trimmed_ms, stands, shift FROM measurements ORDER BY id")
            assert list(rows) == [(r.latency_ms, r.trimmed_ms, 1, 1.0) for r in records]
    damage(path, "UPDATE measurements SET genome = '[0]' WHERE id = 3")
    with pytest.raises(InputError, match="1 rows of measurements"):
        Store(path)
    rescue(path, tmp_path / "rescued.db")
    with Store(tmp_path / "rescued.db") as store:
        assert list(store.measurements(space, TARGET)) == [r for i, r in enumerate(records) if i != 2]
