"""Surrogates compared: the same rows for all, and the figures that training each by itself gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from prediction.made_up import dataset, drawn, latency_ms, rows

from esm_onnx.architectures import Feature, Space, find_space
from esm_onnx.errors import InputError
from esm_onnx.prediction.comparison import BASELINES, CompareSettings, compare, pairs_of
from esm_onnx.prediction.comparison_fit import FIGURES
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import ENCODINGS
from esm_onnx.prediction.lookup_encoding import ENTRIES, Lookup
from esm_onnx.prediction.surrogate import Examples, Matrix, Nodes, fit_with_folds
from esm_onnx.prediction.surrogates import SURROGATES, Entry, usual_encoding
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

TIMES = ("train_s", "predict_s")


def tiny_dataset(count: int, noise: float = 0.03) -> Dataset:
    return dataset(count, space=tiny_space(), noise=noise)


@dataclass(frozen=True)
class Constant:
    """Says the same of every row, and keeps what it was asked."""

    value: float
    asked: list[Matrix]
    name: str = "constant"

    def predict(self, x: Matrix) -> np.ndarray:
        self.asked.append(x)
        return np.full(len(x), self.value, np.float32)

    def draw(self, graph: Nodes, x: str) -> str:
        raise NotImplementedError


Plug = Callable[..., None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Adds a surrogate by name."""

    def add(name: str, fit: Callable[[Examples], Any], encoding: str = "fc") -> None:
        monkeypatch.setitem(SURROGATES, name, Entry(fit, encoding, partial(fit_with_folds, fit)))

    return add


def test_all_are_fitted_on_the_same_rows_and_judged_on_the_same_others(plug: Plug) -> None:
    whole = tiny_dataset(60)
    place = {latency: i for i, latency in enumerate(whole.latency_ms.tolist())}
    fitted: dict[tuple[str, int, int], list[int]] = {}
    judged: dict[tuple[str, int, int], list[Matrix]] = {}

    def remembering(name: str) -> Callable[[Examples], Constant]:
        def fit(examples: Examples) -> Constant:
            key = name, len(examples), examples.seed
            fitted[key] = [place[latency] for latency in examples.y.tolist()]
            return Constant(1.0, judged.setdefault(key, []))

        return fit

    plug("one", remembering("one"))
    plug("other", remembering("other"))
    compare(whole, CompareSettings((("one", "fc"), ("other", "feature")), (10, 30), test=20, seeds=3))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(60)
        for name, encoding in (("one", "fc"), ("other", "feature")):
            assert fitted[name, 10, seed] == order[:10].tolist()
            assert fitted[name, 30, seed] == order[:30].tolist()
            unseen = ENCODINGS[encoding].encode(whole.space, whole.genomes[order[-20:]])
            for size in (10, 30):
                (asked,) = judged[name, size, seed]
                np.testing.assert_array_equal(asked, unseen)
    assert len(fitted) == 12


def test_the_figures_are_those_of_training_by_itself() -> None:
    whole = tiny_dataset(80)
    pairs = (("linear", "fcc"), ("hybrid", "cost+fcc-first"))
    found = compare(whole, CompareSettings(pairs, (10, 15), test=30, seeds=2))
    assert [(r.surrogate, r.encoding, r.rows, r.seeds, r.reason) for r in found.results] == [
        (*pair, size, 2, "") for size in (10, 15) for pair in pairs
    ]
    assert (found.available, found.test, found.seeds, found.sizes) == (50, 30, 2, (10, 15))
    for result in found.results:
        evaluations = []
        for seed in range(2):
            order = np.random.default_rng(seed).permutation(80)
            known, unseen = whole.select(order[: result.rows]), whole.select(order[-30:])
            settings = TrainSettings(surrogate=result.surrogate, encoding=result.encoding, seed=seed)
            quick = SURROGATES[result.surrogate].quick  # so that its folds are made anyway
            evaluations.append(train(known, settings, **{"test" if quick else "held_out": unseen})[1])
        assert result.mean is not None
        assert result.std is not None
        for name in ("accuracy", "rmse_ms", "rmse_percent", "within_5", "kendall"):
            values = [getattr(evaluation.overall, name) for evaluation in evaluations]
            assert getattr(result.mean, name) == pytest.approx(sum(values) / 2)
            assert getattr(result.std, name) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        worst = [min(part.accuracy for part in e.bins if part.accuracy is not None) for e in evaluations]
        assert result.mean.worst_bin == pytest.approx(sum(worst) / 2)
        if SURROGATES[result.surrogate].quick:
            enclosed = [evaluation.coverage.measured for evaluation in evaluations if evaluation.coverage]
            assert result.mean.coverage == pytest.approx(sum(enclosed) / 2)
        else:
            assert (result.mean.coverage, result.mean.width_percent) == (None, None)
        assert found.noise_floor == pytest.approx(evaluations[0].noise_floor)
        assert found.reachable == pytest.approx(evaluations[0].reachable)


