"""Once-for-All's ResNet50 and ProxylessNAS, and MobileNetV3 with fixed kernels, as ONNX: counted by hand.

That they compute what torch modules of our own do is in `test_families`, with narrow layers and with those that are
built in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import onnx
import pytest
from export import small_spaces as s
from export import torch_families
from onnx import helper

from esm_onnx.architectures import Architecture, Options, Space, find_space, from_json, sample
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.cost import cost_of, graph_of, shapes_of

RESNET, PROXYLESS = find_space("ofa-resnet50"), find_space("ofa-proxyless")


def bottleneck(before: int, side: int, inputs: int, middle: int, width: int, *, shortcut: bool = False) -> int:
    """Multiply-adds of a bottleneck whose maps have `before` pixels a side, and `side` behind its 3 × 3 layer."""
    work = before**2 * inputs * middle + side**2 * (9 * middle * middle + middle * width)
    return work + side**2 * inputs * width * shortcut


def test_multiply_adds_of_a_resnet_by_hand() -> None:
    """Widths 256, 336, 816, 2048 of a stem of 24 and 64; maps of 72, 36, 36, 18, 9, 5 pixels a side."""
    e = [0.2, 0.25, 0, 0, 0.35, 0.2, 0.25, 0, 0.2, 0.35, 0.25, 0.2, 0, 0, 0.25, 0.35, 0, 0]
    fields = {"d": [0, 0, 1, 0, 0], "e": e, "w": [0, 2, 2, 0, 1, 2], "r": 144}
    expected = sum(
        (
            72 * 72 * 9 * (3 * 24 + 24 * 64),
            bottleneck(36, 36, 64, 48, 256, shortcut=True),  # 256 × 0.2 = 51.2
            bottleneck(36, 36, 256, 64, 256),
            bottleneck(36, 18, 256, 120, 336, shortcut=True),  # 512 × 0.65 = 332.8; 336 × 0.35 = 117.6
            bottleneck(18, 18, 336, 64, 336),
            bottleneck(18, 18, 336, 88, 336),  # 84 lies between 80 and 88: upwards
            bottleneck(18, 9, 336, 160, 816, shortcut=True),  # 1024 × 0.8 = 819.2
            bottleneck(9, 9, 816, 288, 816),
            bottleneck(9, 9, 816, 208, 816),
            bottleneck(9, 9, 816, 160, 816),
            bottleneck(9, 5, 816, 512, 2048, shortcut=True),
            bottleneck(5, 5, 2048, 720, 2048),
            2048 * 1000,
        )
    )
    assert cost_of(RESNET, from_json(RESNET, fields)).multiply_adds == expected
    with_block = cost_of(RESNET, from_json(RESNET, {**fields, "d": [2, 0, 1, 0, 0]}))
    assert with_block.multiply_adds == expected + 72 * 72 * 9 * 24 * 24


def inverted(before: int, side: int, inputs: int, ratio: int, kernel: int, width: int) -> int:
    middle = inputs * ratio
    return before**2 * inputs * middle + side**2 * (middle * kernel**2 + middle * width)


def test_multiply_adds_of_a_proxyless_network_by_hand() -> None:
    """Maps of 90, 90, 45, 23, 12, 12, 6, 6 pixels a side: halves, rounded up."""
    kernels = [3, 5, 0, 0, 7, 3, 0, 0, 5, 5, 0, 0, 3, 7, 0, 0, 5, 3, 0, 0, 7]
    expansions = [3, 6, 0, 0, 4, 3, 0, 0, 6, 4, 0, 0, 6, 3, 0, 0, 3, 4, 0, 0, 6]
    expected = sum(
        (
            90 * 90 * 9 * 3 * 40,
            90 * 90 * 40 * (9 + 24),  # the fixed block: depthwise, project
            inverted(90, 45, 24, 3, 3, 32),
            inverted(45, 45, 32, 6, 5, 32),
            inverted(45, 23, 32, 4, 7, 56),
            inverted(23, 23, 56, 3, 3, 56),
            inverted(23, 12, 56, 6, 5, 104),
            inverted(12, 12, 104, 4, 5, 104),
            inverted(12, 12, 104, 6, 3, 128),
            inverted(12, 12, 128, 3, 7, 128),
            inverted(12, 6, 128, 3, 5, 248),
            inverted(6, 6, 248, 4, 3, 248),
            inverted(6, 6, 248, 6, 7, 416),
            6 * 6 * 416 * 1664 + 1664 * 1000,
        )
    )
    fields = {"ks": kernels, "e": expansions, "d": [2, 2, 2, 2, 2, 1], "r": 180}
    assert cost_of(PROXYLESS, from_json(PROXYLESS, fields)).multiply_adds == expected


def drawn(space: Space, architecture: Architecture) -> onnx.ModelProto:
    return graph_of(space, architecture, ExportSettings())


def test_proxyless_has_relu6_throughout_and_no_squeeze_excite() -> None:
    graph = drawn(PROXYLESS, s.largest(PROXYLESS)).graph
    assert {node.op_type for node in graph.node} == {"Conv", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    bounds = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if not tensor.dims}
    for node in graph.node:
        if node.op_type == "Clip":
            assert [bounds[name] for name in node.input[1:]] == [0, 6]
            assert all(name.startswith(f"{node.name}.") for name in node.input[1:])
    names = [node.name for node in graph.node if node.name.startswith("first.")]
    assert names == ["first.depthwise", "first.act2", "first.project"]


def test_relu6_in_fp16_has_bounds_of_fp16(tmp_path: Path) -> None:
    space = s.narrow("ofa-proxyless")
    path = write_subnet(space, s.smallest(space), tmp_path, ExportSettings(precision="fp16")).path
    graph = onnx.load(path, load_external_data=False).graph
    assert {tensor.data_type for tensor in graph.initializer} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("resolution", "sides"), [(128, [32, 16, 8, 4]), (144, [36, 18, 9, 5]), (176, [44, 22, 11, 6])]
)
def test_a_shortcut_takes_the_mean_of_what_its_stride_passes_over(resolution: int, sides: list[int]) -> None:
    space = s.narrow("ofa-resnet50")
    network = Options({"resolution": resolution, "stem_block": 1, "stem_middle": 1, "stem_width": 1})
    model = drawn(space, replace(s.smallest(space), network=network))
    shapes = shapes_of(model)
    assert [shapes[f"u{u}.b1.shortcut"][2] for u in range(1, 5)] == sides
    pools = {node.name: node for node in model.graph.node if node.op_type == "AveragePool"}
    assert list(pools) == ["u2.b1.pool", "u3.b1.pool", "u4.b1.pool"], "of one pixel each, a mean is what it is of"
    for before, node in zip(sides, pools.values(), strict=False):
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        assert attributes == {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": before % 2}


def test_the_shares_that_round_alike_are_the_same_stem() -> None:
    """0.65 and 0.8 of 64 channels are 40 and 48; half of both is 24."""
    network = {"resolution": 128, "stem_block": 0, "stem_width": 1}
    narrow, middling, wide = (
        cost_of(RESNET, replace(s.smallest(RESNET), network=Options({**network, "stem_middle": share})))
        for share in (0.65, 0.8, 1)
    )
    assert narrow == middling
    assert narrow.multiply_adds < wide.multiply_adds


def test_squeeze_excite_is_rounded_as_once_for_all_does() -> None:
    """Its own rule takes away no more than a tenth: it makes 24 of 18, we make 16, but nothing here is so narrow."""
    space = find_space("ofa-mobilenetv3")
    seen = set()
    for choice in range(len(space.combinations)):
        graph = drawn(space, s.uniform(space, 4, choice)).graph
        for tensor in graph.initializer:
            if tensor.name.endswith("se.reduce.weight"):
                hidden, middle, *_ = tensor.dims
                assert hidden == torch_families.divisible(middle // 4)
                seen.add(middle)
            if tensor.name.endswith("depthwise.weight"):
                assert tensor.dims[0] == torch_families.divisible(tensor.dims[0])
    assert min(seen) == 3 * 32
    assert len(seen) > 10


# kernels that the space fixes


FIXED = find_space("compofa-fixed")


def test_a_kernel_for_each_unit_makes_the_network_of_blocks_that_choose_it() -> None:
    free = find_space("ofa-mobilenetv3")
    for architecture in sample(FIXED, 3, strategy="random", rng=Random(1)):
        units = tuple(
            tuple(Options({**block, "kernel": kernel}) for block in blocks)
            for blocks, kernel in zip(architecture.units, (3, 5, 3, 3, 5), strict=True)
        )
        chosen = drawn(free, Architecture(free.name, units, architecture.network))
        found = drawn(FIXED, architecture)
        assert list(found.graph.node) == list(chosen.graph.node)
        assert list(found.graph.initializer) == list(chosen.graph.initializer)


@pytest.mark.parametrize(
    ("space", "kernels", "message"),
    [
        (FIXED, None, "neither a feature 'kernel' and a setting 'kernels', expected one of them"),
        (
            find_space("ofa-mobilenetv3"),
            [3] * 5,
            "both a feature 'kernel' and a setting 'kernels', expected one of them",
        ),
        (FIXED, [3, 5], r"setting 'kernels' has 2 numbers, expected 5: \[3, 5\]"),
        (FIXED, [3, 4, 5, 3, 3], "setting 'kernels' has 4, expected an odd whole number"),
        (PROXYLESS, [3] * 6, "space 'ofa-proxyless', writer 'proxyless': both a feature 'kernel'"),
    ],
)
def test_the_kernel_is_chosen_or_set(space: Space, kernels: list[int] | None, message: str) -> None:
    settings: dict[str, Any] = dict(space.export.settings)
    settings.pop("kernels", None)
    changed = s.with_writer(space, space.export.writer, **settings, **({"kernels": kernels} if kernels else {}))
    with pytest.raises(InputError, match=message):
        drawn(changed, sample(changed, 1, strategy="random", rng=Random(0))[0])


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("ofa-resnet50", {"network": ()}, r"no feature 'stem_block' in \[network\], which the writer needs"),
        ("ofa-resnet50", {"unit": ()}, r"no feature 'width' in \[block\] or \[unit\], which the writer needs"),
        ("ofa-proxyless", {"network": RESNET.network}, r"feature 'stem_block' in \[network\] is unknown to the writer"),
    ],
)
def test_a_space_that_lacks_what_its_writer_needs_is_refused(family: str, change: dict[str, Any], message: str) -> None:
    space = replace(s.narrow(family), **change)
    with pytest.raises(InputError, match=message):
        drawn(space, sample(space, 1, strategy="random", rng=Random(0))[0])
