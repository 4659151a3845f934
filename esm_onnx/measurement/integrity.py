"""Whether a store is what was written: looked at without changing a byte of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from esm_onnx.errors import EsmError, InputError, WorkError
from esm_onnx.measurement.tables import APPLICATION, NAMES, SCHEMA, is_sound, make_tables
from esm_onnx.measurement.wal import frames_of

BROKEN = (sqlite3.Error, UnicodeError)
"""What reading a damaged file raises: the second where SQLite quotes damaged text in its message."""
NEW = {1: {"calibrations", "quantities"}, 2: {"quantities"}, SCHEMA: set[str]()}
"""The tables that stores of each schema do not have yet."""
DEFINITIONS = "SELECT name, tbl_name, sql FROM sqlite_master"
WAIT_S = 30
"""How long another process may hold the file before that is an error."""


def check(path: Path) -> None:
    """Refuses what is no store, or a damaged one; a file that is still being made is neither.

    Raises:
        InputError: with what is damaged and the next step.
        WorkError: the disk is full.
    """
    try:
        if Path(f"{path}-journal").exists():  # its maker was killed: only a writer may finish that
            with closing(sqlite3.connect(path, timeout=WAIT_S)) as writer:
                _number(writer, "SELECT count(*) FROM sqlite_master")
        # Closed last, and no writer, it keeps SQLite from moving the log of a damaged store into its file.
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=WAIT_S)) as reader:
            damage = _check(reader, path)
    except sqlite3.DatabaseError as error:
        if _kind(error) != sqlite3.SQLITE_CORRUPT:
            raise unusable(path, error) from None
        damage = f"its structure ({error})"
    except UnicodeError:
        damage = "its structure (definitions of tables)"
    if damage:
        raise InputError(
            f"damaged: {damage}; it is left as it is: `esm-onnx data export --rescue` writes out what can be read",
            file=path,
        )


def unusable(path: Path, error: sqlite3.Error) -> EsmError:
    """Why a file cannot be opened as a store."""
    if _kind(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return WorkError(f"{path}: cannot be opened ({error}): make room on its disk and repeat the command")
    was_one = "; if it was one, `esm-onnx data export --rescue` writes out what can be read"
    hint = was_one if _kind(error) == sqlite3.SQLITE_NOTADB else ""
    if path.is_dir():
        hint = ": it is a folder, expected a file"
    elif _kind(error) == sqlite3.SQLITE_CANTOPEN and not os.access(path.parent, os.W_OK):
        hint = ": its folder cannot be written, which SQLite wants even to read it; copy it to one that can"
    return InputError(f"cannot be used as a store: {error}{hint}", file=path)


def _kind(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is the module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _check(db: sqlite3.Connection, path: Path) -> str:
    """What is damaged, in words; empty where nothing is."""
    db.text_factory = lambda text: text.decode(errors="surrogateescape")  # text of any bytes is to be looked at
    version = _number(db, "PRAGMA user_version")
    application = _number(db, "PRAGMA application_id")
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if (version, application) == (0, 0) and not tables:
        return _log(path)  # still being made, unless it stands in a log whose first page is damaged
    if application != APPLICATION:
        raise InputError("an SQLite file of another program, expected a store of esm-onnx", file=path)
    if version not in (1, 2, SCHEMA):
        raise InputError(
            f"a store of schema {version}, expected {SCHEMA}: open it with the esm-onnx that made it, "
            f"and bring it over by `data export` and `data import`",
            file=path,
        )
    if NEW[version] & tables:
        return "its structure (tables of another schema)"
    if version == 1:  # its rows have no seals
        return _structure(db)
    return _log(path) or _rows(db, NEW[version]) or _structure(db)


def _log(path: Path) -> str:
    """Whether committed records stand behind a damaged place of the log."""
    if not Path(f"{path}-wal").exists():
        return ""
    with closing(sqlite3.connect(path, timeout=WAIT_S)) as writer:
        with suppress(sqlite3.OperationalError):  # a file that may only be read
            writer.execute("BEGIN IMMEDIATE")  # nobody is in the middle of writing meanwhile
        lost = sum(frame.ends_transaction and not frame.is_sound for frame in frames_of(path))
    return f"{lost} records of its log ({path.name}-wal)" if lost else ""


def _rows(db: sqlite3.Connection, new: Collection[str]) -> str:
    """Which rows are not what was written; `new`: the tables that this schema does not have yet."""
    if missing := _tables_of_a_new_store(new) - set(db.execute("SELECT name, sql FROM sqlite_master")):
        return f"its structure (definition of {', '.join(sorted(name for name, _ in missing))})"
    damaged: dict[str, int] = {}
    try:
        for table in filter(lambda name: name not in new, NAMES):
            damaged[table] = sum(not is_sound(table, row) for row in db.execute(f"SELECT * FROM {table}"))
    except BROKEN as error:
        return f"its structure ({error})"
    return ", ".join(f"{count} rows of {table}" for table, count in damaged.items() if count)


def _structure(db: sqlite3.Connection) -> str:
    """What SQLite says against the file; an index may differ from its table without any row being wrong."""
    try:
        (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except BROKEN as error:
        said = str(error)
    return "" if said == "ok" else f"its structure ({' '.join(said.split())})"


def _tables_of_a_new_store(new: Collection[str]) -> set[tuple[str, str | None]]:
    with closing(sqlite3.connect(":memory:")) as db:
        make_tables(db)
        return {(name, sql) for name, of, sql in db.execute(DEFINITIONS) if of not in new}


def _number(db: sqlite3.Connection, statement: str) -> int:
    number: int = db.execute(statement).fetchone()[0]
    return number
