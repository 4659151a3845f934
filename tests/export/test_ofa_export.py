"""Once-for-All's MobileNetV3 as ONNX: counted by hand, and against a torch module of its own."""

from __future__ import annotations

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from export import small_spaces as s
from export import torch_families
from torch.nn import functional as F  # noqa: N812

from esm_onnx.architectures import Architecture, Options, find_space, from_json
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.pool import Allotment
from esm_onnx.export.writers import find_writer

OFA = find_space("ofa-mobilenetv3")
NARROW = s.with_settings(OFA, stem=8, first=8, widths=[8, 16, 24, 24, 40], head=[48, 40], classes=10)


@pytest.fixture(scope="module")
def folder():
    with TemporaryDirectory() as name:
        yield Path(name)


def by_hand() -> int:
    """Multiply-adds of the architecture below: sides 180, 90, 45, 23, 12, 12, 6: halves, rounded up.

    Widths from the released supernet at multiplier 1.2: 24, then 24, 32, 48, 96, 136, 192, then 1152, 1536, 1000.
    """
    return sum(
        (
            90 * 90 * 24 * 3 * 9,  # stem
            90 * 90 * 24 * 9 + 90 * 90 * 24 * 24,  # fixed first block: depthwise, project
            90 * 90 * 24 * 72 + 45 * 45 * 72 * 9 + 45 * 45 * 72 * 32,
            45 * 45 * 32 * 192 + 45 * 45 * 192 * 25 + 45 * 45 * 192 * 32,
            45 * 45 * 32 * 128 + 23 * 23 * 128 * 49 + 2 * 128 * 32 + 23 * 23 * 128 * 48,
            23 * 23 * 48 * 144 + 23 * 23 * 144 * 9 + 2 * 144 * 40 + 23 * 23 * 144 * 48,  # 144 / 4 = 36, to 8s: 40
            23 * 23 * 48 * 288 + 12 * 12 * 288 * 25 + 12 * 12 * 288 * 96,
            12 * 12 * 96 * 384 + 12 * 12 * 384 * 25 + 12 * 12 * 384 * 96,
            12 * 12 * 96 * 576 + 12 * 12 * 576 * 9 + 2 * 576 * 144 + 12 * 12 * 576 * 136,
            12 * 12 * 136 * 408 + 12 * 12 * 408 * 49 + 2 * 408 * 104 + 12 * 12 * 408 * 136,  # 408 / 4 = 102, to 8s: 104
            12 * 12 * 136 * 408 + 6 * 6 * 408 * 25 + 2 * 408 * 104 + 6 * 6 * 408 * 192,
            6 * 6 * 192 * 768 + 6 * 6 * 768 * 9 + 2 * 768 * 192 + 6 * 6 * 768 * 192,
            6 * 6 * 192 * 1152 + 1152 * 1536 + 1536 * 1000,
        )
    )


COUNTED = from_json(
    OFA,
    {
        "ks": [3, 5, 0, 0, 7, 3, 0, 0, 5, 5, 0, 0, 3, 7, 0, 0, 5, 3, 0, 0],
        "e": [3, 6, 0, 0, 4, 3, 0, 0, 6, 4, 0, 0, 6, 3, 0, 0, 3, 4, 0, 0],
        "d": [2, 2, 2, 2, 2],
        "r": 180,
    },
)


def drawn(space, architecture) -> onnx.ModelProto:
    return find_writer(space)(space, architecture, ExportSettings(), Allotment(0, embed=False))


