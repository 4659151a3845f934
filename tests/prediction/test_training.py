"""From a dataset to a predictor: what is trained on, what is not."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import dataset, drawn, latency_ms, rows

from esm_onnx.architectures import Feature, Space, divide, find_space
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction import mlp
from esm_onnx.prediction.conformal import calibrate
from esm_onnx.prediction.dataset import Dataset, row_digests
from esm_onnx.prediction.encodings import encoding_names
from esm_onnx.prediction.linear import Linear
from esm_onnx.prediction.mlp import Mlp
from esm_onnx.prediction.splits import held_out_of
from esm_onnx.prediction.surrogate import Examples, Matrix, Surrogate, fit_with_folds
from esm_onnx.prediction.surrogates import SURROGATES, Entry
from esm_onnx.prediction.training import TrainSettings, train

QUICK = TrainSettings(surrogate="linear")
ONE_FIT = replace(QUICK, held_out=0.2)


def weights(surrogate: Surrogate) -> np.ndarray:
    assert isinstance(surrogate, Linear)
    return np.append(surrogate.weights, surrogate.bias)


# what is held out


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_every_bin_gives_its_share(count: int, share: float, seed: int) -> None:
    whole = dataset(count, seed)
    bins = divide(whole.space)
    outside = held_out_of(whole, bins, "random", share, np.random.default_rng(seed))
    for low, high in bins.ranges:
        inside = outside[(whole.depths >= low) & (whole.depths <= high)]
        if len(inside) < 2:
            assert not inside.any()
        else:
            assert 1 <= inside.sum() < len(inside)
            assert abs(inside.sum() - share * len(inside)) <= 1
    again = held_out_of(whole, bins, "random", share, np.random.default_rng(seed))
    np.testing.assert_array_equal(outside, again)


def test_another_seed_holds_out_other_rows() -> None:
    whole = dataset(100)
    bins, rngs = divide(whole.space), map(np.random.default_rng, (0, 1))
    first, second = (held_out_of(whole, bins, "random", 0.2, rng) for rng in rngs)
    assert (first != second).any()


def test_the_evaluation_is_of_the_held_out_rows() -> None:
    whole, test = dataset(120), dataset(60, seed=5, noise=0.05)
    predictor, evaluation = train(whole, replace(QUICK, bins=3, coverage=0.8), held_out=test)
    predicted = predictor.predict(test.genomes)[0].astype(float)
    errors = np.abs(predicted - test.latency_ms) / test.latency_ms
    bins = divide(whole.space, 3)
    assert evaluation.overall.count == 60
    assert evaluation.overall.accuracy == pytest.approx(100 * (1 - errors.mean()))
    assert evaluation.noise_floor == pytest.approx(5)
    assert [part.name for part in evaluation.bins] == bins.names()
    assert predictor.interval == calibrate(predicted, test.latency_ms, test.depths, bins, 0.8)
    assert (predictor.interval.rows, predictor.interval.coverage) == (60, 0.8)
    assert evaluation.coverage is not None
    assert evaluation.coverage.stated == pytest.approx(80)
    assert evaluation.coverage.measured is not None
    assert predictor.evaluation is evaluation
    assert len(predictor.trained) == 120
    assert predictor.calibrated == row_digests(test.genomes)
    assert predictor.target == whole.target
    assert predictor.dataset == whole.joined(test).digest


@pytest.mark.parametrize("held_out", [None, 0.2])
def test_a_test_set_is_evaluated_on_and_nothing_else(held_out: float | None) -> None:
    whole, test = dataset(100, noise=0.04), dataset(50, seed=5, noise=0.05)
    chosen = replace(QUICK, held_out=held_out)
    predictor, evaluation = train(whole, chosen, test=test)
    without, _ = train(whole, chosen)
    assert predictor.interval == without.interval
    assert (predictor.trained, predictor.calibrated) == (without.trained, without.calibrated)
    assert predictor.dataset == without.dataset
    latency, lower, upper = (values.astype(float) for values in predictor.predict(test.genomes))
    errors = np.abs(latency - test.latency_ms) / test.latency_ms
    assert evaluation.overall.count == 50
    assert evaluation.overall.accuracy == pytest.approx(100 * (1 - errors.mean()))
    assert evaluation.noise_floor == pytest.approx(5)
    assert evaluation.coverage is not None
    inside = (lower <= test.latency_ms) & (test.latency_ms <= upper)
    assert 0 < inside.sum() < 50
    assert evaluation.coverage.measured == pytest.approx(100 * inside.mean())
    assert evaluation.coverage.stated == pytest.approx(90)
    assert predictor.evaluation is evaluation


def test_held_out_latencies_are_never_trained_on() -> None:
    whole = dataset(100)
    outside = held_out_of(whole, divide(whole.space), "random", 0.2, np.random.default_rng(ONE_FIT.seed))
    first, _ = train(whole, ONE_FIT)
    other, evaluation = train(replace(whole, latency_ms=np.where(outside, 99.0, whole.latency_ms)), ONE_FIT)
    np.testing.assert_array_equal(weights(first.surrogate), weights(other.surrogate))
    assert evaluation.overall.count == outside.sum() == 100 - len(first.trained)
    changed = replace(whole, latency_ms=np.where(np.arange(100) == np.argmin(outside), 99.0, whole.latency_ms))
    assert (weights(train(changed, ONE_FIT)[0].surrogate) != weights(first.surrogate)).any()
    assert first.dataset == whole.digest


@pytest.mark.parametrize("held_out", [None, 0.2])
def test_the_same_seed_gives_the_same_predictor(held_out: float | None) -> None:
    whole, chosen = dataset(100, noise=0.05), replace(QUICK, held_out=held_out)
    first, again = train(whole, chosen), train(whole, chosen)
    np.testing.assert_array_equal(weights(first[0].surrogate), weights(again[0].surrogate))
    assert first[1] == again[1]
    assert first[0].interval == again[0].interval
    other, evaluation = train(whole, replace(chosen, seed=1))
    assert evaluation != first[1]
    assert other.interval != first[0].interval
    assert (weights(other.surrogate) == weights(first[0].surrogate)).all() == (held_out is None)


# what it learns


@pytest.mark.parametrize(("surrogate", "count"), [("hybrid", 300), ("mlp", 1500)])
def test_a_predictor_learns_the_formula(surrogate: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over blocks, which FCC holds entirely: little more than rounding is left."""
    monkeypatch.setattr(mlp, "MlpSettings", partial(mlp.MlpSettings, steps=1500))
    predictor, evaluation = train(dataset(count), TrainSettings(surrogate=surrogate, held_out=0.2))
    assert evaluation.overall.accuracy > 98
    assert isinstance(predictor.surrogate, Mlp) == (surrogate == "mlp")
    assert predictor.encoding == ("fcc" if surrogate == "mlp" else "cost+counts")
    chosen = drawn(find_space("resnet"), 200, seed=9)
    predicted, lower, upper = predictor.predict(rows(predictor.space, chosen))
    latencies = np.array([latency_ms(architecture) for architecture in chosen])
    assert np.abs(predicted / latencies - 1).mean() < 0.03
    assert ((lower < predicted) & (predicted < upper)).all()
    assert ((lower <= latencies) & (latencies <= upper)).mean() > 0.8


