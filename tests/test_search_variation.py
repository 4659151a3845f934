"""What a search does to genomes, over any space: each row stays a genome."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import every_architecture, spaces

from esm_onnx.architectures import Coupled, Feature, Space, from_genome, genome_length, to_genome
from esm_onnx.search.variation import Genomes, Variation

SMALL = Space(
    "small",
    ((1, 3), (2, 4)),
    block=(Feature("kernel", (3, 5)),),
    unit=(Feature("se", (0, 1)),),
    network=(Feature("resolution", (160, 192, 224)),),
    coupled=(Coupled.of("expansion", {1: 3, 2: 3, 3: 4, 4: 6}),),
)
"""3 resolutions × (2 × (2 + 8)) × (2 × (4 + 16)) = 2,400 architectures."""


def assert_genomes(space: Space, rows: Genomes) -> None:
    assert rows.dtype == np.int64
    for row in rows.tolist():
        assert to_genome(space, from_genome(space, row)) == tuple(row)


@given(space=spaces(), seed=st.integers(0, 2**32), rate=st.none() | st.floats(0, 1))
def test_every_row_stays_a_genome_of_its_space(space: Space, seed: int, rate: float | None) -> None:
    variation, rng = Variation(space, rate), np.random.default_rng(seed)
    genomes = variation.draw(12, rng)
    assert genomes.shape == (12, genome_length(space))
    assert_genomes(space, genomes)
    assert_genomes(space, variation.mutate(genomes, rng))
    for children in variation.cross(genomes[:6], genomes[6:], rng):
        assert_genomes(space, children)


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_two_children_share_out_what_their_parents_have(space: Space, seed: int) -> None:
    variation, rng = Variation(space), np.random.default_rng(seed)
    mothers, fathers = variation.draw(8, rng), variation.draw(8, rng)
    before = mothers.copy(), fathers.copy()
    ones, others = variation.cross(mothers, fathers, rng)
    np.testing.assert_array_equal(np.sort([ones, others], axis=0), np.sort([mothers, fathers], axis=0))
    np.testing.assert_array_equal((mothers, fathers), before)


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_nothing_changes_at_a_rate_of_0(space: Space, seed: int) -> None:
    variation, rng = Variation(space, rate=0.0), np.random.default_rng(seed)
    genomes = variation.draw(8, rng)
    np.testing.assert_array_equal(variation.mutate(genomes, rng), genomes)


def test_drawing_reaches_every_architecture() -> None:
    drawn = Variation(SMALL).draw(120_000, np.random.default_rng(0))
    every = {to_genome(SMALL, architecture) for architecture in every_architecture(SMALL)}
    assert len(every) == SMALL.size == 2400
    assert set(map(tuple, drawn.tolist())) == every


def test_mutating_one_genome_again_and_again_reaches_every_architecture() -> None:
    variation, rng = Variation(SMALL), np.random.default_rng(0)
    genomes = np.repeat(variation.draw(1, rng), 2000, axis=0)
    found: set[tuple[int, ...]] = set()
    for _ in range(150):
        genomes = variation.mutate(genomes, rng)
        found.update(map(tuple, genomes.tolist()))
    assert len(found) == SMALL.size


def test_a_mutation_draws_two_things_of_an_architecture_anew_on_average() -> None:
    variation, rng = Variation(SMALL), np.random.default_rng(0)
    genomes = np.repeat(variation.draw(1, rng), 20_000, axis=0)
    unchanged = (variation.mutate(genomes, rng) == genomes).all(axis=1).mean()
    rate = 2 / 12  # to choose are a resolution, 2 depths, 2 features of units, 7 kernels
    blocks = int((genomes[0, 1::3] >= 0).sum())
    expected = (1 - rate * 2 / 3) * (1 - rate / 2) ** (4 + blocks)  # what is drawn anew may be what it was
    assert unchanged == pytest.approx(expected, abs=0.015)  # more than four standard deviations
