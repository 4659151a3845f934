"""Intervals: the promise of conformal prediction, which holds row by row, without a distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import spaces

from esm_onnx.architectures import Bins, Space, divide
from esm_onnx.errors import InputError
from esm_onnx.prediction.conformal import BORROWED, Interval, calibrate, measured_coverage

ONE = Bins(((1, 9),))
TWO = Bins(((1, 4), (5, 9)))
FIVE = Bins(((4, 8), (9, 13), (14, 18), (19, 23), (24, 28)))
coverages = st.integers(1, 99).map(lambda percent: percent / 100)


def depths(count: int) -> np.ndarray:
    """All in the one bin."""
    return np.ones(count, np.int64)


def in_one_bin(predicted: np.ndarray, measured: np.ndarray, coverage: float) -> float:
    interval = calibrate(predicted, measured, depths(len(measured)), ONE, coverage)
    assert (interval.coverage, interval.rows, interval.ranges) == (coverage, len(measured), ONE.ranges)
    (width,) = interval.widths
    return width


def place_of(count: int, coverage: float) -> int:
    """⌈n · coverage⌉ for a coverage of whole percents, in whole numbers, rounded up."""
    return -(-count * round(100 * coverage) // 100)


def naive(scores: list[float], of_bin: list[int], bins: int, coverage: float) -> list[float]:
    """The widths by plain loops: scores in units of what is usual in their bin without themselves."""

    def usual(among: list[int], i: int) -> float:
        """The score that the stated share stays below, of bin i, drawn towards that of all."""
        own = sorted(scores[j] for j in among if of_bin[j] == i)
        every = sorted(scores[j] for j in among)
        last, overall = ((part[place_of(len(part), coverage) - 1] if part else 0.0) for part in (own, every))
        return (len(own) * last + BORROWED * overall) / (len(own) + BORROWED)

    rows = range(len(scores))
    ratios = [scores[i] / usual([j for j in rows if j != i], of_bin[i]) for i in rows]
    place = place_of(len(scores) + 1, coverage)
    width = sorted(ratios)[place - 1] if place <= len(scores) else math.inf
    return [width * usual(list(rows), i) for i in range(bins)]


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.floats(0.001, 2), min_size=2, max_size=60),
    seed=st.integers(0, 99),
    bins=st.sampled_from([ONE, TWO, FIVE]),
    coverage=coverages,
)
def test_widths_are_those_of_plain_loops(scores: list[float], seed: int, bins: Bins, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    predicted, sign = rng.uniform(1, 5, len(scores)), rng.choice([-1, 1], len(scores))
    deep = rng.integers(bins.ranges[0][0], bins.ranges[-1][1] + 1, len(scores))
    interval = calibrate(predicted, predicted * (1 + sign * np.array(scores)), deep, bins, coverage)
    expected = naive(scores, [bins.index(int(depth)) for depth in deep], len(bins), coverage)
    assert (interval.coverage, interval.rows, interval.ranges) == (coverage, len(scores), bins.ranges)
    assert interval.widths == pytest.approx(tuple(expected), rel=1e-9)


def heteroscedastic(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted, measured, depths: errors of the deepest are five times those of the shallowest."""
    deep = rng.integers(4, 29, count)
    predicted = rng.uniform(1, 9, count)
    return predicted, predicted * (1 + 0.02 * (1 + (deep - 4) / 6) * rng.standard_normal(count)), deep


@pytest.mark.parametrize("bins", [Bins(((4, 28),)), FIVE], ids=["one bin", "five bins"])
@pytest.mark.parametrize("count", [12, 30, 100, 400])
def test_what_comes_later_is_enclosed_as_often_as_stated(count: int, bins: Bins) -> None:
    """The mean over 150 sets of rows; where few rows set the width, the promise is kept with something to spare."""
    rng, shares = np.random.default_rng(count), []
    for _ in range(150):
        interval = calibrate(*heteroscedastic(count, rng), bins, 0.9)
        predicted, measured, deep = heteroscedastic(500, rng)
        widths = np.array(interval.widths)[interval.bins_of(deep)]
        shares.append((np.abs(measured - predicted) <= widths * predicted).mean())
    assert 0.885 < np.mean(shares) < (0.92 if count >= 30 else 0.97)


def test_many_rows_keep_the_promise_in_each_bin() -> None:
    rng = np.random.default_rng(0)
    interval = calibrate(*heteroscedastic(20_000, rng), FIVE, 0.9)
    predicted, measured, deep = heteroscedastic(20_000, rng)
    of_bin = interval.bins_of(deep)
    inside = np.abs(measured - predicted) <= np.array(interval.widths)[of_bin] * predicted
    assert [inside[of_bin == i].mean() for i in range(5)] == pytest.approx([0.9] * 5, abs=0.025)
    assert list(interval.widths) == sorted(interval.widths)
    (whole,) = calibrate(predicted, measured, np.ones(20_000, np.int64), ONE, 0.9).widths
    inside = np.abs(measured - predicted) <= whole * predicted
    assert inside[of_bin == 0].mean() > 0.98, "this shows nothing where one width suits all bins"
    assert inside[of_bin == 4].mean() < 0.85


