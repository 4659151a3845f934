"""The extension of Algorithm 1: how many architectures each bin receives."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import extension_quotas
from esm_onnx.errors import InputError

weights = st.decimals(Decimal(0), Decimal(5), places=2)


def by_the_formula(below: list[bool], step: int, w1: Fraction, w2: Fraction) -> list[int]:
    """⌈N_step·w/N_norm⌉ with N_norm = w1·|below| + w2·|above|; the ceiling by whole numbers only."""
    norm = w1 * below.count(True) + w2 * below.count(False)
    quotas = []
    for low in below:
        exact = step * (w1 if low else w2) / norm
        quotas.append(-(-exact.numerator // exact.denominator))
    return quotas


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 1000), weights, weights)
def test_the_formula(below: list[bool], step: int, w1: Decimal, w2: Decimal) -> None:
    quotas = extension_quotas(below, step, float(w1), float(w2))
    if (w1 if any(below) else 0) + (w2 if not all(below) else 0) == 0:
        assert quotas == [0] * len(below)
        return
    assert quotas == by_the_formula(below, step, Fraction(w1), Fraction(w2))
    assert step <= sum(quotas) < step + len(below)


def test_by_hand() -> None:
    # N_norm = 2·2 + 1·3 = 7: a bin below gets ⌈100·2/7⌉ = 29, one above ⌈100·1/7⌉ = 15.
    assert extension_quotas([True, False, False, True, False], 100, 2, 1) == [29, 15, 15, 29, 15]
    assert extension_quotas([True] * 5, 100, 0.7, 0.3) == [20] * 5
    assert extension_quotas([False] * 5, 50, 0.7, 0.3) == [10] * 5
    assert extension_quotas([True, False], 100, 1, 0) == [100, 0]
    assert extension_quotas([True, False, True], 10, Fraction(2, 3), Fraction(1, 3)) == [4, 2, 4]  # type: ignore[arg-type]
    assert extension_quotas([], 10, 1, 1) == []


def test_rounding_of_floats_lifts_no_quota() -> None:
    """Where floating point says 14.000000000000002, the formula says 14."""
    lifted = 0
    for n_below in range(1, 6):
        for n_above in range(6):
            below = [True] * n_below + [False] * n_above
            for step in range(1, 201):
                exact = by_the_formula(below, step, Fraction(7, 10), Fraction(3, 10))
                assert extension_quotas(below, step, 0.7, 0.3) == exact
                norm = 0.7 * n_below + 0.3 * n_above
                lifted += math.ceil(step * 0.7 / norm) != exact[0]
    assert lifted > 0  # or this test would show nothing


@pytest.mark.parametrize(
    ("step", "w1", "w2"),
    [(0, 1, 1), (-1, 1, 1), (10, -0.1, 1), (10, 1, -0.1), (10, math.nan, 1), (10, 1, math.inf)],
)
def test_impossible_weights(step: int, w1: float, w2: float) -> None:
    with pytest.raises(
        InputError, match=f"step {step} and weights {w1}, {w2}: expected at least 1, and weights from 0"
    ):
        extension_quotas([True, False], step, w1, w2)
