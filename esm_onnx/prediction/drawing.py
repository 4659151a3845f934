"""Encodings as nodes of predictor.onnx: the same tables, the same steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from esm_onnx.architectures import Space, genome_length
from esm_onnx.prediction.counting import Counted, Floors, diagonal, draw_floors
from esm_onnx.prediction.encoding import Moments, Parts, Products, Step, combination_strides
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.surrogate import GREATEST_WHOLE, Nodes


def draw_encoding(graph: Nodes, space: Space, name: str, row: str) -> str:
    """Nodes from genomes as float32 [batch, length] to encoded vectors [batch, columns] in the graph's floats.

    Slots in which each combination adds the same are counted together, and the network's features like slots of their
    own; the counts times what each adds are the sums.
    """
    table = find_encoding(name).table(space)
    combinations = len(space.combinations)
    numbers = np.zeros((genome_length(space), sum(space.slots)))
    head, strides = len(space.network), combination_strides(space)
    for slot in range(numbers.shape[1]):
        numbers[head + slot * len(strides) : head + (slot + 1) * len(strides), slot] = strides
    by_slot = table.blocks.reshape(numbers.shape[1], combinations, -1)
    alike = _alike(by_slot)
    counted = [Counted(np.eye(len(numbers))[:, [i]], len(feature.options)) for i, feature in enumerate(space.network)]
    counted += [Counted(numbers[:, slots], combinations) for slots in alike]
    adds = np.vstack([table.network, *(by_slot[slots[0]] for slots in alike)])
    return _draw_step(graph, "encoded", _draw_sums(graph, draw_floors(graph.singles, counted, row), adds), table.step)


def _alike(by_slot: NDArray[np.float64]) -> list[list[int]]:
    """The slots in which each combination adds the same."""
    groups: dict[bytes, list[int]] = {}
    for slot, adds in enumerate(by_slot):
        groups.setdefault(adds.tobytes(), []).append(slot)
    return list(groups.values())


def _draw_sums(graph: Nodes, floors: Floors, adds: NDArray[np.float64]) -> str:
    """Counts [batch, n] times `adds` [n, width]: at once where float32 does both exactly, and that is less work."""
    both = floors.digits @ adds
    exact = (both == np.rint(both)).all() and (floors.greatest @ np.abs(both)).max() < GREATEST_WHOLE
    whole = exact and adds.shape[1] < len(adds)
    weights = graph.singles.floats("counts.digits", both if whole else floors.digits)
    counts = graph.add("MatMul", "counts", floors.name, weights)
    if graph.kind != TensorProto.FLOAT:
        counts = graph.add("Cast", "counts.double", counts, to=graph.kind)
    return counts if whole else graph.linear("encoded.sums", counts, adds)


def _draw_step(graph: Nodes, name: str, sums: str, step: Step | None) -> str:
    if isinstance(step, Moments):
        return _draw_moments(graph, name, sums, step)
    if isinstance(step, Products):
        return _draw_products(graph, name, sums, step)
    if isinstance(step, Parts):
        return _draw_parts(graph, name, sums, step)
    return sums


def _draw_parts(graph: Nodes, name: str, sums: str, step: Parts) -> str:
    if not any(inner for _, inner in step.parts):
        return sums
    drawn, start = {}, 0
    for i, (width, inner) in enumerate(step.parts):
        part = _draw_part(graph, f"{name}.part{i}", sums, range(start, start + width))
        drawn[_draw_step(graph, part, part, inner)] = _width(inner, width)
        start += width
    return graph.join(f"{name}.columns", drawn)


def _draw_part(graph: Nodes, name: str, sums: str, places: range) -> str:
    """Neighbouring columns, made on their own where that is possible: the others may not be needed."""
    if sums in graph.maps:
        made = graph.maps[sums]
        return graph.linear(name, made.source, made.weights[:, places.start : places.stop])
    return graph.part(name, sums, places)


def _width(step: Step | None, width: int) -> int:
    """Columns that a step makes of so many sums."""
    if isinstance(step, Parts):
        return sum(_width(inner, part) for part, inner in step.parts)
    if isinstance(step, Products):
        return step.keep + (len(step.left) if step.weights is None else step.weights.shape[1])
    return step.head + 2 * len(step.depth_of) if isinstance(step, Moments) else width


def _draw_products(graph: Nodes, name: str, sums: str, step: Products) -> str:
    """The products of stretches of neighbouring sums, and what is kept, times what makes them columns."""
    made = graph.maps.get(sums)
    pieces = [
        _draw_product(graph, f"{name}.{i}", sums, *sorted(sides, key=len))
        for i, sides in enumerate(_runs(step.left, step.right))
    ]
    across = diagonal([weights for _, weights in pieces])
    if step.weights is not None:
        across = across @ step.weights
    tensors = [tensor for tensor, _ in pieces]
    if step.keep and made and len(made.weights) <= step.keep:
        tensors, across = [made.source, *tensors], diagonal([made.weights[:, : step.keep], across])
    elif step.keep:
        kept = graph.part(f"{name}.kept", sums, range(step.keep))
        tensors, across = [kept, *tensors], diagonal([np.eye(step.keep), across])
    beside = graph.add("Concat", f"{name}.products", *tensors, axis=1) if len(tensors) > 1 else tensors[0]
    return graph.linear(f"{name}.joined", beside, across)


def _draw_product(graph: Nodes, name: str, sums: str, few: range, many: range) -> tuple[str, NDArray[np.float64]]:
    """Products of sums: a tensor, and the weights that make them from it.

    One sum times many is the product with the counts that the many follow from, where these are fewer.
    """
    made = graph.maps.get(sums)
    rows = np.flatnonzero(made.weights[:, many.start : many.stop].any(axis=1)) if made else np.empty(0, np.int64)
    if made and len(few) == 1 and len(rows) and np.ptp(rows) < len(many):
        counts = range(int(rows[0]), int(rows[-1]) + 1)
        one = graph.linear(f"{name}.one", made.source, made.weights[:, few.start : few.stop])
        product = graph.add("Mul", name, one, graph.part(f"{name}.counts", made.source, counts))
        return product, made.weights[counts.start : counts.stop, many.start : many.stop]
    sides = graph.part(f"{name}.few", sums, few), graph.part(f"{name}.many", sums, many)
    return graph.add("Mul", name, *sides), np.eye(len(many))


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
