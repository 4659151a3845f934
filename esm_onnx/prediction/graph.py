"""The graph of predictor.onnx: encoding, surrogate, validity and interval, from genomes to the three outputs."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from esm_onnx.prediction.drawing import draw_encoding
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.predictor import LEAST_MS, Predictor
from esm_onnx.prediction.surrogate import Nodes
from esm_onnx.prediction.validity import draw_depth


def draw_predictor(predictor: Predictor, genome: str, outputs: tuple[str, ...]) -> Nodes:
    """Nodes from `genome`, int64 [batch, length], to the prediction and its bounds, float32 [batch] each."""
    graph = Nodes()
    row = graph.add("Cast", "row", genome, to=TensorProto.FLOAT)
    latency = predictor.surrogate.draw(graph, _draw_columns(graph, predictor, genome, row))
    latency = graph.add("Clip", "latency.least", latency, graph.floats("least_ms", LEAST_MS))
    bounds = graph.add("Mul", "latency.bounds", latency, _draw_factors(graph, predictor, row))
    for i, name in enumerate(outputs):
        graph.add("Gather", name, bounds, graph.constant(f"{name}.column", np.array(i)), axis=1)
    graph.drop_unused(outputs)
    return graph


def _draw_columns(graph: Nodes, predictor: Predictor, genome: str, row: str) -> str:
    """What the surrogate takes, float32 [batch, columns]: what the bases predict, and the encoded vectors."""
    encoded = _draw_encoded(graph, predictor, row)
    if not predictor.bases:
        return encoded
    drawn = {base.draw(graph, genome, f"base{i}."): 1 for i, base in enumerate(predictor.bases, 1)}
    width = len(find_encoding(predictor.encoding).columns(predictor.space))
    return graph.join("columns", {**drawn, **graph.joined.get(encoded, {encoded: width})})


def _draw_encoded(graph: Nodes, predictor: Predictor, row: str) -> str:
    """The encoded vectors, float32 [batch, columns].

    Where a column stands at a threshold, the last digit decides on which side: for a surrogate that jumps there, the
    encoding is computed as in Python, in float64, and rounded in the end. For others that would only take time.
    """
    if not getattr(predictor.surrogate, "jumps", False):
        return draw_encoding(graph, predictor.space, predictor.encoding, row)
    encoded = draw_encoding(graph.doubles, predictor.space, predictor.encoding, row)
    return graph.add("Cast", "encoded.single", encoded, to=TensorProto.FLOAT)


def _draw_factors(graph: Nodes, predictor: Predictor, row: str) -> str:
    """[batch, 4]: what the latency is multiplied by for each output, by the row's depth; NaN if it is no genome."""
    interval = predictor.interval
    depths = np.arange(1, predictor.space.depth_range[1] + 1)
    # four columns, as ONNX Runtime makes more nodes of gathers that take all columns
    factors = np.full((len(depths) + 1, 4), math.nan)
    factors[1:, 0] = 1.0
    factors[1:, 1:3] = interval.factors[interval.bins_of(depths)]
    depth = graph.add("Cast", "depth.whole", draw_depth(graph, predictor.space, row), to=TensorProto.INT64)
    return graph.add("GatherND", "factors.found", graph.floats("factors", factors), depth)
