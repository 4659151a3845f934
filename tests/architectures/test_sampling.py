"""Drawing architectures: seeded, without repetition, and distributed as promised."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import every_architecture, spaces

from esm_onnx.architectures import Architecture, Bins, Feature, Space, divide, extend, find_space, sample, space_names
from esm_onnx.architectures.compositions import composition_of
from esm_onnx.architectures.sampling import STRATEGIES, left_in_bins
from esm_onnx.errors import InputError, SpaceExhausted

seeds = st.integers(0, 2**32)
strategies = st.sampled_from(["random", "balanced"])
RESNET, DENSENET = find_space("resnet"), find_space("densenet")
UNEVEN = Space(
    "uneven", ((1, 2, 3), (2, 4), (1, 3, 5)), block=(Feature("kernel", (3, 5, 7)), Feature("e", tuple(range(50))))
)
"""Depths with gaps, and so many options that no composition runs dry."""


def chi_square(counts: Collection[int]) -> float:
    """Pearson's statistic against equal numbers."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def bound(cells: int) -> float:
    """Mean and five standard deviations of chi-square (`cells - 1` degrees of freedom): beyond its quantile 0.9995."""
    return (cells - 1) + 5 * sqrt(2 * (cells - 1))


# --- every strategy


def test_the_strategies() -> None:
    assert set(STRATEGIES) == {"random", "balanced"}


@given(st.data(), spaces(), strategies, seeds)
def test_a_seed_draws_the_same_different_members(data: st.DataObject, space: Space, strategy: str, seed: int) -> None:
    least_in_bin = min(left_in_bins(space, divide(space), ()))
    count = data.draw(st.integers(1, min(least_in_bin, 40)))
    drawn = sample(space, count, strategy=strategy, rng=random.Random(seed))
    assert drawn == sample(space, count, strategy=strategy, rng=random.Random(seed))
    assert len(drawn) == len(set(drawn)) == count
    assert all(space.check(architecture) is architecture for architecture in drawn)


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("strategy", ["random", "balanced"])
def test_another_seed_draws_others(name: str, strategy: str) -> None:
    space = find_space(name)
    one, other = (sample(space, 50, strategy=strategy, rng=random.Random(seed)) for seed in (1, 2))
    assert set(one) != set(other)


@given(st.data(), spaces(greatest_size=500), seeds)
def test_a_space_is_drawn_to_its_last_architecture(data: st.DataObject, space: Space, seed: int) -> None:
    every = list(every_architecture(space))
    taken = data.draw(st.sets(st.sampled_from(every), max_size=len(every) - 1))
    rng = random.Random(seed)
    assert set(sample(space, len(every), strategy="random", rng=rng)) == set(every)
    rest = sample(space, len(every) - len(taken), strategy="random", rng=rng, exclude=taken)
    assert set(rest) == set(every) - taken
    assert len(rest) == len(every) - len(taken)
    with pytest.raises(SpaceExhausted) as caught:
        sample(space, len(rest) + 1, strategy="random", rng=rng, exclude=taken)
    assert f"has {len(rest)} architectures left of {len(every)}, {len(rest) + 1} were asked for" in str(caught.value)


@given(st.data(), spaces(greatest_size=500), seeds)
def test_a_bin_is_drawn_to_its_last_architecture(data: st.DataObject, space: Space, seed: int) -> None:
    every = list(every_architecture(space))
    taken = data.draw(st.sets(st.sampled_from(every)))
    bins, rng = divide(space), random.Random(seed)
    left = left_in_bins(space, bins, taken)
    inside = [{a for a in every if low <= a.depth <= high} - taken for low, high in bins.ranges]
    assert left == [len(members) for members in inside]
    drawn = extend(space, left, bins=bins, rng=rng, exclude=taken)
    assert len(drawn) == sum(left)
    assert set(drawn) == set(every) - taken
    for i in range(len(bins)):
        quotas = [int(i == j) * (left[j] + 1) for j in range(len(bins))]
        with pytest.raises(SpaceExhausted, match=f"has {left[i]} architectures left of depth .* {left[i] + 1} were"):
            extend(space, quotas, bins=bins, rng=rng, exclude=taken)


def test_balanced_says_which_bin_is_exhausted() -> None:
    space = Space("small", ((1, 2, 3, 4, 5),), block=(Feature("kernel", (3, 5)),))
    assert len(sample(space, 10, strategy="balanced", rng=random.Random(0))) == 10
    with pytest.raises(SpaceExhausted, match="space 'small' has 2 architectures left of depth 1, 3 were asked for"):
        sample(space, 15, strategy="balanced", rng=random.Random(0))


