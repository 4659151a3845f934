"""Tables to lint: from a store, and from CSV files of any layout."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from esm_onnx.architectures import Space, genome_length, to_genome
from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.dataset import Vector
from esm_onnx.prediction.lint import rows_of_genomes
from esm_onnx.prediction.lint_table import Matrix, Rows, numbered

GZIP = b"\x1f\x8b"
LATENCY = re.compile(r"lat.*|.*_ms", re.IGNORECASE)
"""Columns that hold latencies: none of them explains another."""
DIGITS = re.compile(r"\d+")
EXACT_DIGITS = 15
"""A number with more digits is none, but a row of digits."""
PER_BLOCK, DEPTHS = ("ks", "e"), "d"
"""Columns of digits as Once-for-All writes them: one digit a block, one a unit."""

Cells = dict[str, list[str]]


def rows_of_store(store: Store, space: Space, target: Target) -> Rows:
    """The accepted measurements of subjects of a space on a target, in the order of measuring."""
    genomes: list[tuple[int, ...]] = []
    latencies: list[float] = []
    sessions: list[str] = []
    provenances: list[str] = []
    for number, status, provenance, _ in store.sessions(space, target):
        if status != ACCEPTED:
            continue
        records = zip(store.measurements(space, session=number), store.standing(number), strict=True)
        for record in (record for record, stands in records if stands and record.role == SUBJECT):
            genomes.append(to_genome(space, record.architecture))
            latencies.append(record.latency_ms)
            sessions.append(f"session {number}")
            provenances.append(str(provenance.get("provenance", "")))
    array = np.array(genomes, np.int64).reshape(len(genomes), genome_length(space))
    return rows_of_genomes(space, array, np.array(latencies), sessions, provenances)


def read_tables(paths: Sequence[Path], *, latency: str | None = None, features: Sequence[str] = ()) -> Rows:
    """Rows of CSV files with a header, plain or gzip; each file is a session, in the order of measuring.

    Features are, unless named, all columns of numbers and of digits that hold no latency. A column of digits is spread
    into one column a digit; with `ks`, `e` and `d` as Once-for-All writes them, blocks that are absent are.

    Args:
        latency: the column of latencies; None where there is only one.
        features: columns that describe the architecture.

    Raises:
        InputError: a file or a column is not there, or does not hold what it should.
    """
    tables = [_read(path) for path in paths]
    chosen = _latency_column(tables[0], latency, paths[0])
    names = list(features) or _feature_columns(tables, chosen)
    for path, table in zip(paths, tables, strict=True):
        for name in (chosen, *names):
            if name not in table:
                raise InputError(f"no column {name!r}, expected one of {', '.join(table)}", file=path)
    if not names:
        raise InputError("no column of numbers or digits but latencies, expected features: see --features", file=paths[0])
    cells = {name: [cell for table in tables for cell in table[name]] for name in names}
    columns, matrix = _spread(cells, paths)
    labels = [str(path) for path, table in zip(paths, tables, strict=True) for _ in table[chosen]]
    sessions, session_names = numbered(labels)
    values = np.concatenate([_latencies(table[chosen], chosen, path) for path, table in zip(paths, tables, strict=True)])
    return Rows(matrix, columns, values, sessions, tuple(Path(name).name for name in session_names))


def _read(path: Path) -> Cells:
    """The columns of a file, as text."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" or content[:2] == GZIP:
            content = gzip.decompress(content)
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        reason = "is no gzip file" if isinstance(error, gzip.BadGzipFile) else f"cannot be read: {error.strerror}"
        raise InputError(f"{reason}, expected a CSV file, plain or gzip", file=path) from None
    except (EOFError, zlib.error):
        raise InputError("is a damaged gzip file, expected a whole one", file=path) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is no CSV file: {error}", file=path) from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise InputError("no row, expected a header and rows below it", file=path)
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"two columns {twice!r}, expected each name once", file=path, line=1)
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise InputError(f"{len(line)} cells, expected {len(header)} as in the header", file=path, line=number)
    return {name: [cell.strip() for cell in cells] for name, cells in zip(header, zip(*lines[1:]), strict=True)}


