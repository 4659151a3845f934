"""The inverted residual (Sandler et al. 2018, Section 3.3), which MobileNetV3 and ProxylessNAS are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from esm_onnx.architectures import Architecture
from esm_onnx.export.graph import INTO_SUM, LINEAR, Graph, Tensor
from esm_onnx.export.space_reader import ODD, SpaceReader, exact, round_to_eight, whole

ACTIVATIONS: Mapping[str, Callable[[Graph, str, Tensor], Tensor]] = {
    "relu": Graph.relu,
    "relu6": Graph.relu6,
    "hard_swish": Graph.hard_swish,
}

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
        activation: one of `ACTIVATIONS`.
    """

    name: str
    inputs: int
    middle: int
    width: int
    kernel: int
    stride: int
    expands: bool
    excites: bool
    activation: str

    @property
    def skips(self) -> bool:
        """Whether its input is added to its output."""
        return self.stride == 1 and self.inputs == self.width


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """What the blocks of a unit have in common; `excites` where they do not choose it themselves."""

    width: int
    stride: int
    activation: str
    excites: bool = False


def plan_blocks(
    reader: SpaceReader,
    architecture: Architecture,
    units: Sequence[UnitPlan],
    *,
    stem: int,
    activation: str,
    ratio: Fraction = Fraction(1),
) -> Iterator[InvertedResidual]:
    """All blocks of a network: the one before all units, where the setting `first` asks for it, then unit by unit.

    The kernel is a feature of the blocks, or the setting `kernels` gives one for each unit.

    Args:
        stem: channels that come out of the stem.
        activation: of the block before all units, a depthwise-separable convolution.
        ratio: what expansions are a share of.
    """
    kernels = reader.instead_of("kernel", "kernels", ODD)
    inputs = stem
    if reader.sets("first"):
        first = reader.number("first", inputs)
        yield InvertedResidual("first", inputs, inputs, first, 3, 1, False, False, activation)
        inputs = first
    for u, (blocks, unit) in enumerate(zip(architecture.units, units, strict=True)):
        for j, block in enumerate(blocks):
            factor = exact(block["expansion"]) * ratio
            middle = round_to_eight(factor * inputs)
            yield InvertedResidual(
                f"u{u + 1}.b{j + 1}",
                inputs,
                middle,
                unit.width,
                kernels[u] if kernels else whole(block["kernel"]),
                unit.stride if j == 0 else 1,
                expands=factor != 1 or middle != inputs,
                excites=bool(block["se"]) if reader.has("se") else unit.excites,
                activation=unit.activation,
            )
            inputs = unit.width


def draw_inverted_residual(graph: Graph, block: InvertedResidual, x: Tensor) -> Tensor:
    """Draws a block; `x` is its input."""
    name, act = block.name, ACTIVATIONS[block.activation]
    y = x
    if block.expands:
        y = act(graph, f"{name}.act1", graph.conv(f"{name}.expand", y, block.middle, 1))
    y = graph.conv(f"{name}.depthwise", y, block.middle, block.kernel, stride=block.stride, groups=block.middle)
    y = act(graph, f"{name}.act2", y)
    if block.excites:
        y = _squeeze_excite(graph, f"{name}.se", y)
    if block.skips:
        return graph.add(f"{name}.add", graph.conv(f"{name}.project", y, block.width, 1, gain=INTO_SUM), x)
    return graph.conv(f"{name}.project", y, block.width, 1, gain=LINEAR)


def _squeeze_excite(graph: Graph, name: str, x: Tensor) -> Tensor:
    squeezed = round_to_eight(Fraction(x.channels, SQUEEZE))
    y = graph.conv(f"{name}.reduce", graph.mean_of_map(f"{name}.pool", x), squeezed, 1)
    y = graph.conv(f"{name}.expand", graph.relu(f"{name}.relu", y), x.channels, 1, gain=LINEAR)
    return graph.scale(f"{name}.scale", x, graph.hard_sigmoid(f"{name}.gate", y))
