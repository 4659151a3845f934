"""From a dataset to a predictor: what is trained on, what is not."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import dataset, drawn, latency_ms, rows

from esm_onnx.architectures import Feature, Space, divide, find_space
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction import training
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.mlp import Mlp, MlpSettings
from esm_onnx.prediction.surrogate import Matrix, Surrogate, Vector
from esm_onnx.prediction.training import TrainSettings, split, train

QUICK = TrainSettings(mlp=MlpSettings(steps=200))


def weights(surrogate: Surrogate) -> np.ndarray:
    assert isinstance(surrogate, Mlp)
    return np.concatenate([part.ravel() for layer in surrogate.layers for part in layer])


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_every_bin_gives_its_share(count: int, share: float, seed: int) -> None:
    whole = dataset(count, seed)
    bins = divide(whole.space)
    outside = split(whole, bins, share, np.random.default_rng(seed))
    for low, high in bins.ranges:
        inside = outside[(whole.depths >= low) & (whole.depths <= high)]
        if len(inside) < 2:
            assert not inside.any()
        else:
            assert 1 <= inside.sum() < len(inside)
            assert abs(inside.sum() - share * len(inside)) <= 1
    again = split(whole, bins, share, np.random.default_rng(seed))
    np.testing.assert_array_equal(outside, again)


def test_another_seed_holds_out_other_rows() -> None:
    whole = dataset(100)
    first, second = (split(whole, divide(whole.space), 0.2, np.random.default_rng(seed)) for seed in (0, 1))
    assert (first != second).any()


def test_a_predictor_learns_the_formula() -> None:
    """A sum over blocks, which FCC holds entirely: little more than rounding is left."""
    predictor, evaluation = train(dataset(1500), TrainSettings(mlp=MlpSettings(steps=1500)))
    assert evaluation.overall.accuracy > 98
    chosen = drawn(find_space("resnet"), 200, seed=9)
    predicted, lower, upper = predictor.predict(rows(predictor.space, chosen))
    latencies = np.array([latency_ms(architecture) for architecture in chosen])
    assert np.abs(predicted / latencies - 1).mean() < 0.03
    assert ((lower < predicted) & (predicted < upper)).all()
    assert ((lower <= latencies) & (latencies <= upper)).mean() > 0.8


def test_the_evaluation_is_of_the_held_out_rows() -> None:
    whole, test = dataset(120), dataset(60, seed=5, noise=0.05)
    predictor, evaluation = train(whole, replace(QUICK, bins=3, coverage=0.8), held_out=test)
    predicted = predictor.predict(test.genomes)[0].astype(float)
    errors = np.abs(predicted - test.latency_ms) / test.latency_ms
    assert evaluation.overall.count == 60
    assert evaluation.overall.accuracy == pytest.approx(100 * (1 - errors.mean()))
    assert evaluation.noise_floor == pytest.approx(5)
    assert [part.name for part in evaluation.bins] == divide(whole.space, 3).names()
    scores = np.sort(np.abs(test.latency_ms - predicted) / predicted)
    assert predictor.interval.width == pytest.approx(scores[49 - 1])  # ⌈61 · 0.8⌉ = 49
    assert (predictor.interval.rows, predictor.interval.coverage) == (60, 0.8)
    assert evaluation.coverage is not None
    assert evaluation.coverage.stated == pytest.approx(80)
    assert evaluation.coverage.measured is not None
    assert predictor.evaluation is evaluation
    assert len(predictor.trained) == 120
    assert predictor.target == whole.target
    assert predictor.dataset == whole.joined(test).digest


def test_held_out_latencies_are_never_trained_on() -> None:
    whole = dataset(100)
    outside = split(whole, divide(whole.space), QUICK.held_out, np.random.default_rng(QUICK.seed))
    first, _ = train(whole, QUICK)
    other, evaluation = train(replace(whole, latency_ms=np.where(outside, 99.0, whole.latency_ms)), QUICK)
    np.testing.assert_array_equal(weights(first.surrogate), weights(other.surrogate))
    assert evaluation.overall.count == outside.sum() == 100 - len(first.trained)
    changed = replace(whole, latency_ms=np.where(np.arange(100) == np.argmin(outside), 99.0, whole.latency_ms))
    assert (weights(train(changed, QUICK)[0].surrogate) != weights(first.surrogate)).any()
    assert first.dataset == whole.digest


def test_the_same_seed_gives_the_same_predictor() -> None:
    whole = dataset(100)
    first, again = train(whole, QUICK), train(whole, QUICK)
    np.testing.assert_array_equal(weights(first[0].surrogate), weights(again[0].surrogate))
    assert first[1] == again[1]
    other, _ = train(whole, replace(QUICK, seed=1))
    assert (weights(other.surrogate) != weights(first[0].surrogate)).any()


def test_few_held_out_rows_promise_nothing_above() -> None:
    predictor, evaluation = train(dataset(40), QUICK, held_out=dataset(8, seed=5))
    _, lower, upper = predictor.predict(dataset(3, seed=7).genomes)
    assert (lower == 0).all()
    assert (upper == np.inf).all()
    assert evaluation.coverage is not None
    assert evaluation.coverage.measured is None


@pytest.mark.parametrize("encoding", ["one-hot", "feature", "statistical", "fc", "fcc", "fcc-first"])
def test_every_encoding_can_be_trained_on(encoding: str) -> None:
    space = Space(
        "toy",
        ((2, 4), (1, 3)),
        block=(Feature("kernel", (3, 5)), Feature("op", ("conv", "pool"))),
        unit=(Feature("expansion", (Fraction(2, 3), 1)),),
        network=(Feature("resolution", (160, 224)),),
    )
    chosen = drawn(space, 80)
    latencies = np.array([1.0 + architecture.depth for architecture in chosen])
    whole = Dataset(space, rows(space, chosen), latencies, {})
    predictor, evaluation = train(whole, TrainSettings(encoding=encoding, mlp=MlpSettings(steps=500)))
    assert (predictor.encoding, predictor.space) == (encoding, space)
    assert evaluation.overall.accuracy > 90


def test_an_architecture_on_both_sides_is_refused() -> None:
    whole = dataset(30)
    with pytest.raises(InputError, match="2 architectures are both trained on and held out, expected none"):
        train(whole, QUICK, held_out=whole.select(slice(2)))
    twice = whole.select(np.array([*range(30), *range(30)]))
    with pytest.raises(InputError, match="are both trained on and held out"):
        train(twice, QUICK)


def test_another_space_held_out_is_refused() -> None:
    other = replace(dataset(30, seed=1), space=replace(find_space("resnet"), name="other"))
    with pytest.raises(InputError, match=r"measurements of space 'other' \([0-9a-f]{16}\) are held out"):
        train(dataset(30), QUICK, held_out=other)


@pytest.mark.parametrize(("trained", "held_out"), [(1, 5), (5, 0)])
def test_too_few_rows_are_refused(trained: int, held_out: int) -> None:
    test = dataset(10, seed=3).select(slice(held_out))
    with pytest.raises(InputError, match=f"{trained} measurements to train on and {held_out} held out, expected at l"):
        train(dataset(10).select(slice(trained)), QUICK, held_out=test)


def test_rows_too_few_to_split_are_refused() -> None:
    with pytest.raises(InputError, match="1 measurements to train on and 0 held out"):
        train(dataset(1), QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoding": "fcd"}, "encoding 'fcd', expected one of one-hot"),
        ({"surrogate": "oracle"}, "surrogate 'oracle', expected one of mlp"),
        ({"held_out": 0.0}, "held_out is 0.0, expected a share between 0 and 1"),
        ({"held_out": 20.0}, "held_out is 20.0, expected a share"),
        ({"coverage": 1.0}, "coverage is 1.0, expected a share"),
    ],
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**wrong)  # type: ignore[arg-type]


class Diverged:
    name = "diverged"

    def predict(self, x: Matrix) -> np.ndarray:
        return np.full(len(x), np.nan, np.float32)


def test_a_surrogate_that_diverged_is_no_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(_x: Matrix, _y: Vector, _settings: TrainSettings) -> Surrogate:
        return Diverged()  # type: ignore[return-value]

    monkeypatch.setitem(training.SURROGATES, "diverged", fit)
    with pytest.raises(WorkError, match="the diverged did not settle on finite latencies"):
        train(dataset(30), TrainSettings(surrogate="diverged"))


def test_bins_that_the_dataset_leaves_empty_stay_empty() -> None:
    whole = dataset(100)
    shallow = whole.select(whole.depths <= 15)
    _, evaluation = train(shallow, QUICK)
    empty = [low > 15 for low, _ in divide(whole.space).ranges]
    assert [part.accuracy is None for part in evaluation.bins] == empty
    assert any(empty)
