"""Parts of networks as ONNX files: what they hold, and that they compute what they compute inside of a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from export import small_spaces as s
from onnx import TensorProto, helper

from esm_onnx.architectures import Architecture, Export, Options, Space, find_space, sample
from esm_onnx.architectures.blocks import block_space, parts_of, table_entries
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, export_facts, subnet_name, write_subnet
from esm_onnx.export.blocks import cut_out, stretches
from esm_onnx.export.cost import graph_of, shapes_of
from esm_onnx.testing import tiny_space

USUAL = ExportSettings()
OFA = find_space("ofa-mobilenetv3")
COMPOFA = find_space("compofa-fixed")
SPACES = [*map(s.narrow, (*s.FAMILIES, *s.ELASTIC)), OFA, COMPOFA, tiny_space()]
ALIKE = [space for space in SPACES if space.name not in ("densenet", "ofa-resnet50")]
"""Those whose blocks do not depend on the blocks before them."""


def drawn(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    """Random architectures, the shallower half of them: cutting a hundred dense layers apart takes its time."""
    many = sample(space, 2 * count, strategy="random", rng=Random(seed))
    return sorted(many, key=lambda architecture: architecture.depth)[:count]


def entry(space: Space, part: str, block: Options, network: Options) -> Architecture:
    """The architecture of the block space that stands for a block, made without `table_entries`."""
    return Architecture(f"{space.name}.blocks", ((Options({"part": part, **block}),),), network)


def whole_of(space: Space, architecture: Architecture) -> onnx.ModelProto:
    return graph_of(space, architecture, USUAL)


def written(space: Space, part: str, block: Options, network: Options) -> onnx.ModelProto:
    return graph_of(block_space(space), entry(space, part, block, network), USUAL)


def in_and_out(part: onnx.ModelProto) -> tuple[list[tuple[str, list[int]]], list[tuple[str, list[int]]]]:
    """Names and declared shapes of inputs and outputs."""
    sides = part.graph.input, part.graph.output
    inputs, outputs = ([(value.name, s.shape_of(value)) for value in side] for side in sides)
    return inputs, outputs


def anatomy(part: onnx.ModelProto) -> list[Any]:
    """All of a part but names: operators, their attributes, shapes of weights and of what comes in and goes out."""
    shapes = shapes_of(part)
    nodes = [
        (
            node.op_type,
            sorted((a.name, str(helper.get_attribute_value(a))) for a in node.attribute),
            [shapes[name] for name in (*node.input, *node.output)],
        )
        for node in part.graph.node
    ]
    return [nodes, *([shape for _, shape in side] for side in in_and_out(part))]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_parts_of_an_architecture_have_exactly_the_nodes_of_the_whole(space: Space) -> None:
    for architecture in drawn(space, 2):
        whole = whole_of(space, architecture)
        blocks = [f"u{u}.b{j}" for u, unit in enumerate(architecture.units, 1) for j in range(1, len(unit) + 1)]
        assert list(stretches(whole)) == ["stem", *blocks, "head"]
        parts = [cut_out(whole, stretch) for stretch in stretches(whole)]
        assert [node for part in parts for node in part.graph.node] == list(whole.graph.node)
        weights = [tensor for part in parts for tensor in part.graph.initializer]
        assert weights == list(whole.graph.initializer)
        for part in parts:
            assert (part.opset_import, part.ir_version) == (whole.opset_import, whole.ir_version)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_what_goes_out_of_a_part_comes_into_the_next_with_the_shape_it_has_in_the_whole(space: Space) -> None:
    for architecture in drawn(space, 2, seed=1):
        whole = whole_of(space, architecture)
        shapes = shapes_of(whole)
        parts = [in_and_out(cut_out(whole, stretch)) for stretch in stretches(whole)]
        assert parts[0][0] == [("input", list(shapes["input"]))]
        assert parts[-1][1] == [("logits", list(shapes["logits"]))]
        for (_, outputs), (inputs, _) in itertools.pairwise(parts):
            assert outputs == inputs
            assert all(shape == list(shapes[name]) for name, shape in outputs)


@pytest.mark.parametrize("space", ALIKE, ids=lambda space: space.name)
def test_every_block_of_any_architecture_is_an_entry_of_the_table(space: Space) -> None:
    for architecture in drawn(space, 2, seed=2):
        whole, network = whole_of(space, architecture), architecture.network
        some = architecture.units[-1][0]
        for end in ("stem", "head"):
            assert anatomy(written(space, end, some, network)) == anatomy(cut_out(whole, end))
        for u, blocks in enumerate(architecture.units, 1):
            for j, block in list(enumerate(blocks, 1))[:4]:
                part = written(space, f"u{u}.{'first' if j == 1 else 'rest'}", block, network)
                assert anatomy(part) == anatomy(cut_out(whole, f"u{u}.b{j}"))


def test_a_dense_layer_is_an_entry_of_the_table_but_for_its_width() -> None:
    space = s.narrow("densenet")
    architecture = s.uniform(space, 3)
    whole = whole_of(space, architecture)
    assert any(name.startswith("u1.transition") for name in stretches(whole)["u2.b1"])
    for u, blocks in enumerate(architecture.units, 1):
        for j, block in enumerate(blocks, 1):
            part = written(space, f"u{u}.{'first' if j == 1 else 'rest'}", block, architecture.network)
            inside = cut_out(whole, f"u{u}.b{j}")
            assert [node.op_type for node in part.graph.node] == [node.op_type for node in inside.graph.node]
            for given, found in zip(in_and_out(part)[0], in_and_out(inside)[0], strict=True):
                assert (given[1][0], given[1][2:]) == (found[1][0], found[1][2:])  # all but the channels
    first = written(space, "u1.first", space.combinations[0], Options())
    assert in_and_out(first)[0][0][1] == [1, 12, 24, 24]  # the stem's width, whatever comes later: exact
    later = written(space, "u1.rest", space.combinations[0], Options())
    assert in_and_out(later)[0][0][1] == [1, 12 + 5 * 8, 24, 24]  # five layers of growth 8: the sixth of eleven


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One pool for all, and gone afterwards."""
    with TemporaryDirectory() as name:
        yield Path(name)


