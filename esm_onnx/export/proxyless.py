"""ProxylessNAS: inverted residuals with ReLU6 and a head of one layer (Cai et al. 2019, Section 4.2; Cai et al. 2020).

Settings: widths and strides (one a unit); kernels (one a unit, where blocks do not choose them); stem (32); first
(width of a fixed depthwise-separable block after the stem; none); head (1280); classes (1000); resolution.
"""

from __future__ import annotations

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.graph import Graph, Tensor
from esm_onnx.export.inverted_residual import UnitPlan, draw_inverted_residual, plan_blocks
from esm_onnx.export.space_reader import ODD, POSITIVE_NUMBER, SpaceReader

SETTINGS = ("widths", "strides", "kernels", "stem", "first", "head", "classes", "resolution")


def draw_proxyless(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a network of ProxylessNAS's."""
    reader = SpaceReader(space, features={"expansion": POSITIVE_NUMBER}, optional={"kernel": ODD}, settings=SETTINGS)
    widths, strides, stem = reader.per_unit("widths"), reader.per_unit("strides"), reader.number("stem", 32)
    units = [UnitPlan(width, stride, "relu6") for width, stride in zip(widths, strides, strict=True)]
    x = graph.conv("stem.conv", graph.image(reader.resolution(architecture)), stem, 3, stride=2)
    x = graph.relu6("stem.act", x)
    for block in plan_blocks(reader, architecture, units, stem=stem, activation="relu6"):
        x = draw_inverted_residual(graph, block, x)
    x = graph.relu6("head.act", graph.conv("head.conv", x, reader.number("head", 1280), 1))
    return graph.classify(graph.mean_of_map("head.pool", x), reader.number("classes", 1000))
