"""What a base says of a new device, against formulas written down independently."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from esm_onnx.prediction.base_stage import NOISES, PRIORS, SLOPE, Shifted, average_by_evidence, explain, fit_base
from esm_onnx.prediction.surrogate import Nodes

KINDS = 6
TRUE = np.array([0.5, 2.0, 0.0, 1.0, 0.3, 0.8])
REST = 0.4


def work(rows: int, seed: int = 0) -> np.ndarray:
    """Amounts of work of six kinds, each of another size."""
    return np.random.default_rng(seed).uniform(0.2, 2, (rows, KINDS)) * np.array([1, 3, 2, 1, 9, 4]) / 4


def folds_of(rows: int) -> np.ndarray:
    return np.arange(rows) % min(10, rows)


def by_covariance(x: np.ndarray, z: np.ndarray, trust: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of z = bias + x θ + ε, θ ~ N(0, prior²), ε ~ N(0, noise² / trust), the bias free: by the n × n
    covariance of z, the bias integrated out of the evidence (restricted likelihood)."""
    ones, found, evidence = np.ones(len(z)), [], []
    for prior in PRIORS:
        for noise in NOISES:
            covariance = prior**2 * x @ x.T + noise**2 * np.diag(1 / trust)
            inverse = np.linalg.inv(covariance)
            precision = ones @ inverse @ ones
            bias = ones @ inverse @ z / precision
            residual = z - bias
            _, determinant = np.linalg.slogdet(covariance)
            evidence.append(-(determinant + np.log(precision) + residual @ inverse @ residual) / 2)
            found.append(np.append(prior**2 * x.T @ inverse @ residual, bias))
    shares = np.exp(np.array(evidence) - max(evidence))
    mean = shares @ np.array(found) / shares.sum()
    return mean[:-1], mean[-1]


@given(
    rows=st.integers(2, 14), columns=st.integers(1, 12), seed=st.integers(0, 999), noise=st.sampled_from([0.01, 0.2])
)
def test_weights_are_averaged_by_the_evidence_of_the_whole_covariance(
    rows: int, columns: int, seed: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    x, trust = rng.standard_normal((rows, columns)), rng.uniform(0.1, 1, rows)
    z = 1.5 + 0.2 * x @ rng.standard_normal(columns) + noise * rng.standard_normal(rows)
    weights, bias = by_covariance(x, z, trust)
    centre, level = trust @ x / trust.sum(), trust @ z / trust.sum()
    roots = np.sqrt(trust)
    found = average_by_evidence((x - centre) * roots[:, None], (z - level) * roots)
    np.testing.assert_allclose(found, weights, rtol=1e-6, atol=1e-9)
    assert level - centre @ found == pytest.approx(bias, rel=1e-6)


@given(seed=st.integers(0, 99))
def test_what_a_base_predicts_is_explained_by_the_work_that_it_is_the_sum_of(seed: int) -> None:
    x = work(200, seed)
    predicted = REST + x @ TRUE
    explained = explain(predicted, x)
    assert (explained.weights >= 0).all()
    np.testing.assert_allclose(explained.weights, TRUE, atol=0.06)
    assert explained.rest == pytest.approx(REST, abs=0.1)
    shares = explained.shares(predicted, x)
    assert shares.shape == (200, KINDS + 2)
    np.testing.assert_allclose(shares[:, :-1].sum(axis=1), 1, atol=0.01)
    np.testing.assert_allclose(shares[:, 1], 2 * x[:, 1] / predicted, atol=0.03)
    np.testing.assert_allclose(shares[:, -1], SLOPE * np.log(predicted))


@pytest.mark.parametrize("slope", [0.0, 0.07])
def test_a_shift_is_its_formula_in_python_and_in_onnx(slope: float) -> None:
    x = work(50)
    p = REST + x @ TRUE
    weights, constant, bias = np.array([0.3, -0.2, 0, 0.1, 0.05, -0.4]), 0.2, -0.7
    shifted = Shifted(weights.astype(np.float32), np.float32(constant), np.float32(slope), np.float32(bias), "other")
    expected = p * np.exp(bias + slope * np.log(p) + (x @ weights + constant) / p)
    np.testing.assert_allclose(shifted.predict(np.hstack([p[:, None], x])), expected, rtol=1e-6)
    graph = Nodes()
    result = shifted.draw(graph, "p", "x")
    takes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n]) for name, n in (("p", 1), ("x", KINDS))]
    gives = [helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, 1])]
    drawn = helper.make_graph(graph.nodes, "shift", takes, gives, graph.constants)
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"p": p[:, None].astype(np.float32), "x": x.astype(np.float32)})
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    assert all(node.output[0].startswith("other.") for node in graph.nodes)


def brought(y: np.ndarray, rows: int, seed: int = 0) -> np.ndarray:
    """What is predicted for all rows once the first ones were measured."""
    x = work(len(y), seed)
    p = REST + x @ TRUE
    stage = fit_base(p[:rows], x[:rows], explain(p, x), y[:rows], folds_of(rows), "base")
    return stage.shifted.predict(np.hstack([p[:, None], x])).astype(float)


@pytest.mark.parametrize("rows", [3, 4, 8, 20])
@pytest.mark.parametrize("factor", [0.001, 0.8, 1.0, 50.0])
def test_a_device_that_is_slower_by_one_factor_is_known_from_three_rows(rows: int, factor: float) -> None:
    y = factor * (REST + work(100) @ TRUE)
    np.testing.assert_allclose(brought(y, rows), y, rtol=1e-4)


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_one_kind_of_work_that_takes_twice_as_long_is_found(kind: int) -> None:
    x = work(300)
    p = REST + x @ TRUE
    y = 0.3 * (p + TRUE[kind] * x[:, kind])
    one_factor = np.abs(p * np.median(y[:20] / p[:20]) / y - 1).mean()
    assert np.abs(brought(y, 20) / y - 1).mean() < min(0.02, 0.3 * one_factor)


@pytest.mark.parametrize("factor", [1000.0, 0.001, 725 / 20])
@pytest.mark.parametrize("rows", [3, 10, 40])
def test_units_scale_predictions_and_change_nothing_else(rows: int, factor: float) -> None:
    y = (REST + work(80) @ TRUE**2) * (1 + 0.02 * np.random.default_rng(1).standard_normal(80))
    np.testing.assert_allclose(brought(factor * y, rows), factor * brought(y, rows), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_one_row_in_ten_that_is_wrong_by_a_factor_counts_less_than_a_tenth(seed: int) -> None:
    """By which the mean of the logarithms is off by 17 %."""
    y = (REST + work(80, seed) @ TRUE**2) * (1 + 0.02 * np.random.default_rng(seed).standard_normal(80))
    wrong = y.copy()
    wrong[4] *= 5
    assert np.abs(brought(wrong, 10, seed) / y - 1).mean() < 0.12


def test_a_row_out_of_fold_was_not_seen() -> None:
    x = work(12)
    p, noise = REST + x @ TRUE, 1 + 0.05 * np.random.default_rng(1).standard_normal(12)
    plain, changed = 2 * p * noise, 2 * p * noise
    changed[7] *= 1.03
    fits = [fit_base(p, x, explain(p, x), y, np.arange(12), "base").out_of_fold for y in (plain, changed)]
    assert abs(fits[1][7] / fits[0][7] - 1) < 0.002  # only by the trust that its neighbours lose
    assert np.abs(np.delete(fits[1] / fits[0] - 1, 7)).max() > 0.002