def test_the_intervals_are_those_of_training_by_itself() -> None:
    whole = dataset(90, noise=0.03)
    found = compare(whole, CompareSettings((("linear", "fcc"),), (30,), test=40, seeds=1, coverage=0.8, intervals=True))
    order = np.random.default_rng(0).permutation(90)
    unseen = whole.select(order[-40:])
    settings = TrainSettings(surrogate="linear", encoding="fcc", coverage=0.8, seed=0)
    predictor, evaluation = train(whole.select(order[:30]), settings, test=unseen)
    (result,) = found.results
    assert result.mean is not None
    assert evaluation.coverage is not None
    assert result.mean.coverage == evaluation.coverage.measured
    assert result.mean.accuracy == pytest.approx(evaluation.overall.accuracy)
    latency, _, upper = predictor.predict(unseen.genomes)
    assert result.mean.width_percent == pytest.approx(float(100 * (upper / latency - 1).mean()), rel=1e-5)


def test_an_interval_of_too_few_rows_has_no_width() -> None:
    found = compare(tiny_dataset(20), CompareSettings((("linear", "fc"),), (5,), test=10, seeds=1, intervals=True))
    mean = found.results[0].mean
    assert mean is not None
    assert (mean.coverage, mean.width_percent) == (100, None)


def test_what_cannot_be_fitted_is_a_result_with_its_reason(plug: Plug) -> None:
    def greedy(_: Examples) -> Constant:
        raise MemoryError

    def broken(_: Examples) -> Constant:
        raise np.linalg.LinAlgError("SVD did not\nconverge")

    plug("greedy", greedy)
    plug("broken", broken)
    plug("diverged", lambda _: Constant(np.nan, []))
    plug("capricious", lambda examples: greedy(examples) if examples.seed else Constant(1.0, []))
    space = Space("bare", ((1, 2),) * 3, block=(Feature("kernel", (3, 5, 7)),))
    found = dataset(60, space=replace(space, block=(*space.block, Feature("expansion", (1, 2)))))
    pairs = tuple((name, "fc") for name in ("greedy", "broken", "diverged", "capricious", "linear"))
    compared = compare(found, CompareSettings((*pairs, ("linear", "cost")), (20, 100), test=10, seeds=2))
    results = {(r.surrogate, r.encoding): r for r in compared.results if r.rows == 20}
    reasons = {pair: result.reason for pair, result in results.items()}
    assert reasons["greedy", "fc"] == "out of memory"
    assert reasons["broken", "fc"] == "LinAlgError: SVD did not converge"
    assert "finite" in reasons["diverged", "fc"]
    assert "[export]" in reasons["linear", "cost"] or "writer" in reasons["linear", "cost"]
    assert [r.seeds for r in results.values()] == [0, 0, 0, 1, 2, 0]
    assert (reasons["capricious", "fc"], results["capricious", "fc"].std) == ("out of memory", None)
    assert (results["linear", "fc"].reason, results["linear", "fc"].mean is None) == ("", False)
    for result in compared.results:
        if result.rows == 100:
            assert (result.mean, result.seeds) == (None, 0)
            assert "50 measurements" in result.reason
    best = compared.best(20)
    assert best is not None
    assert best.surrogate == "linear"
    assert compared.best(100) is None
    assert compared.best(20, "greedy") is None
    ranked = compared.ranked(20)
    assert sorted(ranked, key=lambda r: -r.mean.accuracy if r.mean else np.inf) == ranked


def test_processes_change_nothing_but_the_time() -> None:
    space = tiny_space()
    columns = tuple(ENTRIES.columns(space))
    table = Lookup(columns, np.linspace(0.1, 0.2, len(columns))[None], 0.0)
    whole = replace(tiny_dataset(40), lookup=table)
    settings = CompareSettings((("lut-bias", "entries"), ("lut", "fc")), (10, 100), test=10, seeds=2)
    told: list[tuple[int, int]] = []
    alone, two = compare(whole, settings), compare(whole, settings, processes=2, report=lambda *n: told.append(n))
    assert told == [(done, 8) for done in range(1, 9)]
    assert [result.seeds for result in two.results] == [2, 0, 0, 0]
    timeless = [
        [{name: value for name, value in r.as_json().items() if not name.startswith(TIMES)} for r in found.results]
        for found in (alone, two)
    ]
    assert timeless[0] == timeless[1]


