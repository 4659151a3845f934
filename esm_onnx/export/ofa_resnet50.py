"""Once-for-All's ResNet50: bottlenecks behind a deep stem, widths elastic (Cai et al. 2020; He et al. 2019, ResNet-D).

The feature `width` is a share of the unit's width, `expansion` of the block's own: so wide is its middle. The shortcut
of a unit's first block is the mean of its stride × stride pixels and a 1 × 1 convolution; where the stride is 1, the
convolution alone.

Settings: widths and strides (one a unit; 1, 2, 2, …), stem (64), classes (1000), resolution.
"""

from __future__ import annotations

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export.graph import INTO_SUM, LINEAR, Graph, Tensor
from esm_onnx.export.space_reader import FLAG, POSITIVE_NUMBER, SpaceReader, exact, round_to_eight

SETTINGS = ("widths", "strides", "stem", "classes", "resolution")


def draw_ofa_resnet50(graph: Graph, space: Space, architecture: Architecture) -> Tensor:
    """Draws one of Once-for-All's ResNets."""
    reader = SpaceReader(
        space,
        features={"expansion": POSITIVE_NUMBER, "width": POSITIVE_NUMBER},
        network={"stem_block": FLAG, "stem_middle": POSITIVE_NUMBER, "stem_width": POSITIVE_NUMBER},
        settings=SETTINGS,
    )
    widths = reader.per_unit("widths")
    strides = reader.per_unit("strides", [1] + [2] * (len(widths) - 1))
    x = graph.image(reader.resolution(architecture))
    x = _stem(graph, x, architecture, reader.number("stem", 64))
    for u, (blocks, full, stride) in enumerate(zip(architecture.units, widths, strides, strict=True), 1):
        width = _share(full, blocks[0]["width"])
        for j, block in enumerate(blocks, 1):
            middle = _share(width, block["expansion"])
            x = _bottleneck(graph, f"u{u}.b{j}", x, middle, width, stride if j == 1 else 1, first=j == 1)
    return graph.classify(graph.mean_of_map("head.pool", x), reader.number("classes", 1000))


def _stem(graph: Graph, x: Tensor, architecture: Architecture, full: int) -> Tensor:
    """Half as wide as at its end until there."""
    chosen = architecture.network
    middle = round_to_eight(exact(_share(full, chosen["stem_middle"])) / 2)
    x = graph.relu("stem.relu1", graph.conv("stem.conv1", x, middle, 3, stride=2))
    if chosen["stem_block"]:
        y = graph.relu("stem.relu2", graph.conv("stem.conv2", x, middle, 3))
        x = graph.add("stem.add", y, x)
    x = graph.conv("stem.conv3", x, _share(full, chosen["stem_width"]), 3)
    return graph.max_pool("stem.pool", graph.relu("stem.relu3", x), 3, stride=2)


def _bottleneck(graph: Graph, name: str, x: Tensor, middle: int, width: int, stride: int, *, first: bool) -> Tensor:
    y = graph.relu(f"{name}.relu1", graph.conv(f"{name}.conv1", x, middle, 1))
    y = graph.relu(f"{name}.relu2", graph.conv(f"{name}.conv2", y, middle, 3, stride=stride))
    y = graph.conv(f"{name}.conv3", y, width, 1, gain=INTO_SUM)
    if first:
        pooled = graph.average_pool(f"{name}.pool", x, stride) if stride > 1 else x
        x = graph.conv(f"{name}.shortcut", pooled, width, 1, gain=LINEAR)
    return graph.relu(f"{name}.relu3", graph.add(f"{name}.add", y, x))


def _share(channels: int, share: object) -> int:
    """The nearest multiple of 8, or the next one if that would take away more than a tenth, as Once-for-All has it."""
    wanted = exact(share) * channels
    nearest = round_to_eight(wanted)
    return nearest + 8 if 10 * nearest < 9 * wanted else nearest
