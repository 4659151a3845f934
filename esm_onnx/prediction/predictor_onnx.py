"""The product: a predictor as one ONNX file, with encoding, scaling, surrogate, interval and validity inside.

Input `genome`, int64 [batch, length]. Outputs `latency_ms`, `lower_ms`, `upper_ms`, float32 [batch]; NaN in all three
for a row that is no genome of the space. Standard operators only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from esm_onnx import __version__
from esm_onnx.architectures import Space, genome_columns, genome_length
from esm_onnx.errors import WorkError
from esm_onnx.files import replacing
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import Moments, combination_strides, find_encoding
from esm_onnx.prediction.loaded import METADATA, OUTPUTS, SCHEMA
from esm_onnx.prediction.predictor import LEAST_MS, Predictor
from esm_onnx.prediction.surrogate import Nodes
from esm_onnx.prediction.validity import draw_validity

OPSET = 17
TOLERANCE = 1e-4
"""Greatest difference between the file in ONNX Runtime and the predictor in torch, as a share of the latency.

The latency is the prediction, or the measurement where that is greater: where latencies of one space spread over
several powers of ten, a few predictions end near 0, and float32 leaves them no four digits to agree in.
"""


def write_predictor(predictor: Predictor, path: Path | str, *, check: Dataset) -> None:
    """Writes predictor.onnx, once ONNX Runtime has shown to predict the same from it.

    Args:
        check: rows on which both must agree to 1e-4 of the latency.

    Raises:
        WorkError: they do not agree; nothing is written.
    """
    model = build_model(predictor)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    _compare(predictor, content, check)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def build_model(predictor: Predictor) -> onnx.ModelProto:
    """The ONNX model of a predictor."""
    space, graph = predictor.space, Nodes()
    row = graph.add("Cast", "row", "genome", to=TensorProto.FLOAT)
    encoded = draw_encoding(graph, space, predictor.encoding, row)
    latency = predictor.surrogate.draw(graph, encoded)
    latency = graph.add("Max", "latency.least", latency, graph.floats("least_ms", LEAST_MS))
    nothing = graph.floats("no_latency", math.nan)
    latency = graph.add("Where", "latency.valid", draw_validity(graph, space, row), latency, nothing)
    factors = graph.floats("factors", [1, *predictor.interval.factors])
    bounds = graph.add("Mul", "latency.bounds", latency, factors)
    for i, name in enumerate(OUTPUTS):
        graph.add("Gather", name, bounds, graph.constant(f"{name}.column", np.array(i)), axis=1)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "predictor",
            [helper.make_tensor_value_info("genome", TensorProto.INT64, ["batch", genome_length(space)])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in OUTPUTS],
            graph.constants,
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="esm-onnx",
        producer_version=__version__,
    )
    helper.set_model_props(model, {METADATA: json.dumps(metadata(predictor), allow_nan=False)})
    return model


def draw_encoding(graph: Nodes, space: Space, name: str, row: str) -> str:
    """Nodes from genomes as float32 [batch, length] to encoded vectors [batch, columns].

    Each slot's options become the number of their combination by one product with the strides; an absent block gets a
    negative number, so it equals none of them. Comparing gives zeros and ones, and one product with the encoding's
    table gives the vector.
    """
    table, strides = find_encoding(name).table(space), combination_strides(space)
    head, slots, combinations = len(space.network), sum(space.slots), len(space.combinations)
    codes = np.zeros((genome_length(space), slots))
    for slot in range(slots):
        codes[head + slot * len(strides) : head + (slot + 1) * len(strides), slot] = strides
    code = graph.add("MatMul", "slot.code", row, graph.floats("slot.strides", codes))
    code = graph.add("Unsqueeze", "slot.column", code, graph.constant("slot.axis", np.array([2])))
    held = graph.add("Equal", "slot.held", code, graph.floats("slot.combinations", np.arange(combinations)))
    held = graph.add("Cast", "slot.indicator", held, to=TensorProto.FLOAT)
    held = graph.add("Reshape", "slot.row", held, graph.constant("slot.shape", np.array([-1, slots * combinations])))
    encoded = graph.add("MatMul", "encoded.blocks", held, graph.floats("encoded.table", table.blocks))
    if head:
        encoded = graph.add("Add", "encoded.sum", encoded, _draw_network(graph, space, table.network, row))
    if table.moments is None:
        return encoded
    return _draw_moments(graph, encoded, table.moments)


def metadata(predictor: Predictor) -> dict[str, Any]:
    """What the file says of itself, as JSON data."""
    space, evaluation = predictor.space, predictor.evaluation
    encoding, interval = find_encoding(predictor.encoding), predictor.interval
    return {
        "schema": SCHEMA,
        "tool": f"esm-onnx {__version__}",
        "space": space.table(export=True),
        "fingerprint": space.fingerprint,
        "genome": genome_columns(space),
        "target": _plain(predictor.target),
        "quantity": "latency_ms",
        "encoding": {"name": encoding.name, "columns": encoding.columns(space)},
        "surrogate": predictor.surrogate.name,
        "measurements": {"trained": len(predictor.trained), "held_out": interval.rows},
        "accuracy": evaluation.as_json(),
        "interval": {
            "coverage": interval.coverage,
            "width": None if math.isinf(interval.width) else interval.width,
            "held_out": interval.rows,
        },
        "dataset": predictor.dataset,
        "trained_on": " ".join(predictor.trained),
        "calibrated_on": " ".join(predictor.calibrated),
    }


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _draw_network(graph: Nodes, space: Space, table: NDArray[np.float64], row: str) -> str:
    """What the options of the network add: each compared with its indices, then one product."""
    options = [(i, index) for i, feature in enumerate(space.network) for index in range(len(feature.options))]
    columns = graph.constant("network.columns", np.array([i for i, _ in options]))
    spread = graph.add("Gather", "network.spread", row, columns, axis=1)
    held = graph.add("Equal", "network.held", spread, graph.floats("network.options", [index for _, index in options]))
    held = graph.add("Cast", "network.indicator", held, to=TensorProto.FLOAT)
    return graph.add("MatMul", "encoded.network", held, graph.floats("network.table", table))


def _draw_moments(graph: Nodes, counted: str, moments: Moments) -> str:
    """The second step of the encoding `statistical`, see `encodings.Moments`."""
    sizes = graph.constant("moments.sizes", np.array([moments.head, len(moments.values)]))
    graph.nodes.append(helper.make_node("Split", [counted, sizes], ["moments.head", "moments.counts"], axis=1))
    depth = graph.add(
        "Gather",
        "moments.depth",
        "moments.head",
        graph.constant("moments.depth_of", np.array(moments.depth_of)),
        axis=1,
    )
    total = graph.add("MatMul", "moments.total", "moments.counts", graph.floats("moments.values", moments.values))
    mean = graph.add("Div", "moments.mean", total, depth)
    apart = graph.add("MatMul", "moments.apart", "moments.counts", graph.floats("moments.distances", moments.distances))
    pairs = graph.add("Mul", "moments.pairs", apart, "moments.counts")
    squares = graph.add("MatMul", "moments.squares", pairs, graph.floats("moments.members", moments.members))
    deviation = graph.add("Div", "moments.deviation", graph.add("Sqrt", "moments.root", squares), depth)
    return graph.add("Concat", "moments.columns", "moments.head", mean, deviation, axis=1)


def _compare(predictor: Predictor, content: bytes, check: Dataset) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS), {"genome": check.genomes})
    for name, expected, given in zip(OUTPUTS, predictor.predict(check.genomes), found, strict=True):
        with np.errstate(invalid="ignore"):  # two infinite bounds are equal, though they have no difference
            near = np.abs(given - expected) <= TOLERANCE * np.maximum(expected, check.latency_ms)
        agree = (given == expected) | near
        if not agree.all():
            row = int(np.argmin(agree))
            raise WorkError(
                f"{name} of row {row} is {given[row]} ms in ONNX Runtime and {expected[row]} ms in torch, expected a "
                f"difference of at most {TOLERANCE:g} of the latency: nothing was written"
            )
