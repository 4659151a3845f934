"""How many of some slots hold each combination of options, as nodes of predictor.onnx that handle few numbers.

Comparing each slot with each combination makes slots × combinations numbers, and these take longer than the network
that they are for. Here a slot that holds combination c becomes the power b^c of a base b above the number of slots; the
powers are summed, and the digits of the sum are the counts. What keeps this exact in float32:

- A power is an exponential, wrong in its last places, so a sum holds only as many digits as rounding surely restores.
  More combinations take several sums, each for a window of them: those above count as its upper end, since exponents
  are limited, and those below are a fraction, which rounding down drops. So is an absent block: its number is negative.
- Bases are powers of two, so ⌊sum / b^c⌋ loses nothing, and ⌊sum / b^c⌋ − b · ⌊sum / b^(c+1)⌋ is digit c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.surrogate import Nodes, alike

MOST_SLOTS = 63
"""Slots of one sum; with more of them, not one digit would be sure."""
ROUNDING = 2.0**-23

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """Slots that are counted together.

    Attributes:
        numbers: [genome length, slots]: a genome times this is the number of each slot's combination, from 0, and
            negative where the block is absent.
        combinations: how many there are.
    """

    numbers: Matrix
    combinations: int


@dataclass(frozen=True)
class Floors:
    """Whole numbers from which the counts follow.

    Attributes:
        name: float32 [batch, n].
        digits: [n, Σ combinations]: times this, they are the counts.
        greatest: [n]: none is above.
    """

    name: str
    digits: Matrix
    greatest: Vector


@dataclass(frozen=True)
class _Window:
    """One sum of powers: the numbers of its slots, its base, its first combination and its upper end."""

    numbers: Matrix
    base: int
    first: int
    end: int

    @property
    def slots(self) -> int:
        return int(self.numbers.shape[1])

    @property
    def places(self) -> NDArray[np.int64]:
        return np.arange(self.first, self.end + 1)

    @property
    def shares(self) -> Matrix:
        """[slots, places]: the powers, of which the one at the end is 1, times this are the sum over b^c."""
        return np.tile(np.power(float(self.base), self.end - self.places), (self.slots, 1))

    @property
    def raised(self) -> Vector:
        """[places]: what keeps rounding errors from leading to the whole number below."""
        return _free(self.slots, self.base) * np.power(float(self.base), self.first - self.places)

    def digits(self, combinations: int) -> Matrix:
        """[places, combinations]: whole numbers times this are counts; the window above counts the end, if there is
        one."""
        size, found = len(self.places), np.zeros((len(self.places), combinations))
        found[:, self.first : self.end + 1] = np.eye(size) - self.base * np.eye(size, k=-1)
        if self.end + 1 < combinations:
            found[:, self.end] = 0
        return found


def draw_floors(graph: Nodes, counted: Sequence[Counted], row: str) -> Floors:
    """Nodes from genomes as float32 [batch, length]."""
    by_counted = [_windows(slots) for slots in counted]
    windows = [window for group in by_counted for window in group]
    digits = diagonal(
        [
            np.vstack([window.digits(slots.combinations) for window in group])
            for slots, group in zip(counted, by_counted, strict=True)
        ]
    )
    ends = np.concatenate([np.full(window.slots, float(window.end)) for window in windows])
    logarithms = np.concatenate([np.full(window.slots, math.log(window.base)) for window in windows])
    # whole numbers are exact before they are scaled
    power = graph.linear("slot.beyond", row, np.hstack([window.numbers for window in windows]), -ends)
    # lower ones matter nowhere, and would give numbers too small for float32 to be quick
    least = graph.floats("slot.least", -1.0 - max(window.end - window.first for window in windows))
    power = graph.add("Clip", "slot.limited", power, least, graph.floats("slot.greatest", 0.0))
    power = graph.add("Mul", "slot.exponent", power, graph.floats("slot.logarithms", alike(logarithms)))
    power = graph.add("Exp", "slot.power", power)
    shares, raised = diagonal([window.shares for window in windows]), np.concatenate([w.raised for w in windows])
    floors = graph.add("Floor", "counts.floors", graph.linear("counts.sums", power, shares, raised))
    return Floors(floors, digits, shares.sum(axis=0) + raised)


def _windows(counted: Counted) -> list[_Window]:
    """From the last combination to the first; each ends where the one before begins."""
    windows, slots = [], counted.numbers.shape[1]
    for numbers in np.array_split(counted.numbers, math.ceil(slots / MOST_SLOTS), axis=1):
        base, most = digits_of(numbers.shape[1])
        bounds = [*range(counted.combinations - 1, 0, -most), 0]
        firsts = bounds[1:] or [0]
        windows += [_Window(numbers, base, first, end) for first, end in zip(firsts, bounds, strict=False)]
    return windows


def digits_of(slots: int) -> tuple[int, int]:
    """The base for so many slots, and the greatest digit (from 0) of a sum that is sure to be right.

    A power is off by two units in the last place at most, and each addition by half of one; a sum may be off by half of
    what its fraction leaves free below 1.
    """

    def greatest(base: int) -> int:
        return math.floor(math.log(_free(slots, base) / (slots * (2 + slots / 2) * ROUNDING), base))

    least: int = 2 ** slots.bit_length()
    base = max(least, 2 * least, key=greatest)
    return base, greatest(base)


def _free(slots: int, base: int) -> float:
    """Half of what the greatest fraction leaves free below 1: what a sum is raised by before it is rounded down."""
    return (1 - slots / base) / 2


def diagonal(blocks: Sequence[Matrix]) -> Matrix:
    """The blocks along the diagonal, zeros elsewhere."""
    heights, widths = zip(*(block.shape for block in blocks), strict=True)
    whole = np.zeros((sum(heights), sum(widths)))
    top = left = 0
    for block in blocks:
        whole[top : top + block.shape[0], left : left + block.shape[1]] = block
        top, left = top + block.shape[0], left + block.shape[1]
    return whole
