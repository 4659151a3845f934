"""The encoding `cost`: what a subnet has to do, summed over its ONNX graph (see `export.cost.count_node`).

The sums are additive over blocks: what a block does depends on its unit, on whether it is the unit's first, on its
combination of options and on the network's option (a resolution), on nothing else. So they are a table, made once from
a few graphs of the writer, and checked against others. Where they are not additive (DenseNet: a layer reads what all
layers before it made), they are fitted, with the products of the units' depths besides, which make up for it.

With resolutions, a table for each of them would be large. But its numbers are sums of a few functions of the resolution
(the areas of the maps), so a singular value decomposition leaves a handful of tables, each weighted by a number that
depends on the resolution.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

BLOCK = re.compile(r"u(\d+)\.b(\d+)\.")
CHECKS = 6
"""Architectures whose sums must come out exactly."""
NEGLIGIBLE = 1e-9
"""Share of the greatest singular value below which one is rounding."""
MOST_NETWORKS = 1000
"""Options of the network: each takes a graph for every combination."""
ENDS = "ends."
"""Prefix of what the network does outside of its blocks."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """The table before it is compressed.

    Attributes:
        columns: names of the quantities.
        ends: [network options, quantities] outside of blocks.
        blocks: [network options, slots × combinations, quantities].
        depths: [pairs of units, quantities] by which the products of two units' depths count; None where additive.
    """

    columns: tuple[str, ...]
    ends: Matrix
    blocks: Cube
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
    choices = [Options({f.name: option}) for f in space.network for option in f.options] or [Options()]
    if len(space.network) > 1 or len(choices) > MOST_NETWORKS:
        raise InputError(f"space {space.name!r} has too many network options for the encoding cost: take another")
    settings = ExportSettings()
    return _compressed(space, _additive(space, choices, settings) or _fitted(space, choices, settings))


def _additive(space: Space, networks: Sequence[Options], settings: ExportSettings) -> _Sums | None:
    """The sums from graphs in which all blocks are alike; None where other graphs contradict them."""
    first: list[list[list[Counts]]] = []
    later: list[list[list[Counts]]] = []
    ends: list[Counts] = []
    for network in networks:
        counted = [_by_block(space, _uniform(space, block, network), settings) for block in space.combinations]
        ends.append(_ends(counted[0]))
        units = range(1, len(space.depths) + 1)
        first.append([[blocks.get((u, 1), Counter()) for blocks in counted] for u in units])
        later.append([[blocks.get((u, 2), Counter()) for blocks in counted] for u in units])
    names = _names(counts for network in (*first, *later) for unit in network for counts in unit)
    end_names = sorted({name for counts in ends for name in counts})
    table = np.stack([np.repeat([_rows(unit, names) for unit in network], space.slots, axis=0) for network in later])
    starts = np.cumsum([0, *space.slots[:-1]])
    table[:, starts] = [[_rows(unit, names) for unit in network] for network in first]
    sums = _Sums(
        (*(ENDS + name for name in end_names), *names),
        np.hstack([_rows(ends, end_names), np.zeros((len(networks), len(names)))]),
        np.pad(table.reshape(len(networks), -1, len(names)), ((0, 0), (0, 0), (len(end_names), 0))),
    )
    checks = _drawn(space, CHECKS)
    found = np.array([_summed(space, sums, a, networks) for a in checks])
    real = np.array([_total(_by_block(space, a, settings), sums.columns) for a in checks])
    return sums if np.allclose(found, real, rtol=1e-9) else None


def _fitted(space: Space, networks: Sequence[Options], settings: ExportSettings) -> _Sums:
    """The sums by least squares over graphs drawn at random, with the products of depths."""
    units, combinations = len(space.depths), len(space.combinations)
    pairs = _pairs(units) if len(networks) == 1 else []  # with several, what they make up for depends on the option
    drawn = _drawn(space, 2 * (2 * units * combinations + len(pairs)))
    genomes = np.array([to_genome(space, architecture) for architecture in drawn])
    _, held = indicators(space, genomes)
    by_slot = held.reshape(len(drawn), -1, combinations)
    starts = np.cumsum([0, *space.slots])
    first = by_slot[:, starts[:-1]]
    whole = np.stack([by_slot[:, a:b].sum(axis=1) for a, b in itertools.pairwise(starts)], axis=1)
    depths = whole.sum(axis=2)
    products = np.stack([depths[:, u] * depths[:, v] for u, v in pairs] or [depths[:, 0]], axis=1)[:, : len(pairs)]
    known = np.hstack([first.reshape(len(drawn), -1), (whole - first).reshape(len(drawn), -1), products])
    blocks, crossed = [], []
    columns: tuple[str, ...] = ()
    for network in networks:
        counted = [_by_block(space, Architecture(space.name, a.units, network), settings) for a in drawn]
        columns = columns or tuple(_names(part for counts in counted for part in counts.values()))
        totals = np.array([_total(counts, columns, ends=False) for counts in counted])
        weights = np.linalg.lstsq(known, totals, rcond=1e-9)[0]
        parts = weights[: 2 * units * combinations].reshape(2, units, combinations, -1)
        table = np.repeat(parts[1], space.slots, axis=0)
        table[starts[:-1]] = parts[0]
        blocks.append(table.reshape(-1, len(columns)))
        crossed.append(weights[2 * units * combinations :])
    return _Sums(columns, np.zeros((len(networks), len(columns))), np.array(blocks), crossed[0] if pairs else None)


def _compressed(space: Space, sums: _Sums) -> Table:
    rows = sum(len(feature.options) for feature in space.network)
    if len(sums.ends) == 1:
        varying = [i for i, name in enumerate(sums.columns) if not name.startswith(ENDS)]
        columns, blocks = [sums.columns[i] for i in varying], sums.blocks[0][:, varying]
        return _with_depths(space, columns, blocks, rows, sums.depths)
    ends = [i for i, name in enumerate(sums.columns) if name.startswith(ENDS)]
    inside = [i for i, name in enumerate(sums.columns) if not name.startswith(ENDS)]
    cube = sums.blocks[:, :, inside]
    scale = np.abs(cube).max(axis=(0, 1)) + (cube == 0).all(axis=(0, 1))
    by_network, sizes, by_block = np.linalg.svd((cube / scale).reshape(len(cube), -1), full_matrices=False)
    rank = int((sizes > NEGLIGIBLE * sizes[0]).sum())
    terms = (sizes[:rank, None] * by_block[:rank]).reshape(rank, -1, len(inside)) * scale
    _check_size(space, terms.size)
    width = len(ends) + rank * (1 + len(inside))
    network, blocks = np.zeros((rows, width)), np.zeros((cube.shape[1], width))
    network[:, : len(ends)] = sums.ends[:, ends]
    network[:, len(ends) : len(ends) + rank] = by_network[:, :rank]
    blocks[:, len(ends) + rank :] = terms.transpose(1, 0, 2).reshape(cube.shape[1], -1)
    left = np.repeat(np.arange(rank), len(inside)) + len(ends)
    right = np.arange(rank * len(inside)) + len(ends) + rank
    step = Products(len(ends), tuple(left.tolist()), tuple(right.tolist()), np.tile(np.eye(len(inside)), (rank, 1)))
    return Table(tuple(f"cost.{sums.columns[i]}" for i in (*ends, *inside)), network, blocks, step)


def _with_depths(space: Space, columns: Sequence[str], blocks: Matrix, rows: int, depths: Matrix | None) -> Table:
    """The table without network options; `depths` adds the products of depths."""
    _check_size(space, blocks.size)
    names = tuple(f"cost.{name}" for name in columns)
    if depths is None:
        return Table(names, np.zeros((rows, len(names))), blocks)
    units, combinations, width = len(space.depths), len(space.combinations), len(names)
    one = np.zeros((len(blocks), 1))
    one[:combinations] = 1.0  # the first slot always holds a block
    depth = np.repeat(np.repeat(np.eye(units), space.slots, axis=0), combinations, axis=0)
    wider = np.hstack([blocks, one, depth])
    left, right = zip(*((width + 1 + u, width + 1 + v) for u, v in _pairs(units)), strict=True)
    step = Products(0, (*range(width), *left), (*[width] * width, *right), np.vstack([np.eye(width), depths]))
    return Table(names, np.zeros((rows, wider.shape[1])), wider, step)


def _check_size(space: Space, numbers: int) -> None:
    if numbers > GREATEST_TABLE:
        raise InputError(f"space {space.name!r} has too many combinations of options for the encoding cost")


def _pairs(units: int) -> list[tuple[int, int]]:
    return [(u, v) for u in range(units) for v in range(u, units)]


def _uniform(space: Space, block: Options, network: Options) -> Architecture:
    """All blocks alike; two in each unit, or more where two are not allowed, or one where no more are."""
    depths = [min((depth for depth in allowed if depth > 1), default=1) for allowed in space.depths]
    return Architecture(space.name, tuple((block,) * depth for depth in depths), network)


def _drawn(space: Space, count: int) -> list[Architecture]:
    return sample(space, min(count, space.size), strategy="random", rng=Random(0))


def _by_block(space: Space, architecture: Architecture, settings: ExportSettings) -> dict[tuple[int, int], Counts]:
    """What each block does, by unit and place from 1; (0, 0) is everything else."""
    blocks: dict[tuple[int, int], Counts] = {}
    for name, counts in node_counts(graph_of(space, architecture, settings)):
        found = BLOCK.match(name)
        blocks.setdefault((int(found[1]), int(found[2])) if found else (0, 0), Counter()).update(counts)
    return blocks


def _ends(blocks: dict[tuple[int, int], Counts]) -> Counts:
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


def _total(blocks: dict[tuple[int, int], Counts], columns: Sequence[str], *, ends: bool = True) -> Matrix:
    """The sums of one architecture; `ends`: what is outside of the blocks is counted in columns of its own."""
    total: Counts = Counter()
    for place, counts in blocks.items():
        total.update({ENDS + name: n for name, n in _ends(blocks).items()} if ends and place == (0, 0) else counts)
    row: Matrix = _rows([total], columns)[0]
    return row


def _summed(space: Space, sums: _Sums, architecture: Architecture, networks: Sequence[Options]) -> Matrix:
    _, held = indicators(space, np.array([to_genome(space, architecture)]))
    n = networks.index(architecture.network)
    total: Matrix = sums.ends[n] + held[0] @ sums.blocks[n]
    return total
