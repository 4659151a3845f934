"""ONNX as PyTorch: a graph of calls of torch.nn.functional, which runs as straight-line Python or is compiled.

An operator is a function of its inputs and, by name, its attributes. It is called once, when a file is read, with
stand-ins for the tensors; torch.fx writes down what it calls, and frees each value after its last use.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812 (everybody's name for it)
from onnx import helper, numpy_helper
from torch import Tensor, fx

from esm_onnx.errors import InputError

LEAST_OPSET = 13
"""The operators are read as from here on: Softmax and others meant something else before."""
Value = Any
"""A tensor, or what stands for one while a file is read."""


def read_graph(subnet: Path, device: torch.device | str = "cpu") -> fx.GraphModule:
    """The module that computes an ONNX file: a tuple of outputs from its inputs, in the file's order.

    `meta["layer"]` of its nodes is the name of the ONNX node that they come from.

    Raises:
        InputError: an operator, or a way to use it, that is not interpreted.
    """
    file = onnx.load(subnet)
    opset = max((entry.version for entry in file.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise InputError(f"opset {opset}, expected at least {LEAST_OPSET}: write it with a newer --opset", file=subnet)
    writer = Writer(device)
    weights = {tensor.name: tensor for tensor in file.graph.initializer}
    for value in file.graph.input:
        if value.name not in weights:
            writer.add_input(value.name)
    for name, tensor in weights.items():
        writer.add_constant(name, tensor)
    for node in file.graph.node:
        try:
            writer.add_node(node)
        except InputError as error:
            raise error.at(subnet) from None
    return writer.module([value.name for value in file.graph.output])


class Writer(fx.proxy.GraphAppendingTracer):
    """Writes a module node by node."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(fx.Graph())
        self.root = torch.nn.Module()
        self._device = device
        self._layer = ""
        self._values: dict[str, Value] = {"": None}  # an optional input that is left out has no name

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["layer"] = self._layer
        return node

    def add_input(self, name: str) -> None:
        self._values[name] = self.create_proxy("placeholder", f"input_{len(self._values)}", (), {})

    def add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        where = f"constant_{len(self._values)}"
        value = torch.tensor(numpy_helper.to_array(tensor), device=self._device)
        self.root.register_buffer(where, value)
        self._values[name] = self.create_proxy("get_attr", where, (), {})
        self._values[name].node.meta["constant"] = value

    def add_node(self, node: onnx.NodeProto) -> None:
        attributes = {each.name: _attribute(each) for each in node.attribute}
        if node.op_type == "Constant" and isinstance(attributes.get("value"), onnx.TensorProto):
            return self.add_constant(node.output[0], attributes["value"])
        self._layer = layer_of(node)
        what = f"{node.op_type} of {self._layer}"
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise InputError(f"operator {what} is not interpreted here, expected one of {', '.join(OPERATORS)}")
        if any(node.output[1:]):
            raise InputError(f"operator {what} has {len(node.output)} outputs, expected one")
        try:
            value = OPERATORS[node.op_type](*(self._values[name] for name in node.input), **attributes)
        except (TypeError, InputError) as error:
            raise InputError(f"operator {what} cannot be interpreted: {error}") from None
        self._values[node.output[0]] = value
        self._layer = ""
        return None

    def module(self, outputs: Sequence[str]) -> fx.GraphModule:
        """What was written."""
        self.graph.output(tuple(self._values[name].node for name in outputs)).meta["layer"] = ""
        for node in self.graph.nodes:
            node.meta.pop("constant", None)  # so that the module alone holds its weights
        self.graph.eliminate_dead_code()
        self._values.clear()
        module = fx.GraphModule(self.root, self.graph)
        return module.eval()


def layer_of(node: onnx.NodeProto) -> str:
    """What a node is called: by its output where it has no name."""
    return node.name or node.output[0]


def layers_of(module: fx.GraphModule) -> list[str]:
    """The layers of a module in their order."""
    return list(dict.fromkeys(node.meta["layer"] for node in module.graph.nodes if node.meta["layer"]))


