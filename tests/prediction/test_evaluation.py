"""The numbers of an evaluation, against loops over rows and pairs."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Bins
from esm_onnx.errors import InputError
from esm_onnx.prediction.evaluation import Coverage, Metrics, evaluate, kendall, measure, spearman

BINS = Bins(((1, 3), (4, 6), (7, 9)))
tied = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25)
untied = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=25)
pairs = tied | untied
latencies = st.lists(st.tuples(st.floats(0.1, 99), st.floats(0.1, 99), st.integers(1, 9)), min_size=1, max_size=20)


def naive_kendall(a: list[float], b: list[float]) -> float | None:
    """τ_b = (concordant − discordant) / √(pairs not tied in a · pairs not tied in b)."""
    difference = of_a = of_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = (a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])
        difference, of_a, of_b = difference + x * y, of_a + (x != 0), of_b + (y != 0)
    return difference / math.sqrt(of_a * of_b) if of_a and of_b else None


def naive_spearman(a: list[float], b: list[float]) -> float | None:
    """Pearson's correlation of the ranks; equal values share the mean of their ranks."""

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]

    x, y = ranks(a), ranks(b)
    middle = (len(a) + 1) / 2
    product = sum((i - middle) * (j - middle) for i, j in zip(x, y, strict=True))
    scale = math.sqrt(sum((i - middle) ** 2 for i in x) * sum((j - middle) ** 2 for j in y))
    return product / scale if scale else None


@given(pairs)
def test_kendall_is_as_counted_over_all_pairs(rows: list[tuple[float, float]]) -> None:
    a, b = (list(map(float, column)) for column in zip(*rows, strict=True))
    assert kendall(np.array(a), np.array(b)) == pytest.approx(naive_kendall(a, b), abs=1e-12)


@given(pairs)
def test_spearman_is_the_correlation_of_ranks(rows: list[tuple[float, float]]) -> None:
    a, b = (list(map(float, column)) for column in zip(*rows, strict=True))
    assert spearman(np.array(a), np.array(b)) == pytest.approx(naive_spearman(a, b), abs=1e-12)


def test_rank_correlations_of_many_rows() -> None:
    """3,000 rows, the second half of them reversed: both correlations are known beforehand."""
    up = np.arange(1500.0)
    a, b = np.concatenate([up, up + 1500]), np.concatenate([up, up[::-1] + 1500])
    # of 1500·2999 pairs only those inside the second half, 1500·1499/2, are discordant
    assert kendall(a, b) == pytest.approx(1 - 2 * (1500 * 1499 / 2) / (1500 * 2999))
    # Spearman for ranks without ties: 1 − 6 Σd² / n(n² − 1); reversing m values gives Σd² = m(m² − 1)/3
    assert spearman(a, b) == pytest.approx(1 - 6 * (1500 * (1500**2 - 1) / 3) / (3000 * (3000**2 - 1)))


def test_metrics_of_three_rows_by_hand() -> None:
    metrics = measure(np.array([1.04, 1.84, 4.0]), np.array([1.0, 2.0, 5.0]))
    assert metrics.count == 3
    assert metrics.accuracy == pytest.approx(100 - (4 + 8 + 20) / 3)
    assert metrics.rmse_ms == pytest.approx(math.sqrt((0.04**2 + 0.16**2 + 1) / 3))
    assert metrics.rmse_percent == pytest.approx(100 * metrics.rmse_ms / (8 / 3))
    assert metrics.within_5 == pytest.approx(100 / 3)
    assert metrics.within_10 == pytest.approx(200 / 3)
    assert (metrics.spearman, metrics.kendall) == (pytest.approx(1), pytest.approx(1))


def test_shares_within_5_and_10_percent_end_there_on_both_sides() -> None:
    errors = np.array([-0.101, -0.099, -0.051, -0.049, 0.0, 0.049, 0.051, 0.099, 0.101])
    metrics = measure(7 * (1 + errors), np.full(9, 7.0))
    assert metrics.within_5 == pytest.approx(100 * 3 / 9)
    assert metrics.within_10 == pytest.approx(100 * 7 / 9)


@given(latencies)
def test_bins_are_the_metrics_of_their_rows(rows: list[tuple[float, float, int]]) -> None:
    predicted, measured, depths = (np.array(column) for column in zip(*rows, strict=True))
    evaluation = evaluate(predicted, measured, depths, BINS)
    assert evaluation.overall == measure(predicted, measured)
    assert [part.name for part in evaluation.bins] == ["1–3", "4–6", "7–9"]
    accuracies: dict[str, float] = {}
    for part, (low, high) in zip(evaluation.bins, BINS.ranges, strict=True):
        of_bin = [(p, m) for p, m, d in rows if low <= d <= high]
        assert (part.metrics is None) == (not of_bin) == (part.accuracy is None)
        if part.metrics:
            accuracies[part.name] = 100 * (1 - sum(abs(p - m) / m for p, m in of_bin) / len(of_bin))
            assert part.metrics.count == len(of_bin)
            assert part.accuracy == pytest.approx(accuracies[part.name])
    worst = evaluation.worst_bin
    assert worst is not None
    assert accuracies[worst.name] == pytest.approx(min(accuracies.values()))


def test_the_worst_bin_may_be_far_below_nothing() -> None:
    evaluation = evaluate(np.array([1.0, 9.0]), np.ones(2), np.array([1, 5]), BINS)
    assert evaluation.worst_bin is not None
    assert (evaluation.worst_bin.name, evaluation.worst_bin.accuracy) == ("4–6", -700)


@given(latencies)
def test_json_is_strict_and_complete(rows: list[tuple[float, float, int]]) -> None:
    predicted, measured, depths = (np.array(column) for column in zip(*rows, strict=True))
    data = evaluate(predicted, measured, depths, BINS, 0.02, Coverage(90.0, None)).as_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    names = {"count", "accuracy", "rmse_ms", "rmse_percent", "within_5", "within_10", "spearman", "kendall"}
    assert set(data["overall"]) == names
    for part in data["bins"]:
        assert set(part) == {"depth", *names}
        assert (part["accuracy"] is None) == (part["count"] == 0)
    assert data["coverage"] == {"stated": 90.0, "measured": None}
    assert data["noise_floor_percent"] == 2.0


def test_one_row_has_no_ranks() -> None:
    metrics = evaluate(np.array([2.0]), np.array([2.0]), np.array([2]), BINS).overall
    assert metrics == Metrics(1, 100.0, 0.0, 0.0, 100.0, 100.0, None, None)


def test_the_reachable_accuracy_is_that_of_a_perfect_predictor_on_noisy_measurements() -> None:
    noise = np.random.default_rng(0).standard_normal(100_000)
    truth = np.full(100_000, 5.0)
    evaluation = evaluate(truth * (1 + 0.01 * noise), truth, np.ones(100_000, np.int64), BINS, 0.01)
    assert evaluation.reachable == pytest.approx(evaluation.overall.accuracy, abs=0.02)
    assert evaluate(truth[:2], truth[:2], np.ones(2, np.int64), BINS).reachable is None


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(InputError, match="no architecture to evaluate on, expected at least one"):
        evaluate(np.array([]), np.array([]), np.array([], np.int64), BINS)
