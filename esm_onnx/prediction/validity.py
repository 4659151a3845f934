"""Whether a row of integers is a genome of the space, and how many blocks it has, decided inside the graph.

A row is valid when nothing of this is wrong, and each fault makes a whole number above 0 of its own:
    range       each place lies between its least and greatest value: Σ (distance to the nearest allowed value)²
    presence    in one slot either all features are present or none; no block after an absent one; and no depth between
                two allowed ones, or below the least: see `_presence`
    agreement   blocks of one unit have the same options of what they share: Σ (difference of neighbours)²
    coupling    the first block of a unit has the option that the unit's depth decides: Σ (difference)², see `_coupling`
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space, genome_length
from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import GREATEST_WHOLE, Nodes


def draw_depth(graph: Nodes, space: Space, row: str) -> str:
    """Nodes from genomes as float32 [batch, length] to the number of blocks, float32 [batch, 1]; 0 if invalid.

    Raises:
        InputError: the space allows so many blocks that float32 could not tell.
    """
    inside = _draw_inside(graph, space, row)
    outside = graph.add("Sub", "valid.distance", row, inside)
    wrong = graph.add("ReduceSumSquare", "valid.range", outside, axes=[1], keepdims=1)
    # 1 where a place holds an option, 0 where it holds −1
    present = graph.add("HardSigmoid", "valid.present", row, alpha=1.0, beta=1.0)
    if space.shared and max(space.slots) > 1:
        wrong = _draw_agreement(graph, space, inside, present, wrong)
    if space.coupled:
        wrong = _draw_coupling(graph, space, inside, present, wrong)
    rules = _presence(space)
    most = float(sum(space.slots) + 1)  # any fault takes more than all blocks together
    if most * (np.abs(rules.costs).sum() + rules.signs[-1]) >= GREATEST_WHOLE:
        raise InputError(f"space {space.name!r} has too many blocks to be checked in float32: allow fewer in a unit")
    first = np.zeros(genome_length(space))
    first[len(space.network) :: len(space.features)] = 1
    costs = graph.floats("valid.cost", (first - most * rules.costs)[:, None])
    depth = graph.add("Gemm", "valid.costs", present, costs, wrong, beta=-most)
    steps = graph.linear("valid.steps", present, rules.steps, rules.start)
    squares = graph.add("Mul", "valid.squares", steps, steps)
    depth = graph.add("Gemm", "depth.signed", squares, graph.floats("valid.signs", -most * rules.signs[:, None]), depth)
    return graph.add("Relu", "depth", depth)


def _draw_inside(graph: Nodes, space: Space, row: str) -> str:
    """The nearest numbers within the ranges, where −1 is an absent block."""
    slots = sum(space.slots)
    greatest = [len(f.options) - 1.0 for f in (*space.network, *space.features * slots)]
    least = [0.0] * len(space.network) + [-1.0] * (len(greatest) - len(space.network))
    if len(set(least)) == len(set(greatest)) == 1:
        bounds = graph.floats("valid.least", least[0]), graph.floats("valid.greatest", greatest[0])
        return graph.add("Clip", "valid.inside", row, *bounds)
    high = graph.add("Min", "valid.high", row, graph.floats("valid.greatest", greatest))
    return graph.add("Max", "valid.inside", high, graph.floats("valid.least", least))


@dataclass(frozen=True)
class _Rules:
    """What the presence b of each place (0 or 1) must fulfil: b · costs + (b · steps + start)² · signs = 0.

    Attributes:
        costs: [genome length].
        steps: [genome length, n].
        start, signs: [n].
    """

    costs: NDArray[np.float64]
    steps: NDArray[np.float64]
    start: NDArray[np.float64]
    signs: NDArray[np.float64]


def _presence(space: Space) -> _Rules:
    """One sum of squares that is 0 exactly where each unit's blocks are present as they may be, and above 0 elsewhere.

    The places that every depth needs cost 1 each where absent. The others come in steps, from one allowed depth to the
    next. With y_r the share of step r that is present (r = 0, 1, …), and c their sum: Σ (2r + 1) · y_r ≥ c², as c² is
    what the first steps would cost, one after another, where c is whole, and is convex between. Both are equal only if
    the first steps are there, each as a whole. Shares are counted in n-ths, so all numbers are whole.
    """
    length, width = genome_length(space), len(space.features)
    costs, columns, needed, place = np.zeros(length), [], 0, len(space.network)
    for depths in space.depths:
        needed += width * depths[0]
        costs[place : place + width * depths[0]] = -1.0
        sizes = [width * (high - low) for low, high in itertools.pairwise(depths)]
        at, steps, whole = place + width * depths[0], np.zeros(length), max(sizes, default=0)
        for r, size in enumerate(sizes):
            steps[at : at + size] = 1.0
            steps[at] += whole - size
            costs[at : at + size] = whole * (2 * r + 1) * steps[at : at + size]
            at += size
        columns.append(steps)
        place += width * depths[-1]
    columns.append(np.zeros(length))  # with its start, what is needed
    start = np.zeros(len(columns))
    start[-1] = 1.0
    return _Rules(costs, np.stack(columns, axis=1), start, np.array([-1.0] * (len(columns) - 1) + [needed]))


def _draw_agreement(graph: Nodes, space: Space, inside: str, present: str, wrong: str) -> str:
    """Adds the squares by which each present block's shared features differ from those of the block before it."""
    width, length = len(space.features), genome_length(space)
    pairs, place = np.zeros((length - width, 1)), len(space.network)
    for slots in space.slots:
        for slot in range(1, slots):
            at = place + slot * width
            pairs[at - width + len(space.block) : at] = 1.0
        place += slots * width
    here, before = range(width, length), range(length - width)
    ahead = graph.part("valid.here", inside, here), graph.part("valid.before", inside, before)
    apart = graph.add("Sub", "valid.apart", *ahead)
    apart = graph.add("Mul", "valid.disagreement", apart, graph.part("valid.there", present, here))
    squares = graph.add("Mul", "valid.disagreements", apart, apart)
    return graph.add("Gemm", "valid.agreement", squares, graph.floats("valid.pairs", pairs), wrong)


def _draw_coupling(graph: Nodes, space: Space, inside: str, present: str, wrong: str) -> str:
    """Adds the squares by which the coupled features of each unit's first block differ from what its depth decides."""
    found, steps, start = _coupling(space)
    decided = graph.linear("valid.decided", present, steps, start)
    apart = graph.add("Gemm", "valid.uncoupled", inside, graph.floats("valid.found", found), decided, beta=-1.0)
    squares = graph.add("ReduceSumSquare", "valid.coupling", apart, axes=[1], keepdims=1)
    return graph.add("Add", "valid.coupled", wrong, squares)


def _coupling(space: Space) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a coupled feature has in the first block of a unit, and what the unit's depth decides: for a column each,
    `found` and `steps` [genome length, columns] and `start` [columns], row · found = presence · steps + start.

    In a valid unit a depth differs from the allowed one below it in that the block after that is present, so the
    difference of their options stands there.
    """
    length, width = genome_length(space), len(space.features)
    found, steps, start, place = [], [], [], len(space.network)
    for depths in space.depths:
        for f, feature in enumerate(space.coupled, width - len(space.coupled)):
            found.append(np.zeros(length))
            found[-1][place + f] = 1.0
            steps.append(np.zeros(length))
            for low, high in itertools.pairwise(depths):
                steps[-1][place + low * width] = feature.index_at(high) - feature.index_at(low)
            start.append(float(feature.index_at(depths[0])))
        place += depths[-1] * width
    return np.stack(found, axis=1), np.stack(steps, axis=1), np.array(start)
