"""Cross-validation: which rows are left out together, and who predicts them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import dataset

from esm_onnx.architectures import divide
from esm_onnx.prediction.conformal import calibrate
from esm_onnx.prediction.dataset import Dataset, row_digests
from esm_onnx.prediction.surrogate import Examples, Matrix, Surrogate, fit_with_folds
from esm_onnx.prediction.surrogates import SURROGATES, Entry, find_surrogate
from esm_onnx.prediction.training import TrainSettings, assign_folds, examples_of, train

QUICK = TrainSettings(surrogate="linear")


# which rows are left out together


def folds_of(whole: Dataset, count: int, **chosen: Any) -> np.ndarray:
    """Folds for a surrogate that takes as many as asked for."""
    return assign_folds(whole, divide(whole.space), TrainSettings(surrogate="mlp", folds=count, **chosen))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(3, 200), folds=st.integers(2, 12), seed=st.integers(0, 9))
def test_each_bin_gives_its_share_to_each_fold(count: int, folds: int, seed: int) -> None:
    whole = dataset(count, seed)
    of_row = folds_of(whole, folds, seed=seed)
    expected = min(folds, count)
    sizes = np.bincount(of_row, minlength=expected)
    assert len(sizes) == expected
    assert sizes.max() - sizes.min() <= 1
    for low, high in divide(whole.space).ranges:
        shares = np.bincount(of_row[(whole.depths >= low) & (whole.depths <= high)], minlength=expected)
        assert shares.max() - shares.min() <= 1
    np.testing.assert_array_equal(of_row, folds_of(whole, folds, seed=seed))


def test_another_seed_has_other_folds_and_rows_of_one_bin_no_order() -> None:
    whole = dataset(100)
    first, second = (folds_of(whole, 5, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    assert (np.diff(first) % 5 != 1).any()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(3, 200), folds=st.integers(2, 12), seed=st.integers(0, 9))
def test_folds_of_time_are_stretches_of_it(count: int, folds: int, seed: int) -> None:
    of_row = folds_of(dataset(count), folds, split="time", seed=seed)
    assert (np.diff(of_row) >= 0).all(), "what is measured later is in no earlier fold"
    sizes = np.bincount(of_row)
    assert len(sizes) == min(folds, count)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("count", "quick", "slow"), [(4, 4, 4), (80, 20, 5), (999, 20, 5), (1000, 10, 5), (3000, 5, 5)]
)
def test_quick_surrogates_take_more_folds_while_rows_are_few(count: int, quick: int, slow: int) -> None:
    whole = dataset(count)
    for name, expected in (("hybrid", quick), ("mlp", slow), ("gp", slow)):
        folds = assign_folds(whole, divide(whole.space), TrainSettings(surrogate=name))
        assert len(np.unique(folds)) == expected


# who predicts what


UNSEEN_MS = 0.5


class Remembering:
    """Knows the rows that it was fitted on, and nothing else."""

    name = "remembering"

    def __init__(self, examples: Examples) -> None:
        self.known = dict(zip(map(bytes, examples.x), examples.y, strict=True))

    def predict(self, x: Matrix) -> np.ndarray:
        return np.array([self.known.get(bytes(row), UNSEEN_MS) for row in x], np.float32)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Examples]:
    """What each surrogate of the kind `remembering` was fitted on, in order."""
    seen: list[Examples] = []

    def fit(examples: Examples) -> Surrogate:
        seen.append(examples)
        return Remembering(examples)  # type: ignore[return-value]

    monkeypatch.setitem(SURROGATES, "remembering", Entry(fit, "one-hot", partial(fit_with_folds, fit)))
    return seen


@pytest.mark.parametrize("how", ["random", "time"])
@pytest.mark.parametrize("count", [3, 7, 60])
def test_every_row_is_predicted_by_a_surrogate_that_has_not_seen_it(
    how: str, count: int, fitted: list[Examples]
) -> None:
    whole = dataset(count, noise=0.01)
    predictor, evaluation = train(whole, TrainSettings(surrogate="remembering", split=how))
    unseen = np.full(count, UNSEEN_MS)
    assert evaluation.overall.count == count
    assert evaluation.overall.accuracy == pytest.approx(100 * (UNSEEN_MS / whole.latency_ms).mean())
    bins = divide(whole.space)
    assert predictor.interval == calibrate(unseen, whole.latency_ms, whole.depths, bins, 0.9)
    np.testing.assert_array_equal(predictor.predict(whole.genomes)[0], whole.latency_ms.astype(np.float32))

    everything = set(whole.latency_ms)
    assert len(everything) == count
    left_out = [everything - set(examples.y) for examples in fitted]
    assert sorted(map(len, left_out))[0] == 0, "the last word has one that was fitted on all"
    assert sum(map(len, left_out)) == count
    assert set().union(*left_out) == everything
    assert len(fitted) == 1 + min(count, 5)
    for part in left_out:
        places = [i for i, latency in enumerate(whole.latency_ms) if latency in part]
        if how == "time" and part:
            assert places == list(range(places[0], places[-1] + 1))


def test_a_share_held_out_takes_one_fit(fitted: list[Examples]) -> None:
    whole = dataset(60, noise=0.01)
    predictor, evaluation = train(whole, TrainSettings(surrogate="remembering", held_out=0.25))
    (examples,) = fitted
    assert (len(examples), evaluation.overall.count) == (45, 15)
    assert (len(predictor.trained), predictor.interval.rows) == (45, 15)
    outside = ~np.isin(whole.latency_ms, examples.y)
    assert evaluation.overall.accuracy == pytest.approx(100 * (UNSEEN_MS / whole.latency_ms[outside]).mean())


def test_evaluation_and_interval_are_of_the_rows_out_of_their_folds() -> None:
    whole = dataset(120, noise=0.05)
    predictor, evaluation = train(whole, replace(QUICK, bins=3, coverage=0.8, seed=2, folds=4))
    bins, examples = divide(whole.space, 3), examples_of(whole, "fcc", 2)
    folds = assign_folds(whole, bins, replace(QUICK, bins=3, seed=2, folds=4))
    predicted = np.empty(120)
    for fold in range(folds.max() + 1):
        inside = folds == fold
        predicted[inside] = find_surrogate("linear").fit(examples.select(~inside)).predict(examples.x[inside])
    errors = np.abs(predicted - whole.latency_ms) / whole.latency_ms
    assert evaluation.overall.accuracy == pytest.approx(100 * (1 - errors.mean()))
    assert evaluation.overall.count == 120
    assert evaluation.noise_floor == pytest.approx(5)
    assert [part.name for part in evaluation.bins] == bins.names()
    assert predictor.interval == calibrate(predicted, whole.latency_ms, whole.depths, bins, 0.8)
    assert predictor.calibrated == predictor.trained == row_digests(whole.genomes)
    assert predictor.dataset == whole.digest
    assert predictor.evaluation is evaluation
    np.testing.assert_array_equal(
        predictor.surrogate.predict(examples.x), find_surrogate("linear").fit(examples).predict(examples.x)
    )
