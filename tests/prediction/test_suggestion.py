"""Which architectures to measure on a new device: what is promised of them, not how much they help."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from prediction.made_up import rows
from prediction.test_surrogates import WRITTEN
from prediction.test_transfer import made_up
from prediction.transfers import base_of

from esm_onnx.architectures import Architecture, Feature, Space, divide, find_space, from_genome, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.suggestion import suggest
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

TINY = tiny_space()
SMALL = find_space("compofa-fixed")
SPACES = (WRITTEN, TINY, SMALL)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Space, list[Base]]:
    """Two for each space, of devices that differ."""
    found: dict[Space, list[Base]] = {}
    for space in SPACES:
        for factor in (1.0, 4.0):
            there, path = made_up(space, 60, factor), tmp_path_factory.mktemp("base") / "base.onnx"
            write_predictor(train(there, TrainSettings("linear"))[0], path, check=there)
            found.setdefault(space, []).append(Base.open(path))
    return found


def suggested(
    bases: dict[Space, list[Base]], space: Space, count: int, seed: int = 0, measured: tuple[Architecture, ...] = ()
) -> list[Architecture]:
    return suggest(space, bases[space], count, bins=divide(space), rng=Random(seed), measured=measured)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
@pytest.mark.parametrize("count", [1, 7, 20])
def test_as_many_as_asked_all_different_all_of_the_space(
    bases: dict[Space, list[Base]], space: Space, count: int
) -> None:
    found = suggested(bases, space, count)
    assert len(set(found)) == len(found) == count
    for architecture in found:
        assert from_genome(space, to_genome(space, architecture)) == architecture


def test_a_seed_decides_what_is_suggested(bases: dict[Space, list[Base]]) -> None:
    first, again = (suggested(bases, WRITTEN, 8, seed=3) for _ in range(2))
    assert first == again


def test_the_best_come_first(bases: dict[Space, list[Base]]) -> None:
    """Who measures fewer of them has the best few."""
    assert suggested(bases, WRITTEN, 5) == suggested(bases, WRITTEN, 12)[:5]


def test_every_bin_of_depth_has_its_share(bases: dict[Space, list[Base]]) -> None:
    bins = divide(WRITTEN)
    counts = Counter(bins.index(architecture.depth) for architecture in suggested(bases, WRITTEN, 4 * len(bins)))
    assert min(counts[i] for i in range(len(bins))) >= 2


def test_none_is_suggested_that_is_measured(bases: dict[Space, list[Base]]) -> None:
    measured = tuple(suggested(bases, WRITTEN, 10))
    more = suggested(bases, WRITTEN, 10, measured=measured)
    assert len(set(more)) == 10
    assert not set(more) & set(measured)


def test_the_whole_of_a_small_space_can_be_suggested_and_no_more(tmp_path: Path) -> None:
    space = Space("small", ((1, 2),) * 2, (Feature("kernel", (3, 5)),))
    there = made_up(space, 30, 1.0)
    write_predictor(train(there, TrainSettings("linear"))[0], tmp_path / "base.onnx", check=there)
    base = {space: [Base.open(tmp_path / "base.onnx")]}
    everything = suggested(base, space, space.size)
    assert len(set(everything)) == space.size == 36
    rest = suggested(base, space, 16, measured=tuple(everything[:20]))
    assert set(rest) == set(everything[20:])
    with pytest.raises(InputError, match=r"17 architectures to suggest, expected at most the 16 .*not measured yet"):
        suggested(base, space, 17, measured=tuple(everything[:20]))


def test_they_differ_as_much_as_all_do(bases: dict[Space, list[Base]]) -> None:
    """By what the bases predict of them."""
    random = made_up(WRITTEN, 200, 1.0).genomes
    for base in bases[WRITTEN]:
        chosen = base.predict(rows(WRITTEN, suggested(bases, WRITTEN, 20)))
        assert np.log(chosen).std() > 0.8 * np.log(base.predict(random)).std()


def test_without_a_base_or_with_one_for_another_space_nothing_is_suggested(bases: dict[Space, list[Base]]) -> None:
    with pytest.raises(InputError, match="no base, expected a predictor of another device"):
        suggest(TINY, [], 3, bins=divide(TINY), rng=Random(0))
    for wrong in ([base_of("gpu")], [*bases[TINY], *bases[SMALL]]):
        with pytest.raises(InputError, match=r"a predictor for space .* expected one for 'tiny'"):
            suggest(TINY, wrong, 3, bins=divide(TINY), rng=Random(0))
