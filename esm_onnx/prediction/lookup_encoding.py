"""The encoding `entries`: how often an architecture holds each entry of a lookup table, and the table itself.

A latency is looked up as the sum of what the parts of a network take (Cai et al. 2020, *Once-for-All*):
one stem, one head, for each unit its first block and the others, by their combination of options. Which option the
network has (a resolution) chooses the row of the table, so its options stand in front as zeros and a one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esm_onnx.architectures import Space
from esm_onnx.architectures.blocks import FIRST, HEAD, STEM, parts_of
from esm_onnx.prediction.encoding import Columns, Encoding, Matrix, Table


@dataclass(frozen=True)
class Lookup:
    """The latencies of a space's parts on a target.

    Attributes:
        columns: of the encoding `entries`: the network's options, then the entries.
        latency_ms: [network options, entries]; one row where the network has no options.
        measuring_time_s: what it took to measure them.
    """

    columns: tuple[str, ...]
    latency_ms: Matrix
    measuring_time_s: float

    @property
    def entries(self) -> int:
        """Number of latencies in the table."""
        return self.latency_ms.size


def build_entries(space: Space) -> Table:
    """The table of the encoding."""
    columns = Columns(space)
    columns.add_network(as_numbers=False)
    starts = np.cumsum([0, *space.slots]).tolist()
    everything = np.ones(len(space.combinations))
    for part in parts_of(space):
        if part in (STEM, HEAD):
            columns.add_blocks(part, range(1), everything)  # the first slot always holds a block
            continue
        unit, which = part.split(".")
        start, stop = starts[int(unit[1:]) - 1 : int(unit[1:]) + 1]
        slots = range(start, start + 1) if which == FIRST else range(start + 1, stop)
        columns.add_combinations(part, slots)
    return columns.done()


ENTRIES = Encoding("entries", build_entries)

NO_TABLE = "no lookup table came with the measurements: measure one with `esm-onnx profile --lookup-table`"
"""Why there is none, where nobody has looked for one."""
