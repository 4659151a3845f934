"""The predictor of Syed and Srinivasan: its steps, its layers, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esm_onnx.prediction.mlp import Mlp
from esm_onnx.prediction.ofa_paper import BATCH, EPOCHS, GRID, HIDDEN, Hyperparameters, OfaTraining, fit_ofa


def zeros_and_ones(rows: int, columns: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latencies of 20 to 60 ms, of which a part is not linear."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (rows, columns)).astype(float)
    return x, 20 + x @ np.linspace(1, 6, columns) + 3 * x[:, 0] * x[:, 1]


def parameters(mlp: Mlp) -> np.ndarray:
    return np.concatenate([part.ravel() for layer in mlp.layers for part in layer])


def test_the_recipe_is_the_papers() -> None:
    assert (HIDDEN, EPOCHS, BATCH, len(set(GRID))) == ((400, 400), 100, 32, 36)
    assert {chosen.learning_rate for chosen in GRID} == {chosen.weight_decay for chosen in GRID} == {1e-4, 1e-3, 1e-2}
    assert {chosen.momentum for chosen in GRID} == {0.4, 0.6, 0.8, 0.9}
    assert Hyperparameters() in GRID
    mlp = fit_ofa(*zeros_and_ones(40), 0, epochs=1)
    assert [weight.shape for weight, _ in mlp.layers] == [(400, 12), (400, 400), (1, 400)]
    assert (mlp.mean == 0).all()
    assert (mlp.scale == 1).all()
    assert (mlp.target_mean, mlp.target_scale, mlp.name) == (0, 1, "mlp-ofa")


def test_two_steps_are_those_of_sgd_with_momentum_on_the_root_of_the_mean_square() -> None:
    """Of one batch: v ← momentum · v + gradient + decay · w, w ← w − rate · v; by hand, with gradients of torch."""
    x, y = zeros_and_ones(BATCH)
    chosen = Hyperparameters(learning_rate=0.002, weight_decay=0.3, momentum=0.7)
    training = OfaTraining(x, y, chosen, 5, hidden=(6, 4))
    layers = [torch.tensor(part, dtype=torch.float64) for layer in training.surrogate().layers for part in layer]
    velocities = [torch.zeros_like(part) for part in layers]
    for _ in range(2):
        training.epoch()
        layers = [part.detach().requires_grad_() for part in layers]
        values = torch.tensor(x)
        for i in range(0, 6, 2):
            values = values @ layers[i].T + layers[i + 1]
            if i < 4:
                values = torch.clamp(values, min=0)
        torch.sqrt(((values[:, 0] - torch.tensor(y)) ** 2).mean()).backward()
        for i, part in enumerate(layers):
            velocities[i] = 0.7 * velocities[i] + part.grad + 0.3 * part.detach()
        layers = [part.detach() - 0.002 * velocities[i] for i, part in enumerate(layers)]
    expected = np.concatenate([part.numpy().ravel() for part in layers])
    np.testing.assert_allclose(parameters(training.surrogate()), expected, atol=1e-5)


def test_each_row_is_seen_once_an_epoch_and_the_last_batch_may_be_small() -> None:
    """With a rate that is all but 0 the weights move by decay alone: once for each batch."""
    x, y = zeros_and_ones(2 * BATCH + 1)
    start, one = (OfaTraining(x, y, Hyperparameters(1e-9, 1e6, 0.0), 0, hidden=(3,)) for _ in range(2))
    one.epoch()
    before, after = parameters(start.surrogate()), parameters(one.surrogate())
    large = np.abs(before) > 0.1
    np.testing.assert_allclose(after[large] / before[large], (1 - 1e-3) ** 3, rtol=1e-4)


def test_it_learns() -> None:
    x, y = zeros_and_ones(900)
    training = OfaTraining(x[:600], y[:600], Hyperparameters(), 0)
    for _ in range(40):
        training.epoch()
    rmse = training.rmse_ms(x[600:], y[600:])
    predicted = training.surrogate().predict(x[600:])
    assert rmse == pytest.approx(float(np.sqrt(np.mean((predicted - y[600:]) ** 2))), rel=1e-4)
    assert rmse < 0.1 * y.std()


def test_the_same_seed_is_the_same_network_whatever_is_trained_between() -> None:
    x, y = zeros_and_ones(70)
    alone = fit_ofa(x, y, 1, epochs=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    between = [OfaTraining(x, y, Hyperparameters(), seed) for seed in (1, 2)]
    for _ in range(3):
        for training in between:
            training.epoch()
    first, second = (parameters(training.surrogate()) for training in between)
    assert (first == parameters(alone)).all()
    assert (first != second).any()
    assert (torch.get_rng_state() == state).all()


def test_what_has_diverged_has_an_infinite_error() -> None:
    x, y = zeros_and_ones(40)
    training = OfaTraining(x, y, Hyperparameters(1e20, 1.0, 0.9), 0, hidden=(8, 8))
    for _ in range(5):
        training.epoch()
    assert training.rmse_ms(x, y) == np.inf


def test_latencies_far_below_a_millisecond_are_not_fitted() -> None:
    """A limit of the recipe: its steps do not shrink with the error, so that the last digits wander by the rate."""
    x, y = zeros_and_ones(300)
    small = y / 10_000
    predicted = fit_ofa(x, small, 0, epochs=60).predict(x)
    assert np.abs(predicted / small - 1).mean() > 0.05 > np.abs(fit_ofa(x, y, 0, epochs=60).predict(x) / y - 1).mean()