def test_nine_rows_are_the_fewest_for_ninety_percent() -> None:
    measured = 1 + np.arange(1, 10) / 100
    assert 0.09 <= in_one_bin(np.ones(9), measured, 0.9) < 0.11
    assert in_one_bin(np.ones(8), measured[:8], 0.9) == math.inf
    interval = calibrate(np.ones(8), measured[:8], np.arange(4, 28, 3), FIVE, 0.9)
    assert interval.widths == (math.inf,) * 5


@pytest.mark.parametrize("score", [0.0, 1e-9, 0.25, 30.0])
def test_one_row_is_as_wide_as_it_is_off(score: float) -> None:
    interval = calibrate(np.ones(1), np.array([1 + score]), np.array([9]), FIVE, 0.5)
    assert interval.widths == pytest.approx((score,) * 5)
    assert calibrate(np.ones(0), np.ones(0), np.empty(0, np.int64), FIVE, 0.5).widths == (math.inf,) * 5


def test_what_is_predicted_exactly_has_no_width() -> None:
    predicted, _, deep = heteroscedastic(50, np.random.default_rng(0))
    assert calibrate(predicted, predicted, deep, FIVE, 0.9).widths == (0.0,) * 5
    measured = np.where(np.arange(50) == 7, 3 * predicted, predicted)
    assert calibrate(predicted, measured, deep, FIVE, 0.9).widths == (0.0,) * 5  # one of fifty may lie outside
    widths = calibrate(predicted, measured, deep, FIVE, 0.99).widths
    assert all(width == math.inf for width in widths)  # fifty rows are too few
    widths = calibrate(predicted, measured, deep, FIVE, 0.98).widths
    assert max(widths) >= 2


@given(st.integers(0, 99), st.sampled_from([1e-3, 1000.0]))
def test_units_do_not_matter(seed: int, factor: float) -> None:
    predicted, measured, deep = heteroscedastic(40, np.random.default_rng(seed))
    one, other = (calibrate(f * predicted, f * measured, deep, FIVE, 0.9).widths for f in (1.0, factor))
    assert other == pytest.approx(one, rel=1e-9)


def test_rounding_of_floats_lifts_no_place() -> None:
    """Where floating point says that 100 · 0.55 is 55.00000000000001, the place is the 55th all the same."""
    assert 100 * 0.55 > 55  # or this test would show nothing
    measured = 1 + np.arange(1, 100) / 100
    scores = [place / 100 for place in range(1, 100)]
    (expected,) = naive(scores, [0] * 99, 1, 0.55)
    assert in_one_bin(np.ones(99), measured, 0.55) == pytest.approx(expected)
    scores, measured = [*scores, 1.0], np.append(measured, 2.0)  # what is usual is a place among all hundred
    assert in_one_bin(np.ones(100), measured, 0.55) == pytest.approx(naive(scores, [0] * 100, 1, 0.55)[0])
    assert 0.54 < expected < 0.565


# where it holds


def test_factors_never_go_below_nothing() -> None:
    interval = Interval(0.9, FIVE.ranges, (0.0, 0.25, 1.0, 1.5, math.inf), 20)
    assert interval.factors.dtype == np.float32
    assert interval.factors.tolist() == [[1, 1], [0.75, 1.25], [0, 2], [0, 2.5], [0, math.inf]]


@given(space=spaces())
def test_a_depth_falls_into_its_bin(space: Space) -> None:
    bins = divide(space)
    interval = Interval(0.9, bins.ranges, (0.1,) * len(bins), 20)
    every = np.arange(space.depth_range[0], space.depth_range[1] + 1)
    assert interval.bins_of(every).tolist() == [bins.index(int(depth)) for depth in every]
    assert interval.bins_of(every[:0]).tolist() == []


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0, -0.1, math.nan])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="expected a share between 0 and 1, such as"):
        calibrate(np.ones(20), np.ones(20), depths(20), ONE, coverage)


# what it encloses of the rows themselves


@given(st.integers(0, 99), st.sampled_from([ONE, TWO, FIVE]))
def test_measured_coverage_judges_each_half_by_the_other(seed: int, bins: Bins) -> None:
    rng = np.random.default_rng(seed)
    predicted, measured = rng.uniform(1, 9, 31), rng.uniform(1, 9, 31)
    deep = rng.integers(bins.ranges[0][0], bins.ranges[-1][1] + 1, 31)
    scores = (np.abs(measured - predicted) / predicted).tolist()
    of_bin = [bins.index(int(depth)) for depth in deep]
    order = np.random.default_rng(seed).permutation(31)
    inside = 0
    for judged, setting in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        widths = naive([scores[i] for i in setting], [of_bin[i] for i in setting], len(bins), 0.8)
        inside += sum(scores[i] <= widths[of_bin[i]] * (1 + 1e-12) for i in judged)
    found = measured_coverage(predicted, measured, deep, bins, 0.8, np.random.default_rng(seed))
    assert found == pytest.approx(inside / 31)


def test_measured_coverage_comes_out_as_stated_on_many_rows() -> None:
    rng = np.random.default_rng(0)
    predicted, measured, deep = heteroscedastic(20_000, rng)
    found = measured_coverage(predicted, measured, deep, FIVE, 0.9, rng)
    assert found == pytest.approx(0.9, abs=0.01)  # four standard deviations of 20,000 yes-or-no


def test_too_few_rows_measure_no_coverage() -> None:
    def found(count: int) -> float | None:
        return measured_coverage(np.ones(count), np.ones(count), depths(count), ONE, 0.9, np.random.default_rng(0))

    assert (found(17), found(18), found(1)) == (None, 1.0, None)
