"""Finalists once measured: the factor that predictions lack, and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from prediction.made_up import rows

from esm_onnx.architectures import Architecture, Space, to_genome
from esm_onnx.errors import WorkError
from esm_onnx.measurement.record import Failure
from esm_onnx.measurement.target import Target
from esm_onnx.search.estimates import Numbers
from esm_onnx.search.evolution import Candidates
from esm_onnx.search.variation import Genomes
from esm_onnx.search.verification import (
    Verification,
    differing_facts,
    estimated_by,
    finalists_of,
    refit,
    verify,
)

FAILURE = "crash"


def test_a_factor_is_the_geometric_mean_of_what_predictions_lack() -> None:
    half = refit(np.array([10.0, 20.0, 40.0]), np.array([5.0, 10.0, 20.0]))
    assert (half.factor, half.standard_error) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-12))
    # ln 2 and −ln 2 and 0: mean 0, and (ln 2)² · 2 / 2 is the variance of one, a third of it that of their mean
    around = refit(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0]))
    assert around.factor == pytest.approx(1.0)
    assert around.standard_error == pytest.approx(np.log(2) / np.sqrt(3))
    assert refit(np.array([4.0]), np.array([5.0])).standard_error is None


def test_finalists_are_the_best_or_spread_over_a_front() -> None:
    best = Candidates(np.arange(20).reshape(10, 2), np.arange(10.0), np.arange(10.0))
    assert finalists_of(best, 3, front=False).limited.tolist() == [0, 1, 2]
    assert finalists_of(best, 4, front=True).limited.tolist() == [0, 3, 6, 9]
    assert finalists_of(best, 1, front=True).limited.tolist() == [0]
    for front in (True, False):
        assert len(finalists_of(best, 50, front=front)) == 10


def verified(
    tiny: Space,
    architectures: Sequence[Architecture],
    worth: Sequence[float],
    predicted: Sequence[float],
    measured: Sequence[float | str],
    *,
    budget: float | None,
    front: bool = False,
) -> Verification:
    """What comes out when the device measures this, or fails with that message."""
    places = {to_genome(tiny, architecture): i for i, architecture in enumerate(architectures)}

    def predict(genomes: Genomes) -> tuple[Numbers, Numbers, Numbers]:
        values = np.array([predicted[places[tuple(row)]] for row in genomes.tolist()])
        return values, 0.9 * values, 1.1 * values

    def measure(asked: Sequence[Architecture]) -> Mapping[Architecture, float | Failure]:
        values = {a: measured[places[to_genome(tiny, a)]] for a in asked}
        return {a: Failure(a, FAILURE, value, 0.0) if isinstance(value, str) else value for a, value in values.items()}

    finalists = Candidates(rows(tiny, architectures), np.array(predicted), np.array(worth, np.float64))
    return verify(tiny, finalists, predict, measure, budget=budget, front=front)


def test_the_best_that_measured_within_the_budget_wins(tiny: Space, eight: list[Architecture]) -> None:
    found = verified(tiny, eight[:4], [9, 8, 7, 6], [10, 9, 9, 8], [10.5, 9.9, "no memory", 8], budget=10)
    assert found.order == (1, 2)
    assert found.candidates.worth.tolist() == [9, 8, 6]
    assert [failure.message for failure in found.failures] == ["no memory"]
    np.testing.assert_allclose(found.errors, [100 * (10 / 10.5 - 1), 100 * (9 / 9.9 - 1), 0])
    assert found.refit.factor == pytest.approx((1.05 * 1.1 * 1.0) ** (1 / 3))
    np.testing.assert_allclose(found.refitted_errors, 100 * (found.refit.factor * found.predicted / found.measured - 1))
    assert found.inside.tolist() == [True, True, True]
    beyond = verified(tiny, eight[:2], [9, 8], [10, 9], [12, 10], budget=9.5)
    assert (beyond.order, beyond.inside.tolist()) == ((), [False, False])


def test_a_measured_front_leaves_out_what_turned_out_worse(tiny: Space, eight: list[Architecture]) -> None:
    found = verified(tiny, eight[:4], [1, 2, 3, 4], [1, 2, 3, 4], [1.5, 3.5, 3, 4], budget=None, front=True)
    assert found.order == (0, 2, 3)
    limited = verified(tiny, eight[:4], [1, 2, 3, 4], [1, 2, 3, 4], [1.5, 3.5, 3, 4], budget=3.2, front=True)
    assert limited.order == (0, 2)


def test_finalists_that_all_fail_are_an_error(tiny: Space, eight: list[Architecture]) -> None:
    with pytest.raises(WorkError, match="no finalist could be measured: crash: no memory"):
        verified(tiny, eight[:2], [1, 2], [1, 2], ["no memory", "neither"], budget=3)


def test_measuring_as_an_estimate_gives_what_cannot_be_measured_no_budget(
    tiny: Space, eight: list[Architecture]
) -> None:
    def measure(asked: Sequence[Architecture]) -> Mapping[Architecture, float | Failure]:
        return {a: Failure(a, FAILURE, "", 0.0) if a == eight[1] else float(a.depth) for a in asked}

    found = estimated_by(measure, tiny)(rows(tiny, eight[:3]))
    assert found.tolist() == [eight[0].depth, np.inf, eight[2].depth]


def test_facts_that_differ_are_named() -> None:
    here = Target("a", {"device": "x", "threads": 1, "batch": 1})
    there = Target("b", {"device": "x", "threads": 4, "driver": "7"})
    assert sorted(differing_facts(here, there)) == ["batch", "driver", "threads"]
    assert differing_facts(here, Target("b", here.facts)) == []
