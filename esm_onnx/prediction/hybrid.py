"""`hybrid`: what the arithmetic says, then what the counts add, then what networks find in the rest.

    latency = cost(x) · (1 + counts(x)) · (1 + networks(x))

1. `cost`: linear regression on the sums over the subnet's graph (the encoding `cost`), for the least relative error. It
   knows what each block does before one is measured: some twenty measurements suffice. Two fits are mixed: with weights
   that are not negative, since no work takes less than no time, which is the better one with few rows; and with a
   ridge, which is the better one with many, where a weight makes up for what the sums leave out.
2. `counts`: ridge regression of the relative residual on the columns of another encoding.
3. `networks`: the mean of a few MLPs on these columns, for the residual that is left.

Where the encoding has no `cost` in front, or nothing else, all stages take all of its columns.

Each stage is fitted on residuals of rows that the stages before it had not seen, and enters with the share of its
correction that such rows confirm, less what chance could feign: so no stage makes it worse than the one before, at any
number of rows. Rows far off the first stage (a measurement wrong by a factor) count little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.linear import Linear, fit_nonnegative, fit_ridge, mixed
from esm_onnx.prediction.surrogate import Examples, Fitted, Matrix, Nodes, Regressor, Vector

COST_STRENGTHS = np.logspace(-6, 5, 23)
COUNT_STRENGTHS = np.logspace(-1, 5, 13)
LEAST_FOR_COUNTS, LEAST_FOR_NETWORKS = 40, 200
"""Rows below which a stage was never confirmed: it is not tried, which saves its time."""
NETWORKS = 3
MOST_NETWORK_FOLDS = 5
"""More folds than these are joined: networks take time, unlike the regressions."""
FAR = 3.0
"""Usual residuals beyond which a row is an outlier: its weight falls with the square of its distance."""
ROUNDS = 4
"""Times that the first stage is fitted, each with the weights that the one before gives."""
LEAST_SHARE = 1e-3
"""Of the median latency: what the first stage gives at least."""
MIXTURE_SPREAD = 0.3
"""Standard deviation around one half that is expected of the share of the ridge in the first stage."""
DOUBT = 0.5
"""Standard errors by which a confirmed share is lowered."""
PREFIX = "cost."

Folds = NDArray[np.int64]


@dataclass(frozen=True)
class Hybrid:
    """The three stages.

    Attributes:
        split: number of columns that the first stage takes, the others take the rest; None: all take all.
        cost: gives ms.
        least_ms: what `cost` is raised to where it falls below.
        corrections: of the later stages that were confirmed: what each adds to 1, as a share of the latency.
    """

    split: int | None
    columns: int
    cost: Linear
    least_ms: np.float32
    corrections: tuple[Regressor, ...]
    name: str = "hybrid"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n]."""
        head, rest = _parted(x, self.split)
        latency = np.maximum(self.cost.predict(head), self.least_ms)
        for correction in self.corrections:
            latency = latency * (1 + correction.predict(rest))
        return latency.astype(np.float32)

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes."""
        head, rest = x, x
        if self.split is not None:
            head = graph.part("hybrid.head", x, range(self.split))
            rest = graph.part("hybrid.rest", x, range(self.split, self.columns))
        least = graph.floats("hybrid.least", self.least_ms)
        latency = graph.add("Clip", "hybrid.cost", self.cost.draw(graph, head), least)
        for i, correction in enumerate(self.corrections, 2):
            factor = graph.linear(f"hybrid.factor{i}", correction.draw(graph, rest), [[1.0]], [1.0])
            latency = graph.add("Mul", f"hybrid.stage{i}", latency, factor)
        return latency


@dataclass(frozen=True)
class Mean:
    """The mean of several regressors, times a factor."""

    parts: tuple[Regressor, ...]
    factor: float
    name: str = "mean"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        mean = np.mean([part.predict(x) for part in self.parts], axis=0)
        scaled: NDArray[np.float32] = (self.factor * mean).astype(np.float32)
        return scaled

    def draw(self, graph: Nodes, x: str) -> str:
        share = [[self.factor / len(self.parts)]]
        scaled = [graph.linear(f"{self.name}.{part.name}", part.draw(graph, x), share) for part in self.parts]
        return graph.add("Sum", self.name, *scaled) if len(scaled) > 1 else scaled[0]


def fit_hybrid(examples: Examples, folds: Folds) -> Fitted:
    """Fits the stages; `folds` [n]: the number of each row's fold."""
    y, least_ms = examples.y, LEAST_SHARE * float(np.median(examples.y))
    costs = sum(column.startswith(PREFIX) for column in examples.columns)
    split = costs if 0 < costs < len(examples.columns) else None
    head, rest = _parted(examples.x, split)
    trust, unseen = np.ones(len(y)), y
    for _ in range(ROUNDS):
        # relative to what is predicted: relative to itself, a latency that is too small would count the most
        cost, unseen = _fit_cost(head, y, trust / unseen**2, folds)
        unseen = np.maximum(unseen, least_ms)
        trust = _trust(np.log(y / unseen))
    corrections: list[Regressor] = []
    for least, fit_stage in ((LEAST_FOR_COUNTS, _fit_counts), (LEAST_FOR_NETWORKS, _fit_networks)):
        if len(y) < least:
            continue
        residual = y / unseen - 1
        stage, correction = fit_stage(rest, residual, trust, folds, examples.seed)
        share = confirmed_share(correction, residual, trust)
        if share > 0:
            corrections.append(Mean((stage,), share, f"stage{len(corrections) + 2}"))
            unseen = unseen * (1 + share * correction)
    hybrid = Hybrid(split, examples.x.shape[1], cost, np.float32(least_ms), tuple(corrections))
    return Fitted(hybrid, unseen)


