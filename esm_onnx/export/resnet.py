"""ResNet: bottleneck blocks with ReLU (He et al. 2016, Section 4.1).

A unit's stride is in the k × k layer of its first block, as torchvision has it. The middle of a block is
expansion × width / 4, so that expansion 1 is the ordinary ResNet-50 block.
"""

from __future__ import annotations

from esm_onnx.architectures import Architecture, Options, Space
from esm_onnx.export.graph import INTO_SUM, LINEAR, Graph, Tensor
from esm_onnx.export.space_reader import ODD, POSITIVE_NUMBER, SpaceReader, exact, round_to_eight, whole

SETTINGS = ("widths", "strides", "stem", "classes", "resolution")


def draw_resnet(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws a ResNet; settings: widths (one a unit), strides (1, 2, 2, …), stem (64), classes (1000), resolution."""
    reader = SpaceReader(space, features={"kernel": ODD, "expansion": POSITIVE_NUMBER}, settings=SETTINGS)
    widths = reader.per_unit("widths")
    strides = reader.per_unit("strides", [1] + [2] * (len(widths) - 1))
    x = graph.conv("stem.conv", graph.image(reader.resolution(architecture)), reader.number("stem", 64), 7, stride=2)
    x = graph.max_pool("stem.pool", graph.relu("stem.relu", x), 3, stride=2)
    for u, (blocks, width, stride) in enumerate(zip(architecture.units, widths, strides, strict=True), 1):
        for j, block in enumerate(blocks, 1):
            name = f"u{u}.b{j}"
            if j == 1:
                shortcut = graph.conv(f"{name}.shortcut", x, width, 1, stride=stride, gain=LINEAR)
                x = _bottleneck(graph, name, x, shortcut, block, stride)
            else:
                x = _bottleneck(graph, name, x, x, block, 1)
    return graph.classify(graph.mean_of_map("head.pool", x), reader.number("classes", 1000))


def _bottleneck(graph: Graph, name: str, x: Tensor, shortcut: Tensor, block: Options, stride: int) -> Tensor:
    middle = round_to_eight(exact(block["expansion"]) * shortcut.channels / 4)
    y = graph.relu(f"{name}.relu1", graph.conv(f"{name}.conv1", x, middle, 1))
    y = graph.relu(f"{name}.relu2", graph.conv(f"{name}.conv2", y, middle, whole(block["kernel"]), stride=stride))
    y = graph.conv(f"{name}.conv3", y, shortcut.channels, 1, gain=INTO_SUM)
    return graph.relu(f"{name}.relu3", graph.add(f"{name}.add", y, shortcut))
