"""Genomes: both ways, one form each, and what is said of a row that is none."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, every_architecture, spaces

from esm_onnx.architectures import (
    Architecture,
    Coupled,
    Feature,
    Options,
    Space,
    find_space,
    from_genome,
    sample,
    space_names,
    to_genome,
)
from esm_onnx.architectures.genome import genome_columns, genome_length
from esm_onnx.errors import InputError

TOY = Space(
    "toy",
    depths=((1, 3), (2,)),
    block=(Feature("kernel", (3, 5, 7)),),
    unit=(Feature("op", ("conv", "pool")),),
    network=(Feature("resolution", (192, 224)),),
)
CONV3, CONV7, POOL5 = (Options({"kernel": k, "op": op}) for k, op in [(3, "conv"), (7, "conv"), (5, "pool")])
ARCHITECTURE = Architecture("toy", ((CONV3,), (POOL5, POOL5)), Options({"resolution": 224}))
GENOME = (1, 0, 0, -1, -1, -1, -1, 1, 1, 1, 1)


def test_the_layout_by_hand() -> None:
    assert genome_columns(TOY) == [
        "resolution",
        *("u1b1.kernel", "u1b1.op", "u1b2.kernel", "u1b2.op", "u1b3.kernel", "u1b3.op"),
        *("u2b1.kernel", "u2b1.op", "u2b2.kernel", "u2b2.op"),
    ]
    assert genome_length(TOY) == 11
    assert to_genome(TOY, ARCHITECTURE) == GENOME
    assert from_genome(TOY, GENOME) == ARCHITECTURE


@pytest.mark.parametrize(("name", "length"), [("resnet", 4 * 7 * 2), ("mobilenetv3", 4 * 7 * 2), ("densenet", 5 * 20)])
def test_lengths_of_the_families(name: str, length: int) -> None:
    assert genome_length(find_space(name)) == length == len(set(genome_columns(find_space(name))))


@given(st.data(), spaces())
def test_an_architecture_survives_its_genome(data: st.DataObject, space: Space) -> None:
    architecture = data.draw(architectures(space))
    genome = to_genome(space, architecture)
    assert len(genome) == genome_length(space) == len(genome_columns(space))
    assert from_genome(space, genome) == architecture
    assert from_genome(space, list(genome)) == architecture


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("strategy", ["random", "balanced"])
def test_architectures_of_the_families_survive_their_genomes(name: str, strategy: str) -> None:
    space = find_space(name)
    for architecture in sample(space, 200, strategy=strategy, rng=random.Random(1)):
        assert from_genome(space, to_genome(space, architecture)) == architecture


@given(spaces(greatest_size=1000))
def test_different_architectures_have_different_genomes(space: Space) -> None:
    listed = list(every_architecture(space))
    assert len({to_genome(space, architecture) for architecture in listed}) == len(listed)


@pytest.mark.parametrize(
    "space",
    [
        Space("one", ((1,),), block=(Feature("kernel", (3,)),)),
        Space("gaps", ((1, 3), (2,)), block=(Feature("kernel", (3, 5)),)),
        Space("shared", ((1, 2), (1, 2)), block=(), unit=(Feature("kernel", (3, 5, 7)),)),
        Space(
            "all",
            ((1, 2),),
            block=(Feature("kernel", (3, 5)),),
            unit=(Feature("op", ("a", "b")),),
            network=(Feature("resolution", (1, 2)),),
        ),
        Space(
            "coupled",
            ((1, 3), (2,)),
            block=(),
            coupled=(Coupled.of("expansion", {1: 3, 2: 4, 3: 3}),),
            network=(Feature("resolution", (1, 2)),),
        ),
    ],
    ids=lambda space: space.name,
)
def test_of_all_rows_exactly_the_genomes_are_accepted(space: Space) -> None:
    """So no row with something in an absent place stands for an architecture: each has one form."""
    options = [len(f.options) for f in space.network] + [len(f.options) for f in space.features] * sum(space.slots)
    accepted = set()
    for row in itertools.product(*(range(-2, n + 1) for n in options)):
        try:
            architecture = from_genome(space, row)
        except InputError:
            continue
        assert to_genome(space, architecture) == row
        accepted.add(architecture)
    assert accepted == set(every_architecture(space))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: -1}, "genome, resolution: index -1, expected 0 to 1"),
        ({1: 3}, "genome, u1b1.kernel: index 3, expected 0 to 2"),
        ({2: -1}, "genome, u1b1.op: index -1, expected 0 to 1"),
        ({3: 0}, "genome, u1b2.op: index -1, expected 0 to 1"),
        ({5: 0, 6: 0}, "genome, u1b3.kernel: a block after an absent one"),
        ({1: -1, 2: -1}, "unit 1 has 0 blocks, expected one of 1, 3"),
        ({3: 0, 4: 0}, "unit 1 has 2 blocks, expected one of 1, 3"),
        ({8: 0}, "unit 2, block 2"),
        ({1: True}, "genome, u1b1.kernel: True, expected an integer"),
        ({1: 1.0}, "genome, u1b1.kernel: 1.0, expected an integer"),
        ({1: "1"}, "genome, u1b1.kernel: '1', expected an integer"),
        ({1: None}, "genome, u1b1.kernel: None, expected an integer"),
        ({1: 10**30}, "genome, u1b1.kernel: index 1000000000000000000000000000000, expected 0 to 2"),
    ],
)
def test_a_row_that_is_no_genome(change: dict[int, object], message: str) -> None:
    row = [change.get(place, value) for place, value in enumerate(GENOME)]
    if message == "unit 2, block 2":
        row = [*GENOME[:-1], 0]
        message = "unit 2, block 2: op is 'conv', expected pool as in block 1: all blocks of a unit share it"
    with pytest.raises(InputError) as caught:
        from_genome(TOY, row)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize("length", [0, 10, 12])
def test_a_row_of_another_length(length: int) -> None:
    with pytest.raises(InputError, match=f"a genome of {length} integers, expected 11 for space 'toy'"):
        from_genome(TOY, [0] * length)


def test_integers_of_numpy_are_integers() -> None:
    assert from_genome(TOY, np.array(GENOME, np.int64)) == ARCHITECTURE  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected an integer"):
        from_genome(TOY, np.array(GENOME, np.float32))  # type: ignore[arg-type]


def test_a_genome_of_another_space() -> None:
    with pytest.raises(InputError, match="belongs to space 'toy', expected 'resnet'"):
        to_genome(find_space("resnet"), ARCHITECTURE)


def test_equal_blocks_are_one_object() -> None:
    """Ten thousand architectures share their few kinds of block."""
    first, second = from_genome(TOY, GENOME), from_genome(TOY, GENOME)
    assert first.units[0][0] is second.units[0][0]
    assert first.units[1][0] is first.units[1][1]
