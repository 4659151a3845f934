"""Tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from esm_onnx.files import replacing

FEW = 5

Printer = Callable[[Any], None]
"""Prints the outcome of a command for machines."""


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_result(value: Any) -> None:
    """The same as the last event of a command that tells of its work."""
    print_json({"event": "result", "result": value})


def printer_of(as_json: bool, json_lines: bool) -> Printer | None:
    """How a command prints its outcome for machines; None where people read it."""
    return print_result if json_lines else print_json if as_json else None


def demand_one_output(out: Path | None, as_json: bool) -> None:
    """Refuses what would print two things on standard output.

    Raises:
        UsageError: --json with --out -.
    """
    if as_json and str(out) == "-":
        raise click.UsageError("--json with --out -, expected one of them: both would go to standard output")


def write_lines(values: Iterable[Any], out: Path | None) -> int:
    """JSON Lines into a file, all or nothing, or on standard output; gives their number."""
    count = 0
    if out is None or str(out) == "-":
        for value in values:
            print_json(value)
            count += 1
        return count
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers to the right."""
    body = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(row[i].replace(".", "").replace("%", "").strip("− -").isdigit() or not row[i] for row in body)
        table.add_column(column, justify="right" if numeric and body else "left", overflow="fold")
    for row in body:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table, highlight=False, markup=False)
