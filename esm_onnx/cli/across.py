"""`compare --across runtimes`: which runtime is fastest for which architecture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import click

from esm_onnx.architectures import Space, to_json
from esm_onnx.architectures.blocks import is_block_space
from esm_onnx.cli.printing import print_json, print_table
from esm_onnx.errors import InputError
from esm_onnx.files import replacing
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.across import Across, put_together
from esm_onnx.prediction.assembly import assemble

SHOWN = 20
"""Architectures in the table on the terminal."""


def compare_targets(
    store_path: Path, space: Space | None, targets: Sequence[str], out: Path | None, as_json: bool
) -> None:
    """Reads targets of a space from a store, all unless some are named, and shows how they compare.

    Raises:
        InputError: more than one space, or targets that do different work.
    """
    with Store(store_path, create=False) as store:
        contents = [c for c in store.contents() if c.measurements and c.matches(space, None)]
        contents = [c for c in contents if space is not None or not is_block_space(c.space)]
        spaces = {content.space.fingerprint: content.space for content in contents}
        if len(spaces) > 1:
            there = ", ".join(each.name for each in spaces.values())
            raise InputError(f"more than one space: {there}; choose with --space", file=store_path)
        if targets:
            contents = [content for content in contents if any(content.matches(space, name) for name in targets)]
        batches = sorted({int(content.target.facts.get("batch", 1)) for content in contents})
        if len(batches) > 1:
            there = "; ".join(
                f"{c.target.name} ({c.target.digest[:8]}): {c.target.facts.get('batch', 1)}" for c in contents
            )
            raise InputError(
                "targets of different batches, expected one: choose with --target NAME or the digits, several times. "
                f"There are {there}",
                file=store_path,
            )
        found = put_together([assemble(store, content.space, content.target) for content in contents])
    if out is not None:
        _write(found, out)
    if as_json:
        print_json(found.as_json())
    elif out is None or str(out) != "-":
        _print(found)


def _write(found: Across, out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["architecture", *(f"{target} ms" for target in found.targets), "fastest"])
    for architecture, latencies, fastest in zip(found.architectures, found.latency_ms, found.fastest, strict=True):
        writer.writerow([json.dumps(to_json(found.space, architecture)), *latencies.tolist(), fastest])
    if str(out) == "-":
        click.echo(text.getvalue(), nl=False)
        return
    with replacing(out) as temporary:
        temporary.write_text(text.getvalue())


def _print(found: Across) -> None:
    rows = list(zip(found.architectures, found.latency_ms, found.fastest, strict=True))
    print_table(
        ("", "blocks", *(f"{target} ms" for target in found.targets), "fastest"),
        [(n, a.depth, *(f"{ms:.4g}" for ms in times), best) for n, (a, times, best) in enumerate(rows[:SHOWN], 1)],
    )
    if len(rows) > SHOWN:
        click.echo(f"and {len(rows) - SHOWN} more: --out FILE.csv has all")
    click.echo("fastest: " + ", ".join(f"{target} {count} times" for target, count in found.wins().items()))
    print_table(
        ("", "", "second / first", "90 % between", "Kendall", "Spearman"),
        [
            (
                *pair.targets,
                f"{pair.ratio:.3g}",
                f"{pair.least_ratio:.3g} and {pair.greatest_ratio:.3g}",
                *("—" if rank is None else f"{rank:.3f}" for rank in (pair.kendall, pair.spearman)),
            )
            for pair in found.pairs()
        ],
    )
