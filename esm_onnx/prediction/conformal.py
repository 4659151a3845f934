"""Bounds that hold a stated share of the time: conformal prediction.

The score of a row is its relative residual |measured − predicted| / predicted, of a prediction by a surrogate that has
not seen it: of a held-out row (split conformal: Lei et al. 2018, "Distribution-Free Predictive Inference for
Regression", Section 2.2), or of every row in turn, predicted out of its fold (cross-conformal: Vovk 2015,
"Cross-conformal predictors"). Where errors differ by depth, so do the widths: each score is taken in units of what is
usual in its bin (locally weighted conformal prediction: Lei et al., Section 5.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins
from esm_onnx.errors import InputError

Vector = NDArray[np.float64]

BORROWED = 20
"""A bin's usual score counts against the overall one as its rows count against so many."""


@dataclass(frozen=True, slots=True)
class Interval:
    """lower = predicted · (1 − width), but not below 0; upper = predicted · (1 + width); the width is the bin's.

    Attributes:
        coverage: the stated share of architectures whose latency lies between them.
        ranges: least and greatest depth of each bin, ascending.
        widths: of each bin, as a share of the prediction; infinite where too few rows set them to promise the coverage,
            so that lower is 0 and upper infinite.
        rows: number of rows that set them.
    """

    coverage: float
    ranges: tuple[tuple[int, int], ...]
    widths: tuple[float, ...]
    rows: int

    @staticmethod
    def boundless(bins: Bins, coverage: float = 0.9) -> Interval:
        """What is promised where nothing was measured: from 0 to infinity."""
        return Interval(coverage, tuple(bins.ranges), (math.inf,) * len(bins), 0)

    @property
    def factors(self) -> NDArray[np.float32]:
        """[bins, 2]: what a prediction is multiplied by to get lower and upper."""
        return np.array([(max(0.0, 1 - width), 1 + width) for width in self.widths], np.float32)

    def bins_of(self, depths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bin of each depth."""
        return np.searchsorted([high for _, high in self.ranges[:-1]], depths).astype(np.int64)


def calibrate(predicted: Vector, measured: Vector, depths: NDArray[np.int64], bins: Bins, coverage: float) -> Interval:
    """The interval from rows predicted by surrogates that had not seen them; latencies in ms.

    The overall width is the ⌈(n + 1) · coverage⌉-th smallest score; where n is smaller than that, no width will do.
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}, expected a share between 0 and 1, such as 0.9")
    of_bin = np.array(bins.indices(depths), np.int64)
    with np.errstate(divide="ignore", over="ignore"):  # where all others are predicted exactly, nothing is usual
        scores = np.abs(measured - predicted) / predicted
        usual, without_itself = _usual(scores, of_bin, len(bins), coverage)
        widths = _quantile(scores / without_itself, coverage) * usual
    return Interval(coverage, tuple(bins.ranges), tuple(widths.tolist()), len(scores))


def measured_coverage(
    predicted: Vector,
    measured: Vector,
    depths: NDArray[np.int64],
    bins: Bins,
    coverage: float,
    rng: np.random.Generator,
) -> float | None:
    """The share that intervals really enclose: each half of the rows judged by the widths that the other half sets.

    None where a half is too small to set one.
    """
    order = rng.permutation(len(measured))
    halves = order[::2], order[1::2]
    inside = 0
    for judged, setting in (halves, halves[::-1]):
        interval = calibrate(predicted[setting], measured[setting], depths[setting], bins, coverage)
        widths = np.array(interval.widths)[interval.bins_of(depths[judged])]
        if np.isinf(widths).any():
            return None
        inside += int((np.abs(measured[judged] - predicted[judged]) <= widths * predicted[judged]).sum())
    return inside / len(measured)


def _usual(scores: Vector, of_bin: NDArray[np.int64], bins: int, coverage: float) -> tuple[Vector, Vector]:
    """What is usual: the score that the stated share of rows stays below, in each bin drawn towards that of all rows.

    Returns:
        For each bin; and for each row that of its bin without the row itself, since a great score would otherwise raise
        what it is divided by.
    """
    finite = np.minimum(scores, np.finfo(float).max)
    overall, overall_without = _order_statistics(finite, coverage)
    least = np.finfo(float).tiny if overall else 1.0
    usual, without_itself = np.empty(bins), np.empty(len(scores))
    for i in range(bins):
        inside = of_bin == i
        own, own_without = _order_statistics(finite[inside], coverage)
        count = int(inside.sum())
        usual[i] = (count * own + BORROWED * overall) / (count + BORROWED)
        rest = count - 1
        without_itself[inside] = (rest * own_without + BORROWED * overall_without[inside]) / (rest + BORROWED)
    return np.maximum(usual, least), np.maximum(without_itself, least)


def _order_statistics(values: Vector, share: float) -> tuple[float, Vector]:
    """The value that the share of them stays below, 0 for none; and for each value, that of the others, if any."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values))
    if len(values) < 2:
        return float(values.sum()), values
    place, place_without = (_place(n, share) - 1 for n in (len(values), len(values) - 1))
    return float(values[order[place]]), values[order[place_without + (ranks <= place_without)]]


def _quantile(scores: Vector, coverage: float) -> float:
    place = _place(len(scores) + 1, coverage)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf


def _place(count: int, share: float) -> int:
    return math.ceil(count * Fraction(str(share)))  # in floats, 100 · 0.55 is above 55
