"""The writer `block`: one part of a network by itself, as a runtime would have it to time (see `architectures.blocks`).

The part is cut out of a network of its space that the space's own writer draws: all blocks have the wanted options,
each unit the middle one of its depths, and a later block is the one in the middle of its unit. Which depth and which
place makes no difference where blocks are alike; in a DenseNet, whose layers grow with what came before, these are the
layers of middling width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import shape_inference
from onnx.utils import Extractor

from esm_onnx.architectures import Architecture, Options, Space
from esm_onnx.architectures.blocks import FIRST, HEAD, PART, STEM, block_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.export.pool import Allotment
from esm_onnx.export.settings import ExportSettings

Writer = Callable[[Space, Architecture, ExportSettings, Allotment], onnx.ModelProto]

BLOCK = re.compile(r"(u\d+\.b\d+)\.")
"""What the name of a block's nodes begins with."""


def write_block(
    writers: Mapping[str, Writer],
    space: Space,
    architecture: Architecture,
    settings: ExportSettings,
    allotment: Allotment,
) -> onnx.ModelProto:
    """One part of a network as ONNX; inputs are the tensors that come from outside of it, outputs those that go on.

    Args:
        writers: those whose nodes are named after their blocks.
        space: the block space; `architecture` is one of it.

    Raises:
        InputError: it is no block space, or that of a space whose writer is another.
    """
    whole, name = _whole_space(space)
    if name not in writers:
        raise InputError(
            f"the blocks of space {whole.name!r} cannot be written: its writer is {name!r}, expected one that tells "
            f"blocks apart: {', '.join(writers)}"
        )
    (block,) = architecture.units[0]
    options = Options({feature.name: block[feature.name] for feature in whole.features})
    depths = [allowed[len(allowed) // 2] for allowed in whole.depths]
    host = Architecture(whole.name, tuple((options,) * depth for depth in depths), architecture.network)
    return cut_out(writers[name](whole, host, settings, allotment), _place(str(block[PART]), depths))


def stretches(subnet: onnx.ModelProto) -> dict[str, list[str]]:
    """The names of the nodes of each block (`u2.b3`), of what lies before all blocks (`stem`), and after them (`head`).

    What lies between two blocks belongs to the later one: a DenseNet's transition to the first layer after it.
    """
    found: dict[str, list[str]] = {STEM: []}
    between: list[str] = []
    for node in subnet.graph.node:
        between.append(node.name)
        if block := BLOCK.match(node.name):
            if len(found) == 1:
                found[STEM], between = between[:-1], between[-1:]
            found.setdefault(block[1], []).extend(between)
            between = []
    return {**found, HEAD: between}


def cut_out(subnet: onnx.ModelProto, stretch: str) -> onnx.ModelProto:
    """One of a subnet's stretches as an ONNX model of its own, with static shapes."""
    names, graph = set(stretches(subnet)[stretch]), subnet.graph
    inside = [node for node in graph.node if node.name in names]
    outside = [node for node in graph.node if node.name not in names]
    made = _tensors(inside, "output")
    weights = {tensor.name for tensor in graph.initializer}
    needed = {*_tensors(outside, "input"), *(value.name for value in graph.output)}
    inputs = [name for name in _tensors(inside, "input") if name not in made and name not in weights]
    outputs = [name for name in made if name in needed]
    part = Extractor(shape_inference.infer_shapes(subnet)).extract_model(inputs, outputs)
    part.producer_name, part.graph.name = subnet.producer_name, f"{graph.name} {stretch}"
    return part


def _tensors(nodes: Sequence[onnx.NodeProto], side: str) -> dict[str, None]:
    """The names of what nodes take in or put out, each once, in their order."""
    return dict.fromkeys(name for node in nodes for name in getattr(node, side) if name)


def _whole_space(space: Space) -> tuple[Space, str]:
    """The space whose block space this is, and its writer."""
    settings = {} if space.export is None else space.export.settings
    try:
        whole = space_from_table(settings.get("of"))
        if whole.export is not None and block_space(whole).table(export=True) == space.table(export=True):
            return whole, whole.export.writer
        problem = "they are another space's"
    except InputError as error:
        problem = error.message
    raise InputError(
        f"the writer 'block' of space {space.name!r} does not know whose blocks it holds ({problem}): it is for "
        f"`profile --lookup-table`, expected another writer"
    )


def _place(part: str, depths: Sequence[int]) -> str:
    """The stretch of the host that a part is cut from."""
    if part in (STEM, HEAD):
        return part
    unit, which = part.split(".")
    depth = depths[int(unit[1:]) - 1]
    return f"{unit}.b{1 if which == FIRST else (2 + depth) // 2}"
