"""Which rows are judged by what was not trained on them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Options, divide, find_space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.comparison_fit import shuffled
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.lint import lint, rows_of_genomes
from esm_onnx.prediction.splits import SPLITS, demand_apart, folds_of, held_out_of
from esm_onnx.prediction.training import TrainSettings, train

SPACE = find_space("compofa-fixed")
RESOLUTIONS = (160, 176, 192, 208, 224)


def repeated(networks: int, *, cached: bool) -> Dataset:
    """So many networks, each at five resolutions; `cached`: with one latency for all of them."""
    drawn = sample(SPACE, networks, strategy="balanced", rng=Random(0))
    rng = np.random.default_rng(0)
    blocks = {architecture.units: None for architecture in drawn}
    rows = [(units, resolution) for units in blocks for resolution in RESOLUTIONS]
    level = {units: 10 + sum(map(len, units)) * rng.lognormal(0, 0.1) for units in blocks}
    genomes = [to_genome(SPACE, Architecture(SPACE.name, u, Options({"resolution": r}))) for u, r in rows]
    latency = [level[u] * (1 if cached else (r / 224) ** 2 * rng.lognormal(0, 0.01)) for u, r in rows]
    order = rng.permutation(len(rows))
    return Dataset(SPACE, np.array(genomes, np.int64)[order], np.array(latency)[order], {"name": "one", "facts": {}})


def blocks_of(dataset: Dataset) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(dataset.genomes[:, len(SPACE.network) :])]


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_networks_of_the_same_blocks_are_never_torn_apart(count: int, seed: int) -> None:
    dataset = repeated(30, cached=False)
    bins = divide(SPACE)
    folds = folds_of(dataset, bins, "blocks", count, seed)
    outside = held_out_of(dataset, bins, "blocks", 0.2, np.random.default_rng(seed))
    for assigned in (folds, outside):
        where: dict[bytes, set[int]] = {}
        for blocks, place in zip(blocks_of(dataset), assigned, strict=True):
            where.setdefault(blocks, set()).add(int(place))
        assert all(len(places) == 1 for places in where.values())
    assert set(folds) == set(range(min(count, len(set(blocks_of(dataset))))))
    assert 0 < outside.sum() < len(dataset)


@given(st.integers(5, 100), st.integers(0, 2**32 - 1))
def test_a_comparison_by_blocks_tears_none_apart(test: int, seed: int) -> None:
    dataset = repeated(30, cached=False)
    known, unseen = shuffled(dataset, test, seed, "blocks")
    assert not set(blocks_of(known)) & set(blocks_of(unseen))
    assert len(known) == len(dataset) - test
    assert test - len(RESOLUTIONS) < len(unseen) <= test  # less the rest of the network that the end falls into
    rows = [part.genomes.tobytes() for part in shuffled(dataset, test, seed)]
    order = np.random.default_rng(seed).permutation(len(dataset))
    assert rows == [dataset.genomes[order[:-test]].tobytes(), dataset.genomes[order[-test:]].tobytes()]


def test_rows_held_out_whose_blocks_are_all_trained_on_are_too_few() -> None:
    with pytest.raises(InputError, match="all 1 measurements held out have the blocks of others"):
        shuffled(repeated(30, cached=False), 1, 0, "blocks")


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_holds_out_some_rows_and_trains_on_others(split: str) -> None:
    dataset = repeated(40, cached=False)
    outside = held_out_of(dataset, divide(SPACE), split, 0.25, np.random.default_rng(1))
    assert outside.mean() == pytest.approx(0.25, abs=0.08)
    _, evaluation = train(dataset, TrainSettings("linear", split=split))
    assert evaluation.overall.count == len(dataset)


def test_a_split_by_time_holds_out_the_last_rows() -> None:
    outside = held_out_of(repeated(10, cached=False), divide(SPACE), "time", 0.2, np.random.default_rng(0))
    assert outside[-1]
    assert not outside[0]
    assert (np.diff(outside.astype(int)) != 0).sum() == 1


def test_rows_that_a_cache_repeated_are_not_judged_row_by_row() -> None:
    """As in the measured columns of CompOFA-fixed, which Syed and Srinivasan published."""
    cached, clean = repeated(60, cached=True), repeated(60, cached=False)
    found = lint(rows_of_genomes(SPACE, cached.genomes, cached.latency_ms))
    networks = len(set(blocks_of(cached)))
    for split in ("random", "time"):
        with pytest.raises(InputError, match=rf"{5 * networks} rows hold {networks} measurements.* --split blocks"):
            demand_apart(found, split)
    demand_apart(found, "blocks")
    demand_apart(lint(rows_of_genomes(SPACE, clean.genomes, clean.latency_ms)), "random")


def test_a_random_split_remembers_what_a_split_by_blocks_has_to_predict() -> None:
    """Latencies that have nothing to do with the blocks: who is judged honestly cannot know them."""
    cached = repeated(60, cached=True)
    rng = np.random.default_rng(3)
    drawn = {blocks: rng.uniform(10, 20) for blocks in sorted(set(blocks_of(cached)))}
    latency = np.array([drawn[blocks] for blocks in blocks_of(cached)])
    noise = Dataset(SPACE, cached.genomes, latency, cached.target)
    accuracy = {
        split: train(noise, TrainSettings("tree", encoding="fcc-first", split=split))[1].overall.accuracy
        for split in ("random", "blocks")
    }
    assert accuracy["random"] > accuracy["blocks"] + 5
