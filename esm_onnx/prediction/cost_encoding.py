"""The encoding `cost`: what a subnet has to do, summed over its ONNX graph (see `export.cost.count_node`).

The sums are additive over blocks: what a block does depends on its unit, on whether it is the unit's first, on its
combination of options and on the resolution, on nothing else. So they are a table, made once from a few graphs of the
writer, and checked against others. Where they are not additive, they are fitted. In a DenseNet a layer reads what all
layers before it made: the products of the units' depths stand besides, which make up for it. In Once-for-All's ResNet50
a unit's width is another's input, and the stem has options of its own: each adds what it does on average, which leaves
the multiply-adds of a network off by 0.6 % on average and 3 % at most.

With resolutions, a table for each of them would be large. But its numbers are sums of a few functions of the resolution
(the areas of the maps). So graphs are drawn for a few resolutions only, from which the tables of all follow, and a
singular value decomposition leaves a handful of tables, each weighted by a number that depends on the resolution.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Architecture, Options, Space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import Counts, graph_of, node_counts
from esm_onnx.export.writers import FAMILIES, export_of
from esm_onnx.prediction.encoding import GREATEST_TABLE, Matrix, Products, Table, indicators

Cube = NDArray[np.float64]
ByBlock = dict[tuple[int, int], Counts]

BLOCK = re.compile(r"u(\d+)\.b(\d+)\.")
CHECKS = 6
"""Architectures whose sums must come out exactly."""
TYPICAL = 3
"""Architectures that tell how what is counted depends on the resolution."""
NEGLIGIBLE = 1e-9
"""Share of the greatest singular value below which one is rounding."""
MOST_NETWORKS = 1000
"""Resolutions: each takes graphs."""
RESOLUTION = "resolution"
"""The feature of the network with which all that blocks do is crossed; what any other does is added."""
ENDS = "ends."
"""Prefix of what the network does outside of its blocks."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """The table before it is compressed.

    Attributes:
        columns: names of the quantities.
        ends: [resolutions, quantities] outside of blocks.
        blocks: [resolutions, slots × combinations, quantities].
        others: [resolutions, options of other features of the network, quantities].
        depths: [pairs of units, quantities] by which the products of two units' depths count; None where additive.
    """

    columns: tuple[str, ...]
    ends: Matrix
    blocks: Cube
    others: Cube
    depths: Matrix | None = None


def build_cost(space: Space) -> Table:
    """The table of the encoding.

    Raises:
        InputError: the space has no writer of ours, or more options than a table can hold.
    """
    if export_of(space).writer not in FAMILIES:
        raise InputError(
            f"space {space.name!r} is written by {export_of(space).writer!r}, whose graphs do not tell blocks apart: "
            f"take another encoding than cost"
        )
    space = space.uncoupled  # its table has every combination, whatever the depth
    resolutions = [Options({f.name: option}) for f in space.network if f.name == RESOLUTION for option in f.options]
    if len(resolutions) > MOST_NETWORKS:
        raise InputError(f"space {space.name!r} has too many resolutions for the encoding cost: take another")
    work = _Work(space, tuple(resolutions or [Options()]))
    return _compressed(space, _additive(work) or _fitted(work))


@dataclass(frozen=True)
class _Work:
    """A space, and what its graphs count."""

    space: Space
    resolutions: tuple[Options, ...]

    def by_block(self, architecture: Architecture, resolution: Options | None = None) -> ByBlock:
        """What each block does, by unit and place from 1; (0, 0) is everything else."""
        network = Options({**architecture.network, **(resolution or {})})
        whole = Architecture(self.space.name, architecture.units, network)
        blocks: ByBlock = {}
        for name, counts in node_counts(graph_of(self.space, whole, ExportSettings())):
            found = BLOCK.match(name)
            blocks.setdefault((int(found[1]), int(found[2])) if found else (0, 0), Counter()).update(counts)
        return blocks

    def drawn(self, count: int) -> list[Architecture]:
        return sample(self.space, min(count, self.space.size), strategy="random", rng=Random(0))

    @cached_property
    def typical(self) -> tuple[list[Options], Matrix]:
        """A few resolutions, and the weights [resolutions, few] by which what they take makes what each takes.

        The next one is always that which those before explain least.
        """
        if len(self.resolutions) == 1:
            return list(self.resolutions), np.ones((1, 1))
        counted = [[self.by_block(each, resolution) for each in self.drawn(TYPICAL)] for resolution in self.resolutions]
        names = _names(part for row in counted for blocks in row for part in blocks.values())
        totals = np.array([np.hstack([_total(blocks, names, ends=False) for blocks in row]) for row in counted])
        totals = totals / np.maximum(np.abs(totals).max(axis=0), 1)
        left, chosen = totals.copy(), list[int]()
        while not chosen or (np.abs(left).max() > NEGLIGIBLE and len(chosen) < len(totals)):
            chosen.append(int((left**2).sum(axis=1).argmax()))
            direction = left[chosen[-1]] / np.linalg.norm(left[chosen[-1]])
            left -= np.outer(left @ direction, direction)
        weights = np.linalg.lstsq(totals[chosen].T, totals.T, rcond=None)[0].T
        return [self.resolutions[i] for i in chosen], weights


def _additive(work: _Work) -> _Sums | None:
    """The sums from graphs in which all blocks are alike; None where other graphs contradict them."""
    space, (resolutions, weights) = work.space, work.typical
    if _is_other(space).any():
        return None
    first: list[list[list[Counts]]] = []
    later: list[list[list[Counts]]] = []
    ends: list[Counts] = []
    for resolution in resolutions:
        counted = [work.by_block(_uniform(space, block), resolution) for block in space.combinations]
        ends.append(_ends(counted[0]))
        units = range(1, len(space.depths) + 1)
        first.append([[blocks.get((u, 1), Counter()) for blocks in counted] for u in units])
        later.append([[blocks.get((u, 2), Counter()) for blocks in counted] for u in units])
    names = _names(counts for network in (*first, *later) for unit in network for counts in unit)
    end_names = sorted({name for counts in ends for name in counts})
    table = np.stack([np.repeat([_rows(unit, names) for unit in network], space.slots, axis=0) for network in later])
    starts = np.cumsum([0, *space.slots[:-1]])
    table[:, starts] = [[_rows(unit, names) for unit in network] for network in first]
    blocks = np.pad(table.reshape(len(resolutions), -1, len(names)), ((0, 0), (0, 0), (len(end_names), 0)))
    sums = _Sums(
        (*(ENDS + name for name in end_names), *names),
        weights @ np.hstack([_rows(ends, end_names), np.zeros((len(resolutions), len(names)))]),
        np.tensordot(weights, blocks, 1),
        np.zeros((len(weights), 0, len(end_names) + len(names))),
    )
    checks = work.drawn(CHECKS)
    found = np.array([_summed(work, sums, architecture) for architecture in checks])
    real = np.array([_total(work.by_block(architecture), sums.columns) for architecture in checks])
    return sums if np.allclose(found, real, rtol=1e-9) else None


def _fitted(work: _Work) -> _Sums:
    """The sums by least squares over graphs drawn at random, with the products of depths."""
    space, (resolutions, weights) = work.space, work.typical
    units, combinations, other = len(space.depths), len(space.combinations), _is_other(space)
    pairs = _pairs(units) if len(work.resolutions) == 1 else []  # else what they make up for depends on the resolution
    drawn = work.drawn(2 * (2 * units * combinations + int(other.sum()) + len(pairs)))
    genomes = np.array([to_genome(space, architecture) for architecture in drawn])
    options, held = indicators(space, genomes)
    by_slot = held.reshape(len(drawn), -1, combinations)
    starts = np.cumsum([0, *space.slots])
    first = by_slot[:, starts[:-1]]
    whole = np.stack([by_slot[:, a:b].sum(axis=1) for a, b in itertools.pairwise(starts)], axis=1)
    depths = whole.sum(axis=2)
    products = np.stack([depths[:, u] * depths[:, v] for u, v in pairs] or [depths[:, 0]], axis=1)[:, : len(pairs)]
    parts = (first.reshape(len(drawn), -1), (whole - first).reshape(len(drawn), -1), options[:, other], products)
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    blocks, others, crossed = [], [], []
    columns: tuple[str, ...] = ()
    for resolution in resolutions:
        counted = [work.by_block(architecture, resolution) for architecture in drawn]
        columns = columns or tuple(_names(part for counts in counted for part in counts.values()))
        totals = np.array([_total(counts, columns, ends=False) for counts in counted])
        firsts, laters, of_others, of_products = np.split(
            np.linalg.lstsq(np.hstack(parts), totals, rcond=1e-9)[0], ends
        )
        table = np.repeat(laters.reshape(units, combinations, -1), space.slots, axis=0)
        table[starts[:-1]] = firsts.reshape(units, combinations, -1)
        blocks.append(table.reshape(-1, len(columns)))
        others.append(of_others)
        crossed.append(of_products)
    return _Sums(
        columns,
        np.zeros((len(weights), len(columns))),
        np.tensordot(weights, blocks, 1),
        np.tensordot(weights, others, 1),
        crossed[0] if pairs else None,
    )


def _compressed(space: Space, sums: _Sums) -> Table:
    if len(sums.ends) == 1:
        return _with_depths(space, sums)
    ends = [i for i, name in enumerate(sums.columns) if name.startswith(ENDS)]
    inside = [i for i, name in enumerate(sums.columns) if not name.startswith(ENDS)]
    cube = np.concatenate([sums.others, sums.blocks], axis=1)[:, :, inside]
    scale = np.abs(cube).max(axis=(0, 1)) + (cube == 0).all(axis=(0, 1))
    by_resolution, sizes, by_row = np.linalg.svd((cube / scale).reshape(len(cube), -1), full_matrices=False)
    rank = int((sizes > NEGLIGIBLE * sizes[0]).sum())
    terms = (sizes[:rank, None] * by_row[:rank]).reshape(rank, -1, len(inside)) * scale
    _check_size(space, terms.size)
    products = terms.transpose(1, 0, 2).reshape(cube.shape[1], -1)
    others, blocks = np.split(products, [sums.others.shape[1]])
    is_other, before = _is_other(space), len(ends) + rank
    network = np.zeros((len(is_other), before + products.shape[1]))
    network[~is_other, :before] = np.hstack([sums.ends[:, ends], by_resolution[:, :rank]])
    network[is_other, before:] = others
    left = np.repeat(np.arange(rank), len(inside)) + len(ends)
    right = np.arange(rank * len(inside)) + before
    step = Products(len(ends), tuple(left.tolist()), tuple(right.tolist()), np.tile(np.eye(len(inside)), (rank, 1)))
    names = tuple(f"cost.{sums.columns[i]}" for i in (*ends, *inside))
    return Table(names, network, np.pad(blocks, ((0, 0), (before, 0))), step)


def _with_depths(space: Space, sums: _Sums) -> Table:
    """The table without resolutions; `depths` adds the products of depths."""
    varying = [i for i, name in enumerate(sums.columns) if not name.startswith(ENDS)]
    names, blocks = tuple(f"cost.{sums.columns[i]}" for i in varying), sums.blocks[0][:, varying]
    _check_size(space, blocks.size)
    is_other = _is_other(space)
    network = np.zeros((len(is_other), len(names)))
    network[is_other] = sums.others[0][:, varying]
    if sums.depths is None:
        return Table(names, network, blocks)
    units, combinations, width = len(space.depths), len(space.combinations), len(names)
    one = np.zeros((len(blocks), 1))
    one[:combinations] = 1.0  # the first slot always holds a block
    depth = np.repeat(np.repeat(np.eye(units), space.slots, axis=0), combinations, axis=0)
    wider = np.hstack([blocks, one, depth])
    left, right = zip(*((width + 1 + u, width + 1 + v) for u, v in _pairs(units)), strict=True)
    step = Products(0, (*range(width), *left), (*[width] * width, *right), np.vstack([np.eye(width), sums.depths]))
    return Table(names, np.pad(network, ((0, 0), (0, 1 + units))), wider, step)


def _check_size(space: Space, numbers: int) -> None:
    if numbers > GREATEST_TABLE:
        raise InputError(f"space {space.name!r} has too many combinations of options for the encoding cost")


def _pairs(units: int) -> list[tuple[int, int]]:
    return [(u, v) for u in range(units) for v in range(u, units)]


def _is_other(space: Space) -> NDArray[np.bool_]:
    """For each option of the network's features, whether it is one of another feature than the resolution."""
    return np.array([feature.name != RESOLUTION for feature in space.network for _ in feature.options], bool)


