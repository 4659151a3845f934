"""Tables to lint: from a store, and from CSV files of any layout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space, genome_length, to_genome
from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.exchange import how_of
from esm_onnx.measurement.importers_csv import read_csv
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.lint import rows_of_genomes
from esm_onnx.prediction.lint_table import ABSENT, Matrix, Rows, Vector, numbered

LATENCY = re.compile(r"lat.*|.*_ms", re.IGNORECASE)
"""Columns that hold latencies: none of them explains another."""
EXACT_DIGITS = 15
"""A number with more digits is none, but a row of digits."""
PER_BLOCK, DEPTHS = ("ks", "e"), "d"
"""Columns of digits as Once-for-All writes them: one digit a block, one a unit."""


@dataclass(frozen=True)
class Table:
    """A CSV file: its columns as text, and the line of each row."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def __getitem__(self, name: str) -> list[str]:
        if name not in self.columns:
            there = ", ".join(self.columns)
            raise InputError(f"no column {shown(name)}, expected one of {there}", file=self.path)
        return self.columns[name]


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
            provenances.append(how_of(provenance))
    array = np.array(genomes, np.int64).reshape(len(genomes), genome_length(space))
    return replace(rows_of_genomes(space, array, np.array(latencies), sessions, provenances), merged=True)


def read_tables(paths: Sequence[Path], *, latency: str | None = None, features: Sequence[str] = ()) -> Rows:
    """Rows of CSV files with a header, plain or gzip; each file is a session, its rows in the order of measuring.

    Features are, unless named, all columns that hold no latency and do not just tell rows apart. Names are numbered. A
    column of digits is spread into one column a digit; with `ks`, `e` and `d` as Once-for-All writes them, the digits
    of blocks that are absent count as such.

    Args:
        latency: the column of latencies; None where there is only one.
        features: columns that describe the architecture.

    Raises:
        InputError: a file or a column is not there, or does not hold what it should.
    """
    tables = [_read(path) for path in paths]
    chosen = latency or _only_latency(tables[0])
    values = np.concatenate([_latencies(table, chosen) for table in tables])
    columns, matrix = _spread(tables, list(features) or _features(tables, chosen))
    sessions, _ = numbered([i for i, table in enumerate(tables) for _ in table.lines])
    return Rows(matrix, columns, values, sessions, tuple(path.name for path in paths))


def _read(path: Path) -> Table:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        raise InputError("JSON Lines, expected CSV: `esm-onnx data import` it, and lint the store", file=path)
    names, rows = read_csv(path)
    table = Table(path, {name: [] for name in names}, [])
    for line, cells in rows:
        table.lines.append(line)
        for name, cell in cells.items():
            table.columns[name].append(cell)
    if not table.lines:
        raise InputError("no row, expected some below the names of the columns", file=path)
    return table


def _only_latency(table: Table) -> str:
    candidates = [name for name in table.columns if LATENCY.fullmatch(name)]
    if len(candidates) != 1:
        there = f"{len(candidates) or 'no'} columns that are called like latencies"
        named = ", ".join(candidates or table.columns)
        raise InputError(f"{there}, expected one: choose with --latency among {named}", file=table.path)
    return candidates[0]


def _latencies(table: Table, name: str) -> Vector:
    """Numbers as they stand; NaN for what is none."""
    cells = table[name]
    numbers = [_number(cell) for cell in cells]
    if all(number is None for number in numbers):
        raise InputError(f"column {shown(name)} holds {shown(cells[0])}, expected latencies in ms", file=table.path).at(
            table.path, table.lines[0]
        )
    return np.array([math.nan if number is None else number for number in numbers])


def _features(tables: Sequence[Table], latency: str) -> list[str]:
    """Columns that describe an architecture: no latency, and neither a count nor a name nor the time of each row."""
    described = [name for name in tables[0].columns if name != latency and not LATENCY.fullmatch(name)]
    names = [name for name in described if not all(_tells_rows_apart(table[name]) for table in tables)]
    if not described:
        raise InputError("no column but latencies, expected features of an architecture", file=tables[0].path)
    return names or described


