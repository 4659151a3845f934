"""The product: a predictor as one ONNX file, with encoding, scaling, surrogate, interval and validity inside.

Input `genome`, int64 [batch, length]. Outputs `latency_ms`, `lower_ms`, `upper_ms`, float32 [batch], or those of
another quantity (`energy_mj`, `lower_mj`, `upper_mj`); NaN in all three for a row that is no genome of the space.
Standard operators only.
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
from onnx import TensorProto, helper

from esm_onnx import __version__
from esm_onnx.architectures import genome_columns, genome_length
from esm_onnx.errors import WorkError
from esm_onnx.files import replacing
from esm_onnx.measurement.quantities import LATENCY, Quantity, quantity_of
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.drawing import draw_encoding
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.loaded import METADATA, SCHEMA
from esm_onnx.prediction.predictor import LEAST_MS, Predictor
from esm_onnx.prediction.surrogate import Nodes
from esm_onnx.prediction.validity import draw_validity

OPSET = 17
TOLERANCE = 1e-4
"""Greatest difference between the file in ONNX Runtime and the predictor in Python, as a share of the latency.

The latency is the prediction, or the measurement where that is greater: where latencies of one space spread over
several powers of ten, a few predictions end near 0, and float32 leaves them no four digits to agree in.
"""


def write_predictor(predictor: Predictor, path: Path | str, *, check: Dataset) -> None:
    """Writes predictor.onnx, once ONNX Runtime has shown to predict the same from it.

    Args:
        check: rows of the quantity that is predicted, on which both must agree to 1e-4 of it.

    Raises:
        WorkError: they do not agree; nothing is written.
    """
    model = build_model(predictor, quantity_of(check.quantity))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    _compare(predictor, content, check)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def build_model(predictor: Predictor, quantity: Quantity = LATENCY) -> onnx.ModelProto:
    """The ONNX model of a predictor of that quantity."""
    space, graph = predictor.space, Nodes()
    row = graph.add("Cast", "row", "genome", to=TensorProto.FLOAT)
    encoded = _draw_encoded(graph, predictor, row)
    latency = predictor.surrogate.draw(graph, encoded)
    latency = graph.add("Max", "latency.least", latency, graph.floats("least_ms", LEAST_MS))
    nothing = graph.floats("no_latency", math.nan)
    latency = graph.add("Where", "latency.valid", draw_validity(graph, space, row), latency, nothing)
    bounds = graph.add("Mul", "latency.bounds", latency, _draw_factors(graph, predictor, row))
    for i, name in enumerate(quantity.outputs):
        graph.add("Gather", name, bounds, graph.constant(f"{name}.column", np.array(i)), axis=1)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(*pair) for pair in graph.domains.items())]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "predictor",
            [helper.make_tensor_value_info("genome", TensorProto.INT64, ["batch", genome_length(space)])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in quantity.outputs],
            graph.constants,
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="esm-onnx",
        producer_version=__version__,
    )
    helper.set_model_props(model, {METADATA: json.dumps(metadata(predictor, quantity), allow_nan=False)})
    return model


def _draw_encoded(graph: Nodes, predictor: Predictor, row: str) -> str:
    """The encoded vectors, float32 [batch, columns].

    Where a column stands at a threshold, the last digit decides on which side: for a surrogate that jumps there, the
    encoding is computed as in Python, in float64, and rounded in the end. For others that would only take time.
    """
    if not getattr(predictor.surrogate, "jumps", False):
        return draw_encoding(graph, predictor.space, predictor.encoding, row)
    row = graph.add("Cast", "row.double", row, to=TensorProto.DOUBLE)
    encoded = draw_encoding(graph.doubles, predictor.space, predictor.encoding, row)
    return graph.add("Cast", "encoded.single", encoded, to=TensorProto.FLOAT)


def _draw_factors(graph: Nodes, predictor: Predictor, row: str) -> str:
    """[batch, 3]: what the latency is multiplied by for each output, by the bin that the row's depth falls into."""
    space, interval = predictor.space, predictor.interval
    factors = np.hstack([np.ones((len(interval.ranges), 1)), interval.factors])
    if len(factors) == 1:
        return graph.floats("factors", factors)
    first = np.zeros((genome_length(space), 1))
    first[len(space.network) :: len(space.features)] = 1
    present = graph.add("GreaterOrEqual", "depth.present", row, graph.floats("depth.zero", 0.0))
    present = graph.add("Cast", "depth.presence", present, to=TensorProto.FLOAT)
    depth = graph.add("MatMul", "depth", present, graph.floats("depth.places", first))
    above = graph.add("Greater", "depth.above", depth, graph.floats("depth.ends", [h for _, h in interval.ranges[:-1]]))
    above = graph.add("Cast", "depth.bins_below", above, to=TensorProto.INT64)
    place = graph.add("ReduceSum", "depth.bin", above, graph.constant("depth.axis", np.array([1])), keepdims=0)
    return graph.add("Gather", "factors.bin", graph.floats("factors", factors), place, axis=0)


def metadata(predictor: Predictor, quantity: Quantity = LATENCY) -> dict[str, Any]:
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
        "quantity": quantity.field,
        "encoding": {"name": encoding.name, "columns": encoding.columns(space)},
        "surrogate": predictor.surrogate.name,
        "measurements": {"trained": len(predictor.trained), "calibrated": interval.rows},
        "accuracy": quantity.named(evaluation.as_json()),
        "interval": {
            "coverage": interval.coverage,
            "depths": [list(pair) for pair in interval.ranges],
            "widths": [None if math.isinf(width) else width for width in interval.widths],
            "rows": interval.rows,
        },
        "dataset": predictor.dataset,
        "trained_on": " ".join(predictor.trained),
        "calibrated_on": " ".join(predictor.calibrated),
    }


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _compare(predictor: Predictor, content: bytes, check: Dataset) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    quantity = quantity_of(check.quantity)
    found = session.run(list(quantity.outputs), {"genome": check.genomes})
    for name, expected, given in zip(quantity.outputs, predictor.predict(check.genomes), found, strict=True):
        with np.errstate(invalid="ignore"):  # two infinite bounds are equal, though they have no difference
            near = np.abs(given - expected) <= TOLERANCE * np.maximum(expected, check.latency_ms)
        agree = (given == expected) | near
        if not agree.all():
            row = int(np.argmin(agree))
            raise WorkError(
                f"{name} of row {row} is {given[row]} {quantity.unit} in ONNX Runtime and {expected[row]} "
                f"{quantity.unit} in Python, expected a difference of at most {TOLERANCE:g} of the {quantity.name}: "
                "nothing was written"
            )
