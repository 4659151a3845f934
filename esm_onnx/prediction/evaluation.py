"""How good a predictor is: all numbers, overall and by bin of depth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins
from esm_onnx.errors import InputError

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Predicted against measured, over some architectures.

    Attributes:
        count: number of architectures.
        accuracy: 100 · (1 − mean(|predicted − measured| / measured)), in %.
        rmse_ms, rmse_percent: root mean square error in ms, and in % of the mean measured latency.
        within_5, within_10: share of predictions within ±5 % and ±10 %, in %.
        spearman, kendall: rank correlations (Kendall's τ_b); None where the ranks of one side are all the same.
    """

    count: int
    accuracy: float
    rmse_ms: float
    rmse_percent: float
    within_5: float
    within_10: float
    spearman: float | None
    kendall: float | None


@dataclass(frozen=True, slots=True)
class BinMetrics:
    """The metrics of one bin of depth; None for a bin without architectures."""

    name: str
    metrics: Metrics | None

    @property
    def accuracy(self) -> float | None:
        """Accuracy in %."""
        return self.metrics.accuracy if self.metrics else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What lower_ms and upper_ms enclose, in %: as stated, and as measured on rows that did not set them."""

    stated: float
    measured: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy overall and by bin.

    Attributes:
        noise_floor: relative standard deviation that repeated measurements show, in %; None where unknown.
        reachable: the accuracy in % that a perfect predictor would show on measurements with that noise.
        coverage: of the intervals; None where there are none.
    """

    overall: Metrics
    bins: tuple[BinMetrics, ...]
    noise_floor: float | None
    reachable: float | None
    coverage: Coverage | None = None

    @property
    def worst_bin(self) -> BinMetrics | None:
        """The bin of least accuracy."""
        filled = [part for part in self.bins if part.accuracy is not None]
        return min(filled, key=lambda part: part.accuracy or 0.0, default=None)

    def as_json(self) -> dict[str, Any]:
        """All numbers as JSON data."""
        worst = self.worst_bin
        return {
            "overall": asdict(self.overall),
            "bins": [_bin_as_json(part) for part in self.bins],
            "worst_bin": worst.name if worst else None,
            "noise_floor_percent": self.noise_floor,
            "reachable_accuracy": self.reachable,
            "coverage": asdict(self.coverage) if self.coverage else None,
        }


def _bin_as_json(part: BinMetrics) -> dict[str, Any]:
    empty = {field.name: None for field in fields(Metrics)} | {"count": 0}
    return {"depth": part.name, **(asdict(part.metrics) if part.metrics else empty)}


def evaluate(
    predicted: NDArray[Any],
    measured: NDArray[Any],
    depths: NDArray[np.int64],
    bins: Bins,
    noise_floor: float | None = None,
    coverage: Coverage | None = None,
) -> Evaluation:
    """Compares predictions with measurements, both in ms.

    Args:
        depths: number of blocks of each architecture.
        noise_floor: relative standard deviation of repeated measurements, as a share.

    Raises:
        InputError: there is nothing to compare.
    """
    if not len(measured):
        raise InputError("no architecture to evaluate on, expected at least one with a measured latency")
    predicted, measured = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    of_bin = np.array(bins.indices(depths))
    by_bin = []
    for i, name in enumerate(bins.names()):
        inside = of_bin == i
        by_bin.append(BinMetrics(name, measure(predicted[inside], measured[inside]) if inside.any() else None))
    floor = None if noise_floor is None else 100 * noise_floor
    # a normal error of standard deviation σ has a mean size of σ·√(2/π)
    reachable = None if floor is None else 100 - floor * math.sqrt(2 / math.pi)
    return Evaluation(measure(predicted, measured), tuple(by_bin), floor, reachable, coverage)


def measure(predicted: Vector, measured: Vector) -> Metrics:
    """The metrics of one set of at least one architecture."""
    error = np.abs(predicted - measured) / measured
    rmse = float(np.sqrt(np.mean((predicted - measured) ** 2)))
    return Metrics(
        count=len(measured),
        accuracy=float(100 * (1 - error.mean())),
        rmse_ms=rmse,
        rmse_percent=float(100 * rmse / measured.mean()),
        within_5=float(100 * np.mean(error <= 0.05)),
        within_10=float(100 * np.mean(error <= 0.10)),
        spearman=spearman(predicted, measured),
        kendall=kendall(predicted, measured),
    )


def spearman(a: Vector, b: Vector) -> float | None:
    """Spearman's rank correlation, ties with their mean rank; None where one side is constant."""
    ranks = [_ranks(values) for values in (a, b)]
    x, y = (rank - rank.mean() for rank in ranks)
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else None


def kendall(a: Vector, b: Vector) -> float | None:
    """Kendall's τ_b, which accounts for ties; None where one side is constant.

    Discordant pairs are counted as the inversions that sorting by `a` leaves in `b` (Knight 1966).
    """
    n = len(a)
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    pairs = n * (n - 1) // 2
    tied_a, tied_b, tied_both = _tied_pairs(a), _tied_pairs(np.sort(b)), _tied_pairs(a, b)
    concordant_less_discordant = pairs - tied_a - tied_b + tied_both - 2 * _inversions(b)
    scale = math.sqrt(float(pairs - tied_a) * float(pairs - tied_b))
    return concordant_less_discordant / scale if scale else None


def _ranks(values: Vector) -> Vector:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Vector = (last - (counts - 1) / 2)[inverse]
    return ranks


def _tied_pairs(*columns: Vector) -> int:
    """Number of pairs that are equal in all of the columns, whose equal rows stand together."""
    changes = np.zeros(len(columns[0]) - 1, bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    ends = np.flatnonzero(np.append(changes, True))
    runs = np.diff(ends, prepend=-1)
    return int((runs * (runs - 1) // 2).sum())


def _inversions(values: Vector) -> int:
    """Number of pairs that stand in descending order, by merging sorted halves."""
    if len(values) < 2:
        return 0
    half = len(values) // 2
    left, right = values[:half], values[half:]
    across = len(left) * len(right) - int(np.searchsorted(np.sort(left), right, side="right").sum())
    return across + _inversions(left) + _inversions(right)
