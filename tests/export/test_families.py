"""Each family's ONNX against an independent torch module, and against counts from the literature."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from export import small_spaces as s
from export import torch_families

from esm_onnx.architectures import Architecture, Options, find_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.space_reader import exact, round_to_eight

MNASNET = """
name = "mnasnet"
units = 7
depth = [1, 2, 3]
[block]
kernel = [3, 5]
[unit]
expansion = [1, 4, 6]
se = [0, 1]
[network]
resolution = [192, 224]
[export]
writer = "mobilenetv3"
widths = [16, 24, 40, 80, 112, 192, 320]
"""


def assert_agrees(path, module, tolerance=1e-4):
    image = s.image_for(path)
    with torch.no_grad():
        expected = torch_families.load(module, path)(torch.from_numpy(image)).numpy()
    (found,) = s.run(path, image)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def folder():
    """One pool for all, and gone afterwards: it is too large to be kept among pytest's folders."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("family", [*s.FAMILIES, *s.ELASTIC])
@pytest.mark.parametrize("number", range(7))
def test_agrees_with_torch(family, number, folder):
    space = s.narrow(family)
    architecture = [s.smallest(space), s.largest(space), *s.several(space, 5, seed=3)][number]
    path = write_subnet(space, architecture, folder, ExportSettings(batch=1 + number % 2)).path
    assert_agrees(path, module_of(space, architecture))


def module_of(space, architecture):
    return torch_families.MODULES[space.export.writer](architecture, **space.export.settings)


def test_first_block_projects_even_where_it_need_not(folder):
    space = s.narrow("resnet", stem=32, strides=[1, 1, 2, 1])
    architecture = s.uniform(space, 2)
    path = write_subnet(space, architecture, folder).path
    assert_agrees(path, torch_families.ResNet(architecture, **space.export.settings))


@pytest.mark.parametrize("family", [*s.FAMILIES, *s.ELASTIC])
def test_agrees_with_torch_as_built_in(family, folder):
    """At the widths and the resolution that are measured."""
    space = find_space(family)
    architecture = s.uniform(space, 2, 0)
    path = write_subnet(space, architecture, folder).path
    side = 128 if family in s.ELASTIC else 224
    assert s.image_for(path).shape == (1, 3, side, side)
    assert_agrees(path, module_of(space, architecture))


