"""Encodings, against plain loops over the architecture."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import drawn, encoded_by_graph, moderate_spaces, rows
from strategies import architectures

from esm_onnx.architectures import Architecture, Feature, Options, Space, find_space, from_json
from esm_onnx.errors import InputError
from esm_onnx.prediction import encoding
from esm_onnx.prediction.encodings import ENCODINGS, encoding_names, find_encoding, has_encoding

Named = list[tuple[str, float]]
"""Columns in their order; two of the same name and meaning may stand in one vector."""


def number(feature: Feature, option: object) -> float:
    return 1.0 + feature.options.index(option) if isinstance(option, str) else float(option)  # type: ignore[arg-type]


def network_part(space: Space, architecture: Architecture, *, one_hot: bool) -> Named:
    found: Named = []
    for feature in space.network:
        chosen = architecture.network[feature.name]
        if one_hot or isinstance(chosen, str):
            found += [(f"{feature.name}={option}", 1.0 if option == chosen else 0.0) for option in feature.options]
        else:
            found.append((feature.name, float(chosen)))
    return found


def naive_one_hot(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=True)
    for u, (blocks, depths) in enumerate(zip(architecture.units, space.depths, strict=True), 1):
        for j in range(1, max(depths) + 1):
            for feature in space.features:
                for option in feature.options:
                    here = j <= len(blocks) and blocks[j - 1][feature.name] == option
                    found.append((f"u{u}b{j}.{feature.name}={option}", 1.0 if here else 0.0))
    return found


def naive_feature(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    for u, (blocks, depths) in enumerate(zip(architecture.units, space.depths, strict=True), 1):
        for j in range(1, max(depths) + 1):
            for feature in space.features:
                value = number(feature, blocks[j - 1][feature.name]) if j <= len(blocks) else 0.0
                found.append((f"u{u}b{j}.{feature.name}", value))
    return found


def naive_statistical(space: Space, architecture: Architecture) -> Named:
    found = network_part(space, architecture, one_hot=False)
    found += [(f"u{u}.depth", float(len(blocks))) for u, blocks in enumerate(architecture.units, 1)]
    for statistic, of in (("mean", statistics.mean), ("std", statistics.pstdev)):
        for u, blocks in enumerate(architecture.units, 1):
            for feature in space.features:
                exact = [Fraction(number(feature, block[feature.name])) for block in blocks]
                found.append((f"u{u}.{statistic}.{feature.name}", float(of(exact))))
    return found


def fc_counts(space: Space, architecture: Architecture) -> Named:
    return [
        (f"u{u}.{feature.name}={option}", float(sum(block[feature.name] == option for block in blocks)))
        for u, blocks in enumerate(architecture.units, 1)
        for feature in space.features
        for option in feature.options
    ]


def fcc_counts(space: Space, architecture: Architecture) -> Named:
    return [
        (f"u{u}.{name}", float(sum(dict(block) == combination for block in blocks)))
        for u, blocks in enumerate(architecture.units, 1)
        for name, combination in named_combinations(space)
    ]


def first_counts(space: Space, architecture: Architecture) -> Named:
    return [
        (f"u{u}.first.{name}", float(dict(blocks[0]) == combination))
        for u, blocks in enumerate(architecture.units, 1)
        for name, combination in named_combinations(space)
    ]


def with_numbers(space: Space, architecture: Architecture, counts: Named) -> Named:
    """Counts behind the network's options; if some of these are numbers (and not 0 alone), also their squares as
    shares of the greatest one, zeros and a one for each of their options, the depth, each count times each square, and
    the depth times each zero or one."""
    found = network_part(space, architecture, one_hot=False)
    squares: Named = []
    options: Named = []
    for feature in space.network:
        if isinstance(feature.options[0], str) or not any(feature.options):
            continue
        chosen = architecture.network[feature.name]
        greatest = max(abs(Fraction(option)) for option in feature.options)  # type: ignore[arg-type]
        squares.append((f"{feature.name}^2", float((Fraction(chosen) / greatest) ** 2)))  # type: ignore[arg-type]
        options += [(f"{feature.name}={option}", 1.0 if option == chosen else 0.0) for option in feature.options]
    if not squares:
        return found + counts
    depth = ("depth", float(sum(len(blocks) for blocks in architecture.units)))
    products = [(f"{count}*{square}", n * size) for square, size in squares for count, n in counts]
    products += [(f"depth*{option}", depth[1] * held) for option, held in options]
    return [*found, *squares, *options, depth, *counts, *products]


def naive_fc(space: Space, architecture: Architecture) -> Named:
    return with_numbers(space, architecture, fc_counts(space, architecture))


def naive_fcc(space: Space, architecture: Architecture) -> Named:
    return with_numbers(space, architecture, fcc_counts(space, architecture))


def naive_fcc_first(space: Space, architecture: Architecture) -> Named:
    return with_numbers(space, architecture, fcc_counts(space, architecture) + first_counts(space, architecture))


def naive_counts(space: Space, architecture: Architecture) -> Named:
    every = [count(space, architecture) for count in (fc_counts, fcc_counts, first_counts)]
    return with_numbers(space, architecture, [column for counts in every for column in counts])


def named_combinations(space: Space) -> list[tuple[str, dict[str, object]]]:
    features = space.features
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
    "counts": naive_counts,
}
"""Of each encoding that needs no graphs; `cost` has its own in test_cost_encoding.py."""


def encode(name: str, space: Space, chosen: list[Architecture]) -> np.ndarray:
    return find_encoding(name).encode(space, rows(space, chosen))


def test_every_encoding_has_a_naive_twin() -> None:
    assert list(ENCODINGS) == list(NAIVE)
    assert encoding_names() == [*NAIVE, "cost", "ofa"]


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
        assert columns == [column for column, _ in expected]
        np.testing.assert_allclose(row, [value for _, value in expected], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("family", ["resnet", "mobilenetv3", "densenet", "ofa-mobilenetv3"])
def test_families_are_as_the_loops_say(name: str, family: str) -> None:
    space = find_space(family)
    chosen = drawn(space, 20)
    expected = [[value for _, value in NAIVE[name](space, architecture)] for architecture in chosen]
    np.testing.assert_allclose(encode(name, space, chosen), expected, rtol=1e-12, atol=1e-12)


def syed_srinivasan(ks: list[int], e: list[int], d: list[int], r: int) -> list[float]:
    """Their vector: 60 zeros and ones of kernels, 60 of expansions, 8 of resolutions; zeros beyond a unit's depth."""
    vector = [0.0] * 128
    for place in range(20):
        if place % 4 < d[place // 4]:
            vector[3 * place + (3, 5, 7).index(ks[place])] = 1.0
            vector[60 + 3 * place + (3, 4, 6).index(e[place])] = 1.0
    vector[120 + (r - 112) // 16] = 1.0
    return vector


@given(
    ks=st.lists(st.sampled_from((3, 5, 7)), min_size=20, max_size=20),
    e=st.lists(st.sampled_from((3, 4, 6)), min_size=20, max_size=20),
    d=st.lists(st.sampled_from((2, 3, 4)), min_size=5, max_size=5),
    r=st.sampled_from(range(112, 225, 16)),
)
@settings(max_examples=30, deadline=None)
def test_ofa_is_the_vector_of_the_paper(ks: list[int], e: list[int], d: list[int], r: int) -> None:
    space = find_space("ofa-mobilenetv3")
    (row,) = encode("ofa", space, [from_json(space, {"ks": ks, "e": e, "d": d, "r": r})])
    assert row.tolist() == syed_srinivasan(ks, e, d, r)


def test_ofa_shares_a_resolution_between_its_neighbours() -> None:
    space = find_space("ofa-mobilenetv3")
    shares = {
        r: encode("ofa", space, [replace(drawn(space, 1)[0], network=Options({"resolution": r}))])[0, 120:].tolist()
        for r in (112, 116, 164, 200, 224, 228, 240)
    }
    assert shares[112] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert shares[116] == [0.75, 0.25, 0, 0, 0, 0, 0, 0]
    assert shares[164] == [0, 0, 0, 0.75, 0.25, 0, 0, 0]
    assert shares[200] == [0, 0, 0, 0, 0, 0.5, 0.5, 0]
    assert shares[224] == shares[228] == shares[240] == [0, 0, 0, 0, 0, 0, 0, 1]


def test_ofa_is_drawn_as_it_is_computed() -> None:
    space = find_space("ofa-mobilenetv3")
    genomes = rows(space, drawn(space, 50))
    encoded = find_encoding("ofa").encode(space, genomes)
    np.testing.assert_allclose(encoded_by_graph(space, "ofa", genomes), encoded, rtol=1e-6)
    assert find_encoding("ofa").columns(space)[59:62] == ["u5b4.kernel=7", "u1b1.expansion=3", "u1b1.expansion=4"]


@pytest.mark.parametrize("name", ["resnet", "densenet", "compofa-fixed"])
def test_ofa_is_for_kernel_expansion_and_resolution_alone(name: str) -> None:
    assert not has_encoding(find_space(name), "ofa")
    with pytest.raises(InputError, match=f"space '{name}' has the features .*; the encoding 'ofa' is for kernel, exp"):
        find_encoding("ofa").columns(find_space(name))


@pytest.mark.parametrize(
    ("family", "columns"),
    [
        # 28 slots × 6 options; 28 × 2 features; 4 × (depth, 2 means, 2 deviations); 4 × 6; 4 × 9; 4 × 9 × 2; 24 + 72
        ("resnet", (168, 56, 20, 24, 36, 72, 96)),
        # 100 slots × 5 options; 100 × 1; 5 × 3; 5 × 5; 5 × 5; 5 × 5 × 2; 25 + 50
        ("densenet", (500, 100, 15, 25, 25, 50, 75)),
        # 33 resolutions, 20 slots × 6 options; 1 + 20 × 2; 1 + 5 × 5; and with counts (30, 45, 90, 120): resolution,
        # its square, 33 options, the depth, the counts, the counts × the square, 33 options × the depth
        ("ofa-mobilenetv3", (153, 41, 26, 69 + 2 * 30, 69 + 2 * 45, 69 + 2 * 90, 69 + 2 * 120)),
    ],
)
def test_number_of_columns_as_counted_by_hand(family: str, columns: tuple[int, ...]) -> None:
    space = find_space(family)
    assert tuple(len(encoding.columns(space)) for encoding in ENCODINGS.values()) == columns


def test_columns_can_be_read() -> None:
    space = find_space("resnet")
    assert find_encoding("one-hot").columns(space)[8] == "u1b2.kernel=7"
    assert find_encoding("feature").columns(space)[:2] == ["u1b1.kernel", "u1b1.expansion"]
    assert find_encoding("fc").columns(space)[3] == "u1.expansion=1/2"
    assert "u2.kernel=3,expansion=2/3" in find_encoding("fcc").columns(space)
    assert "u4.first.kernel=7,expansion=1" in find_encoding("fcc-first").columns(space)
    assert "u3.std.kernel" in find_encoding("statistical").columns(space)
    ofa = find_encoding("counts").columns(find_space("ofa-mobilenetv3"))
    assert ofa[:4] == ["resolution", "resolution^2", "resolution=112", "resolution=116"]
    assert ofa[35:37] == ["depth", "u1.kernel=3"]
    assert {"u5.first.kernel=7,expansion=6*resolution^2", "depth*resolution=240"} < set(ofa)


@settings(max_examples=40, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 99))
def test_encodings_are_marginals_of_each_other(space: Space, seed: int) -> None:
    chosen = drawn(space, 6, seed)
    units, combinations = len(space.depths), named_combinations(space)
    options = sum(len(feature.options) for feature in space.features)
    by_combination = counts_of("fcc", space, chosen, units * len(combinations))
    by_option = counts_of("fc", space, chosen, units * options)
    with_firsts = counts_of("fcc-first", space, chosen, 2 * by_combination.shape[1])
    every = counts_of("counts", space, chosen, by_option.shape[1] + with_firsts.shape[1])
    np.testing.assert_array_equal(every, np.hstack([by_option, with_firsts]))
    whole, firsts = (part.reshape(len(chosen), units, len(combinations)) for part in np.hsplit(with_firsts, 2))
    np.testing.assert_array_equal(whole.reshape(by_combination.shape), by_combination)
    depths = np.array([[len(unit) for unit in architecture.units] for architecture in chosen])
    np.testing.assert_array_equal(whole.sum(axis=2), depths)
    marginals = [
        whole[:, u, [combination[feature.name] == option for _, combination in combinations]].sum(axis=1)
        for u in range(units)
        for feature in space.features
        for option in feature.options
    ]
    np.testing.assert_array_equal(by_option, np.stack(marginals, axis=1))
    np.testing.assert_array_equal(firsts.sum(axis=2), np.ones_like(depths))
    assert (firsts <= whole).all()
    head = len(network_part(space, chosen[0], one_hot=False))
    np.testing.assert_array_equal(encode("statistical", space, chosen)[:, head : head + units], depths)


def counts_of(name: str, space: Space, chosen: list[Architecture], width: int) -> np.ndarray:
    """The counts alone, [n, width]: with numbers of the network, they stand between the depth and the products."""
    columns, encoded = find_encoding(name).columns(space), encode(name, space, chosen)
    start = columns.index("depth") + 1 if "depth" in columns else len(columns) - width
    return encoded[:, start : start + width]


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
    for name in ("fcc-first", "counts"):
        one, other = encode(name, space, [architecture, same_first])
        np.testing.assert_array_equal(one, other)
    for name in ("one-hot", "feature"):
        one, other = encode(name, space, [architecture, turned])
        assert (one == other).all() == (architecture == turned)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equal_blocks_deviate_by_exactly_nothing(data: st.DataObject) -> None:
    space = data.draw(moderate_spaces()).uncoupled
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


@settings(max_examples=20, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 9), names=st.lists(st.sampled_from(list(NAIVE)), unique=True))
def test_joined_encodings_stand_side_by_side(space: Space, seed: int, names: list[str]) -> None:
    names = names or ["fc"]
    chosen = drawn(space, 5, seed)
    joined = find_encoding("+".join(names))
    assert joined.name == "+".join(names)
    assert joined.columns(space) == [column for name in names for column in find_encoding(name).columns(space)]
    parts = np.hstack([encode(name, space, chosen) for name in names])
    np.testing.assert_array_equal(joined.encode(space, rows(space, chosen)), parts)


@pytest.mark.parametrize("name", ["fccc", "", "fc+", "+fc", "fc+fc", "fc+fcc+fc", "fc fcc", "fc+lut", "FC"])
def test_an_unknown_encoding_is_refused_with_all_names(name: str) -> None:
    every = "one-hot, feature, statistical, fc, fcc, fcc-first, counts, cost, ofa, entries, or several joined by '+'"
    with pytest.raises(InputError) as caught:
        find_encoding(name)
    assert str(caught.value) == f"encoding {name!r}, expected one of {every}"


def test_a_table_too_large_is_refused_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Space("wide", ((1, 10),), block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))))
    monkeypatch.setattr(encoding, "GREATEST_TABLE", 90 * 9)  # 9 combinations in 10 places, in as many columns
    assert len(find_encoding("fcc").columns(wide)) == 9
    for name in ("fcc-first", "one-hot", "statistical+counts"):
        with pytest.raises(InputError, match="'wide' has 9 combinations of options in 10 places, too many for a table"):
            find_encoding(name).columns(wide)