class Deadly(Mapping[str, Any]):
    """Ends the process that unpickles it."""

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_process_that_is_killed_is_told_and_the_rest_is_not_waited_for() -> None:
    settings = CompareSettings((("linear", "fc"),), (10, 20), test=10, seeds=3)
    found = compare(replace(tiny_dataset(40), target=Deadly()), settings, processes=2)
    assert [result.mean for result in found.results] == [None, None]
    assert all("killed" in result.reason for result in found.results)


def test_sizes_and_test_are_chosen_where_nobody_does(plug: Plug) -> None:
    plug("constant", lambda _: Constant(1.0, []))
    for count, test, sizes in ((100, 30, (20, 50, 70)), (12, 4, (8,)), (700, 210, (20, 50, 100, 200, 490))):
        found = compare(dataset(count), CompareSettings((("constant", "fc"),), seeds=1))
        assert (found.test, found.available, found.sizes) == (test, count - test, sizes)


def test_other_measurements_are_judged_on_and_never_trained_on(plug: Plug) -> None:
    space = find_space("resnet")
    seen: list[list[float]] = []

    def fit(examples: Examples) -> Constant:
        seen.append(examples.y.tolist())
        return Constant(10.0, [])

    plug("constant", fit)
    chosen = drawn(space, 50)
    latencies = np.array([latency_ms(architecture) for architecture in chosen])
    whole = Dataset(space, rows(space, chosen[:40]), latencies[:40], {})
    other = Dataset(space, rows(space, chosen[30:]), latencies[30:] * 1.5, {})
    found = compare(whole, CompareSettings((("constant", "fc"),), (30,), seeds=2), held_out=other)
    assert (found.available, found.test) == (30, 20)
    for known in seen:
        assert sorted(known) == sorted(latencies[:30])
    mean = found.results[0].mean
    assert mean is not None
    assert mean.rmse_ms == pytest.approx(float(np.sqrt(np.mean((10 - other.latency_ms) ** 2))))


@pytest.mark.parametrize("test", [40, 38, 100])
def test_rows_are_left_to_train_on(test: int) -> None:
    with pytest.raises(InputError, match=rf"^{test} measurements held out and [02] left"):
        compare(tiny_dataset(40), CompareSettings((("linear", "fc"),), (20,), test))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": (2, 20)}, "2, 20"),
        ({"sizes": (20, 10)}, "ascending"),
        ({"pairs": (("abacus", "fc"),)}, "'abacus'"),
        ({"pairs": (("linear", "abacus"),)}, "'abacus'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"test": 0}, "test is 0"),
        ({"coverage": 1.0}, "coverage is 1.0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"pairs": (("linear", "fc"),), "sizes": (20,)}
    CompareSettings(**right)
    with pytest.raises(InputError, match=message):
        CompareSettings(**(right | wrong))


def test_baselines_are_always_compared_with() -> None:
    space, tables = tiny_space(), {("lut", "entries"), ("lut-bias", "entries")}
    assert {name for name, _ in pairs_of(space)} == set(SURROGATES) >= set(BASELINES)
    hybrid = "hybrid", usual_encoding("hybrid", space)
    assert set(pairs_of(space, ["hybrid"])) == {hybrid, ("linear", usual_encoding("linear", space)), *tables}
    assert pairs_of(space, ["hybrid"])[0] == hybrid
    crossed = pairs_of(space, ["mlp", "linear", "lut"], ["fc", "one-hot"])
    assert crossed[:4] == (("mlp", "fc"), ("mlp", "one-hot"), ("linear", "fc"), ("linear", "one-hot"))
    assert set(crossed[4:]) == {("linear", "fcc"), *tables}
    encodings = [*ENCODINGS, "cost", usual_encoding("hybrid", space)]
    every = pairs_of(space, (), ["all"])
    names = set(SURROGATES) - {"lut", "lut-bias"}
    assert set(every) == {(name, encoding) for name in names for encoding in encodings} | tables
    assert len(set(every)) == len(every)


def test_each_figure_stands_beside_its_spread() -> None:
    found = compare(tiny_dataset(40), CompareSettings((("linear", "fc"),), (10,), seeds=2))
    (result,) = found.as_json()["results"]
    assert list(result) == [
        *("surrogate", "encoding", "rows", "seeds"),
        *(part for name in FIGURES for part in (name, f"{name}_std")),
        "reason",
    ]
    assert found.as_json()["best"][0]["winner"] == found.as_json()["best"][0]["linear"]
