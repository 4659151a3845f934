"""`export`, `cost`: subnets as ONNX files, and what they have to do."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import click

from esm_onnx.architectures import Space, find_space, read_architectures, read_json_lines, space_names, to_json
from esm_onnx.cli.interrupting import interruptible
from esm_onnx.cli.options import FILE, FOLDER, OUT, json_option, seed_option, space_option
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import InputError, shown
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.cost import Cost, cost_of


@click.command()
@space_option()
@click.option("--architectures", type=FILE, required=True, help="JSON Lines file of architectures.")
@click.option("--out", type=FOLDER, required=True, help="Folder; subnets.jsonl in it says which file is which.")
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Images of one inference.")
@click.option("--opset", type=int, default=17, help="ONNX operator set.")
@click.option("--precision", default="fp32", help="Number format: fp32, fp16, int8, or uint8 for ONNX Runtime's CPU.")
@click.option("--embed-weights", is_flag=True, help="Weights inside each file instead of one shared pool.")
@seed_option()
@json_option()
def export(
    space: Space,
    architectures: Path,
    out: Path,
    batch: int,
    opset: int,
    precision: str,
    embed_weights: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Write each architecture as an ONNX file."""
    settings = ExportSettings(batch=batch, opset=opset, precision=precision, embed_weights=embed_weights)
    chosen = list(dict.fromkeys(read_architectures(architectures, space)))
    out.mkdir(parents=True, exist_ok=True)
    index = out / "subnets.jsonl"
    with interruptible(lambda: f"the subnets written so far are in {out}, and {index} is not written"):
        subnets = [write_subnet(space, architecture, out, settings, seed=seed) for architecture in chosen]
    write_lines(
        ({"file": subnet.path.name, "architecture": to_json(space, subnet.architecture)} for subnet in subnets), index
    )
    if as_json:
        print_json({"subnets": len(subnets), "folder": str(out), "index": str(index)})
    else:
        click.echo(f"{len(subnets)} subnets in {out}, listed in {index}")


@click.command()
@click.argument("architectures", type=FILE)
@space_option(required=False)
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Images of one inference.")
@click.option("--out", type=OUT, help="JSON Lines file.  [default: standard output]")
@click.option("--table", "as_table", is_flag=True, help="Print a table instead of JSON Lines.")
def cost(architectures: Path, space: Space | None, batch: int, out: Path | None, as_table: bool) -> None:
    """Count multiply-adds, parameters and traffic of each architecture (`-` reads standard input)."""
    if as_table and out is not None:
        raise InputError("--out takes JSON Lines, expected no --table beside it")
    space = space or _named_space(architectures)
    settings = ExportSettings(batch=batch)
    costs = (
        asdict(cost_of(space, architecture, settings)) for architecture in read_architectures(architectures, space)
    )
    if not as_table:
        write_lines(costs, out)
        return
    rows = [tuple(f"{value:,}" for value in line.values()) for line in costs]
    print_table([field.name.replace("_", " ") for field in fields(Cost)], rows)


def _named_space(path: Path) -> Space:
    """The space that the first line of a file of architectures names."""
    if str(path) == "-":
        raise InputError("standard input is read once: give its --space")
    line, data = next(read_json_lines(path), (1, None))
    name = data.get("space") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in space_names():
        known = ", ".join(space_names())
        raise InputError(
            f"space is {shown(name)}, expected one of {known}; give any other with --space", file=path, line=line
        )
    return find_space(name)
