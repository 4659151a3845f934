"""Subnets in int8: weights and activations are quantised with explicit QuantizeLinear and DequantizeLinear nodes.

That is what TensorRT, OpenVINO and ONNX Runtime all read. ONNX Runtime's own tool writes them: symmetric, weights by
channel, activations by the range that random images give. As the weights are random, the accuracy of such a network
means nothing; its latency does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

IMAGES = 2
"""Random images that set the ranges of activations."""
QUANTISED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip"),
)
"""Operators that int8 kernels exist for; what stands between them stays in fp32."""


def quantiser() -> str:
    """What quantises: another version may give another graph."""
    import onnxruntime  # not needed by who only describes subnets

    return f"onnxruntime {onnxruntime.__version__}"


def write_quantized(subnet: Path, into: Path, *, seed: int) -> None:
    """Writes a subnet that is in fp32 as one in int8, its weights inside.

    Args:
        seed: of the images.
    """
    from onnxruntime import quantization  # a second to import, for those who want int8 alone

    with _quiet():
        quantization.quantize_static(
            str(subnet),
            str(into),
            _images(quantization, subnet, seed),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: x86 without VNNI adds two products in 16, and 8 bits may overflow
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
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
