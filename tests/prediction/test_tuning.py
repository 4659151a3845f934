"""Asynchronous successive halving: its rule, alone and with several processes, and what comes of it."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction.made_up import drawn, rows

from esm_onnx.architectures import find_space
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.dataset import Dataset, row_digests
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.ofa_paper import GRID, Hyperparameters, fit_ofa
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.surrogate import Examples
from esm_onnx.prediction.training import TrainSettings
from esm_onnx.prediction.tuning import Outcome, Rungs, TuneSettings, parts_of, search, tune

GOOD, FAIR, BAD = Hyperparameters(0.01), Hyperparameters(0.001), Hyperparameters(1e-7)
WILD = Hyperparameters(1e20, 1.0, 0.9)
"""Its weights become infinite, and then no numbers."""
QUICK = TuneSettings(epochs=6, grace=2, eta=2, combinations=(WILD, GOOD, BAD, FAIR))
arrivals = st.lists(
    st.tuples(st.sampled_from((1, 3, 9)), st.floats(0.01, 100)), max_size=40, unique_by=lambda arrival: arrival[1]
)


def examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (count, 10)).astype(float)
    return Examples(x, 20 + x @ np.arange(10.0), tuple("abcdefghij"))


def dataset(count: int) -> Dataset:
    """Once-for-All's networks, whose latency is the number of their blocks and half as much as their kernels."""
    space = find_space("ofa-mobilenetv3")
    chosen = drawn(space, count)
    kernels = [sum(int(block["kernel"]) for unit in each.units for block in unit) for each in chosen]
    latency_ms = np.array([each.depth + kernel / 2 for each, kernel in zip(chosen, kernels, strict=True)])
    return Dataset(space, rows(space, chosen), latency_ms, {"name": "somewhere", "facts": {}})


# the rule


def test_the_rungs_are_after_the_grace_and_at_its_multiples() -> None:
    assert TuneSettings().milestones == [4, 16, 64, 100]
    assert TuneSettings(epochs=64).milestones == [4, 16, 64]
    assert TuneSettings(epochs=9, grace=1, eta=3).milestones == [1, 3, 9]
    assert TuneSettings(epochs=5, grace=5).milestones == [5]
    assert TuneSettings().combinations == GRID


@given(arrivals=arrivals, eta=st.integers(2, 5))
def test_the_best_of_a_rung_go_on_and_the_others_stop(arrivals: list[tuple[int, float]], eta: int) -> None:
    """Against the rule as Li et al. state it, "in the top 1/η of the rung", said of those that came before: who has
    that many of them above itself, or one more, stands where their errors are interpolated between."""
    rungs = Rungs(TuneSettings(epochs=27, grace=1, eta=eta))
    came: defaultdict[int, list[float]] = defaultdict(list)
    for epochs, rmse_ms in arrivals:
        state = rungs.judge(Outcome(GOOD, epochs, rmse_ms)).state
        before = came[epochs]
        better = sum(other < rmse_ms for other in before)
        share = (len(before) - 1) / eta
        if not before or better <= share:
            assert state == "running"
        elif better > share + 1:
            assert state == "stopped"
        before.append(rmse_ms)


def test_the_rule_is_that_of_ray_tune() -> None:
    bracket_of = pytest.importorskip("ray.tune.schedulers.async_hyperband")._Bracket

    @given(arrivals=arrivals, eta=st.integers(2, 5))
    def rule(arrivals: list[tuple[int, float]], eta: int) -> None:
        rungs = Rungs(TuneSettings(epochs=27, grace=1, eta=eta))
        theirs = {epochs: bracket_of(epochs, epochs, eta, 0) for epochs in (1, 3, 9)}
        for i, (epochs, rmse_ms) in enumerate(arrivals):
            action = theirs[epochs].on_result(SimpleNamespace(trial_id=i), epochs, -rmse_ms)
            state = rungs.judge(Outcome(GOOD, epochs, rmse_ms)).state
            assert state == {"CONTINUE": "running", "STOP": "stopped"}[action]

    rule()


def test_at_the_end_it_is_finished_and_without_a_number_it_has_diverged() -> None:
    rungs = Rungs(TuneSettings(epochs=10, grace=2))
    assert [rungs.judge(Outcome(GOOD, 10, rmse)).state for rmse in (1.0, 99.0)] == ["finished", "finished"]
    assert [rungs.judge(Outcome(WILD, 2, rmse)).state for rmse in (math.inf, math.nan)] == ["diverged", "diverged"]
    assert rungs.judge(Outcome(BAD, 2, 50.0)).state == "running"  # what diverged counts for nothing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"grace": 0}, "grace is 0 of 100"), ({"grace": 101}, "grace is 101 of 100"), ({"eta": 1}, "eta is 1, expected")],
)
def test_wrong_settings_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TuneSettings(**wrong)


# the search