@given(st.data(), spaces(greatest_size=500), seeds)
def test_the_order_of_the_excluded_does_not_matter(data: st.DataObject, space: Space, seed: int) -> None:
    every = list(every_architecture(space))
    taken = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=len(every) // 2))
    shuffled = data.draw(st.permutations(taken + taken[:2]))
    bins = divide(space)
    quotas = left_in_bins(space, bins, taken)
    for draw in (
        lambda rng, exclude: sample(space, len(every) // 2 or 1, strategy="random", rng=rng, exclude=exclude),
        lambda rng, exclude: extend(space, quotas, bins=bins, rng=rng, exclude=exclude),
    ):
        first = draw(random.Random(seed), taken)
        assert first == draw(random.Random(seed), shuffled)
        assert first == draw(random.Random(seed), iter(set(taken)))


def test_a_seed_draws_the_same_in_every_process() -> None:
    """Texts hash differently in each process: nothing that is drawn may hang on the order of a set."""
    script = """
import random
from esm_onnx.architectures import Feature, Space, divide, extend, sample, to_genome
space = Space("ops", ((1, 2, 3), (1, 2)), block=(Feature("op", ("conv", "pool", "skip")),))
rng, bins = random.Random(5), divide(space)
for strategy in ("random", "balanced"):
    taken = set(sample(space, 12, strategy=strategy, rng=rng))
    more = sample(space, 8, strategy=strategy, rng=rng, exclude=taken)
    more += extend(space, [1] * len(bins), bins=bins, rng=rng, exclude=taken)
    print([to_genome(space, architecture) for architecture in more])
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 2


@pytest.mark.parametrize("strategy", ["random", "balanced"])
@pytest.mark.parametrize("count", [0, -3])
def test_nothing_asked_for(strategy: str, count: int) -> None:
    with pytest.raises(InputError, match=f"count is {count}, expected at least 1"):
        sample(RESNET, count, strategy=strategy, rng=random.Random(0))


def test_an_unknown_strategy() -> None:
    with pytest.raises(InputError, match="strategy 'Balanced', expected one of random, balanced"):
        sample(RESNET, 1, strategy="Balanced", rng=random.Random(0))


def test_an_excluded_architecture_of_another_space() -> None:
    taken = sample(RESNET, 1, strategy="random", rng=random.Random(0))
    space = find_space("mobilenetv3")
    for strategy in STRATEGIES:
        with pytest.raises(InputError, match="an architecture of space 'resnet', expected 'mobilenetv3'"):
            sample(space, 1, strategy=strategy, rng=random.Random(0), exclude=taken)
    with pytest.raises(InputError, match="an architecture of space 'resnet', expected 'mobilenetv3'"):
        left_in_bins(space, divide(space), taken)


@pytest.mark.parametrize("quotas", [[1], [1, 1, 1, 1, 1, 1], [1, 1, -1, 1, 1]])
def test_quotas_that_do_not_fit_the_bins(quotas: list[int]) -> None:
    with pytest.raises(InputError, match="expected one number from 0 for each of 5 bins"):
        extend(RESNET, quotas, bins=divide(RESNET), rng=random.Random(0))


# --- random: each unit's depth uniform


@pytest.mark.parametrize("space", [RESNET, DENSENET, UNEVEN], ids=lambda space: space.name)
def test_random_draws_each_units_depth_uniformly(space: Space) -> None:
    drawn = sample(space, 6000, strategy="random", rng=random.Random(3))
    for u, depths in enumerate(space.depths):
        seen = Counter(len(architecture.units[u]) for architecture in drawn)
        assert set(seen) == set(depths)
        assert chi_square(seen.values()) < bound(len(depths))


def test_random_draws_units_independently_and_so_bell_shaped() -> None:
    drawn = sample(UNEVEN, 9000, strategy="random", rng=random.Random(4))
    seen = Counter(composition_of(architecture) for architecture in drawn)
    assert set(seen) == set(itertools.product(*UNEVEN.depths))
    assert chi_square(seen.values()) < bound(18)
    depths = Counter(
        architecture.depth for architecture in sample(RESNET, 6000, strategy="random", rng=random.Random(5))
    )
    assert depths[16] > 5 * depths[6] > 0
    assert depths[16] > 5 * depths[26] > 0


@pytest.mark.parametrize("strategy", ["random", "balanced"])
def test_options_are_uniform(strategy: str) -> None:
    drawn = sample(RESNET, 3000, strategy=strategy, rng=random.Random(6))
    first = Counter((a.units[0][0]["kernel"], a.units[0][0]["expansion"]) for a in drawn)
    last = Counter((a.units[3][-1]["kernel"], a.units[3][-1]["expansion"]) for a in drawn)
    assert len(first) == len(last) == 9
    assert chi_square(first.values()) < bound(9)
    assert chi_square(last.values()) < bound(9)


def test_network_and_unit_options_are_uniform() -> None:
    space = Space(
        "shared",
        ((1, 2), (1, 2, 3)),
        block=(Feature("e", tuple(range(40))),),
        unit=(Feature("kernel", (3, 5, 7)),),
        network=(Feature("resolution", (128, 192, 224)),),
    )
    for strategy in STRATEGIES:
        drawn = sample(space, 2700, strategy=strategy, rng=random.Random(8))
        seen = Counter((a.network["resolution"], *(unit[0]["kernel"] for unit in a.units)) for a in drawn)
        assert len(seen) == 27
        assert chi_square(seen.values()) < bound(27)


# --- balanced: equal numbers a bin, depth and composition uniform within


@given(st.integers(1, 200), st.integers(1, 25), seeds)
def test_balanced_gives_each_bin_the_same(count: int, n_bins: int, seed: int) -> None:
    bins = divide(RESNET, n_bins)
    drawn = sample(RESNET, count, strategy="balanced", rng=random.Random(seed), bins=bins)
    seen = Counter(bins.index(architecture.depth) for architecture in drawn)
    assert sum(seen.values()) == count
    per_bin = [seen[i] for i in range(n_bins)]
    assert max(per_bin) - min(per_bin) <= 1


def test_balanced_favours_no_bin_with_the_remainder() -> None:
    bins, rng = divide(RESNET), random.Random(9)
    seen = Counter(
        bins.index(a.depth) for _ in range(1500) for a in sample(RESNET, 2, strategy="balanced", rng=rng, bins=bins)
    )
    assert len(seen) == 5
    assert chi_square(seen.values()) < bound(5)


def test_balanced_mixes_the_bins() -> None:
    """Whoever measures only the first half of a file should have seen every bin."""
    bins = divide(RESNET)
    drawn = sample(RESNET, 500, strategy="balanced", rng=random.Random(10))
    assert len({bins.index(architecture.depth) for architecture in drawn[:50]}) == 5


@pytest.mark.parametrize("depth", [6, 7, 8, 9])
def test_balanced_draws_the_composition_uniformly_within_a_depth(depth: int) -> None:
    listed = [composition for composition in itertools.product(*UNEVEN.depths) if sum(composition) == depth]
    assert len(listed) >= 2
    bins = Bins(((depth, depth),))
    drawn = sample(UNEVEN, 1000 * len(listed), strategy="balanced", rng=random.Random(depth), bins=bins)
    seen = Counter(composition_of(architecture) for architecture in drawn)
    assert set(seen) == set(listed)
    assert chi_square(seen.values()) < bound(len(listed))


def test_balanced_draws_the_architecture_uniformly_within_a_depth() -> None:
    """Against all 48 architectures of depth 4, the first of many samples."""
    space = Space("small", ((1, 2, 3), (1, 2, 3)), block=(Feature("kernel", (3, 5)),))
    every = {a for a in every_architecture(space) if a.depth == 4}
    rng, bins = random.Random(11), Bins(((4, 4),))
    seen = Counter(a for _ in range(1600) for a in sample(space, 3, strategy="balanced", rng=rng, bins=bins))
    assert set(seen) == every
    assert len(every) == 48
    assert chi_square(seen.values()) < bound(48)


def test_balanced_draws_depths_uniformly_within_a_bin() -> None:
    drawn = sample(RESNET, 5000, strategy="balanced", rng=random.Random(12))
    seen = Counter(architecture.depth for architecture in drawn)
    assert set(seen) == set(range(4, 29))
    assert chi_square(seen.values()) < bound(25)


# --- no rejection


class Counting(random.Random):
    """A generator that counts how often it is asked for bits."""

    asked = 0

    def getrandbits(self, k: int, /) -> int:
        self.asked += 1
        return super().getrandbits(k)


@pytest.mark.parametrize("space", [RESNET, DENSENET], ids=lambda space: space.name)
@pytest.mark.parametrize("index", range(5))
def test_a_corner_costs_no_more_numbers_than_the_middle(space: Space, index: int) -> None:
    """Drawing and throwing away would need some 35 times as many for ResNet's first bin, some 3000 for DenseNet's."""
    rng = Counting(13)
    drawn = extend(space, [200 * (i == index) for i in range(5)], bins=divide(space), rng=rng)
    assert len(drawn) == 200
    assert rng.asked <= 6 * 200  # depth, architecture, shuffle: less than two calls each on average


@pytest.mark.parametrize("depth", [5, 100])
def test_the_very_corner_of_densenet(depth: int) -> None:
    """One composition of 3.2 million: its 3125 architectures are drawn to the last."""
    rng = Counting(14)
    drawn = sample(DENSENET, 5**5, strategy="balanced", rng=rng, bins=Bins(((depth, depth),)))
    assert {composition_of(architecture) for architecture in drawn} == {(depth // 5,) * 5}
    assert len(set(drawn)) == 5**5
    assert rng.asked <= 6 * 5**5


def test_random_asks_for_few_numbers_even_to_the_last() -> None:
    space = Space("small", ((1, 2, 3), (1, 2, 3)), block=(Feature("kernel", (3, 5)),))
    rng = Counting(15)
    assert len(sample(space, space.size, strategy="random", rng=rng)) == space.size
    assert rng.asked <= 5 * space.size


def test_a_space_of_a_thousand_blocks() -> None:
    space = Space("long", ((1, 2),) * 500, block=(Feature("kernel", (3, 5)),))
    for strategy in STRATEGIES:
        drawn: list[Architecture] = sample(space, 10, strategy=strategy, rng=random.Random(16))
        assert len(set(drawn)) == 10
