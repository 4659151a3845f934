"""A damaged store brought into a new one, as far as it can be read; the damaged file is only read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esm_onnx.architectures import Space
from esm_onnx.errors import InputError
from esm_onnx.measurement.salvage import Row, readable_rows
from esm_onnx.measurement.tables import make_tables, seal
from esm_onnx.measurement.target import Target


@dataclass(frozen=True, slots=True)
class Losses:
    """What a rescue could not bring over, or not vouch for.

    Attributes:
        unreadable: rows of each table that has some; at least so many, for what is gone may hide how much it was.
        without_space: measurements left out because their space is unreadable, and so their architectures.
        without_session: measurements brought over although their session is unreadable: it may have been rejected.
    """

    unreadable: dict[str, int]
    without_space: int
    without_session: int

    def __str__(self) -> str:
        told = [f"at least {count} rows of {table} could not be read" for table, count in self.unreadable.items()]
        if self.without_space:
            told.append(
                f"{self.without_space} measurements are left out because their space could not be read: "
                "name it with --space"
            )
        if self.without_session:
            told.append(
                f"{self.without_session} measurements are of a session that could not be read and may be a rejected one"
            )
        return "; ".join(told) or "every row could be read"


def rescue(damaged: Path, into: Path, *, space: Space | None = None) -> Losses:
    """Writes every readable row of a store into a new one.

    Args:
        damaged: a store of this schema or the one before, damaged or not.
        into: where the new store is made; nothing may be there.
        space: stands in where the row of the only space is unreadable.

    Raises:
        InputError: no row can be read.
    """
    if not damaged.is_file():
        raise InputError("no store there", file=damaged)
    rows, counts = readable_rows(damaged)
    if not any(rows.values()):
        raise InputError("no row can be read, expected a store of this esm-onnx", file=damaged)
    unreadable = {table: lost for table in rows if (lost := counts[table] - len(rows[table]))}
    without_session = _replace_sessions(rows, counts)
    _replace_targets(rows)
    _replace_space(rows, space)
    sessions, spaces = rows["sessions"], rows["spaces"]
    without_space = sum(sessions[session][1] not in spaces for _, session, *_ in rows["measurements"].values())
    with closing(sqlite3.connect(into)) as db, db:
        db.execute("BEGIN")
        make_tables(db)
        for table, of_table in rows.items():
            for row in of_table.values():
                if table == "quantities" and row[1] not in rows["measurements"]:
                    continue  # what it belongs to is counted already
                db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    return Losses(unreadable, without_space, without_session)


Rows = dict[str, dict[int, Row]]


def _replace_sessions(rows: Rows, counts: dict[str, int]) -> int:
    """Sessions in place of unreadable ones, of the only space and target; gives the number of their measurements."""
    sessions = rows["sessions"]
    strays = [session for _, session, *_ in rows["measurements"].values() if session not in sessions]
    space = _only(counts["spaces"], {row[1] for row in sessions.values()} | rows["spaces"].keys())
    target = _only(counts["targets"], {row[2] for row in sessions.values()} | rows["targets"].keys())
    provenance = json.dumps({"rescued": "the session of this measurement could not be read"})
    for session in set(strays):
        _put(rows, "sessions", session, space, target, provenance, "accepted", "", 0.0)
    return len(strays)


def _only(count: int, ids: set[int]) -> int:
    """The only id of a table; 0, which is nobody's, where there are several."""
    return 1 if max([count, 1, *ids]) == 1 else 0


def _replace_targets(rows: Rows) -> None:
    """Targets without facts in place of unreadable ones: their measurements are not mixed with those of others."""
    for number in {row[2] for row in rows["sessions"].values()} - rows["targets"].keys():
        target = Target(f"target-{number}", {})
        _put(rows, "targets", number, target.digest, target.name, json.dumps(dict(target.facts)))


def _replace_space(rows: Rows, space: Space | None) -> None:
    """The space that was named, in place of the one that is unreadable, if it is one."""
    unreadable = {row[1] for row in rows["sessions"].values()} - rows["spaces"].keys()
    known = {fingerprint for _, fingerprint, *_ in rows["spaces"].values()}
    if space is not None and len(unreadable) == 1 and 0 not in unreadable and space.fingerprint not in known:
        _put(rows, "spaces", unreadable.pop(), space.fingerprint, json.dumps(space.table(export=True)))


def _put(rows: Rows, table: str, *values: Any) -> None:
    rows[table][values[0]] = (*values, seal(table, values))
