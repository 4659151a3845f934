"""Equally wide ranges of depth (ESM, Section IV)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from esm_onnx.architectures.compositions import attainable_depths
from esm_onnx.architectures.space import Space
from esm_onnx.errors import InputError

USUAL_BINS = 5


@dataclass(frozen=True, slots=True)
class Bins:
    """Ranges of depth, each `(least, greatest)`, both inside; together they cover the space's depths."""

    ranges: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ranges)

    def index(self, depth: int) -> int:
        """Which bin a depth falls into, from 0."""
        for i, (least, greatest) in enumerate(self.ranges):
            if least <= depth <= greatest:
                return i
        raise InputError(f"depth {depth} lies in none of the bins {', '.join(self.names())}")

    def indices(self, depths: Iterable[int]) -> list[int]:
        """Which bin each depth falls into; any integers, numpy's too."""
        return [self.index(int(depth)) for depth in depths]

    def names(self) -> list[str]:
        """`4–8`, `9–13`, …"""
        return [str(low) if low == high else f"{low}–{high}" for low, high in self.ranges]


def divide(space: Space, count: int | None = None) -> Bins:
    """Divides the depths of a space into `count` equally wide bins: their widths differ by one at most.

    Args:
        count: N_Bins. None takes 5, or the greatest number below it that leaves no bin empty.

    Raises:
        InputError: a bin would hold no architecture.
    """
    if count is None:
        return next(bins for n in range(USUAL_BINS, 0, -1) if (bins := _divide(space, n)) is not None)
    if count < 1:
        raise InputError(f"N_Bins is {count}, expected at least 1")
    bins = _divide(space, count)
    if bins is None:
        depths = attainable_depths(space)
        raise InputError(
            f"N_Bins is {count}, but space {space.name!r} has {len(depths)} depths ({depths[0]} to {depths[-1]}) and a "
            f"bin would hold none of them: take fewer bins"
        )
    return bins


def _divide(space: Space, count: int) -> Bins | None:
    depths = attainable_depths(space)
    if count > len(depths):
        return None
    least, width = depths[0], depths[-1] - depths[0] + 1
    edges = [least + width * i // count for i in range(count + 1)]
    ranges = tuple((low, high - 1) for low, high in itertools.pairwise(edges))
    filled = all(any(low <= depth <= high for depth in depths) for low, high in ranges)
    return Bins(ranges) if filled else None
