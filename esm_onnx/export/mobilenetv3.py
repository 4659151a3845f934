"""MobileNetV3: inverted residuals with h-swish and squeeze-excite (Howard et al. 2019, Sections 4 and 5).

Settings: widths (one a unit); kernels (one a unit, where blocks do not choose them); strides (2 in the first three
units and in the last, else 1, as Once-for-All); se (0 or 1 a unit, 0; the feature `se` overrules it); hswish (0 or 1 a
unit, 1; 0 is ReLU); ratio that expansions are a share of (1); stem (16); first (width of a fixed depthwise-separable
block with ReLU after the stem; none); head (6 × the last width, 1280); classes (1000); resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.graph import Graph, Tensor
from esm_onnx.export.inverted_residual import InvertedResidual, UnitPlan, draw_inverted_residual, plan_blocks
from esm_onnx.export.space_reader import FLAG, ODD, POSITIVE_NUMBER, SpaceReader, exact

SETTINGS = ("widths", "kernels", "strides", "se", "hswish", "ratio", "stem", "first", "head", "classes", "resolution")


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
    optional = {"kernel": ODD, "se": FLAG}
    reader = SpaceReader(space, features={"expansion": POSITIVE_NUMBER}, optional=optional, settings=SETTINGS)
    units = _units(reader)
    stem = reader.number("stem", 16)
    ratio = exact(reader.number("ratio", 1, POSITIVE_NUMBER))
    blocks = plan_blocks(reader, architecture, units, stem=stem, activation="relu", ratio=ratio)
    wide, wider = reader.numbers("head", 2, [6 * units[-1].width, 1280])
    return MobileNetV3(
        reader.resolution(architecture), stem, tuple(blocks), (wide, wider), reader.number("classes", 1000)
    )


def _units(reader: SpaceReader) -> list[UnitPlan]:
    widths = reader.per_unit("widths")
    last = len(widths) - 1
    strides = reader.per_unit("strides", [2 if u < 3 or u == last else 1 for u in range(len(widths))])
    excited = reader.per_unit("se", [0] * len(widths), FLAG)
    hard_swish = reader.per_unit("hswish", [1] * len(widths), FLAG)
    return [
        UnitPlan(width, stride, "hard_swish" if swish else "relu", bool(se))
        for width, stride, swish, se in zip(widths, strides, hard_swish, excited, strict=True)
    ]


def draw_mobilenetv3(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a MobileNetV3."""
    plan = plan_mobilenetv3(space, architecture)
    x = graph.conv("stem.conv", graph.image(plan.resolution), plan.stem, 3, stride=2)
    x = graph.hard_swish("stem.act", x)
    for block in plan.blocks:
        x = draw_inverted_residual(graph, block, x)
    return _head(graph, x, plan)


def _head(graph: Graph, x: Tensor, plan: MobileNetV3) -> Tensor:
    wide, wider = plan.head
    x = graph.hard_swish("head.act1", graph.conv("head.conv1", x, wide, 1))
    x = graph.conv("head.conv2", graph.mean_of_map("head.pool", x), wider, 1)
    return graph.classify(graph.hard_swish("head.act2", x), plan.classes)
