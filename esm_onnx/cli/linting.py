"""`data lint`: what is wrong with measured latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.options import FILE, json_option, space_option, store_option
from esm_onnx.cli.printing import print_json, print_table
from esm_onnx.errors import InputError, ThresholdNotMet
from esm_onnx.measurement.store import Content, Store
from esm_onnx.prediction.assembly import choose
from esm_onnx.prediction.lint import lint as findings_of
from esm_onnx.prediction.lint_reading import read_tables, rows_of_store
from esm_onnx.prediction.lint_table import NOTE, Finding, Rows, names_of
from esm_onnx.prediction.splits import demand_apart


@click.command()
@click.argument("files", type=FILE, nargs=-1)
@click.option("--latency", help="Column of a file that holds the latencies.  [default: the only one it has]")
@click.option("--features", help="Columns that say what was measured, with commas.  [default: all but latencies]")
@store_option()
@space_option(required=False)
@click.option("--target", help="Name of the target, or the beginning of its digest.")
@click.option("--strict", is_flag=True, help="Exit with 3 when there is more than notes.")
@json_option()
def lint(
    files: tuple[Path, ...],
    latency: str | None,
    features: str | None,
    store_path: Path,
    space: Space | None,
    target: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Look for what is wrong with measured latencies: of a store, or of CSV FILES (each of them one session).

    Copies, cached measurements, values that are no latencies, outliers, drift in the order of measuring, sessions that
    disagree, groups that a random split tears apart, sums of a table, coarse clocks. Exits with 0 whatever it finds,
    unless --strict.
    """
    rows = _rows(files, latency, features, store_path, space, target)
    findings = findings_of(rows)
    if as_json:
        print_json({"rows": len(rows), "features": names_of(rows.columns), "findings": [f.as_json() for f in findings]})
    else:
        _print(rows, findings)
    serious = sum(finding.severity != NOTE for finding in findings)
    if strict and serious:
        told = "1 finding that is more than a note" if serious == 1 else f"{serious} findings that are more than notes"
        raise ThresholdNotMet(f"{told}, expected none")


def examine(store: Store, content: Content, split: str) -> None:
    """Tells what is wrong with the measurements that are trained on, one line each on standard error.

    Raises:
        InputError: the split would have rows judged by copies of themselves.
    """
    findings = findings_of(rows_of_store(store, content.space, content.target))
    demand_apart(findings, split)
    warn_about(findings)


def warn_about(findings: Sequence[Finding]) -> None:
    """Findings that are more than notes, one line each on standard error."""
    for finding in findings:
        if finding.severity != NOTE:
            click.echo(f"warning: {finding.kind}: {finding.message}; {finding.advice}", err=True)


def _rows(
    files: tuple[Path, ...],
    latency: str | None,
    features: str | None,
    store_path: Path,
    space: Space | None,
    target: str | None,
) -> Rows:
    if files:
        if space is not None or target is not None:
            raise InputError("--space and --target choose from a store, expected no FILES with them")
        chosen = [name.strip() for name in (features or "").split(",") if name.strip()]
        return read_tables(files, latency=latency, features=chosen)
    if latency is not None or features is not None:
        raise InputError("--latency and --features choose columns of a file, expected FILES with them")
    with Store(store_path, create=False) as store:
        content = choose(store, space=space, target=target)
        return rows_of_store(store, content.space, content.target)


def _print(rows: Rows, findings: Sequence[Finding]) -> None:
    if findings:
        print_table(
            ("", "kind", "finding", "rows", "the first", "what to do"),
            [(f.severity, f.kind, f.message, f.rows, ", ".join(f.first), f.advice) for f in findings],
        )
    counts = Counter(finding.severity for finding in findings)
    told = ", ".join(f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts.items())
    click.echo(f"{len(rows)} rows, features {', '.join(names_of(rows.columns)) or 'none'}: {told or 'no finding'}")
