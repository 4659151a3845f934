"""`lookup-table`: a table of layers as a predictor."""

from __future__ import annotations

from pathlib import Path

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.options import FILE, OUT, json_option, space_option, store_option
from esm_onnx.cli.predicting import target_option
from esm_onnx.cli.printing import print_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.importers_lut import read_lookup_table
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.lookup import measured_table, predictor_of, table_of_layers
from esm_onnx.prediction.lookup_encoding import Lookup


@click.command("lookup-table")
@click.argument("file", type=FILE, required=False)
@space_option(required=False)
@store_option()
@target_option
@click.option("--out", type=OUT, required=True, help="The predictor, usually predictor.onnx.")
@json_option()
def lookup_table(
    file: Path | None, space: Space | None, store_path: Path, target: str | None, out: Path, as_json: bool
) -> None:
    """Write a lookup table as predictor.onnx: the sum of the entries, with nothing learned and no bounds.

    FILE is one of Once-for-All's tables, YAML (or a folder of them) or CSV; without it, the table is the one that
    `profile --lookup-table` measured into the store. `train --surrogate lut-bias` brings a store's table in line with
    architectures that were measured too.
    """
    from esm_onnx.prediction.predictor_onnx import write_unmeasured

    if file is not None:
        space, measured_on, lookup = _read_file(file, space, target)
    else:
        with Store(store_path, create=False) as store:
            space, measured_on, lookup = measured_table(store, space, target)
    predictor = predictor_of(space, lookup, measured_on)
    write_unmeasured(predictor, out)
    if as_json:
        print_json({"predictor": str(out), "space": space.name, "target": measured_on.name, "entries": lookup.entries})
    else:
        click.echo(f"{lookup.entries} entries for {space.name} on {measured_on.name!r} written to {out}")


def _read_file(file: Path, space: Space | None, target: str | None) -> tuple[Space, Target, Lookup]:
    if space is None:
        raise click.UsageError("which space is the table for? Expected --space")
    table = read_lookup_table(file)
    name = target or table.device
    if not name:
        raise InputError("does not say its device, expected its name: --target", file=file)
    try:
        restricted, lookup = table_of_layers(table, space)
    except InputError as error:
        raise error.at(file) from None
    for feature, kept in zip(space.network, restricted.network, strict=True):
        if kept != feature:
            options = ", ".join(map(str, kept.options))
            click.echo(f"note: the table, and so the predictor, has {feature.name} {options} alone", err=True)
    return restricted, Target(name, {}), lookup
