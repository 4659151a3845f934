"""What an encoding is: a table, and at most one step after it.

A table says what a block adds to each column when it is this combination in this slot, and what each option of the
network adds. So numpy and the graph of predictor.onnx share one constant, and encode by one product. The second
step is `Moments` (means and deviations from counts), `Products` (of two sums), or `Parts` (encodings side by side).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Feature, Space
from esm_onnx.architectures.space import plain
from esm_onnx.errors import InputError

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """How `statistical` turns its counts into columns.

    The table's columns are, in this order: `head` that stay as they are (network options, depths), then the counts of
    options, group by group; a group is one feature in one unit. With n the counts of a group, v its values and d the
    unit's depth: mean = n·v / d, variance = Σ_ij n_i n_j (v_i − v_j)² / 2d², which is exactly 0 when all blocks agree.

    Attributes:
        head: number of columns that stay.
        values: [counts, groups], v in the rows of its own group, else 0.
        distances: [counts, counts], (v_i − v_j)² / 2 within a group, else 0.
        members: [counts, groups], 1 in the rows of its own group, else 0.
        depth_of: for each group, the column of `head` that holds its unit's depth.
    """

    head: int
    values: Matrix
    distances: Matrix
    members: Matrix
    depth_of: tuple[int, ...]

    def __call__(self, counted: Matrix) -> Matrix:
        head, counts = counted[:, : self.head], counted[:, self.head :]
        depth = head[:, list(self.depth_of)]
        mean = counts @ self.values / depth
        variance = ((counts @ self.distances) * counts) @ self.members / depth**2
        return np.hstack([head, mean, np.sqrt(variance)])


@dataclass(frozen=True, slots=True)
class Products:
    """How products of two sums become columns.

    Attributes:
        keep: number of sums, from the first, that stay as they are.
        left, right: the places of the two sums of each product.
        weights: [products, columns]: the columns are the products times this; None where each product is a column.
    """

    keep: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    weights: Matrix | None = None

    def __call__(self, sums: Matrix) -> Matrix:
        products = sums[:, list(self.left)] * sums[:, list(self.right)]
        return np.hstack([sums[:, : self.keep], products if self.weights is None else products @ self.weights])


@dataclass(frozen=True, slots=True)
class Parts:
    """Several encodings side by side: how many sums each has, and its step."""

    parts: tuple[tuple[int, Step | None], ...]

    def __call__(self, sums: Matrix) -> Matrix:
        columns, start = [], 0
        for width, step in self.parts:
            part = sums[:, start : start + width]
            start += width
            columns.append(step(part) if step else part)
        return np.hstack(columns)


Step = Moments | Products | Parts


@dataclass(frozen=True, slots=True)
class Table:
    """An encoding of one space.

    Attributes:
        columns: a name for each column of the encoded vector.
        network: [network options of all features, width]: what each adds.
        blocks: [slots × combinations, width]: what a block adds when it is this combination in this slot.
        step: the second step; None where the sums are the vector.
    """

    columns: tuple[str, ...]
    network: Matrix
    blocks: Matrix
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Encoding:
    """A way to turn architectures into vectors, for any space."""

    name: str
    build: Callable[[Space], Table]

    def table(self, space: Space) -> Table:
        """The encoding's constants for a space."""
        return _table(self, space)

    def columns(self, space: Space) -> list[str]:
        """A name for each number of the vector."""
        return list(self.table(space).columns)

    def encode(self, space: Space, genomes: NDArray[np.int64]) -> Matrix:
        """The vectors [n, columns] of valid genomes [n, genome length]."""
        table = self.table(space)
        network, blocks = indicators(space, genomes)
        sums = network @ table.network + blocks @ table.blocks
        return table.step(sums) if table.step else sums


def combination_strides(space: Space) -> list[int]:
    """For each feature of a block, the factor of its option's index in the number of the combination."""
    strides = [1]
    for feature in reversed(space.features[1:]):
        strides.insert(0, strides[0] * len(feature.options))
    return strides


