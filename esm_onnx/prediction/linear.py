"""Linear regression on standardised columns, with a ridge whose strength cross-validation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Matrix, Nodes, Vector

try:
    from scipy.optimize import nnls
    from sklearn.linear_model import RidgeCV
except ImportError as error:
    raise InputError(f"scikit-learn is needed to train ({error}): pip install 'esm-onnx[train]'") from error

SHRINKAGE = 1e-3
"""Ridge of the fit without negative weights, each column being a share of its greatest value."""


@dataclass(frozen=True)
class Linear:
    """(x − mean) · weights + bias; the weights take the standardisation in."""

    mean: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: np.float32
    name: str = "linear"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """[n], in the unit of what it was fitted on."""
        return np.asarray((x.astype(np.float32) - self.mean) @ self.weights + self.bias, np.float32)

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes: [batch, 1]."""
        weights = self.weights.astype(np.float64)
        bias = float(self.bias) - float(self.mean.astype(np.float64) @ weights)
        return graph.linear(f"{self.name}.value", x, weights[:, None], [bias])


def fit_ridge(
    x: Matrix, y: Vector, strengths: Sequence[float] | Vector, weights: Vector | None = None, *, name: str = "linear"
) -> Linear:
    """Fits [n, columns] to [n]; `weights` [n] of the rows.

    The strength is the one of least error when each row is left out in turn.
    """
    mean, scale = x.mean(axis=0), x.std(axis=0)
    varies = scale > 1e-9 * (np.abs(mean) + scale)
    standard = (x - mean) / np.where(varies, scale, 1.0) * varies
    with np.errstate(invalid="ignore"):  # where one row is left out of one, nothing is left
        ridge = RidgeCV(strengths).fit(standard, y, sample_weight=weights)
    coefficients = np.where(varies, ridge.coef_ / np.where(varies, scale, 1.0), 0.0)
    return Linear(mean.astype(np.float32), coefficients.astype(np.float32), np.float32(ridge.intercept_), name)


def fit_nonnegative(x: Matrix, y: Vector, weights: Vector) -> Linear:
    """Least squares with no negative weight and no negative bias; columns and bias are shrunk by `SHRINKAGE`."""
    scale = np.abs(x).max(axis=0)
    varies = np.ptp(x, axis=0) > 1e-9 * scale
    scale = np.where(varies, scale, 1.0)
    columns = np.hstack([np.ones((len(y), 1)), x / scale * varies]) * np.median(y)
    roots = np.sqrt(weights)
    size = roots @ (roots * y**2)  # so that the shrinkage does not depend on units or on the number of rows
    shrink = np.sqrt(SHRINKAGE * size / len(y)) * np.eye(columns.shape[1])
    found, _ = nnls(np.vstack([columns * roots[:, None], shrink]), np.concatenate([y * roots, np.zeros(len(shrink))]))
    found = found * np.median(y)
    coefficients = np.where(varies, found[1:] / scale, 0.0)
    mean = x.mean(axis=0)
    return Linear(mean.astype(np.float32), coefficients.astype(np.float32), np.float32(found[0] + mean @ coefficients))


def mixed(a: Linear, b: Linear, share: float, name: str) -> Linear:
    """(1 − share) · a + share · b; both were fitted on the same rows, so their means agree."""
    weights = (1 - share) * a.weights + share * b.weights
    bias = (1 - share) * float(a.bias) + share * float(b.bias)
    return Linear(a.mean, weights.astype(np.float32), np.float32(bias), name)
