"""What the arithmetic says: linear regression on the sums over a subnet's graph, for the least relative error.

It knows what each block does before one is measured: some twenty measurements suffice. Two fits are mixed: with weights
that are not negative, since no work takes less than no time, which is the better one with few rows; and with a ridge,
which is the better one with many, where a weight makes up for what the sums leave out. Rows far off (a measurement
wrong by a factor) count little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.linear import Linear, fit_nonnegative, fit_ridge, mixed
from esm_onnx.prediction.robust import Folds, out_of_fold, trust_in
from esm_onnx.prediction.surrogate import Matrix, Vector

COST_STRENGTHS = np.logspace(-6, 5, 23)
ROUNDS = 4
"""Times that it is fitted, each with the weights that the one before gives."""
MIXTURE_SPREAD = 0.3
"""Standard deviation around one half that is expected of the share of the ridge."""


@dataclass(frozen=True)
class CostStage:
    """The regression, and what it says of rows that it has not seen.

    Attributes:
        linear: gives ms.
        out_of_fold: [n], in ms.
        trust: the weight of each row, [n].
    """

    linear: Linear
    out_of_fold: Vector
    trust: Vector


def fit_cost(x: Matrix, y: Vector, folds: Folds, least_ms: float) -> CostStage:
    """Fits latencies y [n] in ms on sums [n, columns]; what is predicted out of fold is raised to `least_ms`."""
    trust, unseen = np.ones(len(y)), y
    for _ in range(ROUNDS):
        # relative to what is predicted: relative to itself, a latency that is too small would count the most
        weights = trust / unseen**2
        linear, unseen = _fit(x, y, weights / weights.mean(), folds)  # or ridge and mixture would depend on units
        unseen = np.maximum(unseen, least_ms)
        trust = trust_in(np.log(y / unseen))
    return CostStage(linear, unseen, trust)


def _fit(x: Matrix, y: Vector, weights: Vector, folds: Folds) -> tuple[Linear, Vector]:
    def fit_free(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_ridge(part, y[rows], COST_STRENGTHS, weights[rows])

    def fit_positive(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_nonnegative(part, y[rows], weights[rows])

    free, positive = (out_of_fold(fit, x, folds) for fit in (fit_free, fit_positive))
    share = _mixture(free - positive, y - positive, weights)
    whole = np.ones(len(y), bool)
    return mixed(fit_positive(x, whole), fit_free(x, whole), share, "cost"), positive + share * (free - positive)


def _mixture(difference: Vector, residual: Vector, weights: Vector) -> float:
    """The share of a difference that explains the residual; a normal prior draws it to a half while few rows speak."""
    noise = float(weights @ (residual - difference / 2) ** 2 / weights.sum()) + np.finfo(float).tiny
    precision = float(weights @ difference**2) / noise
    share = float(weights @ (difference * residual)) / noise
    return float(np.clip((share + 0.5 / MIXTURE_SPREAD**2) / (precision + 1 / MIXTURE_SPREAD**2), 0, 1))
