"""Datasets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import dataset, drawn, rows
from strategies import spaces

from esm_onnx.architectures import Space
from esm_onnx.errors import InputError
from esm_onnx.prediction.dataset import Dataset


@settings(deadline=None)
@given(space=spaces(), seed=st.integers(0, 9))
def test_depths_are_those_of_the_architectures(space: Space, seed: int) -> None:
    chosen = drawn(space, 5, seed)
    depths = Dataset(space, rows(space, chosen), np.ones(len(chosen)), {}).depths
    assert depths.tolist() == [sum(map(len, architecture.units)) for architecture in chosen]


def test_rows_are_selected_together() -> None:
    whole = dataset(20)
    mask = whole.depths > 15
    assert 0 < mask.sum() < 20
    for chosen in (mask, np.flatnonzero(mask), np.flatnonzero(mask).tolist()):
        part = whole.select(np.asarray(chosen))
        assert (len(part), part.space, part.target) == (mask.sum(), whole.space, whole.target)
        np.testing.assert_array_equal(part.genomes, whole.genomes[mask])
        np.testing.assert_array_equal(part.latency_ms, whole.latency_ms[mask])
    assert len(whole.select(slice(3))) == 3


def test_the_digest_is_of_the_rows_not_their_order() -> None:
    whole = dataset(20)
    order = np.random.default_rng(0).permutation(20)
    assert whole.select(order).digest == whole.digest == dataset(20).digest
    assert whole.select(order[:8]).joined(whole.select(order[8:])).digest == whole.digest
    assert len(whole.digest) == 64


def test_the_digest_differs_where_anything_does() -> None:
    whole = dataset(20)
    other_genomes, other_latency = whole.genomes.copy(), whole.latency_ms.copy()
    other_genomes[3, 0] = (other_genomes[3, 0] + 1) % 3
    other_latency[7] = np.nextafter(other_latency[7], np.inf)
    swapped = whole.latency_ms.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        replace(whole, genomes=other_genomes),
        replace(whole, latency_ms=other_latency),
        replace(whole, latency_ms=swapped),
        replace(whole, space=replace(whole.space, name="resnet-2")),
        whole.select(slice(19)),
    ]
    assert len({whole.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize("latency", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_an_impossible_latency_is_refused_with_its_row(latency: float) -> None:
    whole = dataset(5)
    with pytest.raises(InputError, match=f"row 3: latency is {latency} ms, expected a positive number"):
        replace(whole, latency_ms=np.array([1.0, 2.0, 3.0, latency, latency]))
