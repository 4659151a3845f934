"""Which architectures would teach most: against brute force, and what the choice keeps to."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import drawn, moderate_spaces, rows

from esm_onnx.architectures import Architecture, Bins, Space, divide, find_space, sample
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.uncertainty import columns_to_learn, most_uncertain

RESNET = find_space("resnet")


def standardised(space: Space, name: str, architectures: list[Architecture]) -> np.ndarray:
    """Each column less its mean, over its standard deviation: of all of them, chosen from or known."""
    x = find_encoding(name).encode(space, rows(space, architectures))
    spread = np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0))
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)


def greedy(
    space: Space, name: str, candidates: list[Architecture], quotas: list[int], bins: Bins, known: list[Architecture]
) -> list[tuple[Architecture, float, float]]:
    """Brute force: for each choice the matrix anew, and xᵀA⁻¹x of every row that is left in a bin that is open.

    Each choice comes with its value and the next best one's.
    """
    x = standardised(space, name, candidates + known)
    taken, left = list(range(len(candidates), len(x))), list(quotas)
    found = []
    while True:
        there = [i for i, a in enumerate(candidates) if i not in taken and left[bins.index(a.depth)] > 0]
        if not there:
            return found
        a = np.eye(x.shape[1]) + x[taken].T @ x[taken]
        solved = np.linalg.solve(a, x[there].T).T
        values = sorted(((float(x[i] @ row), i) for i, row in zip(there, solved, strict=True)), reverse=True)
        value, best = values[0]
        found.append((candidates[best], value, values[1][0] if len(values) > 1 else -np.inf))
        taken.append(best)
        left[bins.index(candidates[best].depth)] -= 1


@settings(max_examples=40, deadline=None)
@given(
    space=moderate_spaces(),
    name=st.sampled_from(["fc", "feature", "counts", "statistical"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_each_choice_is_the_greatest_variance_from_scratch(
    space: Space, name: str, seed: int, data: st.DataObject
) -> None:
    every = drawn(space, 30, seed)
    border = data.draw(st.integers(0, len(every)))
    candidates, known, bins = every[border:], every[:border], divide(space)
    quotas = data.draw(st.lists(st.integers(0, 5), min_size=len(bins), max_size=len(bins)))
    chosen = most_uncertain(space, find_encoding(name), candidates, quotas, bins=bins, known=known)
    expected = greedy(space, name, candidates, quotas, bins, known)
    assert len(chosen) == len(expected)
    for found, (wanted, value, next_best) in zip(chosen, expected, strict=True):
        if value - next_best <= 1e-9 * max(1.0, value):  # as sure of both: from here on either may have been taken
            return
        assert found == wanted


@settings(max_examples=60, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 99), data=st.data())
def test_quotas_are_kept_and_nothing_is_chosen_twice(space: Space, seed: int, data: st.DataObject) -> None:
    candidates, bins = drawn(space, 40, seed), divide(space)
    quotas = data.draw(st.lists(st.integers(0, 12), min_size=len(bins), max_size=len(bins)))
    known = drawn(space, 5, seed + 1)
    chosen = most_uncertain(space, find_encoding("fcc"), candidates, quotas, bins=bins, known=known)
    assert set(chosen) <= set(candidates)
    assert len(set(chosen)) == len(chosen)
    there = Counter(bins.index(candidate.depth) for candidate in candidates)
    taken = Counter(bins.index(architecture.depth) for architecture in chosen)
    assert [taken[i] for i in range(len(bins))] == [min(quota, there[i]) for i, quota in enumerate(quotas)]


def test_no_candidates_and_no_quotas_choose_nothing() -> None:
    bins, five = divide(RESNET), drawn(RESNET, 5)
    assert most_uncertain(RESNET, find_encoding("fc"), [], [1] * 5, bins=bins, known=five) == []
    assert most_uncertain(RESNET, find_encoding("fc"), five, [0] * 5, bins=bins, known=[]) == []


@pytest.mark.parametrize("name", ["cost+counts", "fcc"])
def test_what_is_chosen_says_more_than_what_is_drawn_at_random(name: str) -> None:
    """By the determinant of what is known: the volume in which the weights may lie shrinks with it."""
    bins = divide(RESNET)
    candidates = sample(RESNET, 400, strategy="balanced", rng=Random(0))
    known = sample(RESNET, 30, strategy="balanced", rng=Random(1), exclude=candidates)
    chosen = most_uncertain(RESNET, find_encoding(name), candidates, [4] * 5, bins=bins, known=known)
    x = standardised(RESNET, name, candidates + known)

    def information(rows_: list[int]) -> float:
        some = x[[*rows_, *range(len(candidates), len(x))]]
        return float(np.linalg.slogdet(np.eye(x.shape[1]) + some.T @ some)[1])

    of_bin = np.array([bins.index(candidate.depth) for candidate in candidates])
    rng = np.random.default_rng(0)
    at_random = [
        information([int(i) for b in range(5) for i in rng.choice(np.flatnonzero(of_bin == b), 4, replace=False)])
        for _ in range(50)
    ]
    assert information([candidates.index(architecture) for architecture in chosen]) > max(at_random) + 1


def test_what_is_known_is_not_asked_again_in_another_guise() -> None:
    """Architectures of the same counts as known ones are chosen after all others."""
    every = sample(RESNET, 40, strategy="balanced", rng=Random(3))
    turned = {a: Architecture("resnet", tuple(unit[::-1] for unit in a.units)) for a in every}
    again = [architecture for architecture in every if turned[architecture] != architecture][:10]
    others = [architecture for architecture in every if architecture not in again][:10]
    known = [turned[architecture] for architecture in again] * 5
    bins = divide(RESNET)
    chosen = most_uncertain(RESNET, find_encoding("fcc"), again + others, [20] * 5, bins=bins, known=known)
    assert set(chosen[:10]) == set(others)
    assert set(chosen[10:]) == set(again)


def test_of_joined_columns_the_first_are_learned_first() -> None:
    joined, alone = find_encoding("cost+fc"), find_encoding("fc")
    columns = len(joined.columns(RESNET))
    assert columns == 8 + 24
    assert [columns_to_learn(RESNET, joined, rows).name for rows in (0, 20, columns - 1)] == ["cost"] * 3
    assert [columns_to_learn(RESNET, joined, rows) for rows in (columns, 1000)] == [joined] * 2
    assert {columns_to_learn(RESNET, alone, rows) for rows in (0, 1000)} == {alone}
