"""`spaces`, `sample`, `genome`: what can be built."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import click

from esm_onnx.architectures import (
    Space,
    divide,
    find_space,
    from_genome,
    read_architectures,
    space_names,
    to_genome,
    to_json,
)
from esm_onnx.architectures import sample as draw
from esm_onnx.architectures.genome import genome_length
from esm_onnx.architectures.notation import read_json_lines
from esm_onnx.architectures.sampling import STRATEGIES
from esm_onnx.cli.options import FILE, OUT, SPACE, json_option, seed_option, space_option
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import InputError


@click.command()
@click.argument("names", nargs=-1, type=SPACE)
@json_option()
def spaces(names: tuple[Space, ...], as_json: bool) -> None:
    """List the spaces that are built in, or those NAMED (a name or a TOML file)."""
    listed = names or tuple(find_space(name) for name in space_names())
    if as_json:
        print_json([_describe(space) for space in listed])
        return
    rows = [
        (
            space.name,
            f"{Decimal(space.size):.3g}".lower(),
            len(space.depths),
            "–".join(map(str, space.depth_range)),
            genome_length(space),
            ", ".join(f"{f.name} {{{', '.join(map(str, f.options))}}}" for f in (*space.features, *space.network)),
            space.export.writer if space.export else "none",
        )
        for space in listed
    ]
    print_table(("space", "architectures", "units", "blocks", "genome", "features", "writer"), rows)


def _describe(space: Space) -> dict[str, Any]:
    table = space.table(export=True)
    return {**table, "size": space.size, "genome_length": genome_length(space), "fingerprint": space.fingerprint}


@click.command()
@space_option()
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), default="balanced", help="How to draw.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many architectures.")
@click.option("--bins", type=click.IntRange(min=1), help="N_Bins of `balanced`.  [default: 5, or fewer]")
@click.option("--exclude", type=FILE, help="Architectures that are not to be drawn again.")
@seed_option()
@click.option("--out", type=OUT, help="JSON Lines file.  [default: standard output]")
def sample(
    space: Space, strategy: str, count: int, bins: int | None, exclude: Path | None, seed: int, out: Path | None
) -> None:
    """Draw different architectures, seeded."""
    excluded = read_architectures(exclude, space) if exclude else []
    drawn = draw(space, count, strategy=strategy, rng=Random(seed), bins=divide(space, bins), exclude=excluded)
    write_lines((to_json(space, architecture) for architecture in drawn), out)


@click.command()
@space_option()
@click.option("--decode", is_flag=True, help="From rows of integers to architectures.")
@click.argument("architectures", type=FILE)
def genome(space: Space, decode: bool, architectures: Path) -> None:
    """Print the row of integers of each architecture, as JSON Lines (`-` reads standard input)."""
    if not decode:
        rows = [to_genome(space, architecture) for architecture in read_architectures(architectures, space)]
        write_lines(rows, None)
        return
    decoded = []
    for line, row in read_json_lines(architectures):
        try:
            if not isinstance(row, list):
                raise InputError(f"{row!r}, expected a list of {genome_length(space)} integers")
            decoded.append(to_json(space, from_genome(space, row)))
        except InputError as error:
            raise error.at(architectures, line) from None
    write_lines(decoded, None)
