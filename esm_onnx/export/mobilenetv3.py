"""MobileNetV3: inverted residuals with h-swish and squeeze-excite (Howard et al. 2019, Sections 4 and 5)."""

from __future__ import annotations

from fractions import Fraction

from esm_onnx.architectures import Architecture, Options, Space
from esm_onnx.export.graph import INTO_SUM, LINEAR, Graph, Tensor
from esm_onnx.export.space_reader import FLAG, ODD, POSITIVE_NUMBER, SpaceReader, exact, round_to_eight, whole

SETTINGS = ("widths", "strides", "se", "ratio", "stem", "head", "classes", "resolution")

SQUEEZE = 4
"""Squeeze-excite's hidden layer is this many times narrower than the block's middle."""


def draw_mobilenetv3(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a MobileNetV3.

    Settings: widths (one a unit); strides (2 in the first three units and in the last, else 1, as Once-for-All); se
    (0 or 1 a unit, 0; the feature `se` overrules it); ratio that expansions are a share of (1); stem (16); head
    (6 × the last width, 1280); classes (1000); resolution.
    """
    features = {"kernel": ODD, "expansion": POSITIVE_NUMBER}
    reader = SpaceReader(space, features=features, optional={"se": FLAG}, settings=SETTINGS)
    widths = reader.per_unit("widths")
    last = len(widths) - 1
    strides = reader.per_unit("strides", [2 if u < 3 or u == last else 1 for u in range(len(widths))])
    excited = reader.per_unit("se", [0] * len(widths), FLAG)
    ratio = exact(reader.number("ratio", 1, POSITIVE_NUMBER))
    x = graph.conv("stem.conv", graph.image(reader.resolution(architecture)), reader.number("stem", 16), 3, stride=2)
    x = graph.hard_swish("stem.act", x)
    for u, (blocks, width) in enumerate(zip(architecture.units, widths, strict=True)):
        for j, block in enumerate(blocks):
            factor, stride = exact(block["expansion"]) * ratio, strides[u] if j == 0 else 1
            excite = bool(block["se"] if reader.has("se") else excited[u])
            x = _inverted_residual(graph, f"u{u + 1}.b{j + 1}", x, block, width, factor, stride, excite=excite)
    return _head(graph, x, reader.numbers("head", 2, [6 * widths[-1], 1280]), reader.number("classes", 1000))


def _inverted_residual(
    graph: Graph, name: str, x: Tensor, block: Options, width: int, factor: Fraction, stride: int, *, excite: bool
) -> Tensor:
    middle = round_to_eight(factor * x.channels)
    y = x
    if factor != 1 or middle != x.channels:
        y = graph.hard_swish(f"{name}.act1", graph.conv(f"{name}.expand", y, middle, 1))
    y = graph.conv(f"{name}.depthwise", y, middle, whole(block["kernel"]), stride=stride, groups=middle)
    y = graph.hard_swish(f"{name}.act2", y)
    if excite:
        y = _squeeze_excite(graph, f"{name}.se", y)
    if stride == 1 and x.channels == width:
        return graph.add(f"{name}.add", graph.conv(f"{name}.project", y, width, 1, gain=INTO_SUM), x)
    return graph.conv(f"{name}.project", y, width, 1, gain=LINEAR)


def _squeeze_excite(graph: Graph, name: str, x: Tensor) -> Tensor:
    y = graph.conv(f"{name}.reduce", graph.mean_of_map(f"{name}.pool", x), _squeezed(x.channels), 1)
    y = graph.conv(f"{name}.expand", graph.relu(f"{name}.relu", y), x.channels, 1, gain=LINEAR)
    return graph.scale(f"{name}.scale", x, graph.hard_sigmoid(f"{name}.gate", y))


def _squeezed(channels: int) -> int:
    return round_to_eight(Fraction(channels, SQUEEZE))


def _head(graph: Graph, x: Tensor, widths: list[int], classes: int) -> Tensor:
    x = graph.hard_swish("head.act1", graph.conv("head.conv1", x, widths[0], 1))
    x = graph.conv("head.conv2", graph.mean_of_map("head.pool", x), widths[1], 1)
    return graph.classify(graph.hard_swish("head.act2", x), classes)
