"""Where the time goes: a runtime's own layer times, brought back to the blocks of an architecture.

Runtimes fuse nodes and rename them, but a layer's name holds the name of a node or of its output (`u2.b3.relu1_nchwc`,
`u2.b3.conv1 + u2.b3.relu1`), and these begin with their block. A layer of another name, a change of the memory layout
say, belongs to what was executed before it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import onnx

from esm_onnx.architectures import Architecture, Options, Space
from esm_onnx.architectures.blocks import FIRST, HEAD, PART, REST, STEM, block_space
from esm_onnx.export import ExportSettings, export_facts
from esm_onnx.export.blocks import stretches
from esm_onnx.measurement.record import SUBJECT, Measurement
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target

HOW = "layer times of whole networks"
"""Provenance of what `fill_table` adds."""
WORD = re.compile(r"[\w.]+")


def times_by_block(subnet: onnx.ModelProto, layers: Mapping[str, float]) -> dict[str, float]:
    """The time of each block (`u2.b3`), of `stem` and of `head`, in the unit of the layers' times.

    Args:
        subnet: one of a writer of ours, whose nodes are named after their blocks.
        layers: the time of each layer by the runtime's name of it, in the order of execution.
    """
    blocks = stretches(subnet)
    block_of = {name: block for block, names in blocks.items() for name in names}
    outputs = {output: block_of[node.name] for node in subnet.graph.node for output in node.output}
    known = outputs | block_of
    names = sorted(known, key=len, reverse=True)
    times, block = dict.fromkeys(blocks, 0.0), STEM
    for layer, time in layers.items():
        found = [known[name] for word in WORD.findall(layer) if (name := _begins_with(word, names)) is not None]
        block = found[-1] if found else block  # of nodes fused across a border, the last one's: it made the output
        times[block] += time
    return times


def _begins_with(word: str, names: Iterable[str]) -> str | None:
    """The longest name that a word begins with, and that does not end within a number."""
    for name in names:
        if word.startswith(name) and not word[len(name) : len(name) + 1].isdigit():
            return name
    return None


def table_of_times(
    space: Space, measured: Iterable[tuple[Architecture, Mapping[str, float]]]
) -> dict[Architecture, float]:
    """The entries of a lookup table, as architectures of the block space, that whole networks tell of.

    Args:
        measured: architectures with the times of their blocks.

    Returns:
        For each entry that occurs, the median of its times.
    """
    name = block_space(space).name
    times: dict[Architecture, list[float]] = defaultdict(list)
    for architecture, blocks in measured:
        for part, options, block in _parts(space, architecture):
            entry = Architecture(name, ((Options({PART: part, **options}),),), architecture.network)
            times[entry].append(blocks[block])
    return {entry: median(found) for entry, found in times.items()}


def fill_table(
    store: Store, space: Space, target: Target, measured: Sequence[tuple[Architecture, Mapping[str, float]]], at: float
) -> int:
    """Adds to a store the entries of a lookup table that it does not have; gives their number.

    Args:
        target: of the architectures; the entries are of the same but for the writer.
        at: the time now, in seconds since 1970.
    """
    blocks = block_space(space)
    written = export_facts(blocks, ExportSettings())
    facts = {**target.facts, **{name: written[name] for name in ("writer", "writer_settings")}}
    of_blocks = Target(target.name, facts)
    known = store.measured(blocks, of_blocks)
    entries = [
        Measurement(entry, SUBJECT, (time_ms,), at)
        for entry, time_ms in table_of_times(space, measured).items()
        if entry not in known and time_ms > 0  # of a block fused into another nothing is known
    ]
    provenance = {"how": HOW, "architectures": len(measured), "at": at}
    return store.add(blocks, of_blocks, provenance, entries) if entries else 0


def _parts(space: Space, architecture: Architecture) -> list[tuple[str, Options, str]]:
    """Part of the lookup table, options and name of each block, and of stem and head."""
    ends = [(end, space.combinations[0], end) for end in (STEM, HEAD)]
    return ends + [
        (f"u{u}.{FIRST if b == 1 else REST}", block, f"u{u}.b{b}")
        for u, unit in enumerate(architecture.units, 1)
        for b, block in enumerate(unit, 1)
    ]