def _uniform(space: Space, block: Options) -> Architecture:
    """All blocks alike; two in each unit, or more where two are not allowed, or one where no more are."""
    depths = [min((depth for depth in allowed if depth > 1), default=1) for allowed in space.depths]
    return Architecture(space.name, tuple((block,) * depth for depth in depths))


def _ends(blocks: ByBlock) -> Counts:
    """What is outside of the blocks: one number, since all of it grows with the area of the input alone."""
    counts = blocks.get((0, 0), Counter())
    return Counter({"macs": sum(count for name, count in counts.items() if name.startswith("macs."))})


def _names(counted: Iterable[Counts]) -> list[str]:
    """The quantities, without the numbers put out by depthwise kernels of the smallest size: the work says as much."""
    names = {name for counts in counted for name in counts}
    kernels = sorted((name for name in names if name.startswith("depthwise.k")), key=lambda name: int(name[11:]))
    return sorted(names - set(kernels[:1]))


def _rows(counted: Sequence[Counts], names: Sequence[str]) -> Matrix:
    return np.array([[counts[name] for name in names] for counts in counted], float).reshape(len(counted), len(names))


def _total(blocks: ByBlock, columns: Sequence[str], *, ends: bool = True) -> Matrix:
    """The sums of one architecture; `ends`: what is outside of the blocks is counted in columns of its own."""
    total: Counts = Counter()
    for place, counts in blocks.items():
        total.update({ENDS + name: n for name, n in _ends(blocks).items()} if ends and place == (0, 0) else counts)
    row: Matrix = _rows([total], columns)[0]
    return row


def _summed(work: _Work, sums: _Sums, architecture: Architecture) -> Matrix:
    _, held = indicators(work.space, np.array([to_genome(work.space, architecture)]))
    n = work.resolutions.index(architecture.network)
    total: Matrix = sums.ends[n] + held[0] @ sums.blocks[n]
    return total
