"""Counting and numbering architectures, so that one can be drawn by its number.

A composition is the tuple of the units' depths. All architectures of one composition are numbered by their options in
mixed radix; all of one total depth by composition first, options second. Since every block chooses from the same
options, all compositions of one total depth hold equally many architectures: a uniform number is a uniform composition.
"""

from __future__ import annotations

import itertools
from functools import cache

from esm_onnx.architectures.architecture import Architecture, Options
from esm_onnx.architectures.space import Feature, Space, choices

Composition = tuple[int, ...]
Depths = tuple[tuple[int, ...], ...]


@cache
def ways(depths: Depths, total: int) -> int:
    """Number of compositions of `total` blocks, one allowed depth for each unit."""
    if not depths:
        return int(total == 0)
    return sum(ways(depths[1:], total - depth) for depth in depths[0] if depth <= total)


def attainable_depths(space: Space) -> list[int]:
    """Every total depth that an architecture of the space can have, ascending."""
    least, greatest = space.depth_range
    return [depth for depth in range(least, greatest + 1) if ways(space.depths, depth)]


def composition_of_depth(depths: Depths, total: int, rank: int) -> Composition:
    """The composition of `total` blocks with number `rank`, from 0 to `ways - 1`."""
    if not depths:
        return ()
    for depth in depths[0]:
        below = ways(depths[1:], total - depth)
        if rank < below:
            return (depth, *composition_of_depth(depths[1:], total - depth, rank))
        rank -= below
    raise IndexError("rank beyond the number of compositions")


def rank_in_depth(depths: Depths, composition: Composition) -> int:
    """The inverse of `composition_of_depth`, for the composition's own total."""
    rank, total = 0, sum(composition)
    for u, chosen in enumerate(composition):
        rank += sum(ways(depths[u + 1 :], total - depth) for depth in itertools.takewhile(chosen.__ne__, depths[u]))
        total -= chosen
    return rank


def count_in_composition(space: Space, composition: Composition) -> int:
    """Number of architectures of one composition."""
    count = choices(space.network)
    for depth in composition:
        count *= space.choices_at_depth(depth)
    return count


def architecture_of_rank(space: Space, composition: Composition, rank: int) -> Architecture:
    """The architecture of a composition with number `rank`, from 0 to `count_in_composition - 1`."""
    rank, network = _take(rank, space.network)
    units = []
    for depth in composition:
        rank, shared = _take(rank, space.unit)
        blocks = []
        for _ in range(depth):
            rank, own = _take(rank, space.block)
            blocks.append(_interned(own, shared))
        units.append(tuple(blocks))
    return Architecture(space.name, tuple(units), network)


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


def _take(rank: int, features: tuple[Feature, ...]) -> tuple[int, Options]:
    chosen = {}
    for feature in features:
        rank, index = divmod(rank, len(feature.options))
        chosen[feature.name] = feature.options[index]
    return rank, Options(chosen)


@cache
def _interned(own: Options, shared: Options) -> Options:
    """One object for each combination, however many architectures hold it."""
    return Options({**own, **shared})
