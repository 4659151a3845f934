"""Layer times of runtimes, brought back to blocks."""

from __future__ import annotations

from pathlib import Path
from random import Random

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Options, find_space, sample
from esm_onnx.architectures.blocks import table_entries
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.pool import Allotment
from esm_onnx.export.writers import find_writer
from esm_onnx.measurement.layers import table_of_times, times_by_block
from esm_onnx.measurement.runtime import Inference, RuntimeSettings, find_runtime, list_runtimes
from esm_onnx.testing import tiny_space

FAMILIES = ("resnet", "mobilenetv3", "densenet")


def written(name: str, folder: Path, seed: int = 0) -> tuple[Architecture, Path]:
    space = find_space(name)
    (architecture,) = sample(space, 1, strategy="random", rng=Random(seed))
    return architecture, write_subnet(space, architecture, folder).path


def drawn() -> onnx.ModelProto:
    space = tiny_space()
    (architecture,) = sample(space, 1, strategy="random", rng=Random(0))
    return find_writer(space)(space, architecture, ExportSettings(), Allotment(0, embed=False))


TINY = drawn()


def blocks_of(architecture: Architecture) -> set[str]:
    return {f"u{u}.b{b}" for u, unit in enumerate(architecture.units, 1) for b in range(1, len(unit) + 1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_under_its_own_name_belongs_to_its_block(family: str, tmp_path: Path) -> None:
    architecture, path = written(family, tmp_path)
    subnet = onnx.load(path, load_external_data=False)
    times = times_by_block(subnet, {node.name: 1.0 for node in subnet.graph.node})
    assert isinstance(times, dict)
    assert set(times) == {"stem", "head"} | blocks_of(architecture)
    assert sum(times.values()) == len(subnet.graph.node)
    assert min(times.values()) >= 1
    assert times["stem"] == sum(node.name.startswith("stem") for node in subnet.graph.node)


THREE = "u1.b1", "u1.b2", "u2.b1"
NETWORK = Architecture("tiny", tuple((Options({"kernel": 3, "expansion": 1}),) * depth for depth in (2, 1)))


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("u1.b1.depthwise_nchwc", "u1.b1"),
        ("u1.b1.depthwise + u1.b1.project", "u1.b1"),
        ("fused(u1.b1.project, u1.b2.expand)", "u1.b1 to u1.b2"),
        ("{ForeignNode[u1.b1.expand...u2.b1.project]}", "u1.b1 to u2.b1"),
        ("/u1.b2.project/WithoutBiases", "u1.b2"),
        ("logits", "head"),
    ],
)
def test_names_as_runtimes_make_them(layer: str, block: str) -> None:
    subnet = find_writer(tiny_space())(tiny_space(), NETWORK, ExportSettings(), Allotment(0, embed=False))
    low, _, high = block.partition(" to ")
    order = ["stem", *THREE, "head"]
    apart = [name for name in order if not (order.index(low) <= order.index(name) <= order.index(high or low))]
    times = times_by_block(subnet, {"stem.conv": 1.0, layer: 2.0})
    assert times == dict.fromkeys(apart, 0.0) | {"stem": 1.0} | {block: 2.0}
    assert times_by_block(subnet, {layer: 2.0, "ReorderInput": 0.5}) == dict.fromkeys(apart, 0.0) | {block: 2.5}


@pytest.mark.parametrize("name", ["__myl_ConvAddRelu_myl0_3", "u1.b11.expand"])
def test_times_under_names_that_tell_nothing_are_not_guessed(name: str) -> None:
    subnet = find_writer(tiny_space())(tiny_space(), NETWORK, ExportSettings(), Allotment(0, embed=False))
    told = times_by_block(subnet, {"stem.conv": 1.0, name: 3.0})
    assert told == "75 % of the time is in layers whose names tell no block"


@given(st.lists(st.floats(1, 1e3), min_size=30, max_size=30), st.lists(st.integers(0, 29), max_size=6))
def test_no_time_is_lost_whatever_is_fused(times: list[float], fused: list[int]) -> None:
    nodes = [node.name for node in TINY.graph.node]
    layers = {f"{nodes[i % len(nodes)]} #{i}": time for i, time in enumerate(times)}
    layers |= {f"{nodes[i % len(nodes)]} + {nodes[(i + 5) % len(nodes)]}": 1.0 for i in fused}
    found = times_by_block(TINY, layers)
    assert isinstance(found, dict)
    assert sum(found.values()) == pytest.approx(sum(layers.values()))


def test_entries_of_a_table_are_medians_over_the_networks() -> None:
    space = tiny_space()
    architectures = sample(space, 50, strategy="random", rng=Random(0))
    prices = {entry: 1.0 + i for i, entry in enumerate(table_entries(space))}

    def price(architecture: Architecture, wrong: float) -> dict[str, float]:
        """Its blocks as the table says, times a factor that is 1 for most architectures."""
        found = {}
        for entry, time in prices.items():
            (block,) = entry.units[0]
            unit, _, which = str(block["part"]).partition(".")
            if not which:
                found[unit] = wrong * time
                continue
            for b, options in enumerate(architecture.units[int(unit[1:]) - 1], 1):
                same = all(options[name] == block[name] for name in ("kernel", "expansion"))
                if same and (which == "first") == (b == 1):
                    found[f"{unit}.b{b}"] = wrong * time
        return found

    measured = [(a, price(a, 3.0 if i % 10 == 0 else 1.0)) for i, a in enumerate(architectures)]
    assert table_of_times(space, measured) == prices
    fused = [(a, {b: t for b, t in blocks.items() if not b.startswith("u2")}) for a, blocks in measured]
    assert {entry: t for entry, t in prices.items() if "u2" not in str(entry.units)} == table_of_times(space, fused)


WITH_LAYERS = [entry.names[0] for entry in list_runtimes() if entry.problem is None and entry.names[0] != "dry"]


@pytest.mark.parametrize("name", WITH_LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_real_runtimes_cover_every_block(name: str, family: str, tmp_path: Path) -> None:
    architecture, path = written(family, tmp_path, seed=1)
    with find_runtime(name)(RuntimeSettings()).load(path) as infer:
        if not isinstance(infer, Inference) or infer.layers is None:
            pytest.skip(f"{name} tells no layer times")
        layers = infer.layers()
    times = times_by_block(onnx.load(path, load_external_data=False), layers)
    assert isinstance(times, dict)
    assert set(times) == {"stem", "head"} | blocks_of(architecture)
    assert all(time > 0 for time in times.values())
    assert sum(times.values()) == pytest.approx(sum(layers.values()))
