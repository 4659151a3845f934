"""Stores that are damaged on purpose."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def damage(path: Path, statement: str) -> None:
    """Changes a row behind the back of its seal."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
