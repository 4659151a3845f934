"""Bounds that hold a stated share of the time: split conformal prediction.

Source: Lei et al. 2018, "Distribution-Free Predictive Inference for Regression", Section 2.2. The score is the relative
residual |measured − predicted| / predicted, so the bounds are wide where the latency is great.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """lower = predicted · (1 − width), but not below 0; upper = predicted · (1 + width).

    Attributes:
        coverage: the stated share of architectures whose latency lies between them.
        width: as a share of the prediction; infinite where too few rows were held out to promise the coverage, so that
            lower is 0 and upper infinite.
        rows: number of held-out rows that set it.
    """

    coverage: float
    width: float
    rows: int

    @property
    def factors(self) -> tuple[float, float]:
        """What a prediction is multiplied by to get lower and upper."""
        return max(0.0, 1 - self.width), 1 + self.width


def calibrate(predicted: Vector, measured: Vector, coverage: float) -> Interval:
    """The interval from held-out rows, both in ms.

    The width is the ⌈(n + 1) · coverage⌉-th smallest score; where n is smaller than that, no width will do.
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}, expected a share between 0 and 1, such as 0.9")
    with np.errstate(divide="ignore"):
        scores = np.sort(np.abs(measured - predicted) / predicted)
    place = math.ceil((len(scores) + 1) * Fraction(str(coverage)))  # in floats, 100 · 0.55 is above 55
    width = float(scores[place - 1]) if place <= len(scores) else math.inf
    return Interval(coverage, width, len(scores))


def measured_coverage(predicted: Vector, measured: Vector, coverage: float, rng: np.random.Generator) -> float | None:
    """The share that intervals really enclose: each half of the rows judged by the width that the other half sets.

    None where a half is too small to set one.
    """
    order = rng.permutation(len(measured))
    halves = order[::2], order[1::2]
    inside = 0
    for judged, setting in (halves, halves[::-1]):
        width = calibrate(predicted[setting], measured[setting], coverage).width
        if math.isinf(width):
            return None
        inside += int((np.abs(measured[judged] - predicted[judged]) <= width * predicted[judged]).sum())
    return inside / len(measured)
