"""Encodings, against plain loops over the architecture."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import drawn, moderate_spaces, rows
from strategies import architectures

from esm_onnx.architectures import Architecture, Feature, Options, Space, find_space
from esm_onnx.errors import InputError
from esm_onnx.prediction.encodings import ENCODINGS, find_encoding

Named = dict[str, float]


def number(feature: Feature, option: object) -> float:
    return 1.0 + feature.options.index(option) if isinstance(option, str) else float(option)  # type: ignore[arg-type]


def network_part(space: Space, architecture: Architecture, *, one_hot: bool) -> Named:
    found: Named = {}
    for feature in space.network:
        chosen = architecture.network[feature.name]
        if one_hot or isinstance(chosen, str):
            for option in feature.options:
                found[f"{feature.name}={option}"] = 1.0 if option == chosen else 0.0
        else:
            found[feature.name] = float(chosen)
    return found


def naive_one_hot(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=True)
    for u, (blocks, depths) in enumerate(zip(architecture.units, space.depths, strict=True), 1):
        for j in range(1, max(depths) + 1):
            for feature in space.block + space.unit:
                for option in feature.options:
                    here = j <= len(blocks) and blocks[j - 1][feature.name] == option
                    found[f"u{u}b{j}.{feature.name}={option}"] = 1.0 if here else 0.0
    return found


def naive_feature(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    for u, (blocks, depths) in enumerate(zip(architecture.units, space.depths, strict=True), 1):
        for j in range(1, max(depths) + 1):
            for feature in space.block + space.unit:
                there = j <= len(blocks)
                found[f"u{u}b{j}.{feature.name}"] = number(feature, blocks[j - 1][feature.name]) if there else 0.0
    return found


def naive_statistical(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    for u, blocks in enumerate(architecture.units, 1):
        found[f"u{u}.depth"] = float(len(blocks))
    for statistic, of in (("mean", statistics.mean), ("std", statistics.pstdev)):
        for u, blocks in enumerate(architecture.units, 1):
            for feature in space.block + space.unit:
                exact = [Fraction(number(feature, block[feature.name])) for block in blocks]
                found[f"u{u}.{statistic}.{feature.name}"] = float(of(exact))
    return found


def naive_fc(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    for u, blocks in enumerate(architecture.units, 1):
        for feature in space.block + space.unit:
            for option in feature.options:
                found[f"u{u}.{feature.name}={option}"] = float(sum(b[feature.name] == option for b in blocks))
    return found


def naive_fcc(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    for u, blocks in enumerate(architecture.units, 1):
        for name, combination in named_combinations(space):
            found[f"u{u}.{name}"] = float(sum(dict(block) == combination for block in blocks))
    return found


def naive_fcc_first(space: Space, architecture: Architecture) -> Named:
    found = naive_fcc(space, architecture)
    for u, blocks in enumerate(architecture.units, 1):
        for name, combination in named_combinations(space):
            found[f"u{u}.first.{name}"] = float(dict(blocks[0]) == combination)
    return found


def named_combinations(space: Space) -> list[tuple[str, dict[str, object]]]:
    features = space.block + space.unit
    found = []
    for options in product(*(feature.options for feature in features)):
        combination = dict(zip((feature.name for feature in features), options, strict=True))
        found.append((",".join(f"{name}={option}" for name, option in combination.items()), combination))
    return found


NAIVE: dict[str, Callable[[Space, Architecture], Named]] = {
    "one-hot": naive_one_hot,
    "feature": naive_feature,
    "statistical": naive_statistical,
    "fc": naive_fc,
    "fcc": naive_fcc,
    "fcc-first": naive_fcc_first,
}


def encode(name: str, space: Space, chosen: list[Architecture]) -> np.ndarray:
    return find_encoding(name).encode(space, rows(space, chosen))


def test_every_encoding_has_a_naive_twin() -> None:
    assert list(ENCODINGS) == list(NAIVE)


@pytest.mark.parametrize("name", NAIVE)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_column_is_as_the_loops_say(name: str, data: st.DataObject) -> None:
    space = data.draw(moderate_spaces())
    chosen = [data.draw(architectures(space)), *drawn(space, 4, data.draw(st.integers(0, 9)))]
    columns, encoded = find_encoding(name).columns(space), encode(name, space, chosen)
    assert encoded.dtype == np.float64
    for architecture, row in zip(chosen, encoded, strict=True):
        expected = NAIVE[name](space, architecture)
        assert columns == list(expected)
        np.testing.assert_allclose(row, list(expected.values()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("family", ["resnet", "mobilenetv3", "densenet"])
def test_families_are_as_the_loops_say(name: str, family: str) -> None:
    space = find_space(family)
    chosen = drawn(space, 20)
    expected = [list(NAIVE[name](space, architecture).values()) for architecture in chosen]
    np.testing.assert_allclose(encode(name, space, chosen), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "columns"),
    [
        # resnet: 28 slots × 6 options; 28 × 2 features; 4 × (depth, 2 means, 2 deviations); 4 × 6; 4 × 9; 4 × 9 × 2
        ("resnet", {"one-hot": 168, "feature": 56, "statistical": 20, "fc": 24, "fcc": 36, "fcc-first": 72}),
        # densenet: 100 slots × 5 options; 100 × 1; 5 × 3; 5 × 5; 5 × 5; 5 × 5 × 2
        ("densenet", {"one-hot": 500, "feature": 100, "statistical": 15, "fc": 25, "fcc": 25, "fcc-first": 50}),
    ],
)
def test_number_of_columns_as_counted_by_hand(family: str, columns: dict[str, int]) -> None:
    space = find_space(family)
    assert {name: len(encoding.columns(space)) for name, encoding in ENCODINGS.items()} == columns


def test_columns_can_be_read() -> None:
    space = find_space("resnet")
    assert find_encoding("one-hot").columns(space)[8] == "u1b2.kernel=7"
    assert find_encoding("feature").columns(space)[:2] == ["u1b1.kernel", "u1b1.expansion"]
    assert find_encoding("fc").columns(space)[3] == "u1.expansion=1/2"
    assert "u2.kernel=3,expansion=2/3" in find_encoding("fcc").columns(space)
    assert "u4.first.kernel=7,expansion=1" in find_encoding("fcc-first").columns(space)
    assert "u3.std.kernel" in find_encoding("statistical").columns(space)


@settings(max_examples=40, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 99))
def test_encodings_are_marginals_of_each_other(space: Space, seed: int) -> None:
    chosen = drawn(space, 6, seed)
    head = {name: len(network_part(space, chosen[0], one_hot=name == "one-hot")) for name in NAIVE}
    encoded = {name: encode(name, space, chosen)[:, head[name] :] for name in NAIVE}
    units, combinations = len(space.depths), named_combinations(space)
    by_combination = encoded["fcc"].reshape(len(chosen), units, len(combinations))
    depths = np.array([[len(unit) for unit in architecture.units] for architecture in chosen])
    np.testing.assert_array_equal(by_combination.sum(axis=2), depths)
    marginals = [
        by_combination[:, u, [combination[feature.name] == option for _, combination in combinations]].sum(axis=1)
        for u in range(units)
        for feature in space.block + space.unit
        for option in feature.options
    ]
    np.testing.assert_array_equal(encoded["fc"], np.stack(marginals, axis=1))
    firsts = encoded["fcc-first"][:, by_combination[0].size :].reshape(by_combination.shape)
    np.testing.assert_array_equal(encoded["fcc-first"][:, : by_combination[0].size], encoded["fcc"])
    np.testing.assert_array_equal(firsts.sum(axis=2), np.ones_like(depths))
    assert (firsts <= by_combination).all()
    np.testing.assert_array_equal(encoded["statistical"][:, :units], depths)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_order_of_blocks_only_counts_where_it_should(data: st.DataObject) -> None:
    space = data.draw(moderate_spaces())
    architecture = data.draw(architectures(space))
    turned = Architecture(space.name, tuple(unit[::-1] for unit in architecture.units), architecture.network)
    same_first = Architecture(
        space.name, tuple((unit[0], *unit[:0:-1]) for unit in architecture.units), architecture.network
    )
    for name in ("statistical", "fc", "fcc"):
        one, other = encode(name, space, [architecture, turned])
        np.testing.assert_array_equal(one, other)
    one, other = encode("fcc-first", space, [architecture, same_first])
    np.testing.assert_array_equal(one, other)
    for name in ("one-hot", "feature"):
        one, other = encode(name, space, [architecture, turned])
        assert (one == other).all() == (architecture == turned)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equal_blocks_deviate_by_exactly_nothing(data: st.DataObject) -> None:
    space = data.draw(moderate_spaces())
    depths = [data.draw(st.sampled_from(depths)) for depths in space.depths]
    block = Options(data.draw(st.sampled_from(named_combinations(space)))[1])  # type: ignore[arg-type]
    network = Options({feature.name: feature.options[0] for feature in space.network})
    architecture = Architecture(space.name, tuple((block,) * depth for depth in depths), network)
    (row,) = encode("statistical", space, [architecture])
    deviations = ["std" in column.split(".") for column in find_encoding("statistical").columns(space)]
    assert sum(deviations) == len(space.depths) * len(space.features)
    assert (row[deviations] == 0).all()


@pytest.mark.parametrize("name", NAIVE)
def test_no_rows_give_no_rows(name: str) -> None:
    space = find_space("resnet")
    encoding = find_encoding(name)
    assert encoding.encode(space, np.empty((0, 56), np.int64)).shape == (0, len(encoding.columns(space)))


def test_an_unknown_encoding_is_refused_with_all_names() -> None:
    with pytest.raises(
        InputError, match="encoding 'fccc', expected one of one-hot, feature, statistical, fc, fcc, fcc-f"
    ):
        find_encoding("fccc")