def test_the_defaults_are_the_hybrid_by_cross_validation() -> None:
    predictor, evaluation = train(dataset(60), TrainSettings())
    assert (predictor.surrogate.name, predictor.encoding) == ("hybrid", "cost+counts")
    assert len(predictor.trained) == evaluation.overall.count == predictor.interval.rows == 60
    assert evaluation.coverage is not None
    assert evaluation.coverage.stated == pytest.approx(90)
    unwritten = replace(dataset(60), space=replace(find_space("resnet"), export=None))
    assert train(unwritten, TrainSettings())[0].encoding == "counts"
    assert train(unwritten, QUICK)[0].encoding == "fcc"


@pytest.mark.parametrize("encoding", [*encoding_names(), "statistical+fc"])
def test_every_encoding_can_be_trained_on(encoding: str) -> None:
    space = Space(
        "toy",
        ((2, 4), (1, 3)),
        block=(Feature("kernel", (3, 5)), Feature("op", ("conv", "pool"))),
        unit=(Feature("expansion", (Fraction(2, 3), 1)),),
        network=(Feature("resolution", (160, 224)),),
    )
    space = find_space({"cost": "resnet", "ofa": "ofa-mobilenetv3"}[encoding]) if encoding in ("cost", "ofa") else space
    chosen = drawn(space, 80)
    latencies = np.array([1.0 + architecture.depth for architecture in chosen])
    whole = Dataset(space, rows(space, chosen), latencies, {})
    predictor, evaluation = train(whole, replace(ONE_FIT, encoding=encoding))
    assert (predictor.encoding, predictor.space) == (encoding, space)
    assert evaluation.overall.accuracy > 90


def test_few_held_out_rows_promise_nothing_above() -> None:
    for predictor, evaluation in (
        train(dataset(40), QUICK, held_out=dataset(8, seed=5)),
        train(dataset(8), TrainSettings()),
        train(dataset(3), TrainSettings()),
    ):
        _, lower, upper = predictor.predict(dataset(3, seed=7).genomes)
        assert (lower == 0).all()
        assert (upper == np.inf).all()
        assert evaluation.coverage is not None
        assert evaluation.coverage.measured is None