def _latency_column(table: Cells, asked: str | None, path: Path) -> str:
    if asked is not None:
        return asked
    candidates = [name for name in table if LATENCY.fullmatch(name)]
    if len(candidates) != 1:
        there = f"{len(candidates)} columns of latencies ({', '.join(candidates)})" if candidates else "no such column"
        raise InputError(f"{there}: choose one of {', '.join(candidates or table)} with --latency", file=path)
    return candidates[0]


def _feature_columns(tables: Sequence[Cells], latency: str) -> list[str]:
    """Columns that describe an architecture: of numbers or digits, neither a latency nor a count of the rows."""
    named = [name for name in tables[0] if name != latency and not LATENCY.fullmatch(name)]
    return [
        name
        for name in named
        if all(name in table and all(_number(cell) is not None for cell in table[name]) for table in tables)
        and not all(_is_index(table[name]) for table in tables)
    ]


def _is_index(cells: list[str]) -> bool:
    steps = np.diff([float(cell) for cell in cells])
    return len(steps) > 1 and bool((steps == 1).all())


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _latencies(cells: list[str], name: str, path: Path) -> Vector:
    """Numbers as they stand; NaN for what is none."""
    values = [_number_or_nan(cell) for cell in cells]
    if np.isnan(values).all():
        raise InputError(f"no number in column {name!r} (it begins with {shown(cells[0])})", file=path)
    return np.array(values)


def _number_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _spread(cells: Cells, paths: Sequence[Path]) -> tuple[tuple[str, ...], Matrix]:
    """Columns of numbers: one for each digit where a cell is a row of digits, else one."""
    digits = {name: _digits(column) for name, column in cells.items() if _is_digits(name, column)}
    columns: list[str] = []
    parts: list[Matrix] = []
    absent = _absent(digits)
    for name, column in cells.items():
        if name not in digits:
            columns.append(name)
            parts.append(np.array([[_checked(cell, name, paths)] for cell in column]))
            continue
        values, width = digits[name], digits[name].shape[1]
        if absent is not None and name in PER_BLOCK:
            values = np.where(absent, -1, values)
            deepest = width // digits[DEPTHS].shape[1]
            columns += [f"u{i // deepest + 1}b{i % deepest + 1}.{name}" for i in range(width)]
        else:
            columns += [f"{name}[{i + 1}]" for i in range(width)]
        parts.append(values)
    return tuple(columns), np.hstack(parts)


def _absent(digits: dict[str, Matrix]) -> np.ndarray | None:
    """[n, blocks] which blocks are not there; None where the columns are not Once-for-All's."""
    if not {*PER_BLOCK, DEPTHS} <= digits.keys():
        return None
    depths = digits[DEPTHS]
    places = {digits[name].shape[1] for name in PER_BLOCK}
    if len(places) != 1 or (slots := places.pop()) % depths.shape[1]:
        return None
    deepest = slots // depths.shape[1]
    return np.arange(slots) % deepest >= np.repeat(depths, deepest, axis=1)


def _is_digits(name: str, cells: list[str]) -> bool:
    """Whether each cell is a row of as many digits, too many for a number or with a zero in front."""
    if len({len(cell) for cell in cells}) != 1 or not all(DIGITS.fullmatch(cell) and cell.isascii() for cell in cells):
        return False
    width = len(cells[0])
    return width > EXACT_DIGITS or (width > 1 and (name in (*PER_BLOCK, DEPTHS) or any(c[0] == "0" for c in cells)))


def _digits(cells: list[str]) -> Matrix:
    text = np.frombuffer("".join(cells).encode("ascii"), np.uint8) - ord("0")
    return text.reshape(len(cells), -1).astype(float)


def _checked(cell: str, name: str, paths: Sequence[Path]) -> float:
    value = _number(cell)
    if value is None:
        raise InputError(f"column {name!r} holds {shown(cell)}, expected a number", file=paths[0])
    return value
