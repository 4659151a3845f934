"""The statistic of a measurement, and how well it is known.

The statistic is the trimmed mean (ESM, Section V). Its interval is that of Tukey and McLaughlin (1963, *Less Vulnerable
Confidence and Significance Procedures for Location Based on a Single Sample*, Sankhyā A 25): the variance of the
Winsorized values over (1 − 2·trim)². Runs follow one another and are not independent, so that variance is multiplied by
the integrated autocorrelation time, estimated by the initial positive sequence of Geyer (1992, *Practical Markov Chain
Monte Carlo*, Statistical Science 7, Section 3.3).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

TRIM = 0.2
"""Share of runs dropped at either end (ESM, Section V: the fastest and the slowest 20 %)."""

LEAST_VALUES = 4
"""Values below which an interval says nothing."""

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def trimmed_mean(values: Values, trim: float = TRIM) -> float:
    """Mean of what is left when the share `trim` of the values is dropped at either end (rounded down)."""
    drop = int(len(values) * trim)
    return float(np.sort(values)[drop : len(values) - drop].mean())


def relative_error(values: Values, trim: float = TRIM) -> float:
    """Half the width of the 95 % confidence interval of the trimmed mean, over the trimmed mean.

    Args:
        values: positive, in the order of measuring.

    Returns:
        A share; infinite where there are fewer than `LEAST_VALUES`.
    """
    if len(values) < LEAST_VALUES:
        return math.inf
    drop = int(len(values) * trim)
    ordered = np.sort(values)
    winsorized = np.clip(values, ordered[drop], ordered[len(values) - 1 - drop])
    variance = float(winsorized.var(ddof=1))
    if variance == 0.0:
        return 0.0
    independent = len(values) / autocorrelation_time(winsorized)
    freedom = max(1.0, independent * (1 - 2 * trim) - 1)
    width = t95(freedom) * math.sqrt(variance / independent) / (1 - 2 * drop / len(values))
    return width / trimmed_mean(values, trim)


def autocorrelation_time(values: Values) -> float:
    """How many values in a row tell as much as one independent one; at least 1, also where they alternate."""
    centred = values - values.mean()
    count = len(centred)
    spectrum = np.abs(np.fft.rfft(centred, 2 * count)) ** 2
    covariance = np.fft.irfft(spectrum)[:count] / count
    if not covariance[0] > 0:
        return 1.0
    pairs = (covariance[0 : count - count % 2 : 2] + covariance[1::2][: count // 2]) / covariance[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    return float(np.clip(2 * positive.sum() - 1, 1.0, count / 2))


def t95(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t, by the expansion of Cornish and Fisher; within 1 % from 3 degrees on."""
    z = Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
