"""The MLP: its arithmetic, its training and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from esm_onnx.prediction.mlp import Mlp, MlpSettings, fit_mlp

QUICK = MlpSettings(steps=300)


def made_up(rows: int, columns: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (rows, columns)).astype(float)
    return x, 3 + x @ np.arange(1, columns + 1) + 0.5 * x[:, 0] * x[:, 1]


def parameters(mlp: Mlp) -> np.ndarray:
    return np.concatenate([part.ravel() for layer in mlp.layers for part in layer])


def same(one: Mlp, other: Mlp) -> bool:
    return bool((parameters(one) == parameters(other)).all())


def test_defaults_are_the_papers() -> None:
    settings = MlpSettings()
    assert (settings.hidden, settings.learning_rate, settings.weight_decay) == ((64, 64, 64), 0.01, 1e-4)
    mlp = fit_mlp(*made_up(20), replace(settings, steps=2), 0)
    assert [weight.shape for weight, _ in mlp.layers] == [(64, 5), (64, 64), (64, 64), (1, 64)]
    assert [bias.shape for _, bias in mlp.layers] == [(64,), (64,), (64,), (1,)]


def test_predictions_are_the_layers_by_hand() -> None:
    x, y = made_up(50)
    mlp = fit_mlp(x, y, QUICK, 0)
    values = (x - x.mean(axis=0)) / x.std(axis=0)
    for weight, bias in mlp.layers[:-1]:
        values = np.maximum(values @ weight.T.astype(float) + bias, 0)
    (weight, bias) = mlp.layers[-1]
    expected = (values @ weight.T.astype(float) + bias)[:, 0] * y.std() + y.mean()
    predicted = mlp.predict(x)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, rtol=1e-4)
    assert mlp.predict(x[:0]).shape == (0,)


def test_the_first_step_is_adams_on_the_mean_square() -> None:
    """Adam's first step is learning rate · gradient / |gradient|, the gradient with the weight decay in it."""
    x, y = made_up(40)
    start, moved = (fit_mlp(x, y, MlpSettings(hidden=(8, 8, 8), weight_decay=0.1, steps=n), 3) for n in (0, 1))
    layers = [torch.tensor(part, requires_grad=True) for layer in start.layers for part in layer]
    values = torch.tensor((x - x.mean(axis=0)) / x.std(axis=0), dtype=torch.float32)
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        values = values @ weight.T + bias
        if weight is not layers[-2]:
            values = torch.clamp(values, min=0)
    target = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)
    loss = ((values[:, 0] - target) ** 2).mean() + 0.05 * sum((part**2).sum() for part in layers)
    loss.backward()
    gradient = np.concatenate([part.grad.numpy().ravel() for part in layers])
    clear = np.abs(gradient) > 1e-3
    assert clear.mean() > 0.5
    np.testing.assert_allclose(
        (parameters(moved) - parameters(start))[clear], -0.01 * np.sign(gradient[clear]), rtol=1e-3
    )


def test_it_learns_what_is_not_linear() -> None:
    x, y = made_up(600)
    mlp = fit_mlp(x[:400], y[:400], MlpSettings(steps=2000), 0)
    linear = np.linalg.lstsq(np.c_[x[:400], np.ones(400)], y[:400], rcond=None)[0]
    error = np.abs(mlp.predict(x[400:]) / y[400:] - 1).mean()
    error_of_linear = np.abs(np.c_[x[400:], np.ones(200)] @ linear / y[400:] - 1).mean()
    assert error < 0.02
    assert error < error_of_linear / 3


def test_the_same_seed_gives_the_same_mlp() -> None:
    x, y = made_up(60)
    assert same(fit_mlp(x, y, QUICK, 1), fit_mlp(x, y, QUICK, 1))
    assert not same(fit_mlp(x, y, QUICK, 1), fit_mlp(x, y, QUICK, 2))


def test_the_caller_does_not_notice() -> None:
    """Neither the caller's random numbers nor his threads change what is trained, nor are they changed."""
    x, y = made_up(60)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        first = fit_mlp(x, y, QUICK, 1)
        assert torch.equal(torch.rand(3), expected)
    try:
        torch.set_num_threads(2)
        assert same(fit_mlp(x, y, QUICK, 1), first)
        first.predict(x)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("constant", [0.0, 0.1, 224.0, 1e8 / 7])
def test_a_constant_column_has_scale_one(constant: float) -> None:
    x, y = made_up(30)
    x[:, 2] = constant
    mlp = fit_mlp(x, y, QUICK, 0)
    assert mlp.scale[2] == 1
    np.testing.assert_allclose(mlp.scale[[0, 1, 3, 4]], x.std(axis=0)[[0, 1, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(mlp.mean, x.mean(axis=0), rtol=1e-6)
    assert np.isfinite(mlp.predict(x)).all()


def test_a_column_that_only_rounding_changes_is_constant() -> None:
    """As the mean of a unit's blocks, all 0.1: 3 · 0.1 / 3 is 0.10000000000000002. It must not be blown up to scale."""
    x, y = made_up(300)
    blocks = np.random.default_rng(0).integers(1, 8, 300)
    x[:, 2] = blocks * 0.1 / blocks
    assert np.ptp(x[:, 2]) > 0
    mlp = fit_mlp(x, y, QUICK, 0)
    assert mlp.scale[2] == 1
    small = x.copy()
    small[:, 2] *= 1e-12
    small[:, 2] += 1e-18 * blocks  # however small, a column that varies is one
    assert fit_mlp(small, y, QUICK, 0).scale[2] == np.float32(small[:, 2].std())


def test_constant_latencies_are_predicted() -> None:
    x, _ = made_up(30)
    mlp = fit_mlp(x, np.full(30, 4.2), MlpSettings(steps=1500), 0)
    assert mlp.target_scale == 1
    np.testing.assert_allclose(mlp.predict(x), 4.2, rtol=0.02)


@pytest.mark.parametrize("rows", [2, 3, 255, 256, 257])
def test_sets_smaller_and_larger_than_a_batch(rows: int) -> None:
    x, y = made_up(rows)
    assert np.isfinite(fit_mlp(x, y, MlpSettings(steps=5), 0).predict(x)).all()


def test_weights_that_decay_has_all_but_erased_are_nothing() -> None:
    """Columns that say nothing: their weights fade away, and numbers that small would slow every prediction down."""
    x, y = made_up(60)
    x = np.hstack([x, np.zeros((60, 4))])
    mlp = fit_mlp(x, y, MlpSettings(hidden=(8, 8, 8), weight_decay=0.3, steps=3000), 0)
    sizes = np.abs(np.concatenate([part.ravel() for layer in mlp.layers for part in layer]))
    assert (sizes == 0).any()  # or this test would show nothing
    assert not ((sizes > 0) & (sizes < 1e-12)).any()