def assert_is_a_search(outcomes: list[Outcome]) -> None:
    """Of QUICK: what diverges and what learns nothing cost little, and the best is found."""
    by = {outcome.hyperparameters: outcome for outcome in outcomes}
    assert [outcome.hyperparameters for outcome in outcomes] == list(QUICK.combinations)
    assert (by[WILD].state, by[WILD].epochs, by[WILD].rmse_ms) == ("diverged", 2, math.inf)
    assert (by[GOOD].state, by[GOOD].epochs) == ("finished", 6)
    assert all(outcome.epochs in QUICK.milestones for outcome in outcomes)
    assert by[GOOD].rmse_ms < by[BAD].rmse_ms


def test_alone_it_is_always_the_same() -> None:
    learned, validation, told = examples(150), examples(50, seed=1), list[Outcome]()
    outcomes = search(learned, validation, QUICK, report=told.append)
    assert_is_a_search(outcomes)
    assert outcomes == told == search(learned, validation, QUICK)
    assert [(outcome.state, outcome.epochs) for outcome in outcomes[2:]] == [("stopped", 2), ("stopped", 2)]
    again = fit_ofa(learned.x, learned.y, 0, GOOD, 6).predict(validation.x)
    assert outcomes[1].rmse_ms == pytest.approx(float(np.sqrt(np.mean((again - validation.y) ** 2))), rel=1e-4)


def test_with_processes_the_same_combinations_are_trained_alike() -> None:
    learned, validation, told = examples(150), examples(50, seed=1), list[Outcome]()
    outcomes = search(learned, validation, QUICK, processes=2, report=told.append)
    assert_is_a_search(outcomes)
    assert sorted(told, key=outcomes.index) == outcomes
    alone = search(learned, validation, QUICK)
    for outcome, other in zip(outcomes, alone, strict=True):
        if outcome.epochs == other.epochs:
            assert outcome == other
    assert not multiprocessing.active_children()


class Fatal(Examples):
    """Rows that end the process that trains on them."""

    def __getattribute__(self, name: str) -> object:
        if name == "x" and multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().__getattribute__(name)


def test_a_process_that_dies_ends_the_search_with_a_reason() -> None:
    rows = examples(20)
    with pytest.raises(WorkError, match=r"a process of the search died: .* fewer --processes"):
        search(Fatal(rows.x, rows.y, rows.columns), rows, QUICK, processes=2)
    assert not multiprocessing.active_children()


# the outcome


def test_the_best_is_fitted_again_and_tested_on_rows_that_decided_nothing(tmp_path: Path) -> None:
    whole = dataset(200)
    tuned = tune(whole, QUICK, TrainSettings(split="time"), search)
    assert tuned.best.hyperparameters == GOOD
    assert tuned.best.rmse_ms == min(outcome.rmse_ms for outcome in tuned.outcomes)
    predictor = tuned.predictor
    assert (predictor.encoding, predictor.surrogate.name, predictor.evaluation) == ("ofa", "mlp-ofa", tuned.evaluation)
    assert predictor.trained == row_digests(whole.genomes[:140])
    assert predictor.calibrated == row_digests(whole.genomes[140:170])
    test = whole.select(slice(170, None))
    rmse = float(np.sqrt(np.mean((predictor.predict(test.genomes)[0] - test.latency_ms) ** 2)))
    assert tuned.evaluation.overall.rmse_ms == pytest.approx(rmse, rel=1e-6)
    validation = whole.select(slice(140, 170))
    found = predictor.predict(validation.genomes)[0] - validation.latency_ms
    assert tuned.best.rmse_ms == pytest.approx(float(np.sqrt(np.mean(found**2))), rel=1e-4)
    write_predictor(predictor, tmp_path / "p.onnx", check=whole)
    assert LoadedPredictor.open(tmp_path / "p.onnx").metadata["surrogate"] == "mlp-ofa"


def test_the_parts_are_seventy_and_twice_fifteen_percent() -> None:
    whole = dataset(101)
    for split in ("time", "random"):
        parts = parts_of(whole, split, 3)
        assert [len(part) for part in parts] == [70, 15, 16]
        together = np.concatenate([part.genomes for part in parts])
        assert sorted(map(bytes, together)) == sorted(map(bytes, whole.genomes))
        assert (together == whole.genomes).all() == (split == "time")


def test_networks_of_the_same_blocks_stay_together() -> None:
    """At three resolutions each; by rows, they would be trained on and tested on alike."""
    some = dataset(40)
    genomes = np.repeat(some.genomes, 3, axis=0)
    genomes[:, 0] = np.tile([0, 10, 20], 40)
    thrice = Dataset(some.space, genomes, np.repeat(some.latency_ms, 3), some.target)
    parts = parts_of(thrice, "blocks", 0)
    assert [len(part) for part in parts] == [84, 18, 18]
    blocks = [{bytes(row[1:]) for row in part.genomes} for part in parts]
    assert not blocks[0] & blocks[1] | blocks[0] & blocks[2] | blocks[1] & blocks[2]


def test_too_few_rows_and_nothing_that_converges_are_refused() -> None:
    with pytest.raises(InputError, match="1 measurements, too few to train, validate and test on"):
        parts_of(dataset(1), "time", 0)
    wild = TuneSettings(epochs=2, grace=2, combinations=(WILD,))
    with pytest.raises(WorkError, match="all 1 combinations diverged"):
        tune(dataset(40), wild, TrainSettings(), search)
