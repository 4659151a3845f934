"""CSV files with one architecture a row, in the layouts that people have.

places            a column for each place of the genome, `u1b1.kernel`, `resolution`, …: options as in JSON, empty where
                  a block is absent
Once-for-All's    `ks`, `e`, `d`: digits; `r`: the resolution
digits            `ops`: the genome, one digit for each place (HELP's FBNet: one a layer)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from esm_onnx.architectures import Architecture, Feature, Space, from_genome, from_json, genome_columns
from esm_onnx.architectures.notation import read_text
from esm_onnx.architectures.ofa_notation import ofa_lists
from esm_onnx.errors import InputError, shown

Cells = Mapping[str, str]
"""One row: its cells by the names of their columns."""

DIGITS = ("ks", "e", "d")
"""The lists of Once-for-All's that are written as digits: of inverted residuals."""

FEW = 8
"""Columns that a message lists."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the columns of a file say an architecture.

    Attributes:
        columns: the names of those it needs; empty where a space cannot be written so.
        read: the architecture, from cells by those names.
    """

    columns: Callable[[Space], Sequence[str]]
    read: Callable[[Space, Cells], Architecture]


def read_csv(path: Path | str) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, gzipped or not, and its rows: number of the line, and cells by column.

    Raises:
        InputError: it cannot be read, a column is there twice, or a row has too few cells or too many; with the line.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    with _named(reader, path):
        columns = [name.strip() for name in reader.fieldnames or ()]
    if not columns:
        raise InputError("no row, expected the names of the columns in the first", file=path)
    for name in columns:
        if columns.count(name) > 1:
            raise InputError(f"column {shown(name)} is there twice, expected each name once", file=path, line=1)
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and separator in columns[0]:
            raise InputError(f"cells between {called}, expected commas between them: convert it", file=path, line=1)
    reader.fieldnames = columns
    return columns, _rows(reader, path)


def _rows(reader: csv.DictReader[str], path: Path | str) -> Iterator[tuple[int, dict[str, str]]]:
    while True:
        with _named(reader, path):
            cells = next(reader, None)
        if cells is None:
            return
        if None in cells or None in cells.values():
            expected = len(reader.fieldnames or ())
            raise InputError(
                f"not {expected} cells, expected as many as the first row", file=path, line=reader.line_num
            )
        yield reader.line_num, {name: cell.strip() for name, cell in cells.items()}


@contextmanager
def _named(reader: csv.DictReader[str], path: Path | str) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"not CSV ({error}), expected cells between commas", file=path, line=line) from None


def find_layout(space: Space, columns: Sequence[str], called: Mapping[str, str]) -> Layout:
    """The first of the layouts whose columns are all there.

    Args:
        columns: those of the file.
        called: what the file calls a column, where that is another name than ours.

    Raises:
        InputError: none fits.
    """
    needs = {layout: needed for layout in LAYOUTS if (needed := layout.columns(space))}
    for name in called:
        if not any(name in needed for needed in needs.values()):
            raise InputError(f"unknown column {shown(name)}, expected one of {few(genome_columns(space))}")
    missing = {layout: [n for n in needed if called.get(n, n) not in columns] for layout, needed in needs.items()}
    nearest = min(missing, key=lambda layout: len(missing[layout]) / len(needs[layout]))
    if not missing[nearest]:
        return nearest
    raise InputError(
        f"the columns {few(columns)} hold no architecture of space {space.name!r}, expected "
        f"{'; or '.join(few(needed) for needed in needs.values())}: say what the file calls them with "
        f"--column {missing[nearest][0]}=NAME"
    )


def few(names: Sequence[str]) -> str:
    """Names as a message lists them: not all where they are many."""
    return ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")


def _of_places(space: Space, cells: Cells) -> Architecture:
    units = []
    for u, slots in enumerate(space.slots, 1):
        blocks = [_options(space.features, cells, f"u{u}b{j}.") for j in range(1, slots + 1)]
        depth = next((j for j, block in enumerate(blocks) if not block), slots)
        if any(blocks[depth:]):
            raise InputError(f"unit {u}, block {depth + 1} is empty and a later one is not, expected no gap")
        units.append(blocks[:depth])
    return from_json(space, {"space": space.name, **_options(space.network, cells), "units": units})


def _options(features: tuple[Feature, ...], cells: Cells, prefix: str = "") -> dict[str, object]:
    texts = [(feature, cells[f"{prefix}{feature.name}"]) for feature in features]
    return {feature.name: _option(feature, text) for feature, text in texts if text}


def _option(feature: Feature, text: str) -> object:
    """What JSON would hold: there a number is no text."""
    if text not in feature.options:
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return text


def _ofa_columns(space: Space) -> Sequence[str]:
    if ofa_lists(space) != DIGITS:
        return ()
    return (*DIGITS, "r") if space.network else DIGITS


def _of_ofa(space: Space, cells: Cells) -> Architecture:
    lists = {name: _digits(cells, name) for name in DIGITS}
    network = {"r": _option(space.network[0], cells["r"])} if space.network else {}
    return from_json(space, {**lists, **network})


def _of_digits(space: Space, cells: Cells) -> Architecture:
    return from_genome(space, _digits(cells, "ops"))


def _digits(cells: Cells, name: str) -> list[int]:
    text = cells[name]
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} is {shown(text)}, expected digits")
    return [int(digit) for digit in text]


LAYOUTS = (
    Layout(_ofa_columns, _of_ofa),
    Layout(genome_columns, _of_places),
    Layout(lambda _: ("ops",), _of_digits),
)
