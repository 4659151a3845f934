"""`hybrid`: what the arithmetic says, then what the counts add, then what networks find in the rest.

    latency = first(x) · (1 + counts(x)) · (1 + networks(x))

1. `first`: linear regression on the sums over the subnet's graph (the encoding `cost`, see `cost_stage`). Where
   predictors of other devices stand beside it, they are mixed in (`first_stage`), and what they know beyond their own
   arithmetic follows (`base_stage.Detail`).
2. `counts`: ridge regression of the relative residual on the columns of another encoding.
3. `networks`: the mean of a few MLPs on these columns, for the residual that is left.

Where the encoding has no `cost` in front, or nothing else, all stages take all of its columns.

Each stage is fitted on residuals of rows that the stages before it had not seen, and enters with the share of its
correction that such rows confirm, less what chance could feign: so no stage makes it worse than the one before, at any
number of rows. Rows far off the first stage (a measurement wrong by a factor) count little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.base_stage import Detail, deviations, explain
from esm_onnx.prediction.first_stage import FirstStage, Known, fit_first
from esm_onnx.prediction.linear import Linear, fit_ridge
from esm_onnx.prediction.robust import Folds, out_of_fold
from esm_onnx.prediction.surrogate import Examples, Fitted, Matrix, Nodes, Regressor, Vector

DETAIL_STRENGTHS = np.logspace(-3, 5, 17)
COUNT_STRENGTHS = np.logspace(-1, 5, 13)
LEAST_FOR_COUNTS, LEAST_FOR_NETWORKS = 40, 200
"""Rows below which a stage was never confirmed: it is not tried, which saves its time."""
NETWORKS = 3
MOST_NETWORK_FOLDS = 5
"""More folds than these are joined: networks take time, unlike the regressions."""
LEAST_SHARE = 1e-3
"""Of the median latency: what the first stage gives at least."""
DOUBT = 0.5
"""Standard errors by which a confirmed share is lowered."""
PREFIX = "cost."


@dataclass(frozen=True)
class Layout:
    """Which columns are whose.

    Attributes:
        bases: number of columns, the first ones, that hold what other devices' predictors say.
        head: what the first stage takes beside them.
        rest: what the other stages take.
    """

    bases: int
    head: range
    rest: range

    @staticmethod
    def of(columns: Sequence[str], bases: int) -> Layout:
        """By the columns' names."""
        costs = sum(column.startswith(PREFIX) for column in columns)
        split = bases + (costs if 0 < costs < len(columns) - bases else 0)
        end = len(columns)
        return Layout(bases, range(bases, split if split > bases else end), range(split, end))

    def parts(self, x: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """What the bases say, and what the first and the other stages take: columns of [n, columns]."""
        bases, head, rest = (x[:, places.start : places.stop] for places in (range(self.bases), self.head, self.rest))
        return bases, head, rest

    def draw(self, graph: Nodes, x: str) -> tuple[list[str], str, str]:
        """The same in ONNX nodes; what the bases say as one [batch, 1] each."""
        bases = [graph.part(f"hybrid.base{i}", x, range(i, i + 1)) for i in range(self.bases)]
        if not self.bases and self.head == self.rest:
            return bases, x, x
        return bases, graph.part("hybrid.head", x, self.head), graph.part("hybrid.rest", x, self.rest)


@dataclass(frozen=True)
class Hybrid:
    """The three stages.

    Attributes:
        layout: which columns each stage takes.
        first: gives ms.
        least_ms: what `first` is raised to where it falls below.
        corrections: of the later stages that were confirmed: what each adds to 1, as a share of the latency.
        detail: the same of what bases know beyond their arithmetic, before the others; None where it was not confirmed.
    """

    layout: Layout
    first: FirstStage
    least_ms: np.float32
    corrections: tuple[Regressor, ...]
    detail: Detail | None = None
    name: str = "hybrid"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n]."""
        bases, head, rest = self.layout.parts(x)
        latency = np.maximum(self.first.predict(bases, head), self.least_ms)
        if self.detail is not None:
            latency = latency * (1 + self.detail.predict(bases, head))
        for correction in self.corrections:
            latency = latency * (1 + correction.predict(rest))
        return latency.astype(np.float32)

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes."""
        bases, head, rest = self.layout.draw(graph, x)
        least = graph.floats("hybrid.least", self.least_ms)
        latency = graph.add("Clip", "hybrid.first", self.first.draw(graph, bases, head), least)
        if self.detail is not None:
            factor = graph.linear("hybrid.factor", self.detail.draw(graph, bases, head), [[1.0]], [1.0])
            latency = graph.add("Mul", "hybrid.detail", latency, factor)
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
    layout = Layout.of(examples.columns, len(examples.surveys))
    predicted, head, rest = layout.parts(examples.x)
    known = [
        Known(survey.name, explain(survey.predicted, layout.parts(survey.x)[1]), survey.error)
        for survey in examples.surveys
    ]
    first = fit_first(head, y, folds, least_ms, predicted, known)
    unseen, trust = first.out_of_fold, first.trust
    detail, unseen = _fit_detail(known, predicted, head, y, unseen, trust, folds)
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
    hybrid = Hybrid(layout, first.stage, np.float32(least_ms), tuple(corrections), detail)
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


def _fit_detail(
    known: Sequence[Known], predicted: Matrix, head: Matrix, y: Vector, unseen: Vector, trust: Vector, folds: Folds
) -> tuple[Detail | None, Vector]:
    """What bases know beyond their arithmetic, where it is confirmed, and what is then predicted out of fold."""
    if not known or len(y) < LEAST_FOR_COUNTS:
        return None, unseen
    explained, residual = tuple(base.explained for base in known), y / unseen - 1
    apart = deviations(explained, predicted, head)

    def fit(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_ridge(part, residual[rows], DETAIL_STRENGTHS, trust[rows], name="detail")

    correction = out_of_fold(fit, apart, folds)
    share = confirmed_share(correction, residual, trust)
    if share <= 0:
        return None, unseen
    return Detail(explained, fit(apart, np.ones(len(y), bool)), share), unseen * (1 + share * correction)


def _fit_counts(x: Matrix, residual: Vector, trust: Vector, folds: Folds, _seed: int) -> tuple[Regressor, Vector]:
    def fit(part: Matrix, rows: NDArray[np.bool_]) -> Linear:
        return fit_ridge(part, residual[rows], COUNT_STRENGTHS, trust[rows], name="counts")

    return fit(x, np.ones(len(x), bool)), out_of_fold(fit, x, folds)


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
