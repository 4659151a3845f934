"""The Gaussian process: the textbook's, and what is kept of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from esm_onnx.prediction import gaussian_process
from esm_onnx.prediction.gaussian_process import fit_gaussian_process
from esm_onnx.prediction.surrogate import Examples


def made_up(count: int, seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3, (count, 4)) * [1, 10, 1000, 0.1]
    return x, 20 + x @ [1, 0.2, 0.001, 5] + 3 * np.sin(2 * x[:, 0]) + noise * rng.standard_normal(count)


def examples(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Examples:
    return Examples(x, y, tuple(f"c{i}" for i in range(x.shape[1])), seed)


def test_it_is_the_process_of_scikit_learn() -> None:
    """Which standardises nothing by itself but the latencies: the same kernel, fitted on standardised columns."""
    (x, y), (others, _) = made_up(120, noise=0.1), made_up(50, seed=1)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    kernel = ConstantKernel(1.0, (1e-3, 1e5)) * RBF(2.0, (1e-1, 1e4)) + WhiteKernel(1e-2, (1e-5, 1e1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = GaussianProcessRegressor(kernel, normalize_y=True).fit((x - mean) / scale, y)
    ours = fit_gaussian_process(examples(x, y)).predict(others)
    np.testing.assert_allclose(ours, expected.predict((others - mean) / scale), rtol=1e-3)


def test_it_learns_a_curve() -> None:
    (x, y), (others, wanted) = made_up(300, noise=0.1), made_up(100, seed=1)
    linear = np.linalg.lstsq(np.c_[x, np.ones(300)], y, rcond=None)[0]
    off = np.abs(fit_gaussian_process(examples(x, y)).predict(others) - wanted).mean()
    assert off < 0.1
    assert off < np.abs(np.c_[others, np.ones(100)] @ linear - wanted).mean() / 10


def test_a_bounded_number_of_rows_is_kept_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_process, "MOST_KEPT", 100)
    x, y = made_up(150)
    one, again, other = (fit_gaussian_process(examples(x, y, seed)) for seed in (0, 0, 1))
    assert one.points.shape == (100, 4)
    np.testing.assert_array_equal(one.points, again.points)
    np.testing.assert_array_equal(one.weights, again.weights)
    assert one.points.shape == other.points.shape
    assert not np.isin(one.points[:, 0], other.points[:, 0]).all()
    assert len(fit_gaussian_process(examples(x[:80], y[:80])).points) == 80


def test_a_column_that_did_not_vary_has_no_say() -> None:
    x, y = made_up(60)
    wider = np.hstack([x, np.full((60, 1), 0.1), 1e6 + 1e-3 * x[:, :1]])
    process = fit_gaussian_process(examples(wider, y))
    assert process.scale.astype(bool).tolist() == [True, True, True, True, False, False]
    moved = wider + np.array([0, 0, 0, 0, 5, 1])
    np.testing.assert_array_equal(process.predict(moved), process.predict(wider))
