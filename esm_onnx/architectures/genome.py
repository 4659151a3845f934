"""The architecture as one flat row of integers.

`[network features…, then unit by unit, slot by slot up to the greatest depth, feature by feature]`: each number is the
index of the option, from 0; −1 where the block is absent. Length and layout are the space's alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cache

from esm_onnx.architectures.architecture import Architecture, Options
from esm_onnx.architectures.space import Feature, Space, select
from esm_onnx.errors import InputError, shown

Genome = tuple[int, ...]

ABSENT = -1


def genome_length(space: Space) -> int:
    """Number of integers in a genome of the space."""
    return len(space.network) + sum(space.slots) * len(space.features)


def genome_columns(space: Space) -> list[str]:
    """A name for each place of the genome: `resolution`, `u1b1.kernel`, …"""
    return list(_columns(space))


@cache
def _columns(space: Space) -> tuple[str, ...]:
    columns = [feature.name for feature in space.network]
    for u, slots in enumerate(space.slots, 1):
        columns += [f"u{u}b{j}.{feature.name}" for j in range(1, slots + 1) for feature in space.features]
    return tuple(columns)


def to_genome(space: Space, architecture: Architecture) -> Genome:
    """The genome of an architecture.

    Raises:
        InputError: the architecture is not of this space.
    """
    space.check(architecture)
    row = [*_indices(architecture.network, space.network)]
    for blocks, slots in zip(architecture.units, space.slots, strict=True):
        for block in blocks:
            row += _indices(block, space.features)
        row += [ABSENT] * ((slots - len(blocks)) * len(space.features))
    return tuple(row)


def from_genome(space: Space, genome: Sequence[int]) -> Architecture:
    """The architecture that a genome stands for.

    Args:
        genome: integers; numpy's count as such, `True` and `1.0` do not.

    Raises:
        InputError: the row is no genome of this space; the message names the place.
    """
    expected = genome_length(space)
    if len(genome) != expected:
        raise InputError(f"a genome of {len(genome)} integers, expected {expected} for space {space.name!r}")
    names, width = _columns(space), len(space.features)
    row = [_integer(value, name) for value, name in zip(genome, names, strict=True)]
    at = len(space.network)
    network = select(space.network, _checked(row[:at], space.network, names))
    units = []
    for slots in space.slots:
        blocks: list[Options] = []
        for j in range(slots):
            slot, slot_names = row[at : at + width], names[at : at + width]
            at += width
            if all(value == ABSENT for value in slot):
                continue
            if len(blocks) < j:
                raise InputError(f"genome, {slot_names[0]}: a block after an absent one")
            blocks.append(space.block_of(_checked(slot, space.features, slot_names)))
        units.append(tuple(blocks))
    return space.check_units(Architecture(space.name, tuple(units), network))  # its options are the space's own


def _indices(options: Options, features: tuple[Feature, ...]) -> list[int]:
    return [feature.options.index(options[feature.name]) for feature in features]


def _integer(value: object, name: str) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InputError(f"genome, {name}: {shown(value)}, expected an integer")


def _checked(row: Sequence[int], features: tuple[Feature, ...], names: Sequence[str]) -> tuple[int, ...]:
    for value, feature, name in zip(row, features, names, strict=False):
        if not 0 <= value < len(feature.options):
            raise InputError(f"genome, {name}: index {shown(value)}, expected 0 to {len(feature.options) - 1}")
    return tuple(row)
