"""The search, on spaces that are small enough to list: what it finds, beside what there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import every_architecture, spaces
from test_search_variation import SMALL

from esm_onnx.architectures import Space, to_genome
from esm_onnx.errors import InputError
from esm_onnx.search.estimates import Memo, Numbers
from esm_onnx.search.evolution import Found, Generation, SearchSettings, front_of, search
from esm_onnx.search.variation import Genomes

pytest.importorskip("pymoo", reason="pymoo is not installed")

QUANTILES = (0.005, 0.1, 0.3, 0.6, 0.95)


@cache
def every_genome(space: Space) -> Genomes:
    return np.array([to_genome(space, architecture) for architecture in every_architecture(space)], np.int64)


def formula(seed: int, interplay: float = 0.3) -> Callable[[Genomes], Numbers]:
    """A price for each option in each place, and products of all pairs of them: not additive."""

    def prices(genomes: Genomes) -> Numbers:
        rng = np.random.default_rng(seed)
        length = genomes.shape[1]
        table, pairs = rng.random((length, 9)), interplay * rng.random((length, length))
        of_place = np.where(genomes >= 0, table[np.arange(length), genomes], 0.0)
        return 1 + of_place.sum(axis=1) + np.einsum("ij,jk,ik->i", of_place, pairs, of_place)

    return prices


def found_in(space: Space, seed: int = 0, **changes: object) -> Found:
    asked = SearchSettings(**{"population": 50, "generations": 60, **changes})  # type: ignore[arg-type]
    return search(space, formula(1), formula(2, 0.0), asked, np.random.default_rng(seed))


def area_of(limited: Numbers, worth: Numbers, corner: tuple[float, float]) -> float:
    """What lies between the steps of a front and a corner that all of it dominates: its hypervolume."""
    order = np.argsort(limited)
    limited, worth = limited[order], np.maximum.accumulate(worth[order])
    widths = np.diff(np.append(limited, corner[0]))
    return float((widths * (worth - corner[1])).sum())


@pytest.mark.parametrize("quantile", QUANTILES)
def test_the_best_of_all_within_a_budget_is_found(quantile: float) -> None:
    genomes = every_genome(SMALL)
    limited, worth = formula(1)(genomes), formula(2, 0.0)(genomes)
    budget = float(np.quantile(limited, quantile))
    found = found_in(SMALL, budget=budget)
    assert found.best.worth[0] == pytest.approx(worth[limited <= budget].max(), rel=1e-12)
    assert (found.best.limited <= budget).all()
    assert (np.diff(found.best.worth) <= 0).all()
    assert len(np.unique(found.best.genomes, axis=0)) == len(found.best)
    np.testing.assert_array_equal(found.best.limited, formula(1)(found.best.genomes))
    np.testing.assert_array_equal(found.best.worth, formula(2, 0.0)(found.best.genomes))
    assert found.estimated < len(genomes)


@pytest.mark.parametrize("budget", [None, 30.0])
def test_a_front_is_the_true_one(budget: float | None) -> None:
    genomes = every_genome(SMALL)
    limited, worth = formula(1)(genomes), formula(2, 0.0)(genomes)
    within = limited <= (np.inf if budget is None else budget)
    assert 0 < within.sum() < len(genomes) or budget is None
    best = found_in(SMALL, front=True, budget=budget).best
    assert (np.diff(best.limited) > 0).all()
    assert (np.diff(best.worth) > 0).all()
    corner = float(limited[within].max()), float(worth[within].min())
    whole = area_of(limited[within], worth[within], corner)
    assert 0.98 * whole <= area_of(best.limited, best.worth, corner) <= whole * (1 + 1e-12)


@given(
    points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
)
def test_a_front_holds_one_of_each_pair_that_nothing_beats(points: list[tuple[int, int]]) -> None:
    limited, worth = (np.array(column, np.float64) for column in zip(*points, strict=True))
    expected = {(x, y) for x, y in points if not any((a, b) != (x, y) and a <= x and b >= y for a, b in points)}
    chosen = [(int(limited[i]), int(worth[i])) for i in front_of(limited, worth)]
    assert chosen == sorted(expected)


@pytest.mark.parametrize("changes", [{"budget": 30.0}, {"front": True}])
def test_a_seed_decides_everything(changes: dict[str, object]) -> None:
    first, again, other = (found_in(SMALL, seed, generations=5, **changes) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.best.genomes, again.best.genomes)
    assert first.estimated == again.estimated
    assert first.best.genomes.tolist() != other.best.genomes.tolist()


@pytest.mark.parametrize("changes", [{"budget": 30.0}, {"front": True}])
def test_a_memo_changes_nothing_but_the_number_of_estimates(changes: dict[str, object]) -> None:
    remembered, forgotten = (found_in(SMALL, memo=memo, **changes) for memo in (True, False))
    np.testing.assert_array_equal(remembered.best.genomes, forgotten.best.genomes)
    assert remembered.evaluations == forgotten.evaluations == forgotten.estimated
    assert remembered.estimated < forgotten.estimated


def test_a_memo_asks_once_for_each_genome_and_tells_those_apart_that_differ_in_resolution_alone() -> None:
    asked: list[list[int]] = []

    def limited(genomes: Genomes) -> Numbers:
        asked.extend(genomes.tolist())
        return formula(1)(genomes)

    genomes = every_genome(SMALL)[:: SMALL.size // 3]  # the network's options stand outside of all loops
    assert (genomes[:, 0].tolist(), len(np.unique(genomes[:, 1:], axis=0))) == ([0, 1, 2], 1)
    memo = Memo(limited, formula(2))
    for rows in (genomes[:2], genomes, genomes[[2, 0, 0]]):
        np.testing.assert_array_equal(memo(rows), np.stack([formula(1)(rows), formula(2)(rows)], axis=1))
    assert asked == genomes.tolist()
    assert len(set(memo(genomes)[:, 0].tolist())) == 3


def test_of_a_budget_that_nothing_meets_the_least_is_told() -> None:
    found = found_in(SMALL, budget=0.5)
    assert len(found.best) == 0
    assert found.least.limited[0] == formula(1)(every_genome(SMALL)).min()
    np.testing.assert_array_equal(formula(1)(found.least.genomes), found.least.limited)


@pytest.mark.parametrize("front", [True, False])
def test_what_has_no_estimate_is_never_found(front: bool) -> None:
    """Three of four cannot be measured, say, and they are worth most."""

    def limited(genomes: Genomes) -> Numbers:
        return np.where(genomes.sum(axis=1) % 4 == 0, formula(1)(genomes), np.inf)

    def worth(genomes: Genomes) -> Numbers:
        return formula(2, 0.0)(genomes) + np.where(np.isinf(limited(genomes)), 100.0, 0.0)

    asked = SearchSettings(population=40, generations=40, front=front, budget=None if front else 1e6)
    found = search(SMALL, limited, worth, asked, np.random.default_rng(0))
    assert len(found.best) > 0
    assert np.isfinite(found.best.limited).all()
    every = every_genome(SMALL)
    assert found.best.worth.max() == worth(every)[np.isfinite(limited(every))].max()


@settings(max_examples=20, deadline=None)
@given(space=spaces(greatest_size=40), seed=st.integers(0, 9), front=st.booleans())
def test_the_smallest_spaces_are_searched_to_their_end(space: Space, seed: int, front: bool) -> None:
    asked = SearchSettings(population=50, generations=20, front=front, budget=None if front else 1e9)
    found = search(space, formula(1), formula(2), asked, np.random.default_rng(seed))
    worth = formula(2)(every_genome(space))
    assert found.best.worth.max() == worth.max()
    assert found.estimated <= space.size


def test_a_report_follows_the_generations() -> None:
    told: list[Generation] = []
    ticks = iter(range(10_000))
    asked = SearchSettings(population=10, generations=4, front=True)
    found = search(
        SMALL,
        formula(1),
        formula(2),
        asked,
        np.random.default_rng(0),
        report=told.append,
        clock=lambda: float(next(ticks)),
    )
    assert [(each.number, each.evaluations) for each in told] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    assert all(len(each.best) for each in told)
    for figure in ("genomes", "limited", "worth"):
        assert (getattr(told[-1].best, figure) == getattr(found.best, figure)).all()
        assert (getattr(told[-1].least, figure) == getattr(found.least, figure)).all()
    least = [float(each.least.limited[0]) for each in told]
    assert least == sorted(least, reverse=True)
    assert (found.generations, found.evaluations) == (4, 40)
    # Of each estimate a tick before and one after, and two around all.
    assert (found.limited_s, found.worth_s, found.seconds) == (4.0, 4.0, 17.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no budget"),
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": float("inf")}, "budget is inf"),
        ({"budget": 1.0, "population": 1}, "generations of 1, expected"),
        ({"budget": 1.0, "generations": 0}, "0 generations of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchSettings(**changes)  # type: ignore[arg-type]