def multiply_adds(model: onnx.ModelProto) -> int:
    """From the shapes that ONNX's own inference finds."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {value.name: s.shape_of(value) for value in (*graph.value_info, *graph.output)}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return sum(math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:]) for node in products)


def test_multiply_adds_by_hand():
    assert multiply_adds(drawn(OFA, COUNTED)) == by_hand()


def test_activations_and_squeeze_excite_are_where_the_released_supernet_has_them():
    model = drawn(OFA, COUNTED)
    kinds: dict[str, set[str]] = {}
    for node in model.graph.node:
        part = re.match(r"u\d|\w+", node.name)
        kinds.setdefault(part[0], set()).add(node.op_type)
    assert "HardSwish" in kinds["stem"]
    assert {part for part in kinds if "HardSwish" in kinds[part]} == {"stem", "u3", "u4", "u5", "head"}
    assert {part for part in kinds if "HardSigmoid" in kinds[part]} == {"u2", "u4", "u5"}
    assert {"first", "u1"} <= {part for part in kinds if "Relu" in kinds[part]}
    names = [node.name for node in model.graph.node]
    assert [name for name in names if name.startswith("first.")] == [
        "first.depthwise",
        "first.act2",
        "first.project",
        "first.add",
    ]


class OnceForAll(torch_families.MobileNetV3):
    """Stem, a fixed block, five stages: ReLU in two of them, h-swish in three; squeeze-excite in the 2nd, 4th, 5th."""

    def __init__(self, architecture, stem, widths, head, classes, **_):
        torch.nn.Module.__init__(self)
        same, named = torch_families.same, torch_families.named
        self.stem = named(conv=same(3, stem, 3, 2))
        self.first = torch_families.InvertedResidual(stem, stem, 1, 3, 1, act=F.relu)
        width = stem
        for u, blocks in enumerate(architecture.units):
            for j, block in enumerate(blocks):
                stride = (2, 2, 2, 1, 2)[u] if j == 0 else 1
                act = F.relu if u < 2 else F.hardswish
                shape = width, widths[u], stride, block["kernel"], block["expansion"]
                self.add(u + 1, j + 1, torch_families.InvertedResidual(*shape, act=act, se=u in (1, 3, 4)))
                width = widths[u]
        wide, wider = head
        conv1, conv2, fc = same(width, wide, 1), same(wide, wider, 1), torch.nn.Linear(wider, classes)
        self.head = named(conv1=conv1, conv2=conv2, fc=fc)

    def blocks(self, x):
        return super().blocks(self.first(x))


@pytest.mark.parametrize("number", range(4))
def test_agrees_with_torch(number, folder):
    architecture = [s.uniform(NARROW, 2, 0), s.largest(NARROW), *s.several(NARROW, 2, seed=5)][number]
    assert_agrees(NARROW, architecture, folder)


def test_agrees_with_torch_as_built_in(folder):
    assert_agrees(OFA, s.uniform(OFA, 2, 0), folder)


def assert_agrees(space, architecture: Architecture, folder: Path) -> None:
    path = write_subnet(space, architecture, folder).path
    image = s.image_for(path)
    side = architecture.network["resolution"]
    assert image.shape == (1, 3, side, side)
    module = torch_families.load(OnceForAll(architecture, **space.export.settings), path)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    (found,) = s.run(path, image)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_new_settings_left_out_mean_what_was_drawn_before():
    """h-swish throughout, and no fixed block."""
    space = find_space("mobilenetv3")
    architecture = s.several(space, 1)[0]
    usual = drawn(space, architecture)
    spelled_out = drawn(s.with_settings(space, hswish=[1, 1, 1, 1]), architecture)
    assert spelled_out.SerializeToString(deterministic=True) == usual.SerializeToString(deterministic=True)
    assert {node.name.partition(".")[0] for node in usual.graph.node} == {"stem", "u1", "u2", "u3", "u4", "head"}


def test_a_first_block_that_widens_has_no_residual():
    space = s.with_settings(NARROW, first=16)
    architecture = Architecture(OFA.name, s.uniform(NARROW, 2, 0).units, Options({"resolution": 112}))
    model = drawn(space, architecture)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["first.project.weight"] == [16, 8, 1, 1]
    assert shapes["u1.b1.expand.weight"] == [48, 16, 1, 1]
    assert "first.add" not in {node.name for node in model.graph.node}
