"""What the stages of `hybrid` share: predictions out of fold, and little trust in rows that are far off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from esm_onnx.prediction.surrogate import Matrix, Vector

FAR = 3.0
"""Usual residuals beyond which a row is an outlier: its weight falls with the square of its distance."""

Folds = NDArray[np.int64]


class Predicts(Protocol):
    """What was fitted on some rows."""

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """One number for each row of [n, columns]: [n]."""


def out_of_fold(fit: Callable[[Matrix, NDArray[np.bool_]], Predicts], x: Matrix, folds: Folds) -> Vector:
    """What is predicted for each row by what was fitted without its fold; `fit` takes rows and the mask that chose
    them."""
    found = np.empty(len(x))
    for number in np.unique(folds):
        outside = folds == number
        found[outside] = fit(x[~outside], ~outside).predict(x[outside])
    return found


def trust_in(residual: Vector) -> Vector:
    """The weight of each row: 1, or less where its residual is far beyond what is usual."""
    usual = 1.4826 * float(np.median(np.abs(residual))) + np.finfo(float).tiny
    return np.minimum(1.0, FAR * usual / np.maximum(np.abs(residual), np.finfo(float).tiny)) ** 2
