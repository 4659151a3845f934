"""Encodings as nodes of predictor.onnx: the same tables, the same steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from esm_onnx.architectures import Space, genome_length
from esm_onnx.prediction.encoding import Moments, Parts, Products, Step, combination_strides
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.surrogate import Nodes


def draw_encoding(graph: Nodes, space: Space, name: str, row: str) -> str:
    """Nodes from genomes [batch, length] to encoded vectors [batch, columns], both in the graph's floats.

    Each slot's options become the number of their combination by one product with the strides; an absent block gets a
    negative number, so it equals none of them. Comparing gives zeros and ones, and one product with the encoding's
    table gives the sums.
    """
    table, strides = find_encoding(name).table(space), combination_strides(space)
    head, slots, combinations = len(space.network), sum(space.slots), len(space.combinations)
    codes = np.zeros((genome_length(space), slots))
    for slot in range(slots):
        codes[head + slot * len(strides) : head + (slot + 1) * len(strides), slot] = strides
    code = graph.add("MatMul", "slot.code", row, graph.floats("slot.strides", codes))
    code = graph.add("Unsqueeze", "slot.column", code, graph.constant("slot.axis", np.array([2])))
    held = graph.add("Equal", "slot.held", code, graph.floats("slot.combinations", np.arange(combinations)))
    held = graph.add("Cast", "slot.indicator", held, to=graph.kind)
    held = graph.add("Reshape", "slot.row", held, graph.constant("slot.shape", np.array([-1, slots * combinations])))
    sums = graph.add("MatMul", "encoded.blocks", held, graph.floats("encoded.table", table.blocks))
    if head:
        sums = graph.add("Add", "encoded.sum", sums, _draw_network(graph, space, table.network, row))
    return _draw_step(graph, "encoded", sums, table.step)


def _draw_network(graph: Nodes, space: Space, table: NDArray[np.float64], row: str) -> str:
    """What the options of the network add: each compared with its indices, then one product."""
    options = [(i, index) for i, feature in enumerate(space.network) for index in range(len(feature.options))]
    columns = graph.constant("network.columns", np.array([i for i, _ in options]))
    spread = graph.add("Gather", "network.spread", row, columns, axis=1)
    held = graph.add("Equal", "network.held", spread, graph.floats("network.options", [index for _, index in options]))
    held = graph.add("Cast", "network.indicator", held, to=graph.kind)
    return graph.add("MatMul", "encoded.network", held, graph.floats("network.table", table))


def _draw_step(graph: Nodes, name: str, sums: str, step: Step | None) -> str:
    if isinstance(step, Moments):
        return _draw_moments(graph, name, sums, step)
    if isinstance(step, Products):
        return _draw_products(graph, name, sums, step)
    if isinstance(step, Parts):
        return _draw_parts(graph, name, sums, step)
    return sums


def _draw_parts(graph: Nodes, name: str, sums: str, step: Parts) -> str:
    names = [f"{name}.part{i}" for i in range(len(step.parts))]
    sizes = graph.constant(f"{name}.sizes", np.array([width for width, _ in step.parts]))
    graph.nodes.append(helper.make_node("Split", [sums, sizes], names, axis=1))
    drawn = [_draw_step(graph, part, part, inner) for part, (_, inner) in zip(names, step.parts, strict=True)]
    return graph.add("Concat", f"{name}.columns", *drawn, axis=1)


def _draw_products(graph: Nodes, name: str, sums: str, step: Products) -> str:
    """Products of neighbouring columns at once: slices copy whole stretches, a gather goes place by place."""
    parts = []
    for i, (left, right) in enumerate(_runs(step.left, step.right)):
        sides = [_slice(graph, f"{name}.left{i}", sums, left), _slice(graph, f"{name}.right{i}", sums, right)]
        parts.append(graph.add("Mul", f"{name}.products{i}", *sides))
    kept = [_slice(graph, f"{name}.kept", sums, range(step.keep))] if step.keep else []
    if step.weights is None:
        return graph.add("Concat", f"{name}.joined", *kept, *parts, axis=1)
    products = graph.add("Concat", f"{name}.products", *parts, axis=1)
    columns = graph.add("MatMul", f"{name}.combined", products, graph.floats(f"{name}.weights", step.weights))
    return graph.add("Concat", f"{name}.joined", *kept, columns, axis=1) if kept else columns


def _runs(left: Sequence[int], right: Sequence[int]) -> list[tuple[range, range]]:
    """Pairs of places as pairs of stretches, of which one may be a single place that goes with each of the other."""
    runs, start = [], 0
    while start < len(left):
        end, pace = start + 1, None
        while end < len(left):
            ahead = (left[end] - left[end - 1], right[end] - right[end - 1])
            if ahead not in ((0, 1), (1, 0), (1, 1)) or pace not in (None, ahead):
                break
            end, pace = end + 1, ahead
        runs.append((range(left[start], left[end - 1] + 1), range(right[start], right[end - 1] + 1)))
        start = end
    return runs


def _slice(graph: Nodes, name: str, sums: str, places: range) -> str:
    """Neighbouring columns."""
    bounds = [
        graph.constant(f"{name}.{end}", np.array([at])) for end, at in (("from", places.start), ("to", places.stop))
    ]
    return graph.add("Slice", name, sums, *bounds, graph.constant(f"{name}.axis", np.array([1])))


def _draw_moments(graph: Nodes, name: str, sums: str, moments: Moments) -> str:
    """Means and deviations of the encoding `statistical`, see `encoding.Moments`."""
    sizes = graph.constant(f"{name}.moments", np.array([moments.head, len(moments.values)]))
    head, counts = f"{name}.head", f"{name}.counts"
    graph.nodes.append(helper.make_node("Split", [sums, sizes], [head, counts], axis=1))
    places = graph.constant(f"{name}.depth_of", np.array(moments.depth_of))
    depth = graph.add("Gather", f"{name}.depth", head, places, axis=1)
    total = graph.add("MatMul", f"{name}.total", counts, graph.floats(f"{name}.values", moments.values))
    mean = graph.add("Div", f"{name}.mean", total, depth)
    apart = graph.add("MatMul", f"{name}.apart", counts, graph.floats(f"{name}.distances", moments.distances))
    pairs = graph.add("Mul", f"{name}.pairs", apart, counts)
    squares = graph.add("MatMul", f"{name}.squares", pairs, graph.floats(f"{name}.members", moments.members))
    deviation = graph.add("Div", f"{name}.deviation", graph.add("Sqrt", f"{name}.root", squares), depth)
    return graph.add("Concat", f"{name}.vector", head, mean, deviation, axis=1)
