"""What a subnet has to do, counted over its graph: against torch modules, ONNX Runtime, and by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from export import small_spaces as s
from export import torch_families
from onnx import TensorProto, helper
from torch import nn

from esm_onnx.architectures import Architecture, Export, Feature, Options, Space, find_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.cost import cost_of, count_node, graph_of, node_counts, shapes_of

EXCITED = space_from_table(
    {
        "name": "excited",
        "units": 2,
        "depth": [1, 2],
        "block": {"kernel": [3, 5]},
        "unit": {"expansion": [1, 4], "se": [0, 1]},
        "network": {"resolution": [32, 50]},
        "export": {"writer": "mobilenetv3", "widths": [16, 24], "stem": 16, "head": [48, 40], "classes": 10},
    }
)
SPACES = {**{family: s.narrow(family) for family in (*s.FAMILIES, *s.ELASTIC)}, "excited": EXCITED}


def torch_of(space: Space, architecture: Architecture) -> nn.Module:
    """The independent module of an architecture, which has shapes but no numbers."""
    strides = {"strides": [2, 2]} if space is EXCITED else {}  # what the writer takes where nothing is said
    with torch.device("meta"):
        return torch_families.MODULES[space.export.writer](architecture, **strides, **space.export.settings).eval()


def products_of(module: nn.Module, side: int, batch: int) -> list[tuple[str, nn.Module, int, int]]:
    """Name, layer, and numbers taken in and given out, of each convolution and linear layer that an image passes."""
    passed: list[tuple[str, nn.Module, int, int]] = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda layer, taken, given, name=name: passed.append((name, layer, taken[0].numel(), given.numel()))
            )
    with torch.no_grad():
        module(torch.empty(batch, 3, side, side, device="meta"))
    return passed


def counted_by_torch(passed: list[tuple[str, nn.Module, int, int]]) -> Counter[str]:
    total = Counter[str]()
    for _, layer, taken, given in passed:
        macs = given * layer.weight[0].numel()
        total["layers"] += 1
        if isinstance(layer, nn.Linear):
            total["macs.pointwise"] += macs
            continue
        (kernel, _), (stride, _) = layer.kernel_size, layer.stride
        if layer.groups > 1:
            total.update({"macs.depthwise": macs, f"depthwise.k{kernel}": given})
        else:
            total["macs.pointwise" if kernel == 1 else f"macs.k{kernel}"] += macs
        if stride > 1:
            total["strided"] += taken
    return total


def total_of(space: Space, architecture: Architecture, batch: int = 1) -> Counter[str]:
    total = Counter[str]()
    for _, counts in node_counts(graph_of(space, architecture, ExportSettings(batch=batch))):
        total.update(counts)
    return total


def side_of(space: Space, architecture: Architecture) -> int:
    return int(architecture.network.get("resolution", space.export.settings.get("resolution", 224)))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("batch", [1, 3])
def test_products_and_parameters_are_those_of_torch(space: Space, batch: int) -> None:
    for architecture in (s.smallest(space), *s.several(space, 6, seed=batch)):
        module = torch_of(space, architecture)
        passed = products_of(module, side_of(space, architecture), batch)
        expected = counted_by_torch(passed)
        total = total_of(space, architecture, batch)
        products = ("macs.", "depthwise.", "layers", "strided")
        assert {name: n for name, n in total.items() if name.startswith(products)} == expected
        running = sum(b.numel() for name, b in module.named_buffers() if "running" in name)
        assert total["parameters"] == sum(p.numel() for p in module.parameters()) + running
        cost = cost_of(space, architecture, ExportSettings(batch=batch))
        assert cost.multiply_adds == sum(n for name, n in expected.items() if name.startswith("macs."))
        assert (cost.parameters, cost.layers) == (total["parameters"], expected["layers"])


@pytest.mark.parametrize(("space", "last"), [(EXCITED, "head.conv1"), (SPACES["resnet"], "conv3")])
def test_pooled_is_what_squeeze_excite_and_the_head_take_the_mean_of(space: Space, last: str) -> None:
    for architecture in s.several(space, 6):
        passed = products_of(torch_of(space, architecture), side_of(space, architecture), 1)
        given = {name: numbers for name, _, _, numbers in passed}
        (*_, head) = [numbers for name, numbers in given.items() if name.endswith(last)]
        excited = [name.removesuffix(".se.reduce") for name in given if name.endswith(".se.reduce")]
        assert total_of(space, architecture)["pooled"] == head + sum(given[f"{name}.depthwise"] for name in excited)


def traffic_by_onnx_runtime(path: Path) -> int:
    """Every node's inputs and outputs but for weights, as arrays that ONNX Runtime gives."""
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [name for node in model.graph.node for name in node.output]
    image = s.image_for(path)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in {value.name for value in model.graph.output}
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    size = {name: array.size for name, array in zip(names, session.run(names, {"input": image}), strict=True)}
    size["input"] = image.size
    return sum(size[name] for node in model.graph.node for name in (*node.input, *node.output) if name not in weights)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_traffic_is_every_array_in_and_out_and_every_parameter(space: Space, tmp_path: Path) -> None:
    settings = ExportSettings(batch=2, embed_weights=True)
    for architecture in s.several(space, 2, seed=4):
        path = write_subnet(space, architecture, tmp_path, settings).path
        moved = traffic_by_onnx_runtime(path)
        cost = cost_of(space, architecture, settings)
        assert cost.traffic_bytes == 4 * (moved + cost.parameters)
        assert total_of(space, architecture, batch=2)["traffic"] == moved


