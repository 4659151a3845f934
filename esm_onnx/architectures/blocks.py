"""The blocks of a space as a space of their own, so that each can be measured: the entries of a lookup table.

An architecture of it is one part of a network: the first block of a unit or a later one with some combination of
options, or what lies before or after all blocks. A block is taken to be alike wherever it stands, but for being its
unit's first, which has the unit's stride and the width of the unit before. Where that is not so (DenseNet: a layer
reads what all layers before it made) a lookup table is an approximation.
"""

from __future__ import annotations

import itertools

from esm_onnx.architectures.architecture import Architecture, Options
from esm_onnx.architectures.space import Export, Feature, Space, select
from esm_onnx.errors import InputError

BLOCK_WRITER = "block"
PART = "part"
STEM, HEAD = "stem", "head"
"""What lies before all blocks, and after them."""
FIRST, REST = "first", "rest"
"""A unit's first block, and any other: `u2.first`, `u2.rest`."""

SUFFIX = ".blocks"
LONGEST_NAME = 80 - len(SUFFIX)
"""Beyond it, a store could not read the name of the block space again."""


def block_space(space: Space) -> Space:
    """The parts of a space's networks as a space: one unit of one block with the feature `part`, then the space's own.

    Raises:
        InputError: the space has no [export], so nothing of it can be measured.
    """
    if space.export is None:
        raise InputError(f"space {space.name!r} has no [export], so its blocks cannot be measured: add its writer")
    return Space(
        name=space.name[:LONGEST_NAME] + SUFFIX,
        depths=((1,),),
        block=(Feature(PART, tuple(parts_of(space))), *space.uncoupled.features),
        network=space.network,
        export=Export(BLOCK_WRITER, {"of": space.table(export=True)}),
    )


def is_block_space(space: Space) -> bool:
    """Whether it is the block space of another."""
    return space.export is not None and space.export.writer == BLOCK_WRITER


def parts_of(space: Space) -> list[str]:
    """The options of `part`, in the order of a lookup table."""
    units = enumerate(space.slots, 1)
    blocks = [f"u{u}.{which}" for u, slots in units for which in (FIRST, REST) if which == FIRST or slots > 1]
    return [STEM, HEAD, *blocks]


def table_entries(space: Space) -> list[Architecture]:
    """What a lookup table of a space needs, as architectures of its block space.

    For each choice of network options in turn: stem and head, then each part of a unit with each combination. The
    blocks' options mean nothing to stem and head, which stand there with the first combination alone.

    Raises:
        InputError: the space has no [export], more combinations than can be listed, or several network features.
    """
    if len(space.network) > 1:
        raise InputError(
            f"the network of space {space.name!r} has {len(space.network)} features, expected at most one for a lookup "
            f"table, which has a row for each option: measure whole architectures"
        )
    name = block_space(space).name
    blocks = [
        Options({PART: part, **combination})
        for part in parts_of(space)
        for combination in (space.combinations[:1] if part in (STEM, HEAD) else space.combinations)
    ]
    networks = itertools.product(*(range(len(feature.options)) for feature in space.network))
    return [Architecture(name, ((block,),), select(space.network, indices)) for indices in networks for block in blocks]
