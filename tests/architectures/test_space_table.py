"""Spaces as tables: sizes, membership, fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, count, every_architecture, spaces

from esm_onnx.architectures import Architecture, Export, Feature, Options, Space, find_space, space_names
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
    assert space_names() == ["resnet", "mobilenetv3", "densenet", "ofa-mobilenetv3"]


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
    assert all(list(c) == [f.name for f in space.block + space.unit] for c in space.combinations)


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
    ],
    ids=["name", "depths", "fewer features", "order of features", "order of options", "not shared", "network"],
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
