"""Intervals: the promise of conformal prediction, which holds row by row, without a distribution."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.errors import InputError
from esm_onnx.prediction.conformal import Interval, calibrate, measured_coverage

coverages = st.integers(1, 99).map(lambda percent: percent / 100)
residuals = st.lists(st.integers(-30, 200), min_size=1, max_size=60).map(lambda r: np.array(r) / 100)


@given(residuals=residuals, coverage=coverages)
def test_the_width_is_the_stated_order_statistic(residuals: np.ndarray, coverage: float) -> None:
    predicted = np.linspace(1, 5, len(residuals))
    interval = calibrate(predicted, predicted * (1 + residuals), coverage)
    percent = round(100 * coverage)
    place = -(-(len(residuals) + 1) * percent // 100)  # in whole numbers, rounded up
    assert (interval.coverage, interval.rows) == (coverage, len(residuals))
    if place > len(residuals):
        assert interval.width == math.inf
    else:
        assert interval.width == pytest.approx(sorted(abs(residuals))[place - 1], abs=1e-12)


@given(residuals=st.lists(st.floats(0, 2), min_size=2, max_size=40), coverage=coverages)
def test_each_row_left_out_in_turn_is_enclosed_often_enough(residuals: list[float], coverage: float) -> None:
    """Rows that could have come in any order: so the chance that the last is enclosed is the share of these."""
    measured, predicted = 1 + np.array(residuals), np.ones(len(residuals))
    enclosed = 0
    for i in range(len(measured)):
        rest = np.arange(len(measured)) != i
        enclosed += abs(measured[i] - 1) <= calibrate(predicted[rest], measured[rest], coverage).width
    assert enclosed >= len(measured) * Fraction(str(coverage))


def test_nine_rows_are_the_fewest_for_ninety_percent() -> None:
    measured = 1 + np.arange(1, 10) / 100
    assert calibrate(np.ones(9), measured, 0.9).width == pytest.approx(0.09)
    assert calibrate(np.ones(8), measured[:8], 0.9).width == math.inf


def test_rounding_of_floats_lifts_no_place() -> None:
    """Where floating point says that 100 · 0.55 is 55.00000000000001, the place is the 55th all the same."""
    assert 100 * 0.55 > 55  # or this test would show nothing
    measured = 1 + np.arange(1, 100) / 100
    assert calibrate(np.ones(99), measured, 0.55).width == pytest.approx(0.55)


def test_factors_never_go_below_nothing() -> None:
    assert Interval(0.9, 0.25, 20).factors == (0.75, 1.25)
    assert Interval(0.9, 1.5, 20).factors == (0.0, 2.5)
    assert Interval(0.9, math.inf, 3).factors == (0.0, math.inf)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0, -0.1, math.nan])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="expected a share between 0 and 1, such as"):
        calibrate(np.ones(20), np.ones(20), coverage)


@given(st.integers(0, 99))
def test_measured_coverage_judges_each_half_by_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(1, 9, 31)
    measured = predicted * (1 + rng.standard_normal(31) / 10)
    order = np.random.default_rng(seed).permutation(31)
    inside = 0
    for judged, setting in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        scores = sorted(abs(measured[i] - predicted[i]) / predicted[i] for i in setting)
        width = scores[math.ceil((len(scores) + 1) * 0.8) - 1]
        inside += sum(abs(measured[i] - predicted[i]) / predicted[i] <= width * (1 + 1e-12) for i in judged)
    found = measured_coverage(predicted, measured, 0.8, np.random.default_rng(seed))
    assert found == pytest.approx(inside / 31)


def test_measured_coverage_comes_out_as_stated_on_many_rows() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(1, 9, 20_000)
    measured = predicted * (1 + 0.1 * rng.standard_exponential(20_000))
    found = measured_coverage(predicted, measured, 0.9, rng)
    assert found == pytest.approx(0.9, abs=0.01)  # four standard deviations of 20,000 yes-or-no


def test_too_few_rows_measure_no_coverage() -> None:
    assert measured_coverage(np.ones(17), np.ones(17), 0.9, np.random.default_rng(0)) is None
    assert measured_coverage(np.ones(18), np.ones(18), 0.9, np.random.default_rng(0)) == 1.0
    assert measured_coverage(np.ones(1), np.ones(1), 0.9, np.random.default_rng(0)) is None
