"""What a subnet has to do: its arithmetic and its traffic, counted over the nodes of its ONNX graph.

The counts say nothing of a device. They are what a latency is explained by before anything is learned, and what people
compare networks by: multiply-adds, parameters, bytes moved.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import shape_inference

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.pool import Allotment
from esm_onnx.export.settings import ExportSettings
from esm_onnx.export.writers import find_writer

BYTES = 4
"""Of one number in fp32."""

Counts = Counter[str]
"""Quantities by name, see `count_node`."""

PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one inference.

    Attributes:
        multiply_adds: of convolutions and matrix products.
        parameters: numbers in the initializers.
        traffic_bytes: inputs, outputs and parameters of all nodes, each read or written once.
        layers: convolutions and matrix products.
    """

    multiply_adds: int
    parameters: int
    traffic_bytes: int
    layers: int


def cost_of(space: Space, architecture: Architecture, settings: ExportSettings | None = None) -> Cost:
    """The cost of an architecture, from the graph that its writer makes.

    Raises:
        InputError: the architecture is not of this space, or the space cannot be written.
        ExportError: this architecture cannot be written.
    """
    total: Counts = Counter()
    for _, counts in node_counts(graph_of(space, architecture, settings or ExportSettings())):
        total.update(counts)
    return Cost(
        multiply_adds=sum(count for name, count in total.items() if name.startswith("macs.")),
        parameters=total["parameters"],
        traffic_bytes=BYTES * (total["traffic"] + total["parameters"]),
        layers=total["layers"],
    )


def graph_of(space: Space, architecture: Architecture, settings: ExportSettings) -> onnx.ModelProto:
    """An architecture as its writer draws it; its weights need not exist."""
    space.check(architecture)
    return find_writer(space)(space, architecture, settings, Allotment(0, embed=False))


def node_counts(subnet: onnx.ModelProto) -> Iterator[tuple[str, Counts]]:
    """Name and counts of each node."""
    shapes = shapes_of(subnet)
    weights = {tensor.name for tensor in subnet.graph.initializer}
    for node in subnet.graph.node:
        yield node.name, count_node(node, shapes, weights)


def shapes_of(subnet: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its name; shapes are static."""
    graph = shape_inference.infer_shapes(subnet).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return shapes


def count_node(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], weights: set[str]) -> Counts:
    """What one node does, in numbers (not bytes).

    macs.pointwise, macs.k3, …   multiply-adds of dense products, by kernel
    macs.depthwise               of convolutions with groups
    depthwise.k5, …              numbers that convolutions with groups put out, by kernel
    strided                      numbers that convolutions with a stride take in
    pooled                       numbers that become one for each channel: squeeze-excite, the head
    traffic                      numbers in and out, without parameters
    parameters, layers           numbers in initializers; 1 for a product
    """
    size = {name: math.prod(shapes.get(name, (0,))) for name in (*node.input, *node.output) if name}
    taken, given = size.get(node.input[0], 0) if node.input else 0, sum(size[name] for name in node.output if name)
    moved = sum(size[name] for name in node.input if name and name not in weights) + given
    # A scalar, such as a bound of Clip, is an attribute in all but form.
    parameters = sum(size[name] for name in node.input if name in weights and shapes[name])
    counts: Counts = Counter(traffic=moved, parameters=parameters)
    if node.op_type not in PRODUCTS:
        if node.op_type == "GlobalAveragePool":
            counts["pooled"] = taken
        return counts
    counts["layers"] = 1
    if node.op_type != "Conv":
        inner = shapes[node.input[0]][-1]
        counts["macs.pointwise"] = inner * given
        return counts
    _, inner, *kernel = shapes[node.input[1]]
    groups, strides = _attribute(node, "group", 1), _attribute(node, "strides", [1])
    multiply_adds = inner * math.prod(kernel) * given
    if groups > 1:
        counts.update({"macs.depthwise": multiply_adds, f"depthwise.k{max(kernel)}": given})
    else:
        counts["macs.pointwise" if max(kernel) == 1 else f"macs.k{max(kernel)}"] = multiply_adds
    if max(strides) > 1:
        counts["strided"] = taken
    return counts


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
