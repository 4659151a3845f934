"""What a predictor of another device says of this one: its prediction, scaled by how much of it is work of which kind.

    latency = p · exp(bias + slope · log p + Σ θ_j s_j),   s_j = w_j c_j / p

p is what the base predicts, and c_j are sums over the subnet's graph (or counts). The weights w_j ≥ 0 are those by
which the base's own predictions are best explained, so that s_j is the share of its time that work of kind j takes
there. If this device were slower by one factor, all θ_j would be 0; if it were so in depthwise convolutions alone, one
of them would not be. So bias is free, and slope and θ have a normal prior around 0. Its variance and that of the
measurements are not known: predictions are averaged over a grid of both by the evidence that the measurements give for
each (Bayesian model averaging: Hoeting et al. 1999; the evidence of linear regression: MacKay 1992, *Bayesian
Interpolation*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.linear import Linear, fit_nonnegative
from esm_onnx.prediction.robust import Folds, out_of_fold, trust_in
from esm_onnx.prediction.surrogate import Matrix, Nodes, Vector

PRIORS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations of θ: how much more or less, in logarithms, one kind of work may take than all."""
NOISES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Standard deviations of a measurement about what can be explained."""
SLOPE = 0.3
"""That of the slope, as a share of that of θ."""
ROUNDS = 2
"""Times that it is fitted, the second with little trust in rows that are far off."""


@dataclass(frozen=True)
class Explained:
    """What a base's predictions are explained by.

    Attributes:
        weights: w, [columns], in ms each.
        rest: what is left of its predictions on average, in ms.
    """

    weights: Vector
    rest: float

    def shares(self, predicted: Vector, x: Matrix) -> Matrix:
        """[n, columns + 2]: of each prediction the share of each column, the constant's, and log p, as the prior has
        it."""
        parts = np.hstack([x * self.weights, np.full((len(x), 1), self.rest)]) / predicted[:, None]
        return np.hstack([parts, SLOPE * np.log(predicted)[:, None]])


def explain(predicted: Vector, x: Matrix) -> Explained:
    """By which work a base's predictions [n] are explained, in ms; x [n, columns]. They need not be measured rows."""
    linear = fit_nonnegative(x, predicted, 1 / predicted**2)
    weights = linear.weights.astype(np.float64)
    return Explained(weights, float(linear.bias) - float(linear.mean.astype(np.float64) @ weights))


@dataclass(frozen=True)
class Shifted:
    """p · exp(bias + slope · log p + (x · weights + constant) / p).

    Attributes:
        weights: [columns], in ms.
        constant: in ms.
    """

    weights: NDArray[np.float32]
    constant: np.float32
    slope: np.float32
    bias: np.float32
    name: str = "base"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n]; the first column of x is p, the others are the sums."""
        p, sums = x[:, 0].astype(np.float32), x[:, 1:].astype(np.float32)
        exponent = self.bias + self.slope * np.log(p) + (sums @ self.weights + self.constant) / p
        return np.asarray(p * np.exp(exponent), np.float32)

    def draw(self, graph: Nodes, p: str, x: str) -> str:
        """The same in ONNX nodes, [batch, 1]; `p` is [batch, 1]."""
        work = graph.linear(f"{self.name}.work", x, self.weights.astype(np.float64)[:, None], [float(self.constant)])
        shift = graph.add("Div", f"{self.name}.shift", work, p)
        if self.slope:
            logarithm = graph.add("Log", f"{self.name}.log", p)
            slope = graph.linear(f"{self.name}.slope", logarithm, [[float(self.slope)]], [float(self.bias)])
        else:
            slope = graph.floats(f"{self.name}.slope", [[float(self.bias)]])
        factor = graph.add("Exp", f"{self.name}.factor", graph.add("Add", f"{self.name}.exponent", shift, slope))
        return graph.add("Mul", f"{self.name}.value", p, factor)


@dataclass(frozen=True)
class BaseStage:
    """A base brought to this device, and what it says of rows that it has not seen, [n] in ms."""

    shifted: Shifted
    out_of_fold: Vector


def fit_base(p: Vector, x: Matrix, explained: Explained, y: Vector, folds: Folds, name: str) -> BaseStage:
    """Fits latencies y [n] in ms on a base's predictions p [n] and the sums x [n, columns]."""
    trust, unseen, both = np.ones(len(y)), y, np.hstack([p[:, None], x])
    fit = partial(_fit, explained, y, name)
    for _ in range(ROUNDS):
        unseen = out_of_fold(partial(fit, trust), both, folds)
        trust = trust_in(np.log(y / unseen))
    return BaseStage(fit(trust, both, np.ones(len(y), bool)), unseen)