def test_bins_that_the_dataset_leaves_empty_stay_empty() -> None:
    whole = dataset(100)
    shallow = whole.select(whole.depths <= 15)
    empty = [low > 15 for low, _ in divide(whole.space).ranges]
    assert any(empty)
    for chosen in (QUICK, ONE_FIT):
        predictor, evaluation = train(shallow, chosen)
        assert [part.accuracy is None for part in evaluation.bins] == empty
        assert all(math.isfinite(width) for width in predictor.interval.widths)


# what is refused


def test_an_architecture_on_both_sides_is_refused() -> None:
    whole = dataset(30)
    for outside in ({"held_out": whole.select(slice(2))}, {"test": whole.select(slice(2))}):
        with pytest.raises(InputError, match="2 architectures are both trained on and held out, expected none"):
            train(whole, QUICK, **outside)


@pytest.mark.parametrize("chosen", [QUICK, ONE_FIT, replace(QUICK, split="time")])
def test_two_rows_of_one_architecture_are_refused(chosen: TrainSettings) -> None:
    """They could stand on both sides, and one would be known by the other."""
    whole = dataset(30)
    twice = whole.select(np.array([*range(30), 4, 7]))
    with pytest.raises(InputError, match="2 rows are of architectures that other rows have, expected one row each"):
        train(twice, chosen)


def test_another_space_held_out_is_refused() -> None:
    other = replace(dataset(30, seed=1), space=replace(find_space("resnet"), name="other"))
    for outside in ({"held_out": other}, {"test": other}):
        with pytest.raises(InputError, match=r"measurements of space 'other' \([0-9a-f]{16}\) are held out"):
            train(dataset(30), QUICK, **outside)


@pytest.mark.parametrize(("trained", "held_out"), [(1, 5), (2, 5), (5, 0)])
def test_too_few_rows_are_refused(trained: int, held_out: int) -> None:
    test = dataset(10, seed=3).select(slice(held_out))
    with pytest.raises(
        InputError, match=f"{trained} measurements to train on and {held_out} held out, expected at least 3 and 1"
    ):
        train(dataset(10).select(slice(trained)), QUICK, held_out=test)


def test_rows_too_few_to_split_are_refused() -> None:
    with pytest.raises(InputError, match="1 measurements to train on and 0 held out"):
        train(dataset(1), ONE_FIT)
    for count in (0, 1, 2):
        with pytest.raises(InputError, match=f"{count} measurements to train on, expected at least 3: measure more"):
            train(dataset(5).select(slice(count)), QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoding": "fcd"}, "encoding 'fcd', expected one of one-hot"),
        ({"encoding": "cost+fcd"}, r"encoding 'cost\+fcd', expected one of one-hot"),
        ({"surrogate": "oracle"}, "surrogate 'oracle', expected one of hybrid, mlp"),
        ({"folds": 1}, "folds is 1, expected at least 2"),
        ({"split": "by day"}, "split 'by day', expected one of random, time"),
        ({"held_out": 0.0}, "held_out is 0.0, expected a share between 0 and 1"),
        ({"held_out": 20.0}, "held_out is 20.0, expected a share"),
        ({"coverage": 1.0}, "coverage is 1.0, expected a share"),
        ({"coverage": math.nan}, "coverage is nan, expected a share"),
    ],
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**wrong)


class Constant:
    name = "constant"

    def __init__(self, latency: float) -> None:
        self.latency = latency

    def predict(self, x: Matrix) -> np.ndarray:
        return np.full(len(x), self.latency, np.float32)


def constant(monkeypatch: pytest.MonkeyPatch, latency: float) -> TrainSettings:
    def fit(_: Examples) -> Surrogate:
        return Constant(latency)  # type: ignore[return-value]

    monkeypatch.setitem(SURROGATES, "constant", Entry(fit, "fc", partial(fit_with_folds, fit)))
    return TrainSettings(surrogate="constant")


@pytest.mark.parametrize("latency", [math.nan, math.inf])
@pytest.mark.parametrize("held_out", [None, 0.2])
def test_a_surrogate_that_diverged_is_no_predictor(
    monkeypatch: pytest.MonkeyPatch, latency: float, held_out: float | None
) -> None:
    diverged = replace(constant(monkeypatch, latency), held_out=held_out)
    with pytest.raises(WorkError, match="the constant did not settle on finite latencies"):
        train(dataset(30), diverged)


@pytest.mark.parametrize("held_out", [None, 0.2])
def test_latencies_below_nothing_count_as_nothing(monkeypatch: pytest.MonkeyPatch, held_out: float | None) -> None:
    _, evaluation = train(dataset(30), replace(constant(monkeypatch, -3.0), held_out=held_out))
    assert evaluation.overall.accuracy == pytest.approx(0, abs=1e-3)
