"""How the arithmetic and the bases are mixed."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from prediction.test_base_stage import KINDS, REST, TRUE, folds_of, work

from esm_onnx.prediction.base_stage import Shifted, explain
from esm_onnx.prediction.cost_stage import fit_cost
from esm_onnx.prediction.first_stage import HOME, LEAST_WEIGHT, FirstStage, FittedFirst, Known, fit_first
from esm_onnx.prediction.linear import Linear
from esm_onnx.prediction.surrogate import Nodes

OTHER = np.array([0.6, 1.5, 0.1, 1.3, 0.2, 0.9])
"""What the new device takes for each kind of work: much like `TRUE`, which the base takes."""


def new_device(rows: int, seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    x = work(rows, seed)
    return x, (0.5 + x @ OTHER) * (1 + noise * np.random.default_rng(seed).standard_normal(rows))


def mixed_with(x: np.ndarray, y: np.ndarray, *predicted: np.ndarray, home: float = 0.0) -> FittedFirst:
    """The first stage, with bases that predict this of these rows."""
    known = [Known(f"device {i}", explain(p, x), home) for i, p in enumerate(predicted)]
    return fit_first(x, y, folds_of(len(y)), 1e-3 * float(np.median(y)), np.column_stack(predicted), known)


def like(x: np.ndarray) -> np.ndarray:
    return REST + x @ TRUE


def unlike(x: np.ndarray, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).permutation(like(x))


def test_it_is_the_weighted_sum_of_its_parts_in_python_and_in_onnx() -> None:
    x, predicted = work(30), np.random.default_rng(1).uniform(1, 5, (30, 3))
    cost = Linear(x.mean(axis=0).astype(np.float32), OTHER.astype(np.float32), np.float32(5), "cost")
    shifts = [
        Shifted(np.full(KINDS, 0.1 * i, np.float32), np.float32(0.1), np.float32(0), np.float32(i), f"base{i}")
        for i in (1, 3)
    ]
    stage = FirstStage(cost, ((0, shifts[0]), (2, shifts[1])), (0.5, 0.2, 0.3))  # the second base was left out
    linear = 5 + (x - x.mean(axis=0)) @ OTHER
    first, third = (
        predicted[:, i - 1] * np.exp(i + (0.1 * i * x.sum(axis=1) + 0.1) / predicted[:, i - 1]) for i in (1, 3)
    )
    expected = 0.5 * linear + 0.2 * first + 0.3 * third
    np.testing.assert_allclose(stage.predict(predicted, x), expected, rtol=1e-5)
    graph = Nodes()
    result = stage.draw(graph, ("p0", "p1", "p2"), "x")
    takes = {"x": x, **{f"p{i}": predicted[:, [i]] for i in (0, 2)}}
    drawn = helper.make_graph(
        graph.nodes,
        "first",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, a.shape[1]]) for name, a in takes.items()],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, 1])],
        graph.constants,
    )
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: a.astype(np.float32) for name, a in takes.items()})
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_without_bases_it_is_the_arithmetic() -> None:
    x, y = new_device(25)
    found = fit_first(x, y, folds_of(25), 1e-3, np.empty((25, 0)), [])
    alone = fit_cost(x, y, folds_of(25), 1e-3)
    assert (found.stage.bases, found.stage.weights, found.stage.verdicts) == ((), (1.0,), ())
    np.testing.assert_array_equal(found.stage.predict(np.empty((25, 0)), x), alone.linear.predict(x))
    np.testing.assert_array_equal(found.out_of_fold, alone.out_of_fold)


@pytest.mark.parametrize("rows", [5, 9, 14])
def test_parts_count_by_their_errors_to_the_power_of_half_the_rows(rows: int) -> None:
    x, y = new_device(rows)
    found = mixed_with(x, y, like(x), 1.2 * like(x) + 0.3 * x[:, 0], like(x) ** 1.1)
    verdicts = found.stage.verdicts
    assert sum(found.stage.weights) == pytest.approx(1)
    assert found.stage.weights[1:] == tuple(verdict.weight for verdict in verdicts)
    assert all(verdict.refused is None for verdict in verdicts)
    first = verdicts[0]
    for verdict in verdicts[1:]:
        assert verdict.weight / first.weight == pytest.approx((verdict.error / first.error) ** (-rows / 2))


def test_a_base_that_is_bad_at_home_counts_less_with_few_rows() -> None:
    """Its error there counts as so many rows."""
    for rows in (5, 200):
        x, y = new_device(rows)
        (plain,), (doubted,) = (mixed_with(x, y, like(x), home=home).stage.verdicts for home in (0.0, 0.2))
        mean_square = (rows * plain.error**2 + HOME * 0.2**2) / (rows + HOME)
        assert doubted.error == pytest.approx(mean_square**0.5)
        assert doubted.weight < 0.5 * plain.weight
    x, y = new_device(5)
    assert mixed_with(x, y, like(x), home=1e-9).stage.verdicts == mixed_with(x, y, like(x)).stage.verdicts


def test_a_base_counts_less_the_more_is_measured() -> None:
    """With few rows it says more than they do; with many they know what it cannot."""

    def weight(rows: int) -> float:
        found = [mixed_with(*new_device(rows, seed), like(work(rows, seed))).stage for seed in range(3)]
        return float(np.mean([1 - stage.weights[0] for stage in found]))

    assert weight(5) > 0.5 > 0.4 > weight(40)


@pytest.mark.parametrize("rows", [10, 20, 50])
def test_a_base_that_says_nothing_is_refused_and_changes_nothing(rows: int) -> None:
    x, y = new_device(rows)
    found, alone = mixed_with(x, y, unlike(x)), fit_cost(x, y, folds_of(rows), 1e-3 * float(np.median(y)))
    (verdict,) = found.stage.verdicts
    assert verdict.explained < 0.5
    assert verdict.weight == 0
    assert verdict.refused is not None
    assert verdict.refused.startswith(f"it explains {100 * verdict.explained:.0f} % of what varies here, expected at")
    assert (found.stage.bases, found.stage.weights) == ((), (1.0,))
    np.testing.assert_array_equal(found.stage.predict(unlike(x)[:, None], x), alone.linear.predict(x))


def test_of_a_good_base_and_a_bad_one_the_good_one_counts() -> None:
    x, y = new_device(6)
    found = mixed_with(x, y, unlike(x), like(x))
    bad, good = found.stage.verdicts
    assert [column for column, _ in found.stage.bases] == [1]
    assert (bad.weight, good.refused) == (0, None)
    assert good.weight > 0.3
    assert good.explained > 0.8 > 0.5 > bad.explained
    assert found.stage.bases[0][1].name == "base2"


def test_a_base_that_errs_more_than_the_arithmetic_is_left_out_for_that() -> None:
    """It explains more than half, so it is not called unfit."""
    x, y = new_device(60, noise=0.001)
    found = mixed_with(x, y, like(x) * np.exp(0.15 * np.random.default_rng(2).standard_normal(60)))
    (verdict,) = found.stage.verdicts
    assert verdict.explained > 0.5
    assert verdict.weight == 0
    assert verdict.refused is not None
    assert verdict.refused.startswith("what was measured here says more by itself: error 0.")


def test_parts_of_no_account_are_left_out() -> None:
    for seed in range(3):
        x, y = new_device(14, seed)
        stage = mixed_with(x, y, like(x), like(x) * np.exp(0.1 * np.random.default_rng(seed).standard_normal(14))).stage
        assert all(weight >= LEAST_WEIGHT / 2 for weight in stage.weights[1:])
        assert len(stage.weights) == 1 + len(stage.bases)


@pytest.mark.parametrize("copies", [2, 4])
def test_the_same_base_twice_shares_its_weight(copies: int) -> None:
    x, y = new_device(8)
    once, often = mixed_with(x, y, like(x)), mixed_with(x, y, *[like(x)] * copies)
    assert len(set(often.stage.weights[1:])) == 1
    np.testing.assert_allclose(
        often.stage.predict(np.column_stack([like(x)] * copies), x), once.stage.predict(like(x)[:, None], x), rtol=0.02
    )


@pytest.mark.parametrize("rows", [4, 10, 40])
@pytest.mark.parametrize("factor", [1000.0, 0.001, 725 / 20])
def test_units_scale_predictions_and_change_nothing_else(rows: int, factor: float) -> None:
    """A Xeon that takes a second is as well predicted from a GPU that takes 20 ms as another GPU."""
    x, y = new_device(rows)
    plain, scaled = mixed_with(x, y, like(x)), mixed_with(x, factor * y, like(x))
    np.testing.assert_allclose(scaled.stage.weights, plain.stage.weights, rtol=1e-3, atol=1e-4)
    unseen = work(50, 77)
    predictions = [fitted.stage.predict(like(unseen)[:, None], unseen) for fitted in (plain, scaled)]
    np.testing.assert_allclose(predictions[1], factor * predictions[0], rtol=1e-4, atol=1e-4 * factor)
    alone = [fit_cost(x, y * by, folds_of(rows), 1e-3 * by).out_of_fold for by in (1, factor)]
    np.testing.assert_allclose(alone[1], factor * alone[0], rtol=1e-3)


@pytest.mark.parametrize("constant", [0.1, 7.3, 123.456])
@pytest.mark.parametrize("rows", [3, 7, 17])
def test_where_latencies_do_not_vary_a_base_explains_nothing(constant: float, rows: int) -> None:
    """Whatever is left of them by rounding."""
    x = work(rows)
    (verdict,) = mixed_with(x, np.full(rows, constant), like(x)).stage.verdicts
    assert (verdict.explained, verdict.rank) == (0, None)


def test_a_constant_base_has_no_rank() -> None:
    x, y = new_device(12)
    (verdict,) = mixed_with(x, y, np.full(12, 3.0)).stage.verdicts
    assert verdict.rank is None


def test_an_outlier_is_trusted_least() -> None:
    x, y = new_device(10)
    y[6] *= 4
    trust = mixed_with(x, y, like(x)).trust
    assert np.argmin(trust) == 6
    assert trust[6] < 0.2 * np.median(trust)
