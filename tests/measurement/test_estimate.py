"""The statistic and its interval, against tables, formulas and simulation."""

from __future__ import annotations

import math
import statistics
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.measurement.estimate import TRIM, Values, autocorrelation_time, relative_error, t95, trimmed_mean

RUNS = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200)
REPETITIONS = 400
T_TABLE = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 20: 2.086, 30: 2.042, 120: 1.980}
"""Two-sided 95 % quantiles of Student's t: NIST/SEMATECH e-Handbook of Statistical Methods, Section 1.3.6.7.2."""


@given(RUNS)
def test_trimmed_mean_drops_a_fifth_at_either_end(runs: list[float]) -> None:
    drop = len(runs) // 5
    kept = sorted(runs)[drop : len(runs) - drop]
    assert trimmed_mean(np.array(runs)) == pytest.approx(statistics.fmean(kept))


@given(RUNS, st.integers(0, 2**32))
def test_trimmed_mean_does_not_depend_on_the_order(runs: list[float], seed: int) -> None:
    shuffled = list(runs)
    Random(seed).shuffle(shuffled)
    assert trimmed_mean(np.array(shuffled)) == pytest.approx(trimmed_mean(np.array(runs)))


def test_the_papers_150_runs_leave_90() -> None:
    runs = [1.0] * 30 + [2.0] * 90 + [1000.0] * 30
    assert trimmed_mean(np.array(runs)) == 2.0


@pytest.mark.parametrize(("freedom", "quantile"), T_TABLE.items())
def test_the_quantiles_of_students_t_are_those_of_the_table(freedom: int, quantile: float) -> None:
    assert t95(freedom) == pytest.approx(quantile, rel=0.01 if freedom < 5 else 0.002)


def test_with_many_degrees_of_freedom_the_quantile_is_the_normal_distributions() -> None:
    assert t95(1e9) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-6)


def autoregressive(rng: np.random.Generator, phi: float, count: int, rows: int) -> Values:
    """Rows of a stationary AR(1) process of variance 1."""
    values = np.empty((rows, count))
    values[:, 0] = rng.standard_normal(rows)
    for i in range(1, count):
        values[:, i] = phi * values[:, i - 1] + math.sqrt(1 - phi**2) * rng.standard_normal(rows)
    return values


def lognormal_trimmed_mean(sigma: float) -> float:
    """The mean of exp(sigma · z) between its quantiles of 20 and 80 %, by completing the square."""
    normal = statistics.NormalDist()
    edge = normal.inv_cdf(1 - TRIM)
    return math.exp(sigma**2 / 2) * (normal.cdf(edge - sigma) - normal.cdf(-edge - sigma)) / (1 - 2 * TRIM)


def coverage(rows: Values, truth: float) -> float:
    """Share of the rows whose interval holds the truth."""
    held = [abs(trimmed_mean(row) - truth) <= relative_error(row) * trimmed_mean(row) for row in rows]
    return statistics.fmean(held)


@pytest.mark.parametrize("count", [40, 80, 150])
def test_the_interval_of_independent_runs_holds_the_truth_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(0)
    normal = 10 + rng.standard_normal((REPETITIONS, count))
    skewed = np.exp(0.3 * rng.standard_normal((REPETITIONS, count)))
    assert 0.92 <= coverage(normal, 10.0) <= 0.98
    assert 0.92 <= coverage(skewed, lognormal_trimmed_mean(0.3)) <= 0.98


@pytest.mark.parametrize(
    ("phi", "count", "least"),
    [(0.3, 40, 0.9), (0.3, 80, 0.9), (0.3, 150, 0.92), (0.6, 40, 0.86), (0.6, 80, 0.9), (0.6, 150, 0.91)],
)
def test_the_interval_of_runs_that_hang_together_is_nearly_as_good(phi: float, count: int, least: float) -> None:
    # Forty runs that are worth ten independent ones do not show how much they hang together: 88–92 %, not 95 %.
    rows = 10 + autoregressive(np.random.default_rng(1), phi, count, REPETITIONS)
    assert least <= coverage(rows, 10.0) <= 0.98


def test_an_interval_that_took_those_runs_for_independent_would_be_far_too_narrow() -> None:
    rows = autoregressive(np.random.default_rng(1), 0.6, 80, REPETITIONS)
    shuffled = np.random.default_rng(2).permuted(rows, axis=1)
    wider = [relative_error(10 + row) / relative_error(10 + other) for row, other in zip(rows, shuffled, strict=True)]
    assert 1.5 < statistics.median(wider) < 2.5  # sqrt((1 + phi) / (1 - phi)) is 2


@given(st.lists(st.floats(0.5, 2), min_size=4, max_size=60), st.floats(1e-6, 1e6))
def test_the_error_is_a_share_whatever_the_unit(runs: list[float], scale: float) -> None:
    expected = relative_error(np.array(runs))
    assert relative_error(scale * np.array(runs)) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@given(st.floats(1e-6, 1e6), st.integers(4, 200))
def test_constant_runs_are_known_exactly(run: float, count: int) -> None:
    assert relative_error(np.full(count, run)) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.floats(0.1, 10), max_size=3))
def test_fewer_than_four_runs_say_nothing_of_the_error(runs: list[float]) -> None:
    assert relative_error(np.array(runs)) == math.inf


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=200))
def test_the_error_is_never_negative_and_never_no_number(runs: list[float]) -> None:
    assert 0 <= relative_error(np.array(runs)) < math.inf


def test_outliers_hardly_widen_the_interval() -> None:
    runs = 10 + np.random.default_rng(0).standard_normal(100)
    spiked = runs.copy()
    spiked[::10] *= 50
    assert relative_error(spiked) < 2 * relative_error(runs)


def test_four_times_the_runs_halve_the_error() -> None:
    rows = 10 + np.random.default_rng(0).standard_normal((50, 1600))
    ratios = [relative_error(row[:400]) / relative_error(row) for row in rows]
    assert statistics.median(ratios) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.8])
def test_the_autocorrelation_time_of_a_known_process_is_its_formulas(phi: float) -> None:
    rows = autoregressive(np.random.default_rng(0), phi, 5000, 20)
    found = statistics.fmean(autocorrelation_time(row) for row in rows)
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.08)


@pytest.mark.parametrize("count", [4, 5, 40, 41])
def test_alternating_runs_count_as_independent_and_no_more(count: int) -> None:
    assert autocorrelation_time(np.array([1.0, 2.0] * count)[:count]) == 1.0


def test_blocks_that_differ_are_worth_hardly_more_than_one_value_each() -> None:
    values = np.repeat([1.0, 1.2, 1.0, 1.2], 20) + 0.001 * np.random.default_rng(0).standard_normal(80)
    assert autocorrelation_time(values) > 10


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=100))
def test_the_autocorrelation_time_lies_between_one_and_half_the_runs(runs: list[float]) -> None:
    assert 1 <= autocorrelation_time(np.array(runs)) <= len(runs) / 2
