"""Where the time goes: a runtime's own layer times, brought back to the blocks of an architecture.

Runtimes fuse nodes and rename them, but a layer's name holds the name of a node or of its output (`u2.b3.relu1_nchwc`,
`u2.b3.conv1 + u2.b3.relu1`), and these begin with their block. A layer of another name, a change of the memory layout
say, belongs to what was executed before it; where these take long, nothing can be said.
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
from esm_onnx.measurement.target import Fact, Target

HOW = "layer times of whole networks"
"""Provenance of what `fill_table` adds."""
WITHIN_NETWORKS: Mapping[str, Fact] = {"timed": "within networks"}
"""The fact by which entries that `fill_table` adds differ from blocks that were timed by themselves."""
WORD = re.compile(r"\w+(?:\.\w+)*")
"""Of a layer's name; two names with dots between them, as TensorRT writes a range of nodes, are two words."""
MOST_NAMELESS = 0.3
"""Share of the time that layers without the name of a node may take: changes of the memory layout."""


def times_by_block(subnet: onnx.ModelProto, layers: Mapping[str, float]) -> dict[str, float] | str:
    """The time of each block (`u2.b3`), of `stem` and of `head`, in the unit of the layers' times.

    Blocks that a runtime fused into one layer stand together: `u2.b3 to u2.b5`.

    Args:
        subnet: one of a writer of ours, whose nodes are named after their blocks.
        layers: the time of each layer by the runtime's name of it, in the order of execution.

    Returns:
        The times in the order of the network; or why they cannot be told: names that tell no block take too long.
    """
    blocks = stretches(subnet)
    place_of = {name: place for place, names in enumerate(blocks.values()) for name in names}
    places = {output: place_of[node.name] for node in subnet.graph.node for output in node.output} | place_of
    names = sorted(places, key=len, reverse=True)
    spans: list[tuple[int, int, float]] = []
    nameless, last = 0.0, 0
    for layer, time in layers.items():
        found = [places[name] for word in WORD.findall(layer) if (name := _begins_with(word, names)) is not None]
        nameless += 0.0 if found else time
        last = max(found, default=last)
        spans.append((min(found, default=last), last, time))
    if nameless > MOST_NAMELESS * sum(layers.values()):
        return f"{100 * nameless / sum(layers.values()):.0f} % of the time is in layers whose names tell no block"
    return _joined(list(blocks), spans)


def _joined(blocks: Sequence[str], spans: Sequence[tuple[int, int, float]]) -> dict[str, float]:
    """The time of each stretch of blocks that no layer ties to the next one."""
    tied = {place for low, high, _ in spans for place in range(low, high)}
    times: dict[str, float] = {}
    start = 0
    for place, block in enumerate(blocks):
        if place in tied:
            continue
        name = block if start == place else f"{blocks[start]} to {block}"
        times[name] = sum(time for low, _, time in spans if start <= low <= place)
        start = place + 1
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
            if block not in blocks:
                continue  # fused with another
            entry = Architecture(name, ((Options({PART: part, **options}),),), architecture.network)
            times[entry].append(blocks[block])
    return {entry: median(found) for entry, found in times.items()}


def fill_table(
    store: Store, space: Space, target: Target, measured: Sequence[tuple[Architecture, Mapping[str, float]]], at: float
) -> int:
    """Adds to a store the entries of a lookup table that it does not have; gives their number.

    They are a target of their own: a block that is timed by itself takes longer, by what an inference costs anyway.

    Args:
        target: of the architectures.
        at: the time now, in seconds since 1970.
    """
    blocks = block_space(space)
    written = export_facts(blocks, ExportSettings())
    facts = {**target.facts, **{name: written[name] for name in ("writer", "writer_settings")}}
    of_blocks = Target(target.name, {**facts, **WITHIN_NETWORKS})
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
