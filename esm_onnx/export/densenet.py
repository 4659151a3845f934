"""DenseNet: each layer sees what all layers of its unit before it made (Huang et al. 2017, DenseNet-BC).

The batch norm in front of a layer stays a node: its input is shared by all later layers, so no convolution can take it
in. The one between a layer's two convolutions is folded.
"""

from __future__ import annotations

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.graph import Graph, Tensor
from esm_onnx.export.space_reader import ODD, SpaceReader, whole

SETTINGS = ("growth", "bottleneck", "stem", "classes", "resolution")


def draw_densenet(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a DenseNet.

    Settings: growth (32), bottleneck (4 × growth), stem (2 × growth), classes (1000), resolution.
    """
    reader = SpaceReader(space, features={"kernel": ODD}, settings=SETTINGS)
    growth = reader.number("growth", 32)
    bottleneck, stem = reader.number("bottleneck", 4 * growth), reader.number("stem", 2 * growth)
    x = graph.conv("stem.conv", graph.image(reader.resolution(architecture)), stem, 7, stride=2)
    x = graph.max_pool("stem.pool", graph.relu("stem.relu", x), 3, stride=2)
    for u, blocks in enumerate(architecture.units, 1):
        if u > 1:
            x = _transition(graph, f"u{u - 1}.transition", x)
        for j, block in enumerate(blocks, 1):
            x = _layer(graph, f"u{u}.b{j}", x, whole(block["kernel"]), bottleneck, growth)
    x = graph.relu("head.relu", graph.batch_norm("head.bn", x))
    return graph.classify(graph.mean_of_map("head.pool", x), reader.number("classes", 1000))


def _layer(graph: Graph, name: str, x: Tensor, kernel: int, bottleneck: int, growth: int) -> Tensor:
    y = graph.relu(f"{name}.relu1", graph.batch_norm(f"{name}.bn", x))
    y = graph.relu(f"{name}.relu2", graph.conv(f"{name}.conv1", y, bottleneck, 1))
    return graph.concat(f"{name}.concat", x, graph.conv(f"{name}.conv2", y, growth, kernel))


def _transition(graph: Graph, name: str, x: Tensor) -> Tensor:
    y = graph.relu(f"{name}.relu", graph.batch_norm(f"{name}.bn", x))
    return graph.halve(f"{name}.pool", graph.conv(f"{name}.conv", y, max(1, x.channels // 2), 1))
