"""`data import`, `data export`, `data list`, `data sessions`: what a store holds, from elsewhere and for elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.linting import lint
from esm_onnx.cli.options import FILE, OUT, json_option, space_option, store_option, together
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import NoLatency, add_foreign, exported_lines, provenances, read_file
from esm_onnx.measurement.importers import FORMATS, Reading
from esm_onnx.measurement.rescue import rescue
from esm_onnx.measurement.session_report import SessionReport, report_sessions
from esm_onnx.measurement.store import Content, Store


@click.group()
def data() -> None:
    """Bring measured latencies in and out of a store."""


data.add_command(lint)


class ColumnName(click.ParamType[tuple[str, str]]):
    """What a file calls a column: ours=theirs."""

    name = "column=name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        ours, sign, theirs = str(value).partition("=")
        if not (ours and sign and theirs):
            self.fail(f"{value!r} names no column, expected for example u1b1.kernel=k11", param, ctx)
        return ours, theirs


reading_options = together(
    click.option(
        "--format", "file_format", type=click.Choice(list(FORMATS)), help="[default: as suffix and columns say]"
    ),
    click.option(
        "--latency", help="Column of a CSV file that holds the latency.  [default: latency_ms, or the only one]"
    ),
    click.option(
        "--column", "columns", type=ColumnName(), multiple=True, help="What a CSV file calls a column of ours."
    ),
    click.option("--architectures", type=FILE, help="Architectures that a lookup table shall be summed for."),
)
"""How a file of latencies is to be read; see `reading_of`."""


def reading_of(
    file_format: str | None, latency: str | None, columns: tuple[tuple[str, str], ...], architectures: Path | None
) -> Reading:
    """What `reading_options` say."""
    return Reading(file_format, latency, dict(columns), architectures)


@data.command("import")
@click.argument("file", type=FILE)
@space_option()
@click.option("--target", help="What the device shall be called.  [default: as the file says]")
@reading_options
@click.option("--provenance", help="How the latencies came about.  [default: measured; of a table: its sum]")
@click.option("--skip-invalid", is_flag=True, help="Leave out rows whose latency is none (NaN, 0, -1).")
@store_option()
@json_option()
def import_(
    file: Path,
    space: Space,
    target: str | None,
    provenance: str | None,
    skip_invalid: bool,
    store_path: Path,
    as_json: bool,
    **reading: Any,
) -> None:
    """Read latencies from FILE into a store, all or nothing, in their order.

    Formats, gzipped or not: JSON Lines of {"architecture": {…}, "latency_ms": 3.2}; CSV with the columns ks, e, d, r
    (Once-for-All, HELP), or one for each place of the genome (u1b1.kernel, …), or ops (a digit for each place);
    Once-for-All's lookup tables, YAML or CSV.
    """
    left_out: list[NoLatency] = []
    found = read_file(
        file,
        space,
        target=target,
        provenance=provenance,
        reading=reading_of(**reading),
        on_invalid=left_out.append if skip_invalid else None,
    )
    with Store(store_path) as store:
        counts = add_foreign(store, found)
    if left_out:
        click.echo(f"{len(left_out)} rows without a latency left out, the first in line {left_out[0].line}", err=True)
    if as_json:
        print_json({"imported": counts, "left_out": len(left_out), "store": str(store_path)})
    for name, count in counts.items():
        if not as_json:
            known = "" if count else " (they were imported before)"
            click.echo(f"{count} measurements of {space.name} on {name!r} imported into {store_path}{known}")


@data.command("export")
@store_option()
@space_option(required=False)
@click.option("--target", help="Only this target: its name, or the beginning of its digest.")
@click.option("--runs", is_flag=True, help="With every run.")
@click.option("--rescue", "damaged", is_flag=True, help="What can be read of a damaged store; it is left as it is.")
@click.option("--out", type=OUT, help="JSON Lines file.  [default: standard output]")
def export_(
    store_path: Path, space: Space | None, target: str | None, runs: bool, damaged: bool, out: Path | None
) -> None:
    """Write accepted measurements as JSON Lines, with target and provenance."""
    if out is not None and out.exists() and store_path.exists() and out.samefile(store_path):
        raise InputError("is the store itself, expected another file for --out", file=out)
    with _rescued(store_path, space) if damaged else Store(store_path, create=False) as store:
        count = write_lines(exported_lines(store, space=space, target=target, runs=runs), out)
    click.echo(f"{count} measurements exported", err=True)


@contextmanager
def _rescued(path: Path, space: Space | None) -> Iterator[Store]:
    """A store of what can be read of a damaged one."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        losses = rescue(path, copy, space=space)
        click.echo(f"{path}: {losses}", err=True)
        try:
            with Store(copy) as store:
                yield store
        except InputError as error:
            raise error.at(path) from None


@data.command("list")
@store_option()
@json_option()
def list_(store_path: Path, as_json: bool) -> None:
    """List what a store holds, by space and target, and how the latencies came about."""
    with Store(store_path, create=False) as store:
        contents = [(content, provenances(store, content)) for content in store.contents()]
    if as_json:
        print_json([_as_json(content, ways) for content, ways in contents])
        return
    rows = [
        (c.space.name, c.target.name, c.target.digest[:8], c.measurements, c.failures, ", ".join(ways))
        for c, ways in contents
    ]
    print_table(("space", "target", "digest", "measurements", "failures", "provenance"), rows)


def _as_json(content: Content, ways: list[str]) -> dict[str, Any]:
    return {
        "space": content.space.name,
        "target": content.target.name,
        "digest": content.target.digest,
        "facts": dict(content.target.facts),
        "measurements": content.measurements,
        "failures": content.failures,
        "provenance": ways,
    }


@data.command("sessions")
@store_option()
@space_option(required=False)
@click.option("--target", help="Only this target: its name, or the beginning of its digest.")
@json_option()
def sessions(store_path: Path, space: Space | None, target: str | None, as_json: bool) -> None:
    """Report on each session: drift, noise, contaminated runs and why, where the time went.

    With --json every measurement of a reference is there too, to plot the drift (ESM, Fig. 6).
    """
    with Store(store_path, create=False) as store:
        reports = [
            (content, report)
            for content in store.contents()
            if content.matches(space, target)
            for report in report_sessions(store, content.space, content.target)
        ]
    if as_json:
        print_json([{"space": c.space.name, "target": c.target.name, **report.as_json()} for c, report in reports])
        return
    if not reports:
        click.echo(f"no sessions of that space and target in {store_path}", err=True)
    for content, report in reports:
        _print_session(content, report)


def _print_session(content: Content, report: SessionReport) -> None:
    floor = "unknown" if report.noise_floor is None else f"{100 * report.noise_floor:.1f} %"
    contaminated = [f"{reason} {100 * count / report.runs:.1f} %" for reason, count in report.dropped.items()]
    spent = [f"{purpose} {seconds:.1f}" for purpose, seconds in report.spent_s.items()]
    failures = [f"{kind} {count}" for kind, count in report.failures.items()]
    click.echo(
        f"session {report.number}, {content.space.name} on {content.target.name!r}, {report.status}"
        f"{report.verdict and f': {report.verdict}'}\n"
        f"  subjects measured {report.subjects}, standing {report.standing}; "
        f"less exact than asked for {report.capped}; failures {', '.join(failures) or 'none'}\n"
        f"  noise floor {floor}; runs {report.runs}, contaminated {', '.join(contaminated) or 'none'}\n"
        f"  seconds: {', '.join(spent)}"
    )
