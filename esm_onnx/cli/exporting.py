"""`export`: subnets as ONNX files."""

from __future__ import annotations

from pathlib import Path

import click

from esm_onnx.architectures import Space, read_architectures, to_json
from esm_onnx.cli.options import FILE, FOLDER, json_option, seed_option, space_option
from esm_onnx.cli.printing import print_json, write_lines
from esm_onnx.export import ExportSettings, write_subnet


@click.command()
@space_option()
@click.option("--architectures", type=FILE, required=True, help="JSON Lines file of architectures.")
@click.option("--out", type=FOLDER, required=True, help="Folder; subnets.jsonl in it says which file is which.")
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Images of one inference.")
@click.option("--opset", type=int, default=17, help="ONNX operator set.")
@click.option("--precision", default="fp32", help="Number format.")
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
    subnets = [write_subnet(space, architecture, out, settings, seed=seed) for architecture in chosen]
    index = out / "subnets.jsonl"
    write_lines(
        ({"file": subnet.path.name, "architecture": to_json(space, subnet.architecture)} for subnet in subnets), index
    )
    if as_json:
        print_json({"subnets": len(subnets), "folder": str(out), "index": str(index)})
    else:
        click.echo(f"{len(subnets)} subnets in {out}, listed in {index}")