def test_resnet_50_is_torchvisions() -> None:
    """expansion 1, kernel 3, depths 3, 4, 6, 3: torchvision counts 25,557,032 parameters and 4.09e9 multiply-adds."""
    block = Options({"kernel": 3, "expansion": 1})
    cost = cost_of(find_space("resnet"), Architecture("resnet", tuple((block,) * depth for depth in (3, 4, 6, 3))))
    # torchvision has no bias in a convolution, but a scale and a shift in each batch norm, and four of them in a unit
    normalised = 64 + sum(d * (2 * w // 4 + w) + w for d, w in zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True))
    assert cost.parameters + normalised == 25_557_032
    assert cost.multiply_adds == pytest.approx(4.09e9, rel=1e-3)
    assert cost.layers == 1 + 16 * 3 + 4 + 1


def test_a_small_network_by_hand() -> None:
    """A stem, one block of DenseNet, a head."""
    space = space_from_table(
        {
            "name": "dense",
            "units": 1,
            "depth": [1],
            "unit": {"kernel": [3]},
            "export": {"writer": "densenet", "growth": 4, "bottleneck": 6, "stem": 8, "classes": 5, "resolution": 16},
        }
    )
    total = total_of(space, s.smallest(space))
    whole, half, quarter = 16 * 16, 8 * 8, 4 * 4
    assert total["macs.k7"] == half * 8 * 3 * 49
    assert total["macs.pointwise"] == quarter * 8 * 6 + 12 * 5
    assert total["macs.k3"] == quarter * 6 * 4 * 9
    assert total["strided"] == whole * 3
    assert total["pooled"] == quarter * 12
    assert total["layers"] == 4
    assert total["parameters"] == (3 * 8 * 49 + 8) + 4 * 8 + (8 * 6 + 6) + (6 * 4 * 9 + 4) + 4 * 12 + (12 * 5 + 5)
    stem = (whole * 3 + half * 8) + 2 * half * 8 + (half * 8 + quarter * 8)
    layer = 2 * 2 * quarter * 8 + quarter * (8 + 6) + 2 * quarter * 6 + quarter * (6 + 4) + quarter * 2 * (8 + 4)
    head = 2 * 2 * quarter * 12 + (quarter * 12 + 12) + 2 * 12 + (12 + 5)
    assert total["traffic"] == stem + layer + head


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_batch_multiplies_all_but_layers_and_parameters(space: Space) -> None:
    (architecture,) = s.several(space, 1)
    one, five = (total_of(space, architecture, batch) for batch in (1, 5))
    assert set(one) == set(five)
    for name, count in one.items():
        assert five[name] == (1 if name in ("layers", "parameters") else 5) * count


def test_no_weights_are_made_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subnet of DenseNet at full width and depth has 100 MB of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    graph = graph_of(find_space("densenet"), s.largest(find_space("densenet")), ExportSettings())
    assert len(graph.SerializeToString()) < 1_000_000
    assert list(tmp_path.iterdir()) == []


# one node


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "attributes", "expected"),
    [
        (
            "Conv",
            {"x": [2, 6, 9, 9], "w": [8, 6, 3, 5]},
            [2, 8, 9, 9],
            {},
            {"macs.k5": 2 * 8 * 81 * 6 * 15, "parameters": 8 * 6 * 15, "traffic": 2 * 81 * 14, "layers": 1},
        ),
        (
            "Conv",
            {"x": [1, 8, 4, 4], "w": [8, 4, 1, 1], "w.bias": [8]},
            [1, 8, 2, 2],
            {"group": 2, "strides": [2, 2]},
            {
                "macs.depthwise": 8 * 4 * 4,
                "depthwise.k1": 8 * 4,
                "strided": 8 * 16,
                "parameters": 40,
                "traffic": 8 * 20,
                "layers": 1,
            },
        ),
        (
            "MatMul",
            {"x": [2, 3, 4], "w": [4, 5]},
            [2, 3, 5],
            {},
            {"macs.pointwise": 2 * 3 * 4 * 5, "parameters": 20, "traffic": 24 + 30, "layers": 1},
        ),
        (
            "MatMul",
            {"a": [2, 3, 4], "b": [2, 4, 5]},
            [2, 3, 5],
            {},
            {"macs.pointwise": 2 * 3 * 4 * 5, "traffic": 24 + 40 + 30, "layers": 1},
        ),
        ("GlobalAveragePool", {"x": [2, 6, 5, 5]}, [2, 6, 1, 1], {}, {"pooled": 300, "traffic": 312}),
        ("Clip", {"x": [7], "": [], "most": []}, [7], {}, {"traffic": 15}),
        ("Add", {"x": [4, 4], "w": [4]}, [4, 4], {}, {"traffic": 32, "parameters": 4}),
    ],
)
def test_a_node_counts(
    operator: str, inputs: dict[str, list[int]], output: list[int], attributes: dict[str, Any], expected: dict[str, int]
) -> None:
    """What an input is called tells whether it is a weight."""
    node = helper.make_node(operator, list(inputs), ["y"], **attributes)
    shapes = {name: tuple(shape) for name, shape in {**inputs, "y": output}.items() if name}
    counts = count_node(node, shapes, {name for name in inputs if name.startswith("w")})
    assert {name: count for name, count in counts.items() if count} == expected


