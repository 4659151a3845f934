"""A graph under construction: ONNX nodes made directly, with static shapes.

Nodes and their outputs share one name, which begins with the block they belong to (`u2.b3.conv2`), so that a profile by
node can be summed by block. The input is called `input`, the output `logits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from esm_onnx.export.pool import BIAS, POSITIVE, Allotment, Section, weight_section

INPUT = "input"
OUTPUT = "logits"

INTO_RELU = 2.0
"""Gain of a layer before a rectifier, which halves the second moment (He et al. 2015)."""
LINEAR = 1.0
"""Gain of a layer whose output goes on as it is."""
INTO_SUM = 0.25
"""Gain of the last layer of a residual branch: small, since each sum adds to what came before."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that flows through the graph: its name and its shape, [batch, channels, height, width]."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def side(self) -> int:
        """Height of the map, which is as wide as high."""
        return self.shape[2]


class Graph:
    """Collects nodes and initializers; each method adds a node and returns its output.

    Args:
        allotment: where initializers come from.
        batch: images of one inference.
    """

    def __init__(self, allotment: Allotment, batch: int) -> None:
        self._allotment = allotment
        self._batch = batch
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._input = Tensor(INPUT, ())

    def image(self, resolution: int) -> Tensor:
        """The input: RGB images of `resolution` × `resolution`."""
        self._input = Tensor(INPUT, (self._batch, 3, resolution, resolution))
        return self._input

    def conv(
        self,
        name: str,
        x: Tensor,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        gain: float = INTO_RELU,
    ) -> Tensor:
        """A convolution with bias (batch norm is folded into it), padded by half its odd kernel."""
        inputs, pad = x.channels // groups, kernel // 2
        weights = [
            self._weights(f"{name}.weight", (channels, inputs, kernel, kernel), inputs * kernel**2, gain),
            self._initializer(f"{name}.bias", (channels,), BIAS),
        ]
        side = _slide(x.side, kernel, stride, pad)
        shape = (self._batch, channels, side, side)
        attributes = {
            "kernel_shape": [kernel] * 2,
            "pads": [pad] * 4,
            "strides": [stride] * 2,
            "group": groups,
        }
        return self._node("Conv", name, [x.name, *weights], shape, attributes)

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """A batch norm that stays, where no convolution before it can take it in."""
        sections = {"scale": POSITIVE, "bias": BIAS, "mean": BIAS, "variance": POSITIVE}
        inputs = [self._initializer(f"{name}.{part}", (x.channels,), section) for part, section in sections.items()]
        return self._node("BatchNormalization", name, [x.name, *inputs], x.shape)

    def relu(self, name: str, x: Tensor) -> Tensor:
        return self._node("Relu", name, [x.name], x.shape)

    def relu6(self, name: str, x: Tensor) -> Tensor:
        """max(0, min(6, x)) (Sandler et al. 2018, Section 3.1)."""
        bounds = [self._scalar(f"{name}.{side}", bound) for side, bound in (("least", 0.0), ("greatest", 6.0))]
        return self._node("Clip", name, [x.name, *bounds], x.shape)

    def hard_swish(self, name: str, x: Tensor) -> Tensor:
        return self._node("HardSwish", name, [x.name], x.shape)

    def hard_sigmoid(self, name: str, x: Tensor) -> Tensor:
        """max(0, min(1, x/6 + 1/2)) (Howard et al. 2019, Section 5.2)."""
        return self._node("HardSigmoid", name, [x.name], x.shape, {"alpha": 1 / 6, "beta": 0.5})

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        return self._node("Add", name, [x.name, y.name], x.shape)

    def scale(self, name: str, x: Tensor, factors: Tensor) -> Tensor:
        """Each channel of `x` times its factor; `factors` is [batch, channels, 1, 1]."""
        return self._node("Mul", name, [x.name, factors.name], x.shape)

    def concat(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """The channels of both."""
        shape = (self._batch, x.channels + y.channels, *x.shape[2:])
        return self._node("Concat", name, [x.name, y.name], shape, {"axis": 1})

    def max_pool(self, name: str, x: Tensor, kernel: int, *, stride: int) -> Tensor:
        """The greatest of each window, padded by half its odd kernel."""
        pad = kernel // 2
        side = _slide(x.side, kernel, stride, pad)
        attributes = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2}
        return self._node("MaxPool", name, [x.name], (*x.shape[:2], side, side), attributes)

    def average_pool(self, name: str, x: Tensor, size: int) -> Tensor:
        """The mean of each `size` × `size` pixels, at the lower and the right edge of what is left of them."""
        side = -(-x.side // size)
        attributes = {"kernel_shape": [size] * 2, "strides": [size] * 2, "ceil_mode": int(x.side % size > 0)}
        return self._node("AveragePool", name, [x.name], (*x.shape[:2], side, side), attributes)

    def halve(self, name: str, x: Tensor) -> Tensor:
        """The mean of each 2 × 2 pixels; a map of one pixel stays as it is."""
        if x.side == 1:
            return x
        shape = (*x.shape[:2], x.side // 2, x.side // 2)
        return self._node("AveragePool", name, [x.name], shape, {"kernel_shape": [2, 2], "strides": [2, 2]})

    def mean_of_map(self, name: str, x: Tensor) -> Tensor:
        """The mean of each channel: [batch, channels, 1, 1]."""
        return self._node("GlobalAveragePool", name, [x.name], (*x.shape[:2], 1, 1))

    def classify(self, x: Tensor, classes: int) -> Tensor:
        """The fully connected layer that ends a network: from [batch, channels, 1, 1] to `logits`, [batch, classes]."""
        flat = self._node("Flatten", "head.flatten", [x.name], x.shape[:2], {"axis": 1})
        weights = [
            self._weights("head.fc.weight", (classes, x.channels), x.channels, LINEAR),
            self._initializer("head.fc.bias", (classes,), BIAS),
        ]
        shape = (self._batch, classes)
        return self._node("Gemm", "head.fc", [flat.name, *weights], shape, {"transB": 1}, output=OUTPUT)

    def model(self, output: Tensor, name: str, opset: int) -> onnx.ModelProto:
        """The finished ONNX model, for the oldest runtimes that its operator set allows."""
        kind = self._allotment.data_type
        takes, gives = (helper.make_tensor_value_info(end.name, kind, end.shape) for end in (self._input, output))
        graph = helper.make_graph(self._nodes, name, [takes], [gives], self._initializers)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="esm-onnx",
        )

    def _weights(self, name: str, shape: Sequence[int], fan_in: int, gain: float) -> str:
        return self._initializer(name, shape, weight_section(fan_in, gain))

    def _initializer(self, name: str, shape: Sequence[int], section: Section) -> str:
        self._initializers.append(self._allotment.take(name, shape, section))
        return name

    def _scalar(self, name: str, value: float) -> str:
        """A constant that an operator takes as an input, and that is no weight."""
        self._initializers.append(helper.make_tensor(name, self._allotment.data_type, (), [value]))
        return name

    def _node(
        self,
        operator: str,
        name: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        attributes: Mapping[str, Any] | None = None,
        *,
        output: str | None = None,
    ) -> Tensor:
        result = Tensor(output or name, shape)
        self._nodes.append(helper.make_node(operator, inputs, [result.name], name, **(attributes or {})))
        return result


def _slide(side: int, kernel: int, stride: int, pad: int) -> int:
    return (side + 2 * pad - kernel) // stride + 1
