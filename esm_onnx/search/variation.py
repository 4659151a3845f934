"""What a search does to genomes: drawing, crossing and mutating many at once; each stays a genome of the space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.architectures.genome import ABSENT

Genomes = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Variation:
    """The variation of one space's genomes, [n, genome length] each.

    Args:
        rate: with what probability a mutation draws anew each option that there is to choose, and each unit's depth;
            None for two of them in an architecture, on average.
    """

    def __init__(self, space: Space, rate: float | None = None) -> None:
        self._head, self._own, self._chosen = len(space.network), len(space.block), len(space.block + space.unit)
        self._units, self._slots, self._width = len(space.depths), sum(space.slots), len(space.features)
        self._sizes = np.array([len(f.options) for f in (*space.network, *space.features * self._slots)], np.int64)
        self._firsts = np.cumsum([0, *space.slots[:-1]])
        self._unit_of = np.repeat(np.arange(self._units), space.slots)
        self._places = np.arange(self._slots) - self._firsts[self._unit_of]
        self._counts = np.array([len(depths) for depths in space.depths])
        self._depths = np.array([np.resize(depths, self._counts.max()) for depths in space.depths])
        self._coupled = np.zeros((max(space.slots) + 1, len(space.coupled)), np.int64)
        for depth in {depth for depths in space.depths for depth in depths}:
            self._coupled[depth] = space.coupled_at(depth)
        to_choose = self._head + self._units * (1 + len(space.unit)) + self._slots * self._own
        self._rate = min(0.5, 2 / to_choose) if rate is None else rate

    def draw(self, count: int, rng: np.random.Generator) -> Genomes:
        """Any genomes: the depth of each unit and every option uniform; equal ones may be among them."""
        return self._assembled(self._drawn_options(count, rng), self._drawn_depths(count, rng))

    def mutate(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draws some options and depths anew; a unit that grows has new blocks at its end."""
        again = (genomes == ABSENT) | self._struck(genomes.shape, rng)
        options = np.where(again, self._drawn_options(len(genomes), rng), genomes)
        present = self._blocks(genomes)[:, :, 0] != ABSENT
        depths = np.add.reduceat(present, self._firsts, axis=1, dtype=np.int64)
        drawn = self._drawn_depths(len(genomes), rng)
        return self._assembled(options, np.where(self._struck(depths.shape, rng), drawn, depths))

    def cross(self, mothers: Genomes, fathers: Genomes, rng: np.random.Generator) -> tuple[Genomes, Genomes]:
        """Two children of each pair, what one does not have of a parent the other has.

        Each option of the network and each unit comes from either parent, and so do a block's own options where both
        parents have a block in that place.
        """
        swapped = rng.random((len(mothers), self._head + self._units + self._slots)) < 0.5
        network, units, slots = np.split(swapped, [self._head, self._head + self._units], axis=1)
        both = (self._blocks(mothers)[:, :, 0] != ABSENT) & (self._blocks(fathers)[:, :, 0] != ABSENT)
        of_unit = units[:, self._unit_of]
        blocks = np.repeat(of_unit[:, :, None], self._width, axis=2)
        blocks[:, :, : self._own] = np.where(both, slots, of_unit)[:, :, None]
        crossed = np.hstack([network, blocks.reshape(len(mothers), -1)])
        return np.where(crossed, fathers, mothers), np.where(crossed, mothers, fathers)

    def _struck(self, shape: tuple[int, ...], rng: np.random.Generator) -> Mask:
        return rng.random(shape) < self._rate

    def _drawn_options(self, count: int, rng: np.random.Generator) -> Genomes:
        """An option for each place, as if all blocks were present."""
        return rng.integers(0, self._sizes, (count, len(self._sizes)))

    def _drawn_depths(self, count: int, rng: np.random.Generator) -> Genomes:
        return self._depths[np.arange(self._units), rng.integers(0, self._counts, (count, self._units))]

    def _blocks(self, genomes: Genomes) -> Genomes:
        """A view of the blocks, [n, slots, features]."""
        return genomes[:, self._head :].reshape(len(genomes), self._slots, self._width)

    def _assembled(self, options: Genomes, depths: Genomes) -> Genomes:
        """Genomes of units of these depths, [n, units]: options [n, length] beyond them go, and a unit's agree."""
        blocks = self._blocks(options)
        of_unit = self._firsts[self._unit_of]
        blocks[:, :, self._own : self._chosen] = blocks[:, of_unit, self._own : self._chosen]
        blocks[:, :, self._chosen :] = self._coupled[depths][:, self._unit_of]
        blocks[self._places >= depths[:, self._unit_of]] = ABSENT
        return np.hstack([options[:, : self._head], blocks.reshape(len(options), -1)])
