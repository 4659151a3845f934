"""Quantised subnets: weights and activations with explicit QuantizeLinear and DequantizeLinear nodes.

ONNX Runtime's own tool writes them: weights in int8 by channel, activations by the range that random images give,
biases in fp32 (TensorRT takes no others; who wants them in int32 makes them). As the weights are random, the accuracy
of such a network means nothing; its latency does. There are two kinds, by the activations:

- `int8`, symmetric around zero, which is all that TensorRT takes. Nothing is rounded between a layer and its activation
  function, so that both become one kernel there and in OpenVINO.
- `uint8` with a zero point, for which ONNX Runtime's kernels on the CPU are made. What comes out of every layer is
  rounded, and a function that only cuts off, as ReLU does, is part of the rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

IMAGES = 2
"""Random images that set the ranges of activations."""
LAYERS = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators that int8 kernels exist for; what stands between them stays in fp32."""
CUTS = ("Relu", "Clip")
KINDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "int8": {
            "activation_type": "QInt8",
            "op_types_to_quantize": [*LAYERS],
            "extra_options": {"ActivationSymmetric": True, "OpTypesToExcludeOutputQuantization": [*LAYERS]},
        },
        "uint8": {
            "activation_type": "QUInt8",
            "op_types_to_quantize": [*LAYERS, *CUTS],
            "extra_options": {"ActivationSymmetric": False},
        },
    }
)


def quantiser(activations: str) -> str:
    """What quantises, and how: another version may give another graph.

    Args:
        activations: one of `KINDS`.
    """
    import onnxruntime  # not needed by who only describes subnets

    return f"onnxruntime {onnxruntime.__version__}, activations {activations}, weights 7 bits, biases fp32"


def write_quantized(subnet: Path, into: Path, *, activations: str, seed: int) -> None:
    """Writes a subnet that is in fp32 as a quantised one, its weights inside.

    Args:
        activations: one of `KINDS`.
        seed: of the images.
    """
    from onnxruntime import quantization  # a second to import, for those who want it alone

    kind = KINDS[activations]
    with _quiet():
        quantization.quantize_static(
            str(subnet),
            str(into),
            _images(quantization, subnet, seed),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=kind["op_types_to_quantize"],
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: x86 without VNNI adds two products in 16, and 8 bits may overflow
            activation_type=quantization.QuantType[kind["activation_type"]],
            weight_type=quantization.QuantType.QInt8,
            extra_options={**kind["extra_options"], "WeightSymmetric": True, "QuantizeBias": False},
        )


def _images(quantization: Any, subnet: Path, seed: int) -> Any:
    """The images as ONNX Runtime's tool reads them: one by one, then None."""
    (value,) = onnx.load(subnet, load_external_data=False).graph.input
    shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(seed)
    images = ({value.name: rng.standard_normal(shape, dtype=np.float32)} for _ in range(IMAGES))

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(images, None)

    return Images()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to its own users, which goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
