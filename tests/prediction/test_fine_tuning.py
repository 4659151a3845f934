"""The paper's way to another device: two layers stay, the rest is trained on."""

from __future__ import annotations

import numpy as np
import pytest
from prediction.test_ofa_paper import zeros_and_ones

from esm_onnx.prediction.mlp import Mlp
from esm_onnx.prediction.ofa_paper import FROZEN, Hyperparameters, OfaTraining, fine_tune, fit_ofa


def rmse(mlp: Mlp, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((mlp.predict(x) - y) ** 2)))


@pytest.fixture(scope="module")
def base() -> Mlp:
    return fit_ofa(*zeros_and_ones(600), 0, epochs=40)


def test_the_first_two_layers_stay_bit_for_bit_and_the_last_one_changes(base: Mlp) -> None:
    x, y = zeros_and_ones(200, seed=1)
    tuned = fine_tune(base, x, 1.4 * y, 0, epochs=5)
    assert FROZEN == 2
    for (weight, bias), (before, bias_before) in zip(tuned.layers[:2], base.layers[:2], strict=True):
        assert weight.tobytes() == before.tobytes()
        assert bias.tobytes() == bias_before.tobytes()
    (weight, bias), (before, bias_before) = tuned.layers[2], base.layers[2]
    assert (weight != before).any()
    assert (bias != bias_before).all()
    assert [weight.shape for weight, _ in tuned.layers] == [weight.shape for weight, _ in base.layers]


def test_the_base_is_as_it_was(base: Mlp) -> None:
    copies = [(weight.copy(), bias.copy()) for weight, bias in base.layers]
    fine_tune(base, *zeros_and_ones(64), 0, epochs=2)
    for (weight, bias), (before, bias_before) in zip(base.layers, copies, strict=True):
        np.testing.assert_array_equal(weight, before)
        np.testing.assert_array_equal(bias, bias_before)


def test_on_a_device_with_another_scale_it_fits_better_than_the_base(base: Mlp) -> None:
    x, y = zeros_and_ones(500, seed=1)
    shifted = 5 + 1.3 * y
    tuned = fine_tune(base, x[:200], shifted[:200], 0, epochs=60)
    unseen = x[200:], shifted[200:]
    assert rmse(tuned, *unseen) < 0.2 * rmse(base, *unseen)


def test_what_is_frozen_limits_it(base: Mlp) -> None:
    """Two layers of another device cannot say what this one waits for; all layers can."""
    x, y = zeros_and_ones(600, seed=1)
    other = y + 25 * x[:, 2] * x[:, 3] * x[:, 4]
    tuned = fine_tune(base, x[:300], other[:300], 0, epochs=40)
    anew = fit_ofa(x[:300], other[:300], 0, epochs=40)
    assert rmse(anew, x[300:], other[300:]) < rmse(tuned, x[300:], other[300:])


def test_with_no_epoch_it_is_the_base(base: Mlp) -> None:
    x, y = zeros_and_ones(40)
    np.testing.assert_array_equal(fine_tune(base, x, y, 0, epochs=0).predict(x), base.predict(x))


def test_a_seed_decides_the_order_of_rows(base: Mlp) -> None:
    x, y = zeros_and_ones(100, seed=1)
    first, again, other = (fine_tune(base, x, 1.4 * y, seed, epochs=3).predict(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_columns_beyond_one_are_scaled_as_in_the_base() -> None:
    """Hardware numbers stand beside zeros and ones; the base's mean and scale are part of it."""
    x, y = zeros_and_ones(120)
    wide = np.hstack([x, np.random.default_rng(0).uniform(2000, 9000, (120, 1))])
    base = fit_ofa(wide, y, 0, epochs=2)
    tuned = fine_tune(base, wide + np.eye(13)[12] * 500, y, 0, epochs=1)
    np.testing.assert_array_equal(tuned.mean, base.mean)
    np.testing.assert_array_equal(tuned.scale, base.scale)
    assert (base.mean[:-1] == 0).all()
    assert base.mean[-1] > 2000


def test_no_velocity_moves_a_frozen_layer_under_decay() -> None:
    """Weight decay alone would move it."""
    x, y = zeros_and_ones(64)
    base = fit_ofa(x, y, 0, epochs=1)
    training = OfaTraining(x, y, Hyperparameters(0.01, 0.5, 0.9), 0, start=base, frozen=2)
    for _ in range(3):
        training.epoch()
    for (weight, _), (before, _) in zip(training.surrogate().layers[:2], base.layers[:2], strict=True):
        np.testing.assert_array_equal(weight, before)