def _fit(explained: Explained, y: Vector, name: str, trust: Vector, both: Matrix, rows: NDArray[np.bool_]) -> Shifted:
    p, weights = both[:, 0], trust[rows]
    x, z = explained.shares(p, both[:, 1:]), np.log(y[rows] / p)
    centre, level = weights @ x / weights.sum(), float(weights @ z / weights.sum())
    roots = np.sqrt(weights)
    theta = average_by_evidence((x - centre) * roots[:, None], (z - level) * roots)
    return Shifted(
        weights=(theta[:-2] * explained.weights).astype(np.float32),
        constant=np.float32(theta[-2] * explained.rest),
        slope=np.float32(SLOPE * theta[-1]),
        bias=np.float32(level - centre @ theta),
        name=name,
    )


def average_by_evidence(x: Matrix, z: Vector) -> Vector:
    """The weights [columns] of z [n] on x [n, columns], both centred, averaged over `PRIORS` and `NOISES`."""
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    rank = min(len(sizes), len(z) - 1)  # one degree of freedom went into the centre
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    along = left.T @ z
    outside = max(float(z @ z - along @ along), 0.0)  # what no weights explain
    beyond = len(z) - 1 - rank
    found, evidence = [], []
    for prior in PRIORS:
        for noise in NOISES:
            variance = (prior * sizes) ** 2 + noise**2
            fit = along**2 @ (1 / variance) + outside / noise**2
            evidence.append(-0.5 * (fit + np.log(variance).sum() + 2 * beyond * np.log(noise)))
            found.append(right.T @ (prior**2 * sizes / variance * along))
    shares = np.exp(np.array(evidence) - max(evidence))
    weights: Vector = shares @ np.array(found) / shares.sum()
    return weights


@dataclass(frozen=True)
class Detail:
    """What bases know beyond their own arithmetic, as a share of the latency: share · ridge(p_b / (Σ w c + rest) − 1).

    A tile that is wasted on one GPU is wasted on another, too, and no sum over the graph says so.

    Attributes:
        explained: of each base.
        linear: of the deviations, [bases].
        share: with which the correction enters.
    """

    explained: tuple[Explained, ...]
    linear: Linear
    share: float
    name: str = "detail"

    def predict(self, predicted: Matrix, x: Matrix) -> NDArray[np.float32]:
        """[n], of what the bases predict [n, bases] and of the sums [n, columns]."""
        return np.asarray(self.share * self.linear.predict(deviations(self.explained, predicted, x)), np.float32)

    def draw(self, graph: Nodes, bases: Sequence[str], x: str) -> str:
        """The same in ONNX nodes, [batch, 1]; each of `bases` is [batch, 1]."""
        parts = []
        for i, (base, explained) in enumerate(zip(bases, self.explained, strict=True)):
            sums = graph.linear(f"{self.name}.sums{i}", x, explained.weights[:, None], [explained.rest])
            parts.append(graph.add("Div", f"{self.name}.ratio{i}", base, sums))
        ratios = graph.join(f"{self.name}.ratios", dict.fromkeys(parts, 1)) if len(parts) > 1 else parts[0]
        apart = graph.linear(f"{self.name}.apart", ratios, np.eye(len(parts)), [-1.0] * len(parts))
        return graph.linear(f"{self.name}.share", self.linear.draw(graph, apart), [[self.share]])


def deviations(explained: Sequence[Explained], predicted: Matrix, x: Matrix) -> Matrix:
    """How far each base's prediction is from what explains it, as a share of that, [n, bases]."""
    sums = np.column_stack([x @ each.weights + each.rest for each in explained])
    return np.asarray(predicted / sums - 1, np.float64)
