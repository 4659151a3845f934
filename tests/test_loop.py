"""The paper's loop, on a device that is a formula: nothing is written, timed or stored."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from formula_device import REACHABLE, RESNET, SMALL, UNREACHABLE, Device, everything, per_bin, story

from esm_onnx.architectures import divide
from esm_onnx.errors import InputError, SpaceExhausted
from esm_onnx.loop import Plan, Round, rounds
from esm_onnx.prediction import mlp
from esm_onnx.prediction.mlp import Mlp
from esm_onnx.prediction.training import TrainSettings

QUICK = TrainSettings(surrogate="mlp")
PLAN = Plan(extend="bins", initial=60, step=20, evaluation=20, max_measurements=None, train=QUICK)
"""The paper's loop, on a small scale."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take no time; what is asked for here does not take good ones."""
    monkeypatch.setattr(mlp, "MlpSettings", partial(mlp.MlpSettings, hidden=(16,), steps=150))


def weights(turn: Round) -> list[np.ndarray[Any, Any]]:
    surrogate = turn.predictor.surrogate
    assert isinstance(surrogate, Mlp)
    return [array for layer in surrogate.layers for array in layer]


@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_it_stops_at_the_threshold(strategy: str) -> None:
    plan = replace(PLAN, strategy=strategy, threshold=0.97, step=60)
    turns = Device().run(plan)
    assert len(turns) > 1, "this shows nothing where the first round is good enough"
    assert [turn.end for turn in turns] == [None] * (len(turns) - 1) + ["threshold"]
    assert [turn.reached for turn in turns] == [False] * (len(turns) - 1) + [True]
    assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))
    for turn in turns:
        accuracies = [part.accuracy for part in turn.evaluation.bins]
        assert turn.below == tuple(accuracy < 97 for accuracy in accuracies if accuracy is not None)
        assert turn.score(plan) == min(accuracy for accuracy in accuracies if accuracy is not None)
        assert turn.reached == (turn.score(plan) >= 97)


def test_over_all_one_bin_may_stay_below() -> None:
    """The deepest bin cannot be learnt: its accuracy stays near 70 %, while the others pass 90 %."""
    bins = divide(RESNET)
    plan = replace(PLAN, threshold=0.8, evaluation=50, max_measurements=150)
    by_bin = Device(noisy=lambda a: bins.index(a.depth) == 4).run(plan)
    assert by_bin[-1].end == "measurements"
    assert by_bin[-1].below[4]
    overall = Device(noisy=lambda a: bins.index(a.depth) == 4).run(replace(plan, by_bin=False))
    assert overall[-1].end == "threshold"
    assert overall[-1].below[4]
    assert overall[-1].score(replace(plan, by_bin=False)) == overall[-1].evaluation.overall.accuracy >= 80
    assert overall[-1].score(plan) < 80


@pytest.mark.parametrize("strategy", ["balanced", "random"])
@pytest.mark.parametrize("most", [80, 81, 100, 111])
def test_it_spends_the_budget_of_measurements_and_no_more(strategy: str, most: int) -> None:
    device = Device(noisy=everything)
    turns = device.run(replace(PLAN, strategy=strategy, threshold=UNREACHABLE, max_measurements=most))
    assert [turn.end for turn in turns] == [None] * (len(turns) - 1) + ["measurements"]
    asked = [a for call in device.asked for a in call]
    assert len(asked) == len(set(asked)) == turns[-1].measurements == most
    assert [turn.measurements for turn in turns] == [
        sum(map(len, device.asked[: i + 1])) for i in range(len(device.asked))
    ]
    assert [turn.rows for turn in turns] == [turn.measurements - 20 for turn in turns]


def test_it_starts_no_round_after_its_minutes() -> None:
    device = Device(noisy=everything)
    turns = device.run(replace(PLAN, threshold=UNREACHABLE, max_minutes=3))
    assert [turn.end for turn in turns] == [None, None, "minutes"]
    assert len(device.asked) == 3


@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_it_stops_when_the_space_is_measured_out(strategy: str) -> None:
    device = Device(SMALL, noisy=everything)
    turns = device.run(replace(PLAN, strategy=strategy, threshold=UNREACHABLE, initial=5, step=100, evaluation=5))
    asked = [a for call in device.asked for a in call]
    assert turns[-1].end == "space"
    assert turns[-1].measurements == len(asked) == len(set(asked)) == 196


