"""Whether a row of integers is a genome of the space, decided inside the graph.

A row is valid when nothing of this is wrong:
    range       each place lies between its least and greatest value; the least is 0, not −1, in the network's options
                and in as many blocks of a unit as its least depth
    presence    in one slot either all features are present or none; no block after an absent one; and no depth between
                two allowed ones: presence of blocks that may only come together agrees
    agreement   blocks of one unit have the same options of the unit's features
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from esm_onnx.architectures import Space, genome_length
from esm_onnx.prediction.surrogate import Nodes


def draw_validity(graph: Nodes, space: Space, row: str) -> str:
    """Nodes from genomes as float32 [batch, length] to bool [batch, 1]."""
    least, greatest = _ranges(space)
    high = graph.add("Min", "valid.high", row, graph.floats("valid.greatest", greatest))
    inside = graph.add("Max", "valid.inside", high, graph.floats("valid.least", least))
    wrong = [graph.add("Abs", "valid.beyond", graph.add("Sub", "valid.distance", row, inside))]
    zero = graph.floats("valid.zero", 0.0)
    present = graph.add("GreaterOrEqual", "valid.present", row, zero)
    present = graph.add("Cast", "valid.presence", present, to=TensorProto.FLOAT)
    rules = _presence_rules(space)
    if rules.size:
        broken = graph.add("MatMul", "valid.rules", present, graph.floats("valid.presence_rules", rules))
        wrong.append(graph.add("Relu", "valid.broken", broken))
    if space.unit and max(space.slots) > 1:
        wrong.append(_draw_agreement(graph, space, row, present))
    everything = graph.add("Concat", "valid.everything", *wrong, axis=1)
    worst = graph.add("ReduceMax", "valid.worst", everything, axes=[1], keepdims=1)
    return graph.add("Equal", "valid.row", worst, zero)


def _ranges(space: Space) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest value of each place."""
    least = [0.0] * len(space.network)
    greatest = [len(feature.options) - 1.0 for feature in space.network]
    for depths in space.depths:
        for slot in range(max(depths)):
            for feature in space.features:
                least.append(0.0 if slot < min(depths) else -1.0)
                greatest.append(len(feature.options) - 1.0)
    return np.array(least), np.array(greatest)


def _presence_rules(space: Space) -> NDArray[np.float64]:
    """[length, rules]: the presence of each place (0 or 1), weighted by a rule's column, must not be above 0."""
    rules: list[tuple[int, int]] = []  # (a, b): a present demands b present
    width = len(space.features)
    for u, depths in enumerate(space.depths):
        for slot in range(max(depths)):
            place = _place(space, u, slot)
            rules += [pair for f in range(1, width) for pair in ((place, place + f), (place + f, place))]
            if slot:
                rules.append((place, place - width))
                if slot not in depths:
                    rules.append((place - width, place))
    matrix = np.zeros((genome_length(space), len(rules)))
    for column, (a, b) in enumerate(rules):
        matrix[a, column], matrix[b, column] = 1.0, -1.0
    return matrix


def _draw_agreement(graph: Nodes, space: Space, row: str, present: str) -> str:
    """How far each present block's unit features are from those of the block before it."""
    pairs = []
    for u, slots in enumerate(space.slots):
        for slot in range(1, slots):
            for f in range(len(space.block), len(space.features)):
                place = _place(space, u, slot) + f
                pairs.append((place, place - len(space.features)))
    matrix = np.zeros((genome_length(space), len(pairs)))
    for column, (a, b) in enumerate(pairs):
        matrix[a, column], matrix[b, column] = 1.0, -1.0
    apart = graph.add("MatMul", "valid.apart", row, graph.floats("valid.neighbours", matrix))
    places = graph.constant("valid.places", np.array([a for a, _ in pairs]))
    there = graph.add("Gather", "valid.there", present, places, axis=1)
    return graph.add("Abs", "valid.disagreement", graph.add("Mul", "valid.counted", apart, there))


def _place(space: Space, unit: int, slot: int) -> int:
    """Where a block begins in the genome."""
    return len(space.network) + (sum(space.slots[:unit]) + slot) * len(space.features)
