"""Correct before fast: a runtime's outputs beside those of ONNX Runtime on the CPU in fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from esm_onnx.measurement.inputs import Arrays

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "tf32": 2e-3, "fp16": 5e-3, "int8": 0.1}
"""How far an output may be from fp32's, as a share of the greatest output, by precision. On the deepest networks of our
families other orders of summing made 1e-6, TF32's rounding 5e-4, fp16's 6e-4, bf16's 3e-3 and int8's 2e-2: so fp32
that is TF32 in truth is found, with room for Winograd's convolutions and for sums in fp16."""
OTHER = 0.1
"""The same, of a precision that only a stranger's runtime knows."""
ERRORS_ONLY = 3


def expected_outputs(subnet: Path, inputs: Arrays) -> list[NDArray[Any]]:
    """What a file, a subnet in fp32, computes on ONNX Runtime's CPU provider.

    Args:
        inputs: by name; fp16 will do where the file wants fp32.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(subnet), options, providers=["CPUExecutionProvider"])
    wide = {x.name for x in session.get_inputs() if x.type == "tensor(float)"}
    inputs = {name: value.astype(np.float32) if name in wide else value for name, value in inputs.items()}
    outputs: list[NDArray[Any]] = session.run(None, inputs)
    return outputs


def disagreement(outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], precision: str) -> str | None:
    """What is wrong with the outputs; None where they agree within the precision's tolerance."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs, expected {len(expected)}"
    tolerance = TOLERANCES.get(precision, OTHER)
    for number, (output, right) in enumerate(zip(outputs, expected, strict=True)):
        if output.shape != right.shape:
            return f"output {number} has the shape {output.shape}, expected {right.shape}"
        scale = float(np.abs(right).max(initial=0.0))
        apart = float(np.abs(output.astype(np.float64) - right).max(initial=0.0))
        if apart > tolerance * scale:
            return (
                f"output {number} differs by up to {apart:.2g} from ONNX Runtime's on the CPU, whose greatest is "
                f"{scale:.2g}; expected at most {100 * tolerance:g} % of that in {precision}"
            )
    return None
