"""The product: a predictor as one ONNX file, with encoding, scaling, surrogate, interval and validity inside.

Input `genome`, int64 [batch, length]. Outputs `latency_ms`, `lower_ms`, `upper_ms`, float32 [batch], or those of
another quantity (`energy_mj`, `lower_mj`, `upper_mj`); NaN in all three for a row that is no genome of the space.
Standard operators only. The file carries a digest of itself and a self-test (`digest`, `selftest`).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from esm_onnx import __version__
from esm_onnx.architectures import genome_columns, genome_length
from esm_onnx.errors import WorkError
from esm_onnx.files import replacing
from esm_onnx.measurement.quantities import LATENCY, Quantity, quantity_of
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.digest import DIGEST, UNSEALED, seal
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.graph import draw_predictor
from esm_onnx.prediction.loaded import METADATA, SCHEMA, run, session_of
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.selftest import Outputs, SelfTest, covering_genomes

OPSET = 17
TOLERANCE = 1e-4
"""Greatest difference between the file in ONNX Runtime and the predictor in Python, as a share of the latency.

The latency is the prediction, or the measurement where that is greater: where latencies of one space spread over
several powers of ten, a few predictions end near 0, and float32 leaves them no four digits to agree in.
"""


def write_predictor(
    predictor: Predictor, path: Path | str, *, check: Dataset, rounds: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Writes predictor.onnx, once ONNX Runtime has shown to predict the same from it.

    Args:
        check: rows of the quantity that is predicted, on which both must agree to 1e-4 of it.
        rounds: of the loop that it comes from, as JSON data.

    Raises:
        WorkError: they do not agree, or the test genomes get no prediction; nothing is written.
    """
    quantity = quantity_of(check.quantity)
    model = build_model(predictor, quantity)
    onnx.checker.check_model(model, full_check=True)
    outputs_of = partial(run, session_of(model.SerializeToString()), quantity)
    _compare(predictor, outputs_of, check)
    selftest = SelfTest.of(predictor.space, outputs_of)
    told = metadata(predictor, quantity) | {"selftest": selftest.as_json(), "rounds": list(rounds)}
    helper.set_model_props(model, {METADATA: json.dumps(told, allow_nan=False), DIGEST: UNSEALED})
    content = seal(model.SerializeToString(deterministic=True))
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_unmeasured(predictor: Predictor, path: Path | str) -> None:
    """Writes a predictor behind which no measurements stand: ONNX Runtime must predict the same for the genomes that
    cover its space.

    Raises:
        WorkError: as `write_predictor`.
    """
    genomes = covering_genomes(predictor.space)
    latency_ms = predictor.predict(genomes)[0].astype(np.float64)
    write_predictor(predictor, path, check=Dataset(predictor.space, genomes, latency_ms, predictor.target))


def build_model(predictor: Predictor, quantity: Quantity = LATENCY) -> onnx.ModelProto:
    """The graph of a predictor of that quantity, without what the file says of itself."""
    space, graph = predictor.space, draw_predictor(predictor, "genome", quantity.outputs)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(*pair) for pair in graph.domains.items())]
    return helper.make_model(
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


def metadata(predictor: Predictor, quantity: Quantity = LATENCY) -> dict[str, Any]:
    """What the file says of itself, as JSON data; the self-test comes beside it."""
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
        "bases": [
            {"target": base.name, "dataset": base.loaded.metadata["dataset"], "sha256": base.loaded.digest}
            for base in predictor.bases
        ],
        "measurements": {"trained": len(predictor.trained), "calibrated": interval.rows},
        "accuracy": evaluation and quantity.named(evaluation.as_json()),
        "interval": {
            "coverage": interval.coverage,
            "depths": [list(pair) for pair in interval.ranges],
            "widths": [None if math.isinf(width) else width for width in interval.widths],
            "rows": interval.rows,
        },
        "dataset": predictor.dataset,
        "trained_on": " ".join(predictor.trained),
        "calibrated_on": " ".join(predictor.calibrated),
        "out_of_fold": base64.b64encode(np.array(predictor.out_of_fold, "<f4").tobytes()).decode(),
    }


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _compare(predictor: Predictor, outputs_of: Outputs, check: Dataset) -> None:
    quantity = quantity_of(check.quantity)
    for (name, given), expected in zip(
        outputs_of(check.genomes).items(), predictor.predict(check.genomes), strict=True
    ):
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