def drop_weights(module: fx.GraphModule) -> None:
    """Frees the weights of a module that has had its time.

    It refers to itself, so they would stay until Python collects garbage, which it does by number and not by size.
    """
    for name, _ in list(module.named_buffers()):
        delattr(module, name)


def bytes_of(module: fx.GraphModule, inputs: Sequence[Tensor]) -> int:
    """What weights, other constants and inputs take."""
    return sum(tensor.nbytes for tensor in (*module.buffers(), *inputs))


def compiled(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """What torch.compile makes of a module; it has run once.

    Raises:
        InputError: it could not be compiled.
    """
    fast = torch.compile(module, dynamic=False, fullgraph=True)
    try:
        with torch.inference_mode():
            fast(*inputs)
    except Exception as error:  # of a dozen classes, by what is missing
        why = str(error).strip().splitlines()[0]
        raise InputError(
            f"torch.compile gave up: {why}; it needs a C++ compiler for a CPU and Triton for a GPU: install them, or "
            "measure without --compile"
        ) from error
    return fast


class LayerTimer(fx.Interpreter):
    """Runs a module node by node, with a mark before and after each.

    Args:
        mark: what is to be kept of a moment.
    """

    def __init__(self, module: fx.GraphModule, mark: Callable[[], Any]) -> None:
        super().__init__(module)
        self._mark = mark
        self.marks: list[tuple[str, Any, Any]] = []

    def run_node(self, n: fx.Node) -> Any:
        before = self._mark()
        result = super().run_node(n)
        if n.meta["layer"]:
            self.marks.append((n.meta["layer"], before, self._mark()))
        return result

    def sums(self, between: Callable[[Any, Any], float]) -> dict[str, float]:
        """What lay between the marks of each layer, summed, by the layer's name."""
        total = dict.fromkeys(layers_of(self.module), 0.0)  # type: ignore[arg-type]
        for layer, before, after in self.marks:
            total[layer] += between(before, after)
        return total


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def constant(x: Value) -> Tensor | None:
    """The tensor that a stand-in stands for, where the file has it."""
    return x.node.meta.get("constant") if isinstance(x, fx.Proxy) else None


def whole_numbers(x: Value, name: str) -> list[int]:
    """An input, or an attribute of older operator sets, that must be known when the file is read."""
    if isinstance(x, Sequence):
        return list(x)
    known = constant(x)
    if known is None:
        raise InputError(f"its {name} is computed, expected a constant")
    return [int(value) for value in known.flatten().tolist()]


def number(x: Value) -> Value:
    """A constant of one element as a Python number: no tensor need be read for it."""
    known = constant(x)
    return x if known is None or known.numel() != 1 else known.item()


def padded(x: Value, pads: Sequence[int], auto_pad: str, value: float = 0.0) -> tuple[Value, list[int]]:
    """An image, and what is still to be added on both sides of height and width: torch knows no uneven padding."""
    if auto_pad not in ("NOTSET", "VALID"):
        raise InputError(f"auto_pad {auto_pad}, expected explicit pads")
    top, left, bottom, right = (0, 0, 0, 0) if auto_pad == "VALID" else pads
    if (top, left) == (bottom, right):
        return x, [top, left]
    return F.pad(x, [left, right, top, bottom], value=value), [0, 0]


def conv(
    x: Value,
    weight: Value,
    bias: Value = None,
    *,
    kernel_shape: Sequence[int] = (),  # noqa: ARG001 (the weight has it)
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Value:
    x, padding = padded(x, pads, auto_pad)
    return F.conv2d(x, weight, bias, list(strides), padding, list(dilations), group)


def max_pool(
    x: Value,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    ceil_mode: int = 0,
    storage_order: int = 0,  # noqa: ARG001 (of the indices alone)
    auto_pad: str = "NOTSET",
) -> Value:
    x, padding = padded(x, pads, auto_pad, value=-torch.inf)
    if ceil_mode and tuple(padding) != tuple(pads[:2]):
        raise InputError(f"ceil_mode with the uneven pads {list(pads)}, expected ceil_mode 0")
    if any(2 * pad > side for pad, side in zip(padding, kernel_shape, strict=True)):  # torch refuses it
        height, width = padding
        x, padding = F.pad(x, [width, width, height, height], value=-torch.inf), [0, 0]
    return F.max_pool2d(x, list(kernel_shape), list(strides), padding, list(dilations), bool(ceil_mode))


def average_pool(
    x: Value,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> Value:
    uneven = auto_pad == "NOTSET" and tuple(pads[:2]) != tuple(pads[2:])
    if (uneven and (ceil_mode or not count_include_pad)) or any(step != 1 for step in dilations):
        raise InputError(f"pads {list(pads)} and dilations {list(dilations)}, expected even pads and no dilations")
    x, padding = padded(x, pads, auto_pad)
    return F.avg_pool2d(x, list(kernel_shape), list(strides), padding, bool(ceil_mode), bool(count_include_pad))


def batch_norm(
    x: Value,
    scale: Value,
    bias: Value,
    mean: Value,
    variance: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,  # noqa: ARG001 (of training alone)
    training_mode: int = 0,
) -> Value:
    if training_mode:
        raise InputError("training_mode 1, expected 0")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def clip(x: Value, low: Value = None, high: Value = None) -> Value:
    return x if low is high is None else torch.clamp(x, number(low), number(high))


def gemm(
    a: Value, b: Value, c: Value = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    a, b = a.t() if transA else a, b if transB else b.t()
    bias = constant(c)
    if c is None or (alpha == beta == 1 and bias is not None and bias.dim() == 1):
        return F.linear(a, b, c) if alpha == 1 else alpha * F.linear(a, b)
    return alpha * F.linear(a, b) + beta * c


def flatten(x: Value, *, axis: int = 1) -> Value:
    if axis == 0:
        return x.reshape(1, -1)
    return x.flatten(1) if axis == 1 else x.flatten(axis).flatten(0, -2)


def reshape(x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    sides = whole_numbers(shape, "shape")
    return x.reshape([x.size(i) if side == 0 and not allowzero else side for i, side in enumerate(sides)])


def reduce_mean(
    x: Value,
    axes: Value = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,  # noqa: ARG001 (there must be axes)
) -> Value:
    if axes is None:
        raise InputError("it has no axes, expected some")
    return x.mean(whole_numbers(axes, "axes"), bool(keepdims))


def pad(x: Value, pads: Value, value: Value = None, *, mode: str = "constant") -> Value:
    if mode != "constant":
        raise InputError(f"mode {mode}, expected constant")
    widths = whole_numbers(pads, "pads")
    begins, ends = widths[: len(widths) // 2], widths[len(widths) // 2 :]
    last_first = [width for both in reversed(list(zip(begins, ends, strict=True))) for width in both]
    return F.pad(x, last_first, value=0.0 if value is None else number(value))


OPERATORS: Mapping[str, Callable[..., Value]] = MappingProxyType(
    {
        "Add": operator.add,
        "AveragePool": average_pool,
        "BatchNormalization": batch_norm,
        "Clip": clip,
        "Concat": lambda *parts, axis: torch.cat(parts, axis),
        "Conv": conv,
        "Div": operator.truediv,
        "Flatten": flatten,
        "Gemm": gemm,
        "GlobalAveragePool": lambda x: F.adaptive_avg_pool2d(x, 1),
        "GlobalMaxPool": lambda x: F.adaptive_max_pool2d(x, 1),
        "HardSigmoid": hard_sigmoid,
        "HardSwish": lambda x: F.hardswish(x),
        "Identity": lambda x: x,
        "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
        "MatMul": operator.matmul,
        "MaxPool": max_pool,
        "Mul": operator.mul,
        "Pad": pad,
        "ReduceMean": reduce_mean,
        "Relu": lambda x: F.relu(x),
        "Reshape": reshape,
        "Sigmoid": lambda x: torch.sigmoid(x),
        "Softmax": lambda x, *, axis=-1: F.softmax(x, axis),
        "Sub": operator.sub,
        "Tanh": lambda x: torch.tanh(x),
        "Transpose": lambda x, *, perm: x.permute(list(perm)),
    }
)
"""What each operator of ONNX is in PyTorch: those of our writers, and some that supernets of others have."""
