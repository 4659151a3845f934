"""The first stage of `hybrid`: what the arithmetic says, mixed with what predictors of other devices say.

Each part is weighed by how well it predicts rows that it has not seen: w ∝ e^(−n/2), with e its relative root mean
square error over n rows (pseudo Bayesian model averaging: Yao et al. 2018, *Using Stacking to Average Bayesian
Predictive Distributions*, Section 3.4). So a base counts much while few rows are measured, and little where the device
has shown to be different. With few rows, an error that is small by chance counts less where the base was worse at
home. A base that hardly explains what varies here is left out, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from esm_onnx.prediction.base_stage import Explained, Shifted, fit_base
from esm_onnx.prediction.cost_stage import fit_cost
from esm_onnx.prediction.linear import Linear
from esm_onnx.prediction.robust import Folds, trust_in
from esm_onnx.prediction.surrogate import Matrix, Nodes, Vector

LEAST_EXPLAINED = 0.5
"""Share of the variance of the latencies' logarithms that a base has to explain."""
TELLING = 0.1
"""Standard deviation of the latencies' logarithms below which it says nothing that a base explains little of them."""
HOME = 3
"""Rows that a base's error on its own device counts as, where it is greater than here."""
LEAST_WEIGHT = 1e-3
"""Parts below are left out: they cost time and change nothing."""
EXACT = 1e-3
"""Relative error below which none is better than another."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a base before anything is measured: its name, what explains it, and its error at home."""

    name: str
    explained: Explained
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the new device's measurements say of a base.

    Attributes:
        name: of the base.
        rank: Spearman's rank correlation of its predictions with the measurements; None where either is constant.
        explained: share of the variance of the latencies' logarithms that it explains in rows it was not brought to
            this device with; negative where it says less than their mean.
        error: relative root mean square error of the same, its error at home in it (`HOME`).
        weight: with which it enters the first stage.
        refused: why it does not; None where it does.
    """

    name: str
    rank: float | None
    explained: float
    error: float
    weight: float
    refused: str | None


@dataclass(frozen=True)
class FirstStage:
    """Σ weights × parts, in ms.

    Attributes:
        cost: what the arithmetic says.
        bases: what other devices' predictors say, and the column of each.
        weights: of cost, then of the bases.
        verdicts: of all bases, those left out too.
    """

    cost: Linear
    bases: tuple[tuple[int, Shifted], ...] = ()
    weights: tuple[float, ...] = (1.0,)
    verdicts: tuple[Verdict, ...] = ()

    def predict(self, predicted: Matrix, x: Matrix) -> NDArray[np.float32]:
        """[n], of what the bases predict [n, bases] and of the sums [n, columns]."""
        parts = [self.cost.predict(x)]
        parts += [shifted.predict(np.hstack([predicted[:, [column]], x])) for column, shifted in self.bases]
        return np.asarray(np.array(self.weights, np.float32) @ np.array(parts), np.float32)

    def draw(self, graph: Nodes, bases: Sequence[str], x: str) -> str:
        """The same in ONNX nodes, [batch, 1]; each of `bases` is [batch, 1]."""
        parts = [self.cost.draw(graph, x), *(shifted.draw(graph, bases[i], x) for i, shifted in self.bases)]
        if len(parts) == 1:
            return parts[0]
        scaled = [graph.linear(f"{part}.share", part, [[w]]) for part, w in zip(parts, self.weights, strict=True)]
        return graph.add("Sum", "first", *scaled)


@dataclass(frozen=True)
class FittedFirst:
    """The first stage, what it says of rows that it has not seen [n] in ms, and the trust in each row [n]."""

    stage: FirstStage
    out_of_fold: Vector
    trust: Vector


def fit_first(
    x: Matrix, y: Vector, folds: Folds, least_ms: float, predicted: Matrix, known: Sequence[Known]
) -> FittedFirst:
    """Fits latencies y [n] in ms.

    Args:
        x: sums, [n, columns].
        least_ms: no part says less of rows that it has not seen.
        predicted: by the bases, [n, bases], in ms.
        known: the bases.
    """
    cost = fit_cost(x, y, folds, least_ms)
    if not known:
        return FittedFirst(FirstStage(cost.linear), cost.out_of_fold, cost.trust)
    fitted = [fit_base(predicted[:, i], x, known[i].explained, y, folds, f"base{i + 1}") for i in range(len(known))]
    unseen = np.maximum([cost.out_of_fold, *(each.out_of_fold for each in fitted)], least_ms)
    residuals = np.log(y / unseen)
    trust = trust_in(residuals[np.argmin(np.median(np.abs(residuals), axis=1))])
    errors = np.sqrt((unseen / y - 1) ** 2 @ trust / trust.sum() + EXACT**2)
    explained = _explained(residuals[1:], np.log(y), trust)
    telling = _spread(np.log(y), trust) >= TELLING
    refused = (explained < LEAST_EXPLAINED) & (telling | (errors[1:] > errors[0]))
    home = np.maximum(errors, [0, *(base.error for base in known)])
    errors = np.sqrt((len(y) * errors**2 + HOME * home**2) / (len(y) + HOME))
    weights = np.exp(-len(y) / 2 * np.log(errors / errors.min())) * [True, *~refused]
    weights = np.where(weights < LEAST_WEIGHT * weights.sum(), 0, weights)
    weights /= weights.sum()
    verdicts = tuple(
        Verdict(base.name, _rank(predicted[:, i], y), float(explained[i]), float(errors[i + 1]), float(weights[i + 1]),
                _reason(refused[i], explained[i], weights[i + 1], errors[i + 1], errors[0]))
        for i, base in enumerate(known)
    )  # fmt: skip
    used = [i for i in range(len(known)) if weights[i + 1]]
    stage = FirstStage(
        cost.linear,
        tuple((i, fitted[i].shifted) for i in used),
        (float(weights[0]), *(float(weights[i + 1]) for i in used)),
        verdicts,
    )
    together = weights @ unseen
    return FittedFirst(stage, together, trust_in(np.log(y / together)))


def _explained(residuals: Matrix, latency: Vector, trust: Vector) -> Vector:
    """The share of the variance of the latencies' logarithms [n] that each base leaves no residual of, [bases]; none
    where there is no variance."""
    spread = _spread(latency, trust)
    if spread <= EXACT:
        return np.zeros(len(residuals))
    explained: Vector = 1 - residuals**2 @ trust / trust.sum() / spread**2
    return explained


def _spread(latency: Vector, trust: Vector) -> float:
    """The standard deviation of latencies' logarithms [n]."""
    mean = trust @ latency / trust.sum()
    return float(np.sqrt(trust @ (latency - mean) ** 2 / trust.sum()))


def _rank(predicted: Vector, y: Vector) -> float | None:
    if not np.ptp(predicted) or not np.ptp(y):
        return None
    return float(spearmanr(predicted, y).statistic)


def _reason(refused: bool, explained: float, weight: float, error: float, without: float) -> str | None:
    if refused:
        return (
            f"it explains {100 * explained:.0f} % of what varies here, expected at least "
            f"{100 * LEAST_EXPLAINED:.0f} %: another batch, or a device that waits for something else?"
        )
    if not weight:
        return f"what was measured here says more by itself: error {100 * without:.1f} %, {100 * error:.1f} % with it"
    return None
