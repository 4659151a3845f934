"""Rows of a damaged SQLite file, page by page.

Every page is looked at for itself, as if it were the root of each table in turn: so a damaged page costs its own rows
only, wherever it stands. A row counts where its seal is right. The file itself is only read.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esm_onnx.measurement.integrity import BROKEN
from esm_onnx.measurement.tables import NAMES, PAGE_BYTES, is_sound, make_tables
from esm_onnx.measurement.wal import frames_of

LEAF = 0x0D
"""First byte of a page that holds rows of a table."""

Row = tuple[Any, ...]


def readable_rows(path: Path) -> tuple[dict[str, dict[int, Row]], dict[str, int]]:
    """Of each table the readable rows by their ids, and how many rows it has at least."""
    with TemporaryDirectory() as folder:
        pages = _pages(path)
        counts = _counts(pages, Path(folder) / "copy.db")
        versions: dict[str, dict[int, set[Row]]] = {table: defaultdict(set) for table in NAMES}
        for table, row in _sound_rows(pages, Path(folder)):
            versions[table][row[0]].add(row)
    # A page that is no longer in use may hold a row as it was before: nobody can tell which one is right.
    rows = {table: {i: next(iter(of)) for i, of in ids.items() if len(of) == 1} for table, ids in versions.items()}
    return rows, {table: max([counts[table], *versions[table]]) for table in NAMES}


def _pages(path: Path) -> list[bytes]:
    """The pages of a file as the last transaction of its log left them."""
    content = path.read_bytes()
    pages = [content[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\0") for at in range(0, len(content), PAGE_BYTES)]
    frames = list(frames_of(path))
    while frames and not frames[-1].ends_transaction:
        frames.pop()
    for frame in frames:
        if 0 < frame.page <= len(pages) + len(frames):  # else its number is damaged
            pages += [bytes(PAGE_BYTES)] * (frame.page - len(pages))
            pages[frame.page - 1] = frame.content
    return pages


def _counts(pages: Sequence[bytes], copy: Path) -> dict[str, int]:
    """How many rows of each table the file itself tells of; 0 where it cannot."""
    copy.write_bytes(_whole(pages, pages[0] if pages else b""))
    counts = dict.fromkeys(NAMES, 0)
    with closing(sqlite3.connect(copy)) as db:
        for table in NAMES:
            with suppress(*BROKEN):
                counts[table] = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return counts


def _sound_rows(pages: list[bytes], folder: Path) -> Iterator[tuple[str, Row]]:
    """Table and row of every row on any page, under the schema of a new store."""
    new = folder / "new.db"
    with closing(sqlite3.connect(new)) as db, db:
        db.execute("BEGIN")
        make_tables(db)
    needed = new.stat().st_size // PAGE_BYTES
    pages = pages + [bytes(PAGE_BYTES)] * (needed - len(pages))
    new.write_bytes(_whole(pages, new.read_bytes()[:PAGE_BYTES]))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.text_factory = lambda text: text.decode(errors="surrogateescape")
        for setting in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            db.execute(f"PRAGMA {setting}")
        for number, page in enumerate(pages[1:], 2):
            if page[0] != LEAF:
                continue
            db.execute("PRAGMA writable_schema = ON")
            db.execute("UPDATE sqlite_master SET rootpage = ? WHERE type = 'table'", (number,))
            db.execute("PRAGMA writable_schema = RESET")  # reads the schema again
            for table in NAMES:
                yield from ((table, row) for row in _rows_of_page(db, table) if is_sound(table, row))


def _rows_of_page(db: sqlite3.Connection, table: str) -> Iterator[Row]:
    """The rows of a table that is one page; where a damaged row ends the reading, it is read from the other end too."""
    try:
        yield from db.execute(f"SELECT * FROM {table} ORDER BY id")
    except BROKEN:
        with suppress(*BROKEN):
            yield from db.execute(f"SELECT * FROM {table} ORDER BY id DESC")


def _whole(pages: Sequence[bytes], first: bytes) -> bytes:
    """A file of these pages with another first one, made to agree with their number, and without a log."""
    header = bytearray(first)
    header[18:20] = b"\1\1"
    header[28:32] = len(pages).to_bytes(4, "big")
    header[92:96] = header[24:28]
    return bytes(header) + b"".join(pages[1:])