def test_shapes_are_those_that_the_writer_declares() -> None:
    space = SPACES["densenet"]
    (architecture,) = s.several(space, 1)
    shapes = shapes_of(graph_of(space, architecture, ExportSettings(batch=4)))
    assert shapes["input"] == (4, 3, 96, 96)
    assert shapes["stem.conv"] == (4, 12, 48, 48)
    assert shapes["stem.conv.weight"] == (12, 3, 7, 7)
    assert shapes["logits"] == (4, 10)
    assert all(math.prod(shape) > 0 for shape in shapes.values())


# what has no cost, and a stranger's


def test_a_torch_supernet_has_a_cost_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "costly_supernet.py").write_text(
        "from torch import nn\n"
        "def make(architecture):\n"
        "    layers = [nn.Conv2d(6, 6, 3, padding=1) for unit in architecture.units for _ in unit]\n"
        "    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 1), *layers, *ends)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    space = Space(
        "theirs", ((1, 2, 3),), (Feature("kernel", (3,)),), export=Export("costly_supernet:make", {"input": [3, 8, 8]})
    )
    block = Options({"kernel": 3})
    cost = cost_of(space, Architecture("theirs", ((block, block),)))
    assert cost.multiply_adds == 64 * (3 * 6 + 2 * 6 * 6 * 9) + 6 * 5
    assert cost.parameters == (3 * 6 + 6) + 2 * (6 * 6 * 9 + 6) + (6 * 5 + 5)
    assert cost.layers == 4


def test_what_cannot_be_written_has_no_cost() -> None:
    space = find_space("resnet")
    with pytest.raises(InputError, match="belongs to space 'mobilenetv3', expected 'resnet'"):
        cost_of(space, s.smallest(find_space("mobilenetv3")))
    with pytest.raises(InputError, match=r"space 'resnet' has no \[export\]"):
        cost_of(replace(space, export=None), s.smallest(space))