def indicators(space: Space, genomes: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
    """Zeros and ones: which option each network feature has, [n, options], and which combination each slot holds,
    [n, slots × combinations], all zeros where the block is absent."""
    head, width = len(space.network), len(space.features)
    options = [genomes[:, i, None] == np.arange(len(feature.options)) for i, feature in enumerate(space.network)]
    slots = genomes[:, head:].reshape(len(genomes), sum(space.slots), width)
    codes = np.where(slots[:, :, 0] < 0, -1, slots @ np.array(combination_strides(space)))
    held = codes[:, :, None] == np.arange(len(space.combinations))
    flat = held.reshape(len(genomes), codes.shape[1] * len(space.combinations))
    return np.hstack([np.empty((len(genomes), 0)), *options]), flat.astype(np.float64)


GREATEST_TABLE = 30_000_000
"""Numbers in the table of an encoding: 120 MB inside predictor.onnx."""


class Columns:
    """A table while it is made: columns are added one by one, each as what every row adds to it."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.names: list[str] = []
        self.network: list[Matrix] = []
        self.blocks: list[Matrix] = []

    def add_network(self, *, as_numbers: bool) -> None:
        """Columns for the options of the whole network."""
        at = 0
        for feature in self.space.network:
            places = range(at, at + len(feature.options))
            at += len(feature.options)
            if as_numbers and not named(feature):
                self._add(feature.name, dict(zip(places, values_of(feature), strict=True)))
            else:
                for place, option in zip(places, feature.options, strict=True):
                    self._add(f"{feature.name}={plain(option)}", {place: 1.0})

    def add_squares(self) -> range:
        """Columns for the squares of the network's numbers, as shares of the greatest one; gives their places."""
        start = len(self.names)
        for feature, places in self._numbers():
            values = np.array(values_of(feature))
            squares = (values / np.abs(values).max()) ** 2
            self._add(f"{feature.name}^2", dict(zip(places, squares, strict=True)))
        return range(start, len(self.names))

    def add_options(self) -> range:
        """Columns for the options of the network's numbers, zeros and a one; gives their places."""
        start = len(self.names)
        for feature, places in self._numbers():
            for place, option in zip(places, feature.options, strict=True):
                self._add(f"{feature.name}={plain(option)}", {place: 1.0})
        return range(start, len(self.names))

    def add_options_of_network(self, name: str, weights: Matrix) -> None:
        """One column: `weights[i]` for the i-th of the network's options."""
        self._add(name, dict(enumerate(weights)))

    def _numbers(self) -> list[tuple[Feature, range]]:
        """The network's features that are numbers, and the places of their options."""
        found, at = [], 0
        for feature in self.space.network:
            places = range(at, at + len(feature.options))
            at += len(feature.options)
            if not named(feature) and any(values_of(feature)):
                found.append((feature, places))
        return found

    def add_blocks(self, name: str, slots: range, weights: Matrix) -> None:
        """One column: `weights[c]` for a block that is combination c in one of the slots."""
        count = len(self.space.combinations)
        column = np.zeros(sum(self.space.slots) * count)
        column[slots.start * count : slots.stop * count] = np.tile(weights, len(slots))
        self._add(name, {}, column)

    def add_combinations(self, name: str, slots: range) -> None:
        """A column for each combination: how many blocks in the slots have it."""
        for combination, weights in zip(self.space.combinations, np.eye(len(self.space.combinations)), strict=True):
            options = ",".join(f"{feature}={plain(option)}" for feature, option in combination.items())
            self.add_blocks(f"{name}.{options}", slots, weights)

    def done(self, *, columns: list[str] | None = None, step: Step | None = None) -> Table:
        rows = sum(len(feature.options) for feature in self.space.network)
        slots = sum(self.space.slots) * len(self.space.combinations)
        network = np.array(self.network).reshape(len(self.names), rows).T
        blocks = np.array(self.blocks).reshape(len(self.names), slots).T
        return Table(tuple(columns or self.names), network, blocks, step)

    def _add(self, name: str, network: dict[int, float], blocks: Matrix | None = None) -> None:
        rows = sum(self.space.slots) * len(self.space.combinations)
        if rows * (len(self.names) + 1) > GREATEST_TABLE:
            raise InputError(
                f"space {self.space.name!r} has {len(self.space.combinations)} combinations of options in "
                f"{sum(self.space.slots)} places, too many for a table of this encoding: expected at most "
                f"{GREATEST_TABLE:,} numbers, {GREATEST_TABLE // rows} columns here; take one with fewer columns, or a "
                f"space with fewer places or options"
            )
        self.names.append(name)
        self.network.append(np.zeros(sum(len(feature.options) for feature in self.space.network)))
        for place, weight in network.items():
            self.network[-1][place] = weight
        self.blocks.append(np.zeros(rows) if blocks is None else blocks)


def values_of(feature: Feature) -> list[float]:
    """A feature's options as numbers; names count 1, 2, …"""
    if named(feature):
        return [float(i) for i in range(1, len(feature.options) + 1)]
    return [float(option) for option in feature.options]


def named(feature: Feature) -> bool:
    """Whether its options are names."""
    return isinstance(feature.options[0], str)


@lru_cache(maxsize=64)
def _table(encoding: Encoding, space: Space) -> Table:
    return encoding.build(space)
