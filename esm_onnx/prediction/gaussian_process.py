"""A Gaussian process (Rasmussen and Williams 2006): a squared exponential kernel and noise, by scikit-learn.

Columns and latencies are standardised. Amplitude, length and noise maximise the marginal likelihood (Section 5.4.1) of
a few hundred rows, as each step of the search costs their number cubed; the process then keeps more rows, drawn at
random where there are too many (the subset of data, Section 8.3.3), as each becomes a part of predictor.onnx.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Examples, Matrix, Nodes, Vector

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
except ImportError as error:
    raise InputError(f"scikit-learn is needed to train ({error}): pip install 'esm-onnx[train]'") from error

MOST_KEPT, MOST_TUNED = 1000, 400
"""Rows that the process keeps, and rows that its amplitude, length and noise are found on."""
AMPLITUDES, LENGTHS, NOISES = (1e-3, 1e5), (1e-1, 1e4), (1e-5, 1e1)
"""Bounds, in units of standardised latencies (variance) and columns. A long length makes it almost linear."""
LEAST_SPREAD = 1e-6
"""A column that varies by less, as a share of its greatest number, is constant: float32 keeps no more digits."""


@dataclass(frozen=True)
class GaussianProcess:
    """bias + Σ_i weights_i · exp(−|u − points_i|²) with u = (x − mean) · scale.

    The weights are large and of both signs, so all of it is computed in float64.

    Attributes:
        mean, scale: [columns]; a scale holds the kernel's length, and is 0 where the column is constant.
        points: the rows that are kept, [m, columns], as u.
        weights: [m], in the unit of what it was fitted on.
    """

    mean: Vector
    scale: Vector
    points: NDArray[np.float32]
    weights: Vector
    bias: float
    name: str = "gp"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """[n], in the unit of what it was fitted on."""
        u, points = (x.astype(np.float32) - self.mean) * self.scale, self.points.astype(np.float64)
        nearness = 2 * u @ points.T - (u**2).sum(axis=1, keepdims=True) - (points**2).sum(axis=1)
        result: NDArray[np.float32] = (np.exp(nearness) @ self.weights + self.bias).astype(np.float32)
        return result

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes: [batch, 1]."""
        doubled = 2 * self.points.astype(np.float64)
        u = graph.add("Cast", "gp.double", x, to=TensorProto.DOUBLE)
        u = graph.add("Sub", "gp.centred", u, graph.constant("gp.mean", self.mean))
        u = graph.add("Mul", "gp.scaled", u, graph.constant("gp.scale", self.scale))
        points = graph.add("Cast", "gp.points", graph.floats("gp.points.single", doubled.T), to=TensorProto.DOUBLE)
        product = graph.add("MatMul", "gp.product", u, points)
        size = graph.add("ReduceSumSquare", "gp.size", u, axes=[1])
        sizes = graph.constant("gp.sizes", (doubled**2).sum(axis=1) / 4)
        nearness = graph.add("Sub", "gp.nearness", graph.add("Sub", "gp.beyond", product, size), sizes)
        kernel = graph.add("Exp", "gp.kernel", nearness)
        total = graph.add("MatMul", "gp.total", kernel, graph.constant("gp.weights", self.weights[:, None]))
        latency = graph.add("Add", "gp.latency", total, graph.constant("gp.bias", np.array(self.bias)))
        return graph.add("Cast", "gp.single", latency, to=TensorProto.FLOAT)


def fit_gaussian_process(examples: Examples) -> GaussianProcess:
    """Fits it on at most `MOST_KEPT` of the rows."""
    kept = np.random.default_rng(examples.seed).permutation(len(examples))[:MOST_KEPT]
    x, y = examples.x[kept], examples.y[kept]
    varies = np.ptp(x, axis=0) > LEAST_SPREAD * np.abs(x).max(axis=0)
    mean, scale = x.mean(axis=0), np.where(varies, 1 / np.where(varies, x.std(axis=0), 1.0), 0.0)
    bias, unit = float(y.mean()), float(y.std()) if np.ptp(y) > LEAST_SPREAD * y.max() else 1.0
    points, target = (x - mean) * scale, (y - bias) / unit
    kernel = ConstantKernel(1.0, AMPLITUDES) * RBF(np.sqrt(max(1, varies.sum())), LENGTHS) + WhiteKernel(1e-2, NOISES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound is a good answer too: the data are then linear
        tuned = GaussianProcessRegressor(kernel).fit(points[:MOST_TUNED], target[:MOST_TUNED]).kernel_
    scale = scale / (np.sqrt(2) * tuned.k1.k2.length_scale)
    points = ((x - mean) * scale).astype(np.float32)
    half = ConstantKernel(tuned.k1.k1.constant_value) * RBF(np.sqrt(0.5)) + WhiteKernel(tuned.k2.noise_level)
    process = GaussianProcessRegressor(half, optimizer=None).fit(points.astype(np.float64), target)
    weights = unit * tuned.k1.k1.constant_value * process.alpha_
    return GaussianProcess(mean, scale, points, weights, bias)
