"""`spaces`, `sample`, `genome`: what can be built."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import click

from esm_onnx.architectures import (
    Coupled,
    Feature,
    Space,
    divide,
    find_space,
    from_genome,
    read_architectures,
    space_names,
    to_genome,
    to_json,
    to_ofa,
)
from esm_onnx.architectures import sample as draw
from esm_onnx.architectures.genome import genome_length
from esm_onnx.architectures.notation import read_json_lines
from esm_onnx.architectures.sampling import STRATEGIES
from esm_onnx.cli.options import FILE, OUT, SPACE, json_option, seed_option, space_option
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import InputError

NOTATIONS = {"esm": to_json, "ofa": to_ofa}
"""How an architecture is written."""

notation_option = click.option(
    "--notation",
    type=click.Choice(list(NOTATIONS)),
    default="esm",
    show_default=True,
    help="How architectures are written: as here, or as Once-for-All's dictionaries.",
)


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
            ", ".join(map(_feature, (*space.features, *space.network))),
            space.export.writer if space.export else "none",
        )
        for space in listed
    ]
    print_table(("space", "architectures", "units", "blocks", "genome", "features", "writer"), rows)


def _feature(feature: Feature) -> str:
    """`kernel {3, 5, 7}`; of a coupled one the option of each depth: `expansion {2: 3, 3: 4, 4: 6}`."""
    options = [str(option) for option in feature.options]
    if isinstance(feature, Coupled):
        options = [f"{depth}: {options[place]}" for depth, place in feature.places]
    return f"{feature.name} {{{', '.join(options)}}}"


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
@notation_option
@click.option("--out", type=OUT, help="JSON Lines file.  [default: standard output]")
def sample(
    space: Space,
    strategy: str,
    count: int,
    bins: int | None,
    exclude: Path | None,
    seed: int,
    notation: str,
    out: Path | None,
) -> None:
    """Draw different architectures, seeded."""
    excluded = read_architectures(exclude, space) if exclude else []
    drawn = draw(space, count, strategy=strategy, rng=Random(seed), bins=divide(space, bins), exclude=excluded)
    write_lines((NOTATIONS[notation](space, architecture) for architecture in drawn), out)


@click.command()
@space_option()
@click.option("--decode", is_flag=True, help="From rows of integers to architectures.")
@notation_option
@click.argument("architectures", type=FILE)
def genome(space: Space, decode: bool, notation: str, architectures: Path) -> None:
    """Print the row of integers of each architecture, as JSON Lines (`-` reads standard input)."""
    if not decode:
        if notation != "esm":
            raise InputError(f"--notation {notation} is how --decode writes; what is read may be in any: leave it out")
        rows = [to_genome(space, architecture) for architecture in read_architectures(architectures, space)]
        write_lines(rows, None)
        return
    decoded = []
    for line, row in read_json_lines(architectures):
        try:
            if not isinstance(row, list):
                raise InputError(f"{row!r}, expected a list of {genome_length(space)} integers")
            decoded.append(from_genome(space, row))
        except InputError as error:
            raise error.at(architectures, line) from None
    write_lines((NOTATIONS[notation](space, architecture) for architecture in decoded), None)
