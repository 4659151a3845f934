"""The three stages: each helps where it can, none does harm."""

from __future__ import annotations

from functools import lru_cache
from random import Random

import numpy as np
import pytest
from esm_onnx.runtimes import dry
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import find_space, sample, to_genome
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import graph_of
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.ensemble import EnsembleSettings, fit_mlps
from esm_onnx.prediction.hybrid import LEAST_FOR_COUNTS, Hybrid, confirmed_share, fit_hybrid
from esm_onnx.prediction.linear import fit_nonnegative, fit_ridge, mixed
from esm_onnx.prediction.surrogate import Examples

ENCODING = "cost+counts"
HELD_OUT = 300


def folds_of(count: int, folds: int = 10) -> np.ndarray:
    return np.random.default_rng(0).permutation(count) % min(folds, count)


def error(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted - measured) / measured))


@lru_cache
def drawn(space_name: str, device: str, count: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Encoded architectures of a space, and what the formula of `dry` gives with 1 % of noise."""
    space = find_space(space_name)
    architectures = sample(space, count, strategy="balanced", rng=Random(1))
    genomes = np.array([to_genome(space, architecture) for architecture in architectures], np.int64)
    graphs = (graph_of(space, architecture, ExportSettings()) for architecture in architectures)
    latencies = np.array([dry.cost_ms(graph, dry.DEVICES[device]) for graph in graphs])
    noise = 1 + 0.01 * np.random.default_rng(2).standard_normal(count)
    encoding = find_encoding(ENCODING)
    return encoding.encode(space, genomes), latencies * noise, tuple(encoding.columns(space))


@pytest.mark.parametrize(("space", "device"), [("resnet", "gpu"), ("mobilenetv3", "cpu")])
@pytest.mark.parametrize("rows", [12, 30, 60, 150, 400])
def test_no_stage_makes_it_worse(space: str, device: str, rows: int) -> None:
    x, y, columns = drawn(space, device, 400 + HELD_OUT)
    examples = Examples(x[:rows], y[:rows], columns)
    hybrid = fit_hybrid(examples, folds_of(rows)).surrogate
    assert isinstance(hybrid, Hybrid)
    assert hybrid.layout.head.stop == hybrid.layout.rest.start < len(columns)
    first = hybrid.first.cost.predict(x[400:, : hybrid.layout.head.stop])
    assert error(hybrid.predict(x[400:]), y[400:]) <= 1.03 * error(first, y[400:])


def test_twenty_measurements_suffice_where_latency_follows_the_work() -> None:
    x, y, columns = drawn("resnet", "gpu", 400 + HELD_OUT)
    hybrid = fit_hybrid(Examples(x[:20], y[:20], columns), folds_of(20)).surrogate
    assert error(hybrid.predict(x[400:]), y[400:]) < 0.05  # the counts alone are at 20 %


def test_later_stages_find_what_the_sums_leave_out() -> None:
    """A block of one unit that takes a tenth longer with one combination: no sum over the graph says so."""
    x, y, columns = drawn("resnet", "gpu", 400 + HELD_OUT)
    place = next(i for i, name in enumerate(columns) if name.startswith("u3.kernel=5,expansion=1/2"))
    y = y * (1 + 0.1 * x[:, place])
    hybrid = fit_hybrid(Examples(x[:190], y[:190], columns), folds_of(190)).surrogate
    assert isinstance(hybrid, Hybrid)
    first = hybrid.first.cost.predict(x[400:, : hybrid.layout.head.stop])
    assert len(hybrid.corrections) >= 1
    assert error(hybrid.predict(x[400:]), y[400:]) < 0.7 * error(first, y[400:])


@pytest.mark.parametrize(("rows", "harm"), [(20, 0.03), (60, 0.01), (150, 0.01)])
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_few_measurements_wrong_by_a_factor_do_not_ruin_the_fit(rows: int, harm: float, factor: float) -> None:
    x, y, columns = drawn("mobilenetv3", "cpu", 400 + HELD_OUT)
    spoiled = y[:rows].copy()
    spoiled[3::20] *= factor  # one in twenty
    clean = fit_hybrid(Examples(x[:rows], y[:rows], columns), folds_of(rows)).surrogate
    robust = fit_hybrid(Examples(x[:rows], spoiled, columns), folds_of(rows)).surrogate
    found, expected = (error(each.predict(x[400:]), y[400:]) for each in (robust, clean))
    assert found < expected + harm
    plain = fit_ridge(x[:rows], spoiled, [1.0], 1 / spoiled**2)
    assert found < error(plain.predict(x[400:]), y[400:])  # or robustness would show nothing


def test_without_the_sums_all_stages_take_the_counts() -> None:
    x, y, columns = drawn("resnet", "gpu", 400 + HELD_OUT)
    rest = [i for i, name in enumerate(columns) if not name.startswith("cost.")]
    examples = Examples(x[:150, rest], y[:150], tuple(columns[i] for i in rest))
    hybrid = fit_hybrid(examples, folds_of(150)).surrogate
    assert isinstance(hybrid, Hybrid)
    assert hybrid.layout.head == hybrid.layout.rest == range(len(rest))
    assert error(hybrid.predict(x[400:][:, rest]), y[400:]) < 0.06


def test_predictions_out_of_fold_have_not_seen_their_row() -> None:
    """A row's latency may change as it likes: what is predicted for it out of fold hardly does."""
    x, y, columns = drawn("resnet", "gpu", 400 + HELD_OUT)
    rows = LEAST_FOR_COUNTS - 1
    plain = fit_hybrid(Examples(x[:rows], y[:rows], columns), folds_of(rows)).out_of_fold
    changed = y[:rows].copy()
    changed[7] *= 1.02
    moved = fit_hybrid(Examples(x[:rows], changed, columns), folds_of(rows)).out_of_fold
    assert abs(moved[7] / plain[7] - 1) < 0.002  # only by the share in which both fits are mixed


@given(share=st.floats(0.2, 0.9), noise=st.floats(0, 0.01), seed=st.integers(0, 99))
def test_a_share_is_confirmed_as_far_as_rows_bear_it_out(share: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    correction = rng.standard_normal(500)
    residual = share * correction + noise * rng.standard_normal(500)
    assert confirmed_share(correction, residual, np.ones(500)) == pytest.approx(share, abs=0.01)


def test_what_has_nothing_to_do_with_the_residual_is_hardly_confirmed() -> None:
    rng = np.random.default_rng(0)
    shares = [confirmed_share(*rng.standard_normal((2, 200)), np.ones(200)) for _ in range(400)]
    assert np.mean(np.array(shares) > 0) < 0.4  # beyond half a standard error: 31 %
    assert max(shares) < 0.3
    assert confirmed_share(np.zeros(9), np.ones(9), np.ones(9)) == 0


@given(seed=st.integers(0, 99))
def test_weights_are_not_negative_and_found_where_they_are_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 2, (60, 4)) * np.array([1e9, 1.0, 1e-3, 1e4])
    weights = np.array([2e-9, 0.0, 3e3, 5e-5])
    y = 1 + x @ weights
    found = fit_nonnegative(x, y, 1 / y**2)
    assert (found.weights >= 0).all()
    assert error(found.predict(x), y) < 0.02
    opposed = fit_nonnegative(x, 20 - x @ weights, np.ones(60))
    assert (opposed.weights >= 0).all()


def test_a_mixture_lies_between() -> None:
    x, y, _ = drawn("resnet", "gpu", 400 + HELD_OUT)
    head = x[:50, :8]
    a, b = fit_nonnegative(head, y[:50], 1 / y[:50] ** 2), fit_ridge(head, y[:50], [1e-3])
    middle = mixed(a, b, 0.25, "mixed").predict(head)
    np.testing.assert_allclose(middle, 0.75 * a.predict(head) + 0.25 * b.predict(head), rtol=1e-3)


def test_rows_without_weight_teach_a_network_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 5)), rng.standard_normal(60)
    members = np.ones((2, 60))
    members[0, 40:] = 0
    settings = EnsembleSettings(hidden=(8,), greatest_epochs=3)
    first, second = fit_mlps(x, y, members, settings, 0)
    order = np.r_[0:40, 59:39:-1]  # the same rows, mean and spread; other latencies where the first has no weight
    again, other = fit_mlps(x, y[order], members, settings, 0)
    np.testing.assert_array_equal(first.predict(x), again.predict(x))
    assert (second.predict(x) != other.predict(x)).any()


def test_several_networks_learn_as_one_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    y = np.abs(x[:, 0]) + x[:, 1] * x[:, 2]
    networks = fit_mlps(x[:300], y[:300], np.ones((3, 300)), EnsembleSettings(), 1)
    for network in networks:
        assert np.mean((network.predict(x[300:]) - y[300:]) ** 2) < 0.15 * y.var()
    assert (networks[0].predict(x) != networks[1].predict(x)).any()
