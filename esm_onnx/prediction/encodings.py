"""Architecture → vector (ESM, Section III; `statistical` from HAT, Section 3.1; `fcc-first` is ours).

    one-hot      each feature's option as zeros and a one, slot by slot; zeros where the block is absent
    feature      the option itself as a number, slot by slot; 0 where absent
    statistical  for each unit its depth, and mean and standard deviation of each feature in it
    fc           feature count: for each unit, how many blocks have each option of each feature
    fcc          feature combination count: for each unit, how many blocks have each combination of options
    fcc-first    fcc, and which combination is the first block of each unit: its stride and input width differ

Options that are names count as numbers 1, 2, … where a number is needed. Options of the whole network stand in front:
as zeros and a one in one-hot, otherwise as the number itself (names as zeros and a one).

Every encoding is a table: what a block adds to each column when it is this combination in this slot, and what each
option of the network adds. So numpy and the graph of predictor.onnx share one constant, and encode by one product. Only
`statistical` needs a second step, from option counts to means and deviations.
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
class Table:
    """An encoding of one space.

    Attributes:
        columns: a name for each column of the encoded vector.
        network: [network options of all features, width]: what each adds.
        blocks: [slots × combinations, width]: what a block adds when it is this combination in this slot.
        moments: the second step; None where the sums are the vector.
    """

    columns: tuple[str, ...]
    network: Matrix
    blocks: Matrix
    moments: Moments | None = None


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
        return table.moments(sums) if table.moments else sums


def find_encoding(name: str) -> Encoding:
    """The encoding of that name.

    Raises:
        InputError: there is none.
    """
    if name not in ENCODINGS:
        raise InputError(f"encoding {name!r}, expected one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


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


class _Columns:
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
            if as_numbers and not _named(feature):
                self._add(feature.name, dict(zip(places, values_of(feature), strict=True)))
            else:
                for place, option in zip(places, feature.options, strict=True):
                    self._add(f"{feature.name}={plain(option)}", {place: 1.0})

    def add_blocks(self, name: str, slots: range, weights: Matrix) -> None:
        """One column: `weights[c]` for a block that is combination c in one of the slots."""
        count = len(self.space.combinations)
        column = np.zeros(sum(self.space.slots) * count)
        column[slots.start * count : slots.stop * count] = np.tile(weights, len(slots))
        self._add(name, {}, column)

    def done(self, *, columns: list[str] | None = None, moments: Moments | None = None) -> Table:
        rows = sum(len(feature.options) for feature in self.space.network)
        slots = sum(self.space.slots) * len(self.space.combinations)
        network = np.array(self.network).reshape(len(self.names), rows).T
        blocks = np.array(self.blocks).reshape(len(self.names), slots).T
        return Table(tuple(columns or self.names), network, blocks, moments)

    def _add(self, name: str, network: dict[int, float], blocks: Matrix | None = None) -> None:
        rows = sum(self.space.slots) * len(self.space.combinations)
        if rows * (len(self.names) + 1) > GREATEST_TABLE:
            raise InputError(
                f"space {self.space.name!r} has {len(self.space.combinations)} combinations of options in "
                f"{sum(self.space.slots)} places, too many for a table of this encoding: choose one with fewer columns "
                f"(statistical, feature, fc)"
            )
        self.names.append(name)
        self.network.append(np.zeros(sum(len(feature.options) for feature in self.space.network)))
        for place, weight in network.items():
            self.network[-1][place] = weight
        self.blocks.append(np.zeros(rows) if blocks is None else blocks)


def values_of(feature: Feature) -> list[float]:
    """A feature's options as numbers; names count 1, 2, …"""
    if _named(feature):
        return [float(i) for i in range(1, len(feature.options) + 1)]
    return [float(option) for option in feature.options]


def _named(feature: Feature) -> bool:
    return isinstance(feature.options[0], str)


def _chosen(space: Space, feature: Feature) -> list[int]:
    """For each combination, the index of the option that it has of this feature."""
    return [feature.options.index(combination[feature.name]) for combination in space.combinations]