def _tells_rows_apart(cells: list[str]) -> bool:
    """Numbers that rise from row to row, or names of which each is another."""
    numbers = [_number(cell) for cell in cells]
    if None in numbers:
        return len(set(cells)) == len(cells) > 1
    return len(cells) > 2 and bool((np.diff([number or 0.0 for number in numbers]) > 0).all())


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_finite(cell: str) -> bool:
    number = _number(cell)
    return number is not None and math.isfinite(number)


def _spread(tables: Sequence[Table], names: Sequence[str]) -> tuple[tuple[str, ...], Matrix]:
    """Columns of numbers: one for each digit where cells are rows of digits, else one."""
    cells = {name: [cell for table in tables for cell in table[name]] for name in names}
    digits = {name: _digits(column) for name, column in cells.items() if _is_digits(name, column)}
    absent = _absent(digits)
    columns: list[str] = []
    parts: list[Matrix] = []
    for name in names:
        if name not in digits:
            columns.append(name)
            parts.append(_numbers(tables, name)[:, None])
        elif absent is not None and name in PER_BLOCK:
            columns += [f"u{unit}b{block}.{name}" for unit, block in _places(digits)]
            parts.append(np.where(absent, ABSENT, digits[name]))
        else:
            columns += [f"{name}[{i + 1}]" for i in range(digits[name].shape[1])]
            parts.append(digits[name])
    return tuple(columns), np.hstack(parts)


def _absent(digits: dict[str, Matrix]) -> NDArray[np.bool_] | None:
    """[n, blocks]: which blocks are not there; None where the columns are not Once-for-All's."""
    if not {*PER_BLOCK, DEPTHS} <= digits.keys():
        return None
    slots, units = {digits[name].shape[1] for name in PER_BLOCK}, digits[DEPTHS].shape[1]
    if len(slots) != 1 or next(iter(slots)) % units:
        return None
    places = _places(digits)
    depths = np.stack([digits[DEPTHS][:, unit - 1] for unit, _ in places], axis=1)
    absent: NDArray[np.bool_] = np.array([block for _, block in places]) > depths
    return absent


def _places(digits: dict[str, Matrix]) -> list[tuple[int, int]]:
    """Unit and block of each digit, from 1: as many blocks in each unit."""
    slots, units = digits[PER_BLOCK[0]].shape[1], digits[DEPTHS].shape[1]
    return [(unit + 1, block + 1) for unit in range(units) for block in range(slots // units)]


def _is_digits(name: str, cells: list[str]) -> bool:
    """Whether each cell is a row of as many digits, too many for a number or with a zero in front."""
    if len({len(cell) for cell in cells}) != 1 or not all(cell.isascii() and cell.isdigit() for cell in cells):
        return False
    if name in (*PER_BLOCK, DEPTHS) or len(cells[0]) > EXACT_DIGITS:
        return len(cells[0]) > 1
    return len(cells[0]) > 1 and any(cell[0] == "0" for cell in cells)


def _digits(cells: list[str]) -> Matrix:
    text = np.frombuffer("".join(cells).encode("ascii"), np.uint8) - ord("0")
    return text.reshape(len(cells), -1).astype(float)


def _numbers(tables: Sequence[Table], name: str) -> Vector:
    """A column as numbers; where none of its cells is one, they are names, which are numbered."""
    cells = [(table, line, cell) for table in tables for line, cell in zip(table.lines, table[name], strict=True)]
    if not any(_is_finite(cell) for _, _, cell in cells):
        return numbered([cell for _, _, cell in cells])[0].astype(float)
    for table, line, cell in cells:
        if not _is_finite(cell):
            raise InputError(f"{name} is {shown(cell)}, expected a number as elsewhere", file=table.path, line=line)
    return np.array([float(cell) for _, _, cell in cells])
