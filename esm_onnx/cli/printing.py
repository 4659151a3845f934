"""Tables, progress and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from esm_onnx.files import replacing
from esm_onnx.measurement.session import Progress

FEW = 5


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


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


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[Progress], None]]:
    """Shows progress on standard error with the time left; in a terminal a bar, elsewhere only what is to be told."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(progress: Progress) -> None:
            failed = f", {progress.failed} failed" if progress.failed else ""
            bar.update(task, total=progress.total, completed=progress.done, description=what + failed)
            if progress.message:
                (bar.console.print if console.is_terminal else _echo_err)(progress.message)

        yield report


def _echo_err(message: str) -> None:
    """One line on standard error."""
    click.echo(message, err=True)