def confirmed_share(correction: Vector, residual: Vector, weights: Vector) -> float:
    """The share of a correction, made for rows that were not seen, that brings it nearest to their residuals: by least
    squares, less its standard error (White 1980, which allows for unequal variances), within 0 and 1."""
    size = float(weights @ correction**2)
    if size == 0:
        return 0.0
    share = float(weights @ (correction * residual)) / size
    error = np.sqrt(float((weights * correction) ** 2 @ (residual - share * correction) ** 2)) / size
    return float(np.clip(share - DOUBT * error, 0, 1))


def _fit_cost(x: Matrix, y: Vector, weights: Vector, folds: Folds) -> tuple[Linear, Vector]:
    """The first stage and what it gives out of fold."""

    def fit_free(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_ridge(part, y[rows], COST_STRENGTHS, weights[rows])

    def fit_positive(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_nonnegative(part, y[rows], weights[rows])

    free, positive = (_out_of_fold(fit, x, folds) for fit in (fit_free, fit_positive))
    share = _mixture(free - positive, y - positive, weights)
    whole = np.ones(len(y), bool)
    return mixed(fit_positive(x, whole), fit_free(x, whole), share, "cost"), positive + share * (free - positive)


def _mixture(difference: Vector, residual: Vector, weights: Vector) -> float:
    """The share of a difference that explains the residual; a normal prior draws it to a half while few rows speak."""
    noise = float(weights @ (residual - difference / 2) ** 2 / weights.sum()) + np.finfo(float).tiny
    precision = float(weights @ difference**2) / noise
    share = float(weights @ (difference * residual)) / noise
    return float(np.clip((share + 0.5 / MIXTURE_SPREAD**2) / (precision + 1 / MIXTURE_SPREAD**2), 0, 1))


def _fit_counts(x: Matrix, residual: Vector, trust: Vector, folds: Folds, _seed: int) -> tuple[Regressor, Vector]:
    def fit(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_ridge(part, residual[rows], COUNT_STRENGTHS, trust[rows], name="counts")

    return fit(x, np.ones(len(x), bool)), _out_of_fold(fit, x, folds)


def _fit_networks(x: Matrix, residual: Vector, trust: Vector, folds: Folds, seed: int) -> tuple[Regressor, Vector]:
    from esm_onnx.prediction.ensemble import EnsembleSettings, fit_mlps  # torch, which fewer rows do not need

    folds = folds % MOST_NETWORK_FOLDS
    numbers = np.unique(folds)
    members = np.vstack([*(trust * (folds != number) for number in numbers), *[trust] * NETWORKS])
    fitted = fit_mlps(x, residual, members, EnsembleSettings(), seed)
    correction = np.empty(len(x))
    for number, network in zip(numbers, fitted, strict=False):
        correction[folds == number] = network.predict(x[folds == number])
    return Mean(tuple(fitted[len(numbers) :]), 1.0, "networks"), correction


def _out_of_fold(fit: Callable[[Matrix, NDArray[np.bool_]], Linear], x: Matrix, folds: Folds) -> Vector:
    found = np.empty(len(x))
    for number in np.unique(folds):
        outside = folds == number
        found[outside] = fit(x[~outside], ~outside).predict(x[outside])
    return found


def _trust(residual: Vector) -> Vector:
    """The weight of each row: 1, or less where its residual is far beyond what is usual."""
    usual = 1.4826 * float(np.median(np.abs(residual))) + np.finfo(float).tiny
    return np.minimum(1.0, FAR * usual / np.maximum(np.abs(residual), np.finfo(float).tiny)) ** 2


def _parted(x: Matrix, split: int | None) -> tuple[Matrix, Matrix]:
    return (x, x) if split is None else (x[:, :split], x[:, split:])
