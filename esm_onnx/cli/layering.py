"""`profile --layers`: where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import click

from esm_onnx.architectures import Architecture, Space, to_json
from esm_onnx.cli.printing import FEW, Printer, print_table
from esm_onnx.errors import WorkError
from esm_onnx.measurement.layers import fill_table
from esm_onnx.measurement.record import Failure
from esm_onnx.measurement.session import Profiler, Progress
from esm_onnx.measurement.target import Target


@dataclass(frozen=True)
class LayerTimes:
    """The times of blocks in ms of each architecture on a target, and what could not be timed.

    Attributes:
        entries: number of entries that the lookup table in the store gained.
    """

    space: Space
    target: Target
    measured: Sequence[tuple[Architecture, Mapping[str, float]]]
    failures: Sequence[Failure]
    entries: int


def time_layers(profiler: Profiler, chosen: Sequence[Architecture], report: Callable[[Progress], None]) -> LayerTimes:
    """Times the layers of architectures, and adds to the lookup table what it does not have."""
    measured: list[tuple[Architecture, Mapping[str, float]]] = []
    failures: list[Failure] = []
    with profiler.store.alone(profiler.target):
        for number, architecture in enumerate(chosen, 1):
            times = profiler.time_layers(architecture)
            if isinstance(times, Failure):
                failures.append(times)
            else:
                measured.append((architecture, times))
            report(Progress(len(chosen), number, len(failures)))
    entries = fill_table(profiler.store, profiler.space, profiler.target, measured, time.time())
    return LayerTimes(profiler.space, profiler.target, measured, failures, entries)


def print_layers(found: Sequence[LayerTimes], printer: Printer | None) -> None:
    """A table of mean times by place in the network, or everything as JSON.

    Raises:
        WorkError: nothing could be timed.
    """
    if printer is not None:
        values = [_as_json(times) for times in found]
        printer(values if len(values) > 1 else values[0])
    else:
        for times in found:
            _print(times)
    if not any(times.measured for times in found):
        raise WorkError("no architecture could be timed layer by layer")


def _as_json(times: LayerTimes) -> dict[str, Any]:
    return {
        "target": times.target.name,
        "facts": dict(times.target.facts),
        "entries": times.entries,
        "architectures": [
            {"architecture": to_json(times.space, architecture), "blocks_ms": dict(blocks)}
            for architecture, blocks in times.measured
        ],
        "failures": [{"kind": failure.kind, "message": failure.message} for failure in times.failures],
    }


def _print(times: LayerTimes) -> None:
    shares: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    for _, blocks in times.measured:
        for block, block_ms in blocks.items():
            spent[block].append(block_ms)
            shares[block].append(block_ms / sum(blocks.values()))
    click.echo(f"{len(times.measured)} architectures on {times.target.name!r}, means where a block is there")
    rows = [
        (b, len(spent[b]), f"{mean(spent[b]):.4g}", f"{100 * mean(shares[b]):.1f}") for b in sorted(spent, key=_place)
    ]
    print_table(("block", "architectures", "ms", "% of the network"), rows)
    for failure in times.failures[:FEW]:
        click.echo(f"  failed ({failure.kind}): {failure.message}")
    if times.entries:
        click.echo(f"{times.entries} entries of the lookup table were added to the store")


def _place(block: str) -> tuple[int, ...]:
    """Stem, then units and blocks by their numbers, then head; blocks that were fused stand where the first would."""
    block = block.split(" to ")[0]
    if not block.startswith("u"):
        return (0,) if block == "stem" else (1 << 30,)
    unit, number = block[1:].split(".b")
    return int(unit), int(number)
