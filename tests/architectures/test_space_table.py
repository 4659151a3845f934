"""Spaces as tables: sizes, membership, fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, count, coupled_options, coupled_spaces, every_architecture, spaces

from esm_onnx.architectures import (
    Architecture,
    Coupled,
    Export,
    Feature,
    Options,
    Space,
    find_space,
    space_names,
    to_genome,
)
from esm_onnx.architectures.space import MOST_COMBINATIONS
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError

TOY = Space(
    "toy",
    depths=((1, 2), (2, 4)),
    block=(Feature("kernel", (3, 5)), Feature("expansion", (Fraction(1, 2), 1))),
    unit=(Feature("se", (0, 1)),),
    network=(Feature("resolution", (192, 224)),),
)


def block(**options: object) -> Options:
    return Options({"kernel": 3, "expansion": 1, "se": 0} | options)


def toy(*units: tuple[Options, ...], **network: object) -> Architecture:
    return Architecture("toy", units or ((block(),), (block(), block())), Options({"resolution": 224} | network))


@pytest.mark.parametrize(("name", "size"), [("resnet", "8.38e+26"), ("mobilenetv3", "8.38e+26"), ("densenet", "1e+10")])
def test_sizes_of_table_1(name: str, size: str) -> None:
    assert f"{find_space(name).size:.3g}" == size


def test_sizes_by_closed_formulas() -> None:
    geometric = 9 * (9**7 - 1) // (9 - 1)  # 9 + 9² + … + 9⁷: 3 kernels times 3 expansions, 1 to 7 blocks
    assert find_space("resnet").size == geometric**4
    assert find_space("mobilenetv3").size == geometric**4
    assert find_space("densenet").size == (20 * 5) ** 5 == 10**10


def test_families_are_as_the_paper_says() -> None:
    for name in ("resnet", "mobilenetv3"):
        space = find_space(name)
        assert [list(depths) for depths in space.depths] == [[1, 2, 3, 4, 5, 6, 7]] * 4
        assert {f.name: f.options for f in space.block} == {
            "kernel": (3, 5, 7),
            "expansion": (Fraction(1, 2), Fraction(2, 3), 1),
        }
        assert space.unit == space.network == ()
    densenet = find_space("densenet")
    assert [list(depths) for depths in densenet.depths] == [list(range(1, 21))] * 5
    assert densenet.block == densenet.network == ()
    assert {f.name: f.options for f in densenet.unit} == {"kernel": (1, 3, 5, 7, 9)}
    assert space_names()[:3] == ["resnet", "mobilenetv3", "densenet"]


@given(spaces(greatest_size=2000))
def test_size_by_listing_all(space: Space) -> None:
    listed = list(every_architecture(space))
    assert space.size == len(listed) == len(set(listed))
    assert all(space.check(architecture) is architecture for architecture in listed)
    depths = {architecture.depth for architecture in listed}
    assert space.depth_range == (min(depths), max(depths))


@given(spaces())
def test_size_by_another_formula(space: Space) -> None:
    assert space.size == count(space)


@given(spaces())
def test_combinations_are_every_choice_once_with_the_last_feature_fastest(space: Space) -> None:
    places = [tuple(f.options.index(c[f.name]) for f in space.features) for c in space.combinations]
    assert places == sorted(set(places))
    lengths = [len(feature.options) for feature in space.features]
    expected = 1
    for length in lengths:
        expected *= length
    assert len(places) == expected
    names = [f.name for f in space.block + space.unit + space.coupled]
    assert all(list(c) == names for c in space.combinations)


def test_too_many_combinations_are_not_listed() -> None:
    features = tuple(Feature(f"f{i}", tuple(range(10))) for i in range(12))
    space = Space("wide", ((1, 2),), block=features)
    with pytest.raises(InputError, match=rf"1000000000000 combinations.*expected at most {MOST_COMBINATIONS}"):
        _ = space.combinations
    assert space.size == 10**12 + 10**24


@given(st.data(), spaces())
def test_every_architecture_of_a_space_belongs_to_it(data: st.DataObject, space: Space) -> None:
    architecture = data.draw(architectures(space))
    assert space.check(architecture) is architecture


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture("resnet", ()), "the architecture belongs to space 'resnet', expected 'toy'"),
        (toy((block(),)), "1 units, expected 2 in space 'toy'"),
        (toy((block(),), (block(),) * 3), "unit 2 has 3 blocks, expected one of 2, 4"),
        (toy((), (block(),) * 2), "unit 1 has 0 blocks, expected one of 1, 2"),
        (toy((block(kernel=9),), (block(),) * 2), "unit 1, block 1: kernel is 9, expected one of 3, 5"),
        (toy((block(kernel="3"),), (block(),) * 2), "unit 1, block 1: kernel is '3', expected one of 3, 5"),
        (toy((block(kernel=float("nan")),), (block(),) * 2), "unit 1, block 1: kernel is nan, expected one of 3, 5"),
        (
            toy((block(expansion=Fraction(2, 3)),), (block(),) * 2),
            "unit 1, block 1: expansion is '2/3', expected one of 1/2, 1",
        ),
        (toy((block(se=True),), (block(),) * 2), "unit 1, block 1: se is True, expected one of 0, 1"),
        (
            toy((block(),), (block(), block(se=1))),
            "unit 2, block 2: se is 1, expected 0 as in block 1: all blocks of a unit share it",
        ),
        (
            toy((block(extra=1),), (block(),) * 2),
            "unit 1, block 1: unknown feature 'extra', expected kernel, expansion",
        ),
        (toy((Options({"kernel": 3}),), (block(),) * 2), "unit 1, block 1: no 'expansion', expected one of 1/2, 1"),
        (toy(resolution=100), "network: resolution is 100, expected one of 192, 224"),
        (Architecture("toy", toy().units), "network: no 'resolution', expected one of 192, 224"),
        (toy(width=1), "network: unknown feature 'width', expected resolution"),
    ],
)
def test_a_stranger_is_told_what_is_wrong(architecture: Architecture, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TOY.check(architecture)
    assert str(caught.value).startswith(message)


@given(spaces(export=True))
def test_a_space_survives_its_table_as_json(space: Space) -> None:
    table = json.loads(json.dumps(space.table(export=True)))
    again = space_from_table(table)
    assert again == space
    assert again.fingerprint == space.fingerprint
    assert space_from_table(space.table()) == dataclasses.replace(space, export=None)


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(TOY, name="toy2"),
        dataclasses.replace(TOY, depths=((1, 2), (2, 3, 4))),
        dataclasses.replace(TOY, block=TOY.block[:1]),
        dataclasses.replace(TOY, block=TOY.block[::-1]),
        dataclasses.replace(TOY, block=(Feature("kernel", (5, 3)), TOY.block[1])),
        dataclasses.replace(TOY, block=TOY.block + TOY.unit, unit=()),
        dataclasses.replace(TOY, network=()),
        dataclasses.replace(TOY, unit=(), coupled=(Coupled.of("se", {1: 0, 2: 0, 4: 1}),)),
    ],
    ids=[
        "name",
        "depths",
        "fewer features",
        "order of features",
        "order of options",
        "not shared",
        "network",
        "coupled",
    ],
)
def test_a_fingerprint_differs_where_a_genome_means_something_else(other: Space) -> None:
    assert other.fingerprint != TOY.fingerprint
    assert len(TOY.fingerprint) == 16
    assert int(TOY.fingerprint, 16) >= 0


def test_a_fingerprint_is_the_hash_of_the_table() -> None:
    """Stores and predictors carry it: whoever changes it strands them."""
    written = (
        '{"name": "toy", "units": 2, "depth": [[1, 2], [2, 4]], "block": {"kernel": [3, 5], "expansion": ["1/2", 1]}, '
        '"unit": {"se": [0, 1]}, "network": {"resolution": [192, 224]}}'
    )
    assert TOY.fingerprint == hashlib.sha256(written.encode()).hexdigest()[:16]
    assert dataclasses.replace(TOY, export=Export("mobilenetv3")).fingerprint == TOY.fingerprint


COUPLED = dataclasses.replace(TOY, coupled=(Coupled.of("ratio", {4: 2, 1: Fraction(1, 3), 2: 2}),))


def coupled(*ratios: tuple[object, ...]) -> Architecture:
    """The second unit has its own count of blocks, one for each ratio; the first has one block."""
    first, second = ratios
    return toy(*(tuple(block(ratio=ratio) for ratio in unit) for unit in (first, second)))


def test_a_coupled_feature_has_the_options_that_occur_by_depth() -> None:
    (feature,) = COUPLED.coupled
    assert feature.options == (Fraction(1, 3), 2)
    assert [feature.index_at(depth) for depth in (1, 2, 4)] == [0, 1, 1]
    assert [f.name for f in COUPLED.features] == ["kernel", "expansion", "se", "ratio"]
    assert COUPLED.shared == (*TOY.unit, feature)
    assert COUPLED.size == TOY.size


def test_a_coupled_option_is_that_of_its_units_depth() -> None:
    third = Fraction(1, 3)
    right = coupled((third,), (2, 2))
    assert COUPLED.check(right) is right
    for wrong, place, value, decided, depth in (
        (coupled((2,), (2, 2)), "unit 1, block 1", "2", "1/3", 1),
        (coupled((third,), (2, third)), "unit 2, block 2", "'1/3'", "2", 2),
        (coupled((third,), (third, third)), "unit 2, block 1", "'1/3'", "2", 2),
        (coupled((2, 2), (2, 2, 2, third)), "unit 2, block 4", "'1/3'", "2", 4),
    ):
        with pytest.raises(InputError) as caught:
            COUPLED.check(wrong)
        assert str(caught.value) == (
            f"{place}: ratio is {value}, expected {decided} in a unit of {depth} blocks: its depth decides it"
        )
    with pytest.raises(InputError, match="unit 2, block 1: ratio is 3, expected one of 1/3, 2"):
        COUPLED.check(coupled((third,), (3, 2)))


@given(st.data(), coupled_spaces())
def test_without_the_coupling_each_genome_means_the_same_and_there_are_more(data: st.DataObject, space: Space) -> None:
    free = space.uncoupled
    assert (free.name, free.depths, free.coupled, free.network) == (space.name, space.depths, (), space.network)
    assert [(f.name, f.options) for f in free.features] == [(f.name, f.options) for f in space.features]
    architecture = data.draw(architectures(space))
    assert to_genome(free, architecture) == to_genome(space, architecture)
    more = 1
    for feature in space.coupled:
        more *= len(feature.options) ** len(space.depths)
    assert free.size == space.size * more == count(free)
    assert TOY.uncoupled == TOY


@given(coupled_spaces())
def test_a_table_says_the_coupled_option_of_each_depth(space: Space) -> None:
    table = json.loads(json.dumps(space.table()))["coupled"]
    assert list(table) == [feature.name for feature in space.coupled]
    allowed = sorted({depth for depths in space.depths for depth in depths})
    for feature in space.coupled:
        assert [int(depth) for depth in table[feature.name]] == allowed
        for depth in allowed:
            option = coupled_options(space, depth)[feature.name]
            shown = str(option) if isinstance(option, Fraction) else option
            assert table[feature.name][str(depth)] == shown
    assert "coupled" not in dataclasses.replace(space, coupled=()).table()
