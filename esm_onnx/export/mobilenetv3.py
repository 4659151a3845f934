"""MobileNetV3: inverted residuals with h-swish and squeeze-excite (Howard et al. 2019, Sections 4 and 5).

Settings: widths (one a unit); strides (2 in the first three units and in the last, else 1, as Once-for-All); se (0 or 1
a unit, 0; the feature `se` overrules it); hswish (0 or 1 a unit, 1; 0 is ReLU); ratio that expansions are a share of
(1); stem (16); first (width of a fixed depthwise-separable block with ReLU after the stem; none); head (6 × the last
width, 1280); classes (1000); resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.graph import INTO_SUM, LINEAR, Graph, Tensor
from esm_onnx.export.space_reader import FLAG, ODD, POSITIVE_NUMBER, SpaceReader, exact, round_to_eight, whole

SETTINGS = ("widths", "strides", "se", "hswish", "ratio", "stem", "first", "head", "classes", "resolution")

SQUEEZE = 4
"""Squeeze-excite's hidden layer is this many times narrower than the block's middle."""


@dataclass(frozen=True, slots=True)
class InvertedResidual:
    """A block as it is drawn.

    Attributes:
        name: what its nodes' names begin with.
        inputs, middle, width: channels that come in, of the depthwise convolution, that go out.
        expands: whether a convolution leads from the inputs to the middle.
        excites: whether it has squeeze-excite.
        hard_swish: its activation; else ReLU.
    """

    name: str
    inputs: int
    middle: int
    width: int
    kernel: int
    stride: int
    expands: bool
    excites: bool
    hard_swish: bool

    @property
    def skips(self) -> bool:
        """Whether its input is added to its output."""
        return self.stride == 1 and self.inputs == self.width


@dataclass(frozen=True, slots=True)
class MobileNetV3:
    """A network as it is drawn: side of the image in pixels, and channels."""

    resolution: int
    stem: int
    blocks: tuple[InvertedResidual, ...]
    head: tuple[int, int]
    classes: int


def plan_mobilenetv3(space: Space, architecture: Architecture) -> MobileNetV3:
    """What there is to draw for an architecture.

    Raises:
        InputError: the space lacks what the writer needs, or has what it does not know.
    """
    features = {"kernel": ODD, "expansion": POSITIVE_NUMBER}
    reader = SpaceReader(space, features=features, optional={"se": FLAG}, settings=SETTINGS)
    widths = reader.per_unit("widths")
    wide, wider = reader.numbers("head", 2, [6 * widths[-1], 1280])
    return MobileNetV3(
        reader.resolution(architecture),
        reader.number("stem", 16),
        tuple(_blocks(reader, widths, architecture)),
        (wide, wider),
        reader.number("classes", 1000),
    )


def _blocks(reader: SpaceReader, widths: list[int], architecture: Architecture) -> Iterator[InvertedResidual]:
    last = len(widths) - 1
    strides = reader.per_unit("strides", [2 if u < 3 or u == last else 1 for u in range(len(widths))])
    excited = reader.per_unit("se", [0] * len(widths), FLAG)
    hard_swish = reader.per_unit("hswish", [1] * len(widths), FLAG)
    ratio = exact(reader.number("ratio", 1, POSITIVE_NUMBER))
    inputs = reader.number("stem", 16)
    if reader.sets("first"):
        first = reader.number("first", inputs)
        yield InvertedResidual("first", inputs, inputs, first, 3, 1, expands=False, excites=False, hard_swish=False)
        inputs = first
    for u, (blocks, width) in enumerate(zip(architecture.units, widths, strict=True)):
        for j, block in enumerate(blocks):
            factor = exact(block["expansion"]) * ratio
            middle = round_to_eight(factor * inputs)
            yield InvertedResidual(
                f"u{u + 1}.b{j + 1}",
                inputs,
                middle,
                width,
                whole(block["kernel"]),
                strides[u] if j == 0 else 1,
                expands=factor != 1 or middle != inputs,
                excites=bool(block["se"] if reader.has("se") else excited[u]),
                hard_swish=bool(hard_swish[u]),
            )
            inputs = width


def draw_mobilenetv3(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a MobileNetV3."""
    plan = plan_mobilenetv3(space, architecture)
    x = graph.conv("stem.conv", graph.image(plan.resolution), plan.stem, 3, stride=2)
    x = graph.hard_swish("stem.act", x)
    for block in plan.blocks:
        x = _inverted_residual(graph, block, x)
    return _head(graph, x, plan)


def _inverted_residual(graph: Graph, block: InvertedResidual, x: Tensor) -> Tensor:
    name, act = block.name, graph.hard_swish if block.hard_swish else graph.relu
    y = x
    if block.expands:
        y = act(f"{name}.act1", graph.conv(f"{name}.expand", y, block.middle, 1))
    y = graph.conv(f"{name}.depthwise", y, block.middle, block.kernel, stride=block.stride, groups=block.middle)
    y = act(f"{name}.act2", y)
    if block.excites:
        y = _squeeze_excite(graph, f"{name}.se", y)
    if block.skips:
        return graph.add(f"{name}.add", graph.conv(f"{name}.project", y, block.width, 1, gain=INTO_SUM), x)
    return graph.conv(f"{name}.project", y, block.width, 1, gain=LINEAR)


def _squeeze_excite(graph: Graph, name: str, x: Tensor) -> Tensor:
    y = graph.conv(f"{name}.reduce", graph.mean_of_map(f"{name}.pool", x), _squeezed(x.channels), 1)
    y = graph.conv(f"{name}.expand", graph.relu(f"{name}.relu", y), x.channels, 1, gain=LINEAR)
    return graph.scale(f"{name}.scale", x, graph.hard_sigmoid(f"{name}.gate", y))


def _squeezed(channels: int) -> int:
    return round_to_eight(Fraction(channels, SQUEEZE))


def _head(graph: Graph, x: Tensor, plan: MobileNetV3) -> Tensor:
    wide, wider = plan.head
    x = graph.hard_swish("head.act1", graph.conv("head.conv1", x, wide, 1))
    x = graph.conv("head.conv2", graph.mean_of_map("head.pool", x), wider, 1)
    return graph.classify(graph.hard_swish("head.act2", x), plan.classes)
