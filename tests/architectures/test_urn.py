"""The urn, against a plain set of numbers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esm_onnx.architectures.sampling import Urn


class UrnAgainstASet(RuleBasedStateMachine):
    @initialize(size=st.integers(0, 12), seed=st.integers(0, 2**32))
    def fill(self, size: int, seed: int) -> None:
        self.urn, self.inside, self.rng = Urn(size), set(range(size)), random.Random(seed)

    @rule()
    def see_what_is_left(self) -> None:
        assert self.urn.left == len(self.inside)

    @precondition(lambda self: self.inside)
    @rule()
    def draw(self) -> None:
        number = self.urn.draw(self.rng)
        assert number in self.inside
        self.inside.remove(number)

    @precondition(lambda self: self.inside)
    @rule()
    def peek(self) -> None:
        assert self.urn.peek(self.rng) in self.inside

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.inside)))
        self.urn.remove(number)
        self.inside.remove(number)

    @invariant()
    def what_is_left(self) -> None:
        every = {self.urn.peek(Always(place)) for place in range(self.urn.left)}
        assert every == self.inside


class Always(random.Random):
    """A generator whose every number is the one given: to look at each place of the urn."""

    def __new__(cls, _number: int) -> Always:
        return super().__new__(cls)

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def randrange(self, *_: object, **__: object) -> int:
        return self.number


TestUrnAgainstASet = UrnAgainstASet.TestCase


@given(st.integers(0, 60), st.integers())
def test_an_urn_is_drawn_empty_without_repetition(size: int, seed: int) -> None:
    urn, rng = Urn(size), random.Random(seed)
    assert sorted(urn.draw(rng) for _ in range(size)) == list(range(size))
    assert urn.left == 0


@pytest.mark.parametrize("removed", [None, 0, 2, 4])
def test_every_order_is_equally_likely(removed: int | None) -> None:
    """Chi-square over the orders of four numbers: 24 cells. 50 is beyond the quantile 0.999."""
    rng, seen = random.Random(7), Counter[tuple[int, ...]]()
    inside = set(range(4 if removed is None else 5)) - {removed}
    for _ in range(12_000):
        urn = Urn(4 if removed is None else 5)
        if removed is not None:
            urn.remove(removed)
        seen[tuple(urn.draw(rng) for _ in range(4))] += 1
    assert all(set(order) == inside for order in seen)
    assert len(seen) == 24
    assert sum((count - 500) ** 2 / 500 for count in seen.values()) < 50


def test_an_urn_as_large_as_resnet_takes_no_room() -> None:
    urn, rng = Urn(8 * 10**26), random.Random(0)
    drawn = [urn.draw(rng) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert max(drawn) > 7 * 10**26
    assert len(urn._at) <= 1000
    assert len(urn._place) <= 1000
