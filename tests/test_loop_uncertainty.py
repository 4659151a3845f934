"""The loop as it is unless told otherwise: cross-validation, and further architectures where it is least certain."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from formula_device import REACHABLE, RESNET, SMALL, UNREACHABLE, Device, everything, per_bin, story

from esm_onnx.architectures import Feature, Space, divide, sample
from esm_onnx.errors import InputError
from esm_onnx.loop import EXTENSIONS, Plan, rounds
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.training import TrainSettings

OURS = Plan(initial=30, step=20, max_measurements=None, train=TrainSettings(surrogate="linear", encoding="fc", folds=2))
"""With a surrogate that is fitted in no time."""


def test_the_defaults_start_small_and_need_no_evaluation_set() -> None:
    plan = Plan()
    assert (plan.initial, plan.step, plan.evaluation, plan.extend) == (30, 20, 0, "uncertainty")
    assert (plan.strategy, plan.train.surrogate, plan.train.encoding) == ("balanced", "hybrid", None)
    device = Device()
    turns = device.run(plan)
    assert (turns[0].rows, turns[0].measurements) == (30, 30)
    assert per_bin(device.asked[0], divide(RESNET)) == [6] * 5
    assert turns[-1].end == "threshold"
    assert turns[-1].rows == turns[-1].measurements <= 80
    assert turns[-1].predictor.encoding == "cost+counts"


@pytest.mark.parametrize("extend", EXTENSIONS)
@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_without_an_evaluation_set_all_are_trained_on_and_judged(strategy: str, extend: str) -> None:
    device = Device(noisy=everything)
    plan = replace(OURS, strategy=strategy, extend=extend, threshold=UNREACHABLE, max_measurements=75)
    turns = device.run(plan)
    assert [turn.measurements for turn in turns] == [30, 50, 70, 75]
    assert turns[-1].end == "measurements"
    for i, turn in enumerate(turns):
        known = [a for call in device.asked[: i + 1] for a in call]
        assert turn.rows == turn.measurements == turn.evaluation.overall.count == len(turn.judged) == len(known)
        assert len(turn.predictor.trained) == turn.predictor.interval.rows == len(known)
        assert device.assembled[i] == known, "the order of measuring, which a split by time goes by"
    assert len(device.assembled) == len(turns)


@pytest.mark.parametrize(("w1", "w2"), [(1.0, 0.25), (1, 0)])
def test_the_least_certain_keep_to_the_quotas_too(w1: float, w2: float) -> None:
    bins = divide(RESNET)
    device = Device(noisy=lambda a: bins.index(a.depth) in (1, 4))
    turns = device.run(replace(OURS, initial=60, threshold=REACHABLE, w_below=w1, w_above=w2, max_minutes=4))
    assert len(turns) == 4
    seen = set()
    for turn, drawn in zip(turns, device.asked[1:], strict=False):
        weight = {True: Fraction(str(w1)), False: Fraction(str(w2))}
        norm = weight[True] * turn.below.count(True) + weight[False] * turn.below.count(False)
        assert per_bin(drawn, bins) == [math.ceil(20 * weight[below] / norm) for below in turn.below]
        seen.add(turn.below)
    assert any(True in below and False in below for below in seen), "this shows nothing where all bins are alike"


def test_uncertainty_asks_for_what_says_more_from_the_first_round_on() -> None:
    """By the volume in which the weights may lie, as in test_uncertainty.py."""
    told: dict[str, list[float]] = {}
    for extend in EXTENSIONS:
        device = Device(noisy=everything)
        turns = device.run(replace(OURS, extend=extend, threshold=UNREACHABLE, max_measurements=90))
        assert len({a for call in device.asked for a in call}) == 90
        assert per_bin(device.asked[0], divide(RESNET)) == [6] * 5
        told[extend] = []
        for turn in turns:
            x = find_encoding("fc").encode(RESNET, turn.judged.genomes)
            told[extend].append(float(np.linalg.slogdet(np.eye(x.shape[1]) + x.T @ x)[1]))
    assert len(told["bins"]) == len(told["uncertainty"]) == 4
    for ours, papers in zip(told["uncertainty"], told["bins"], strict=True):
        assert ours > papers + 1


def test_the_paper_draws_its_first_round_as_sample_does() -> None:
    for plan in (replace(OURS, extend="bins"), replace(OURS, strategy="random")):
        device = Device()
        next(rounds(RESNET, plan, device.measure, device.assemble))
        drawn = sample(RESNET, 30, strategy=plan.strategy, rng=Random(plan.seed))
        assert set(device.asked[0]) == set(drawn)


def test_running_anew_chooses_the_same_of_which_it_is_least_certain() -> None:
    plan = replace(OURS, threshold=UNREACHABLE, max_measurements=77)
    first, again, longer = Device(noisy=everything), Device(noisy=everything), Device(noisy=everything)
    turns = first.run(plan)
    assert story(turns) == story(again.run(plan))
    assert first.asked == again.asked
    further = longer.run(replace(plan, max_measurements=120))
    assert len(further) > len(turns) > 2
    assert story(further)[: len(turns) - 1] == story(turns)[:-1]
    last = first.asked[-1]
    assert last == longer.asked[len(turns) - 1][: len(last)], "measurements of the shorter run are used again"


def test_the_least_certain_of_a_small_space_are_soon_all_of_it() -> None:
    device = Device(SMALL, noisy=everything)
    turns = device.run(replace(OURS, threshold=UNREACHABLE, initial=5, step=60))
    asked = [a for call in device.asked for a in call]
    assert turns[-1].end == "space"
    assert turns[-1].measurements == len(asked) == len(set(asked)) == 196


def test_failures_are_survived_without_an_evaluation_set() -> None:
    device = Device(noisy=everything, broken=lambda a: a.units[0][0]["kernel"] == 3)
    turns = device.run(replace(OURS, threshold=UNREACHABLE, max_measurements=90))
    assert turns[-1].measurements == 90
    for turn, asked in zip(turns, device.assembled, strict=True):
        assert turn.rows == len(turn.judged) == sum(not device.broken(a) for a in asked) < len(asked)
    with pytest.raises(InputError, match="0 measurements to train on, expected at least 3: measure more"):
        Device(broken=everything).run(OURS)


def test_fewer_architectures_than_bins_are_enough_to_start() -> None:
    (turn,) = Device(noisy=everything).run(replace(OURS, initial=4, max_measurements=4))
    assert turn.below == (True,) * 5
    assert sum(part.metrics is None for part in turn.evaluation.bins) >= 1


def test_a_space_too_large_for_its_encoding_is_refused_before_anything_is_measured() -> None:
    wide = Space("wide", ((1, 40),) * 4, tuple(Feature(f"f{i}", tuple(range(9))) for i in range(5)))
    device = Device(wide)
    for chosen in ("fcc", "one-hot"):
        with pytest.raises(InputError, match="'wide' has 59049 combinations of options"):
            device.run(replace(OURS, train=replace(OURS.train, encoding=chosen)))
    assert device.asked == []