def test_the_evaluation_set_is_balanced_and_the_same_in_all_rounds() -> None:
    device, bins = Device(noisy=everything), divide(RESNET)
    turns = device.run(replace(PLAN, threshold=UNREACHABLE, evaluation=23, max_measurements=123))
    assert len(turns) == 3
    trained, evaluated = device.assembled[::2], device.assembled[1::2]
    assert evaluated == [evaluated[0]] * 3
    assert set(device.asked[0]) == set(evaluated[0]) | set(trained[0])
    assert sorted(per_bin(evaluated[0], bins)) == [4, 4, 5, 5, 5]
    for turn, rows in zip(turns, trained, strict=True):
        assert not set(rows) & set(evaluated[0])
        assert turn.rows == len(rows)
        assert turn.evaluation.overall.count == len(turn.judged) == 23
        assert sum(part.metrics.count for part in turn.evaluation.bins if part.metrics) == 23


def test_the_first_call_mixes_both_sets_so_that_time_may_end_within() -> None:
    device = Device()
    device.run(replace(PLAN, max_measurements=PLAN.initial + 20, evaluation=20))
    evaluated, half = set(device.assembled[1]), device.asked[0][: (PLAN.initial + 20) // 2]
    assert 0 < len(evaluated & set(half)) < 20


def test_the_evaluation_set_is_never_trained_on() -> None:
    """Whatever latencies it has, the weights are the same to the last bit."""
    plan = replace(PLAN, max_measurements=80)
    true = Device()
    (turn,) = true.run(plan)
    evaluated = set(true.assembled[1])
    assert len(evaluated) == 20
    false = Device(noisy=evaluated.__contains__)
    (other,) = false.run(plan)
    assert not np.array_equal(turn.judged.latency_ms, other.judged.latency_ms)
    assert turn.evaluation != other.evaluation
    for a, b in zip(weights(turn), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    (changed,) = Device(noisy=lambda a: a not in evaluated).run(plan)
    assert not all(np.array_equal(a, b) for a, b in zip(weights(turn), weights(changed), strict=True))


@pytest.mark.parametrize(("w1", "w2"), [(1.0, 0.25), (0.7, 0.3), (1, 0), (1, 1)])
def test_each_round_extends_by_the_quotas_of_algorithm_1(w1: float, w2: float) -> None:
    bins = divide(RESNET)
    device = Device(noisy=lambda a: bins.index(a.depth) in (1, 4))
    plan = replace(PLAN, threshold=REACHABLE, w_below=w1, w_above=w2, evaluation=50, max_minutes=4)
    turns = device.run(plan)
    assert per_bin(device.asked[0], bins) == [12 + 10] * 5  # N_I and the evaluation set
    seen = set()
    for turn, drawn in zip(turns, device.asked[1:], strict=False):
        weight = {True: Fraction(str(w1)), False: Fraction(str(w2))}
        norm = weight[True] * turn.below.count(True) + weight[False] * turn.below.count(False)
        assert per_bin(drawn, bins) == [math.ceil(20 * weight[below] / norm) for below in turn.below]
        seen.add(turn.below)
    assert any(True in below and False in below for below in seen), "this shows nothing where all bins are alike"


def test_random_pays_no_regard_to_the_bins() -> None:
    bins = divide(RESNET)
    plan = replace(PLAN, strategy="random", threshold=REACHABLE, max_minutes=3)
    deep, shallow = (Device(noisy=lambda a, i=i: bins.index(a.depth) == i) for i in (4, 0))  # type: ignore[misc]
    assert deep.run(plan)[-1].below != shallow.run(plan)[-1].below
    assert deep.asked == shallow.asked
    assert [len(call) for call in deep.asked] == [80, 20, 20]
    balanced = Device(noisy=deep.noisy), Device(noisy=shallow.noisy)
    for device in balanced:
        device.run(replace(plan, strategy="balanced"))
    assert balanced[0].asked[0] == balanced[1].asked[0]
    assert balanced[0].asked[1] != balanced[1].asked[1]


@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_running_anew_goes_through_the_same_rounds_and_a_longer_budget_further(strategy: str) -> None:
    plan = replace(PLAN, strategy=strategy, threshold=UNREACHABLE, max_measurements=111)
    first, again, longer = Device(noisy=everything), Device(noisy=everything), Device(noisy=everything)
    turns, repeated = first.run(plan), again.run(plan)
    assert first.asked == again.asked
    assert story(turns) == story(repeated)
    further = longer.run(replace(plan, max_measurements=150))
    assert len(further) > len(turns) > 2
    assert story(further)[: len(turns) - 1] == story(turns)[:-1]
    assert longer.asked[: len(turns) - 1] == first.asked[:-1]
    last = first.asked[-1]
    assert last == longer.asked[len(turns) - 1][: len(last)], "measurements of the shorter run are used again"
    other = Device(noisy=everything)
    other.run(replace(plan, seed=1))
    assert not {a for call in other.asked for a in call} & {a for call in first.asked for a in call}


def test_a_loop_that_is_left_measures_no_further() -> None:
    device = Device(noisy=everything)
    turns = rounds(RESNET, replace(PLAN, threshold=UNREACHABLE), device.measure, device.assemble)
    next(turns)
    next(turns)
    assert len(device.asked) == 2


def test_failures_are_survived_and_cost_measurements() -> None:
    device = Device(noisy=everything, broken=lambda a: a.units[0][0]["kernel"] == 3)
    turns = device.run(replace(PLAN, threshold=UNREACHABLE, max_measurements=120))
    assert turns[-1].end == "measurements"
    assert turns[-1].measurements == 120
    for turn, trained, evaluated in zip(turns, device.assembled[::2], device.assembled[1::2], strict=True):
        assert len(turn.judged) == sum(not device.broken(a) for a in evaluated) < 20
        assert turn.rows == sum(not device.broken(a) for a in trained) < len(trained)
    attempted = [a for call in device.asked for a in call]
    assert len(attempted) == len(set(attempted)), "what failed is not drawn again"


def test_a_bin_that_cannot_be_evaluated_is_not_taken_for_good() -> None:
    """The deepest architectures all fail, as where memory ends: nothing shows that their bin is at the threshold."""
    bins = divide(RESNET)
    plan = replace(PLAN, threshold=0.5, max_measurements=100)
    device = Device(broken=lambda a: bins.index(a.depth) == 4)
    turns = device.run(plan)
    assert [turn.below for turn in turns] == [(False, False, False, False, True)] * 2
    assert [turn.end for turn in turns] == [None, "measurements"]
    assert [turn.end for turn in device.run(replace(plan, by_bin=False))] == ["threshold"]


def test_when_all_fail_it_says_so() -> None:
    with pytest.raises(InputError, match="0 measurements to train on and 0 held out"):
        Device(broken=everything).run(PLAN)


def test_bins_are_the_plans_and_not_those_of_training() -> None:
    device = Device(noisy=everything)
    plan = replace(PLAN, bins=3, threshold=UNREACHABLE, max_measurements=100, train=replace(QUICK, bins=7))
    turns = device.run(plan)
    assert [len(turn.below) for turn in turns] == [3, 3]
    assert [part.name for part in turns[0].evaluation.bins] == divide(RESNET, 3).names()


def test_a_space_too_small_is_refused_before_anything_is_measured() -> None:
    device = Device(SMALL)
    with pytest.raises(SpaceExhausted, match="196"):
        device.run(replace(PLAN, strategy="random", initial=180, evaluation=20))
    with pytest.raises(InputError, match="evaluation is 4, expected at least one for each of the 5 bins"):
        device.run(replace(PLAN, initial=5, evaluation=4))
    assert device.asked == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strategy": "clever"}, "strategy 'clever', expected one of random, balanced"),
        ({"initial": 0}, "initial is 0, expected at least 1"),
        ({"step": 0}, "step is 0, expected at least 1"),
        ({"evaluation": -1}, "evaluation is -1, expected at least 0"),
        ({"extend": "cleverly"}, "extend 'cleverly', expected one of uncertainty, bins"),
        ({"threshold": 0}, "threshold is 0, expected a share"),
        ({"threshold": 1}, "threshold is 1, expected a share"),
        ({"threshold": 95}, "threshold is 95, expected a share between 0 and 1, such as 0.95"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"w_below": -1}, "w_below is -1, expected more than 0"),
        ({"w_above": math.nan}, "weights 1.0, nan: expected"),
        ({"max_minutes": 0}, "max_minutes is 0, expected minutes above 0"),
        ({"max_minutes": math.nan}, "max_minutes is nan"),
        (
            {"max_measurements": 29},
            "29 measurements at most, but the first round alone takes 30 and the evaluation set 0",
        ),
        (
            {"max_measurements": 99, "evaluation": 70},
            "99 measurements at most, but the first round alone takes 30 and ",
        ),
    ],
)
def test_impossible_plans(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**wrong)


def test_the_smallest_possible_budget_is_allowed() -> None:
    assert Plan(max_measurements=30).max_measurements == 30
    assert Plan(max_measurements=100, evaluation=70).max_measurements == 100
