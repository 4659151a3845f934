"""What a subnet is run on: random values, the same on every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]


def random_inputs(subnet: Path, seed: int) -> Arrays:
    """An array for each input of an ONNX file, in the file's order; an axis without a size counts 1."""
    graph = onnx.load(subnet, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(seed)
    inputs = {}
    for value in graph.input:
        if value.name not in weights:
            tensor = value.type.tensor_type
            shape = [axis.dim_value if axis.HasField("dim_value") else 1 for axis in tensor.shape.dim]
            inputs[value.name] = random_values(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, rng)
    return inputs


def random_values(kind: np.dtype[np.generic], shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.generic]:
    """Random floats; and zeros where numbers are whole, which every table has a row for."""
    if np.issubdtype(kind, np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(kind, copy=False)
    return np.zeros(shape, kind)