def session_of(path: Path, values: list[onnx.ValueInfoProto] | None = None) -> onnxruntime.InferenceSession:
    """One thread, so that the machine is left to others; `values` go out besides."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if values:
        subnet = onnx.load(path, load_external_data=False)
        subnet.graph.output.extend(values)
        path = path.with_suffix(".open.onnx")
        path.write_bytes(subnet.SerializeToString())
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("space", "embed"),
    [*((space, False) for space in SPACES), (tiny_space(), True)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_part_computes_what_that_stretch_of_the_whole_computes(space: Space, embed: bool, folder: Path) -> None:
    """Each is fed what comes in there when the whole network sees an image."""
    settings = ExportSettings(batch=2, embed_weights=embed)
    block, network = space.combinations[-1], Options({f.name: f.options[0] for f in space.network})
    host = Architecture(space.name, tuple((block,) * d[len(d) // 2] for d in space.depths), network)
    whole = write_subnet(space.uncoupled, host, folder, settings).path
    parts = {}
    for part in parts_of(space):
        subnet = write_subnet(block_space(space), entry(space, part, block, network), folder, settings)
        parts[part] = session_of(subnet.path)
    values = {value.name: value for part in parts.values() for value in (*part.get_inputs(), *part.get_outputs())}
    between = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in values.items()
        if name not in ("input", "logits")
    ]
    image = np.random.default_rng(0).standard_normal(values["input"].shape, dtype=np.float32)
    opened = session_of(whole, between)
    names = [value.name for value in opened.get_outputs()]
    inside = {"input": image, **dict(zip(names, opened.run(names, {"input": image}), strict=True))}
    for part in parts.values():
        feed = {value.name: inside[value.name] for value in part.get_inputs()}
        for value, found in zip(part.get_outputs(), part.run(None, feed), strict=True):
            expected = inside[value.name]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_part_may_take_in_and_put_out_several_tensors() -> None:
    """A network whose blocks hand on two tensors, one of which also goes past a block."""

    def node(operator: str, name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [name], name)

    nodes = [
        node("Relu", "stem.a", "input"),
        node("Neg", "stem.b", "input"),
        node("Add", "u1.b1.sum", "stem.a", "stem.b"),
        node("Mul", "u1.b1.scaled", "u1.b1.sum", "weight"),
        node("Sub", "between", "u1.b1.sum", "stem.b"),
        node("Add", "u2.b1.sum", "u1.b1.scaled", "between"),
        node("Add", "logits", "u2.b1.sum", "stem.a"),
    ]
    shape = [1, 3]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, shape, [2.0, 3.0, 4.0])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "logits")]
    graph = helper.make_graph(nodes, "knotted", ends[:1], ends[1:], [weight])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert stretches(whole) == {
        "stem": ["stem.a", "stem.b"],
        "u1.b1": ["u1.b1.sum", "u1.b1.scaled"],
        "u2.b1": ["between", "u2.b1.sum"],
        "head": ["logits"],
    }
    found = {name: in_and_out(cut_out(whole, name)) for name in stretches(whole)}
    names = {name: tuple([value for value, _ in side] for side in sides) for name, sides in found.items()}
    assert names == {
        "stem": (["input"], ["stem.a", "stem.b"]),
        "u1.b1": (["stem.a", "stem.b"], ["u1.b1.sum", "u1.b1.scaled"]),
        "u2.b1": (["u1.b1.sum", "stem.b", "u1.b1.scaled"], ["u2.b1.sum"]),
        "head": (["u2.b1.sum", "stem.a"], ["logits"]),
    }
    assert all(declared == shape for sides in found.values() for side in sides for _, declared in side)
    onnx.checker.check_model(cut_out(whole, "u1.b1"), full_check=True)


def test_each_part_is_a_file_of_its_own_that_onnx_accepts(tmp_path: Path) -> None:
    space = tiny_space()
    blocks, entries = block_space(space), table_entries(space)
    assert len({subnet_name(blocks, each, USUAL) for each in entries}) == len(entries)
    for batch in (1, 3):
        path = write_subnet(blocks, entries[2], tmp_path, ExportSettings(batch=batch, opset=14)).path
        part = onnx.load(path, load_external_data=False)
        assert in_and_out(part)[0] == [("stem.act", [batch, 8, 16, 16])]
        assert part.opset_import[0].version == 14
        assert part.producer_name == "esm-onnx"


def test_the_facts_of_a_part_differ_from_the_whole_s_by_the_writer_alone() -> None:
    for space in SPACES:
        whole, part = export_facts(space, USUAL), export_facts(block_space(space), USUAL)
        assert whole.keys() == part.keys()
        assert {name for name in whole if whole[name] != part[name]} == {"writer", "writer_settings"}
    wider = s.with_settings(SPACES[0], stem=24)
    assert export_facts(block_space(wider), USUAL) != export_facts(block_space(SPACES[0]), USUAL)


def test_a_writer_that_does_not_tell_blocks_apart_is_refused() -> None:
    strange = s.with_writer(tiny_space(), "some.module:supernet")
    expected = "the blocks of space 'tiny' cannot be written: its writer is 'some.module:supernet'"
    with pytest.raises(InputError, match=expected):
        graph_of(block_space(strange), table_entries(strange)[0], USUAL)
    twice = block_space(tiny_space())
    with pytest.raises(
        InputError, match=r"the blocks of space 'tiny\.blocks' cannot be written: its writer is 'block'"
    ):
        graph_of(block_space(twice), table_entries(twice)[0], USUAL)


@pytest.mark.parametrize("settings", [{}, {"of": 3}, {"of": {"name": "x"}}, {"of": find_space("resnet").table()}])
def test_the_writer_of_parts_is_refused_where_a_user_names_it(settings: dict[str, Any]) -> None:
    wrong = replace(tiny_space(), export=Export("block", settings))
    with pytest.raises(InputError, match="the writer 'block' of space 'tiny' does not know whose blocks it holds"):
        graph_of(wrong, drawn(wrong, 1)[0], USUAL)
    other = replace(tiny_space(), export=Export("block", {"of": find_space("resnet").table(export=True)}))
    with pytest.raises(InputError, match=r"whose blocks it holds \(they are another space's\)"):
        graph_of(other, drawn(other, 1)[0], USUAL)
