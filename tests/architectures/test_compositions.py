"""Counting and numbering, against listing everything."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from strategies import every_architecture, spaces

from esm_onnx.architectures import Feature, Space, find_space
from esm_onnx.architectures.compositions import (
    architecture_of_rank,
    attainable_depths,
    composition_of,
    composition_of_depth,
    composition_of_rank,
    count_compositions,
    count_in_composition,
    rank_in_depth,
    rank_of_architecture,
    rank_of_composition,
    ways,
)


@given(spaces())
def test_compositions_are_counted_and_numbered_as_listed(space: Space) -> None:
    listed = list(itertools.product(*space.depths))
    assert count_compositions(space.depths) == len(listed)
    assert {composition_of_rank(space.depths, rank) for rank in range(len(listed))} == set(listed)
    of_total = Counter(sum(composition) for composition in listed)
    assert attainable_depths(space) == sorted(of_total)
    for total in range(-1, max(of_total) + 3):
        assert ways(space.depths, total) == of_total[total]
        ranked = {composition_of_depth(space.depths, total, rank) for rank in range(of_total[total])}
        assert ranked == {composition for composition in listed if sum(composition) == total}
        for rank in (-1, of_total[total]):
            with pytest.raises(IndexError):
                composition_of_depth(space.depths, total, rank)


@given(spaces())
def test_ranks_of_compositions_are_inverted(space: Space) -> None:
    for rank in range(count_compositions(space.depths)):
        composition = composition_of_rank(space.depths, rank)
        assert rank_of_composition(space.depths, composition) == rank
        total = sum(composition)
        assert composition_of_depth(space.depths, total, rank_in_depth(space.depths, composition)) == composition


@given(spaces(greatest_size=1000))
def test_every_architecture_has_a_number_of_its_own(space: Space) -> None:
    by_composition = Counter(composition_of(architecture) for architecture in every_architecture(space))
    for composition, count in by_composition.items():
        assert count_in_composition(space, sum(composition)) == count
    for architecture in every_architecture(space):
        composition, rank = composition_of(architecture), rank_of_architecture(space, architecture)
        assert 0 <= rank < by_composition[composition]
        assert architecture_of_rank(space, composition, rank) == architecture


def test_resnet_by_dice() -> None:
    """Four units of 1 to 7 blocks are four seven-sided dice."""
    depths = find_space("resnet").depths
    thrown = Counter(sum(dice) for dice in itertools.product(range(1, 8), repeat=4))
    assert {total: ways(depths, total) for total in range(4, 29)} == thrown


def test_a_thousand_units_are_no_deep_recursion() -> None:
    """A chain of 1-or-2 blocks: binomial numbers, hundreds of digits long."""
    space = Space("long", ((1, 2),) * 400, block=(Feature("kernel", (3, 5)),))
    assert ways(space.depths, 400) == ways(space.depths, 800) == 1
    assert ways(space.depths, 402) == 400 * 399 // 2
    last = ways(space.depths, 600) - 1
    composition = composition_of_depth(space.depths, 600, last)
    assert rank_in_depth(space.depths, composition) == last
    assert composition == (2,) * 200 + (1,) * 200
