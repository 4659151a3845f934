"""Counting and numbering architectures, so that one can be drawn by its number.

A composition is the tuple of the units' depths. All architectures of one composition are numbered by their options in
mixed radix; all of one total depth by composition first, options second. Since every block chooses from the same
options, all compositions of one total depth hold equally many architectures: a uniform number is a uniform composition.
Coupled features follow from the composition, and count for nothing.
"""

from __future__ import annotations

from functools import cache
from math import prod

from esm_onnx.architectures.architecture import Architecture
from esm_onnx.architectures.space import Feature, Space, choices, select

Composition = tuple[int, ...]
Depths = tuple[tuple[int, ...], ...]


@cache
def _ways_from_unit(depths: Depths) -> tuple[tuple[int, ...], ...]:
    """`[u][total]`: number of compositions of `total` blocks in the units from u on; the last row has no unit left."""
    rows: list[tuple[int, ...]] = [(1,)]
    for allowed in reversed(depths):
        row = [0] * (max(allowed) + len(rows[-1]))
        for depth in allowed:
            for total, count in enumerate(rows[-1], depth):
                row[total] += count
        rows.append(tuple(row))
    return tuple(reversed(rows))


def _ways(depths: Depths, unit: int, total: int) -> int:
    row = _ways_from_unit(depths)[unit]
    return row[total] if 0 <= total < len(row) else 0


def ways(depths: Depths, total: int) -> int:
    """Number of compositions of `total` blocks, one allowed depth for each unit."""
    return _ways(depths, 0, total)


def attainable_depths(space: Space) -> list[int]:
    """Every total depth that an architecture of the space can have, ascending."""
    return [depth for depth, count in enumerate(_ways_from_unit(space.depths)[0]) if count]


def composition_of_depth(depths: Depths, total: int, rank: int) -> Composition:
    """The composition of `total` blocks with number `rank`, from 0 to `ways - 1`."""
    if not 0 <= rank < ways(depths, total):
        raise IndexError(f"composition {rank} of {ways(depths, total)}")
    composition = []
    for u, allowed in enumerate(depths, 1):
        for depth in allowed:
            count = _ways(depths, u, total - depth)
            if rank < count:
                break
            rank -= count
        composition.append(depth)
        total -= depth
    return tuple(composition)


def rank_in_depth(depths: Depths, composition: Composition) -> int:
    """The inverse of `composition_of_depth`, for the composition's own total."""
    rank, total = 0, sum(composition)
    for u, (chosen, allowed) in enumerate(zip(composition, depths, strict=True), 1):
        rank += sum(_ways(depths, u, total - depth) for depth in allowed[: allowed.index(chosen)])
        total -= chosen
    return rank


def count_compositions(depths: Depths) -> int:
    """Number of compositions of whatever total."""
    return prod(len(allowed) for allowed in depths)


def composition_of_rank(depths: Depths, rank: int) -> Composition:
    """The composition with number `rank` among all, from 0 to `count_compositions - 1`."""
    composition = []
    for allowed in depths:
        rank, index = divmod(rank, len(allowed))
        composition.append(allowed[index])
    return tuple(composition)


def rank_of_composition(depths: Depths, composition: Composition) -> int:
    """The inverse of `composition_of_rank`."""
    rank = 0
    for allowed, depth in zip(reversed(depths), reversed(composition), strict=True):
        rank = rank * len(allowed) + allowed.index(depth)
    return rank


def composition_of(architecture: Architecture) -> Composition:
    """The depths of an architecture's units."""
    return tuple(len(blocks) for blocks in architecture.units)


def count_in_composition(space: Space, depth: int) -> int:
    """Number of architectures of any one composition of `depth` blocks."""
    count: int = choices(space.network) * choices(space.unit) ** len(space.depths) * choices(space.block) ** depth
    return count


def architecture_of_rank(space: Space, composition: Composition, rank: int) -> Architecture:
    """The architecture of a composition with number `rank`, from 0 to `count_in_composition - 1`."""
    rank, network = _take(rank, space.network)
    units = []
    for depth in composition:
        rank, of_unit = _take(rank, space.unit)
        shared = of_unit + space.coupled_at(depth)
        blocks = []
        for _ in range(depth):
            rank, own = _take(rank, space.block)
            blocks.append(space.block_of(own + shared))
        units.append(tuple(blocks))
    return Architecture(space.name, tuple(units), select(space.network, network))


def rank_of_architecture(space: Space, architecture: Architecture) -> int:
    """The inverse of `architecture_of_rank`, within the architecture's own composition."""
    digits = [(architecture.network, space.network)]
    for blocks in architecture.units:
        digits.append((blocks[0], space.unit))
        digits += [(block, space.block) for block in blocks]
    rank = 0
    for options, features in reversed(digits):
        for feature in reversed(features):
            rank = rank * len(feature.options) + feature.options.index(options[feature.name])
    return rank


def _take(rank: int, features: tuple[Feature, ...]) -> tuple[int, tuple[int, ...]]:
    indices = []
    for feature in features:
        rank, index = divmod(rank, len(feature.options))
        indices.append(index)
    return rank, tuple(indices)