def test_resnet_50(folder):
    """expansion 1, kernel 3, depths 3, 4, 6, 3: torchvision counts 25,557,032 parameters and 4.09e9 multiply-adds."""
    space = find_space("resnet")
    block = Options({"kernel": 3, "expansion": 1})
    architecture = Architecture("resnet", tuple((block,) * depth for depth in (3, 4, 6, 3)))
    path = write_subnet(space, architecture, folder).path
    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    normalised = 64 + sum(d * (2 * w // 4 + w) + w for d, w in zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True))
    assert parameters == resnet_50_by_hand()
    # torchvision has no conv bias, but a scale and a shift in each batch norm: one number a channel more than folded.
    assert parameters + normalised == 25_557_032
    assert multiply_adds(path) == pytest.approx(4.09e9, rel=1e-3)
    assert_agrees(path, torch_families.ResNet(architecture, **space.export.settings))


def resnet_50_by_hand() -> int:
    count = 3 * 64 * 49 + 64 + 2048 * 1000 + 1000
    inputs = 64
    for depth, width in ((3, 256), (4, 512), (6, 1024), (3, 2048)):
        middle = width // 4
        count += inputs * width + width
        for _ in range(depth):
            count += inputs * middle + middle + middle * middle * 9 + middle + middle * width + width
            inputs = width
    return count


def multiply_adds(path) -> int:
    """From the shapes that ONNX's own inference finds."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
    shapes = {value.name: s.shape_of(value) for value in (*model.graph.value_info, *model.graph.output)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return sum(
        math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    )


def test_mobilenetv3_expansion_of_built_in_space(folder):
    """Expansions 1/2, 2/3, 1 of the ratio 6 are Once-for-All's 3, 4, 6."""
    space = find_space("mobilenetv3")
    for expansion, factor in ((Fraction(1, 2), 3), (Fraction(2, 3), 4), (1, 6)):
        block = Options({"kernel": 3, "expansion": expansion})
        path = write_subnet(space, Architecture("mobilenetv3", ((block,) * 2,) * 4), folder).path
        shapes = {t.name: list(t.dims) for t in onnx.load(path, load_external_data=False).graph.initializer}
        assert shapes["u4.b2.expand.weight"] == [128 * factor, 128, 1, 1]
        assert shapes["u4.b2.depthwise.weight"] == [128 * factor, 1, 3, 3]
        assert shapes["u4.b2.se.reduce.weight"][0] == 128 * factor // 4
        assert "u2.b1.se.reduce.weight" not in shapes


@pytest.mark.parametrize("resolution", [192, 224])
def test_mnasnet_from_toml(resolution, folder):
    path = folder / "mnasnet.toml"
    path.write_text(MNASNET)
    space = find_space(str(path))
    architecture = s.several(space, 1, seed=resolution)[0]
    architecture = replace(architecture, network=Options({"resolution": resolution}))
    subnet = write_subnet(space, architecture, folder).path
    assert s.image_for(subnet).shape == (1, 3, resolution, resolution)
    strides, defaults = [2, 2, 2, 1, 1, 1, 2], {"stem": 16, "head": [6 * 320, 1280], "classes": 1000}
    assert_agrees(
        subnet,
        torch_families.MobileNetV3(architecture, widths=space.export.settings["widths"], strides=strides, **defaults),
    )


def test_mobilenetv3_without_expansion_has_no_expanding_layer(folder):
    space = narrow_mnasnet()
    plain = Options({"kernel": 3, "expansion": 1, "se": 0})
    path = write_subnet(space, Architecture("m", ((plain, plain), (plain,)), Options({"resolution": 32})), folder).path
    names = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
    assert "u1.b1.depthwise" in names
    assert not any(name.endswith(".expand") for name in names)


def narrow_mnasnet():
    return space_from_table(
        {
            "name": "m",
            "units": 2,
            "depth": [1, 2],
            "block": {"kernel": [3, 5]},
            "unit": {"expansion": [1, 4], "se": [0, 1]},
            "network": {"resolution": [32, 64]},
            "export": {"writer": "mobilenetv3", "widths": [16, 24]},
        }
    )


@pytest.mark.parametrize("resolution", [144, 176, 240])
def test_the_mean_of_an_odd_map_is_taken_of_what_is_there(resolution, folder):
    """In the shortcut of Once-for-All's ResNet50: of two pixels at an edge, of one in the corner."""
    space = s.narrow("ofa-resnet50")
    network = Options({"resolution": resolution, "stem_block": 1, "stem_middle": 0.65, "stem_width": 1})
    architecture = replace(s.several(space, 1, seed=resolution)[0], network=network)
    path = write_subnet(space, architecture, folder).path
    assert any(a.name == "ceil_mode" and a.i for node in onnx.load(path).graph.node for a in node.attribute)
    assert_agrees(path, module_of(space, architecture))


@pytest.mark.parametrize("resolution", [8, 32, 49])
def test_densenet_on_maps_of_one_pixel(resolution, folder):
    """Transitions leave a map of one pixel as it is, and an odd map loses its last row, as in torch."""
    space = s.narrow("densenet", resolution=resolution)
    architecture = s.uniform(space, 2, 3)
    path = write_subnet(space, architecture, folder).path
    assert_agrees(path, torch_families.DenseNet(architecture, **space.export.settings))


def test_defaults_of_literature(folder):
    """A table with nothing but what a family leaves open."""
    for family, given in (("resnet", {"widths": [32, 64, 64, 64]}), ("densenet", {})):
        space = s.with_writer(find_space(family), family, **given)
        path = write_subnet(space, s.smallest(space), folder).path
        shapes = {t.name: list(t.dims) for t in onnx.load(path, load_external_data=False).graph.initializer}
        assert shapes["stem.conv.weight"] == [64, 3, 7, 7]
        assert shapes["head.fc.weight"][0] == 1000
        assert s.image_for(path).shape == (1, 3, 224, 224)
    assert shapes["u1.b1.conv1.weight"][0] == 128
    assert shapes["u1.b1.conv2.weight"][0] == 32


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (Fraction(1, 3), 8),
        (11, 8),
        (12, 16),
        (20, 24),
        (Fraction(128, 3), 40),
        (Fraction(64 * 2, 3) * 2, 88),
        (512, 512),
    ],
)
def test_round_to_eight(number, expected):
    assert round_to_eight(Fraction(number)) == expected


def test_number_as_written():
    assert exact(0.1) == Fraction(1, 10)
    assert exact(Fraction(2, 3)) == Fraction(2, 3)
    assert exact(6) == 6
