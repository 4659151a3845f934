"""The same architectures on several targets."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.across import put_together
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.testing import tiny_space

SPACE = tiny_space()
EIGHT = sample(SPACE, 8, strategy="random", rng=Random(0))
GENOMES = np.array([to_genome(SPACE, architecture) for architecture in EIGHT], np.int64)


def dataset(
    name: str, latency_ms: object, rows: object = slice(None), space: Space = SPACE, **facts: object
) -> Dataset:
    whole = np.asarray(latency_ms, np.float64)
    return Dataset(space, GENOMES[rows], whole, {"name": name, "facts": facts})


def test_the_fastest_and_the_agreement_are_those_of_a_hand_count() -> None:
    one = dataset("one", [1, 2, 3, 4, 5, 6, 7, 8])
    two = dataset("two", [2, 1, 6, 3, 10, 12, 14, 16])
    across = put_together([one, two])
    assert across.fastest == ["one", "two", "one", "two", "one", "one", "one", "one"]
    assert across.wins() == {"one": 6, "two": 2}
    (pair,) = across.pairs()
    assert pair.ratio == 2.0  # of 2, ½, 2, ¾, 2, 2, 2, 2
    assert pair.kendall == pytest.approx((26 - 2) / 28)  # two pairs of 28 stand the other way round
    assert pair.spearman == pytest.approx(1 - 6 * 4 / (8 * 63))  # four ranks differ by one
    assert across.as_json()["architectures"][1]["latency_ms"] == {"one": 2.0, "two": 1.0}


@given(st.permutations(range(8)), st.permutations(range(8)), st.integers(2, 8), st.integers(2, 8))
def test_only_what_all_have_is_compared_in_whatever_order(a: list[int], b: list[int], i: int, j: int) -> None:
    first = dataset("a", [1.0 + row for row in a[:i]], a[:i])
    second = dataset("b", [10.0 + row for row in b[:j]], b[:j])
    shared = [row for row in a[:i] if row in b[:j]]
    if len(shared) < 2:
        with pytest.raises(InputError, match=f"{len(shared)} architectures were measured on all of a, b"):
            put_together([first, second])
        return
    across = put_together([first, second])
    assert across.architectures == tuple(EIGHT[row] for row in shared)
    assert across.latency_ms.tolist() == [[1.0 + row, 10.0 + row] for row in shared]


def test_targets_of_one_name_are_told_apart_by_their_facts() -> None:
    one, four = (dataset("cpu", range(1, 9), threads=threads, version="1") for threads in (1, 4))
    assert put_together([one, four]).targets == ("cpu (threads 1)", "cpu (threads 4)")


def test_as_few_facts_as_will_do_tell_them_apart() -> None:
    """The quantiser, the weights and the kernels differ with the precision: nobody wants to read of them."""
    wide = {"precision": "fp32", "weights": "pool", "threads": 1, "version": "1.31.1"}
    narrow = {"precision": "int8", "weights": "embedded", "quantiser": "a long story", "version": "1.31.1"}
    sets = [wide, {**narrow, "threads": 1}, {**narrow, "threads": 2}]
    all_sets = [*(dataset("cpu", range(1, 9), **facts) for facts in sets), dataset("b", range(1, 9))]
    assert put_together(all_sets).targets == (
        "cpu (precision fp32, threads 1)",
        "cpu (precision int8, threads 1)",
        "cpu (precision int8, threads 2)",
        "b",
    )
    new = {**wide, "version": "1.32.0", "spinning": "off"}
    assert put_together([dataset("cpu", range(1, 9), **facts) for facts in (wide, new)]).targets == (
        "cpu (no spinning)",
        "cpu (spinning off)",
    )


def test_one_target_is_not_enough() -> None:
    with pytest.raises(InputError, match="one target alone"):
        put_together([dataset("one", range(1, 9))])