def _has(space: Space, feature: Feature, option: int) -> Matrix:
    """For each combination, 1 where it has this option."""
    return np.array([float(chosen == option) for chosen in _chosen(space, feature)])


def _units(space: Space) -> list[tuple[str, range]]:
    """Name and slots of each unit."""
    units, start = [], 0
    for u, slots in enumerate(space.slots, 1):
        units.append((f"u{u}", range(start, start + slots)))
        start += slots
    return units


def _blocks(space: Space) -> list[tuple[str, range]]:
    """Name and slot of each place for a block."""
    return [(f"{unit}b{j}", range(slot, slot + 1)) for unit, slots in _units(space) for j, slot in enumerate(slots, 1)]


def _build_one_hot(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=False)
    _add_counts(columns, _blocks(space))
    return columns.done()


def _build_feature(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=True)
    for name, slot in _blocks(space):
        for feature in space.features:
            values = np.array(values_of(feature))
            columns.add_blocks(f"{name}.{feature.name}", slot, values[_chosen(space, feature)])
    return columns.done()


def _build_fc(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=True)
    _add_counts(columns, _units(space))
    return columns.done()


def _build_fcc(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=True)
    _add_combinations(columns, _units(space))
    return columns.done()


def _build_fcc_first(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=True)
    _add_combinations(columns, _units(space))
    _add_combinations(columns, [(f"{unit}.first", slots[:1]) for unit, slots in _units(space)])
    return columns.done()


def _build_statistical(space: Space) -> Table:
    columns = _Columns(space)
    columns.add_network(as_numbers=True)
    depth_column = len(columns.names)
    for unit, slots in _units(space):
        columns.add_blocks(f"{unit}.depth", slots, np.ones(len(space.combinations)))
    head = list(columns.names)
    _add_counts(columns, _units(space))
    groups = [(u, unit, feature) for u, (unit, _) in enumerate(_units(space)) for feature in space.features]
    counts = len(columns.names) - len(head)
    values, distances, members = (
        np.zeros((counts, len(groups))),
        np.zeros((counts, counts)),
        np.zeros((counts, len(groups))),
    )
    start = 0
    for g, (_, _, feature) in enumerate(groups):
        rows = slice(start, start + len(feature.options))
        start = rows.stop
        numbers = np.array(values_of(feature))
        values[rows, g], members[rows, g] = numbers, 1.0
        distances[rows, rows] = (numbers[:, None] - numbers) ** 2 / 2
    names = [f"{unit}.{statistic}.{feature.name}" for statistic in ("mean", "std") for _, unit, feature in groups]
    depth_of = tuple(depth_column + u for u, _, _ in groups)
    return columns.done(columns=head + names, moments=Moments(len(head), values, distances, members, depth_of))


def _add_counts(columns: _Columns, places: list[tuple[str, range]]) -> None:
    """How many blocks in each place have each option of each feature."""
    space = columns.space
    for name, slots in places:
        for feature in space.features:
            for i, option in enumerate(feature.options):
                columns.add_blocks(f"{name}.{feature.name}={plain(option)}", slots, _has(space, feature, i))


def _add_combinations(columns: _Columns, places: list[tuple[str, range]]) -> None:
    """How many blocks in each place have each combination of options."""
    for name, slots in places:
        for c, combination in enumerate(columns.space.combinations):
            options = ",".join(f"{feature}={plain(option)}" for feature, option in combination.items())
            columns.add_blocks(f"{name}.{options}", slots, np.eye(len(columns.space.combinations))[c])


@lru_cache(maxsize=64)
def _table(encoding: Encoding, space: Space) -> Table:
    return encoding.build(space)


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("one-hot", _build_one_hot),
        Encoding("feature", _build_feature),
        Encoding("statistical", _build_statistical),
        Encoding("fc", _build_fc),
        Encoding("fcc", _build_fcc),
        Encoding("fcc-first", _build_fcc_first),
    )
}
