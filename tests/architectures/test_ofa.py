"""Once-for-All's spaces, and its notations wherever an architecture is read or written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures

from esm_onnx.architectures import (
    Architecture,
    Coupled,
    Export,
    Feature,
    Options,
    Space,
    find_space,
    from_json,
    genome_length,
    read_architectures,
    to_json,
    to_ofa,
)
from esm_onnx.architectures.ofa_notation import ofa_lists
from esm_onnx.errors import InputError

OFA, PROXYLESS, RESNET = map(find_space, ("ofa-mobilenetv3", "ofa-proxyless", "ofa-resnet50"))
FIXED, ELASTIC = map(find_space, ("compofa-fixed", "compofa-elastic"))

NOTATION = {
    "ks": [3, 5, 7, 7, 7, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7],
    "e": [3, 4, 6, 6, 6, 4, 3, 3, 6, 6, 6, 6, 3, 3, 3, 3, 4, 4, 4, 4],
    "d": [2, 3, 4, 2, 3],
    "r": 176,
}
UNITS = (
    ((3, 3), (5, 4)),
    ((7, 6), (5, 4), (3, 3)),
    ((3, 6), (3, 6), (3, 6), (3, 6)),
    ((5, 3), (5, 3)),
    ((7, 4), (7, 4), (7, 4)),
)


def block(kernel: int, expansion: int) -> Options:
    return Options({"kernel": kernel, "expansion": expansion})


EXPECTED = Architecture(
    "ofa-mobilenetv3", tuple(tuple(block(*b) for b in unit) for unit in UNITS), Options({"resolution": 176})
)


def test_the_space_by_closed_formulas() -> None:
    of_a_unit = (3 * 3) ** 2 + (3 * 3) ** 3 + (3 * 3) ** 4
    resolutions = (240 - 112) // 4 + 1
    assert OFA.size == resolutions * of_a_unit**5
    assert OFA.depth_range == (10, 20)
    assert genome_length(OFA) == 1 + 20 * 2
    assert {f.name: f.options for f in OFA.block} == {"kernel": (3, 5, 7), "expansion": (3, 4, 6)}
    (resolution,) = OFA.network
    assert (resolution.options[0], resolution.options[1], resolution.options[-1]) == (112, 116, 240)


def test_proxyless_by_closed_formulas() -> None:
    """Five units of two to four blocks, one of a single block: 21 places."""
    of_a_block = 3 * 3
    of_a_unit = of_a_block**2 + of_a_block**3 + of_a_block**4
    assert PROXYLESS.size == 25 * of_a_unit**5 * of_a_block
    assert PROXYLESS.depth_range == (5 * 2 + 1, 5 * 4 + 1)
    assert genome_length(PROXYLESS) == 1 + 21 * 2
    assert PROXYLESS.network[0].options == tuple(range(128, 225, 4))


def test_the_resnet_by_closed_formulas() -> None:
    """A unit has 2 (or 4) to 4 (or 6) blocks of three expansions each, and one of three widths; 18 places."""
    of_a_unit = [3 * (3**least + 3 ** (least + 1) + 3 ** (least + 2)) for least in (2, 2, 4, 2)]
    resolutions, stems = (256 - 128) // 16 + 1, 2 * 3 * 3
    assert RESNET.size == resolutions * stems * of_a_unit[0] * of_a_unit[1] * of_a_unit[2] * of_a_unit[3]
    assert RESNET.depth_range == (2 + 2 + 4 + 2, 18)
    assert genome_length(RESNET) == 4 + 18 * 2


@pytest.mark.parametrize(
    "change",
    [{}, {"r": [176]}, {"r": 176.0}, {"wid": None}, {"space": "ofa-mobilenetv3"}, {"d": [2.0, 3, 4, 2, 3]}],
    ids=str,
)
def test_the_notation_by_hand(change: dict[str, object]) -> None:
    assert from_json(OFA, {**NOTATION, **change}) == EXPECTED


def test_the_resolution_may_be_called_image_size() -> None:
    renamed = {"image_size" if name == "r" else name: value for name, value in NOTATION.items()}
    assert from_json(OFA, renamed) == EXPECTED
    with pytest.raises(InputError, match="unknown field 'image_size' beside ks, e and d, expected some of ks, e, d, r"):
        from_json(OFA, {**NOTATION, "image_size": 176})


def test_it_is_written_with_zeros_where_blocks_are_absent() -> None:
    assert to_ofa(OFA, EXPECTED) == {
        "ks": [3, 5, 0, 0, 7, 5, 3, 0, 3, 3, 3, 3, 5, 5, 0, 0, 7, 7, 7, 0],
        "e": [3, 4, 0, 0, 6, 4, 3, 0, 6, 6, 6, 6, 3, 3, 0, 0, 4, 4, 4, 0],
        "d": [2, 3, 4, 2, 3],
        "r": [176],
    }


def notation_of(architecture: Architecture, filling: object) -> dict[str, object]:
    """Once-for-All's notation of an architecture, with anything in the places of absent blocks."""
    flat = [[unit[j] if j < len(unit) else None for j in range(4)] for unit in architecture.units]
    places = [place for unit in flat for place in unit]
    return {
        "ks": [place["kernel"] if place else filling for place in places],
        "e": [place["expansion"] if place else filling for place in places],
        "d": [len(unit) for unit in architecture.units],
        "r": architecture.network["resolution"],
    }


@given(architectures(OFA), st.sampled_from([0, 9, None, "x", [], {}, True]))
def test_an_architecture_survives_the_notation_whatever_absent_places_hold(
    architecture: Architecture, filling: object
) -> None:
    text = json.dumps(notation_of(architecture, filling))
    assert from_json(OFA, json.loads(text)) == architecture


def with_place(name: str, place: int, value: object) -> dict[str, object]:
    values = list(NOTATION[name])  # type: ignore[call-overload]
    values[place] = value
    return {**NOTATION, name: values}


BAD = {
    "too few places": ({**NOTATION, "ks": [3] * 19}, "ks has 19 values, expected a list of 20"),
    "too many depths": ({**NOTATION, "d": [2] * 6}, "d has 6 values, expected a list of 5"),
    "no depths": ({k: v for k, v in NOTATION.items() if k != "d"}, "no 'd', expected a list of 5"),
    "a text of digits": ({**NOTATION, "e": "3" * 20}, "e is '33333", "expected a list of 20"),
    "unknown kernel": (with_place("ks", 5, 9), "unit 2, block 2: kernel is 9, expected one of 3, 5, 7"),
    "kernel no number": (with_place("ks", 0, None), "unit 1, block 1: kernel is None"),
    "unknown expansion": (with_place("e", 16, 5), "unit 5, block 1: expansion is 5, expected one of 3, 4, 6"),
    "too shallow": (with_place("d", 1, 1), "d has 1 for unit 2, expected one of 2, 3, 4"),
    "too deep": (with_place("d", 1, 5), "d has 5 for unit 2, expected one of 2, 3, 4"),
    "half a block": (with_place("d", 1, 2.5), "d has 2.5 for unit 2"),
    "depth no number": (with_place("d", 0, [2]), "d has [2] for unit 1"),
    "truth value": (with_place("d", 0, True), "d has True for unit 1"),
    "unknown resolution": ({**NOTATION, "r": 177}, "resolution is 177, expected one of 112, 116"),
    "two resolutions": ({**NOTATION, "r": [176, 192]}, "resolution is [176, 192]"),
    "no resolution": ({k: v for k, v in NOTATION.items() if k != "r"}, "no 'resolution', expected one of 112"),
    "another width": ({**NOTATION, "wid": 1}, "wid is 1, expected null"),
    "unknown field": ({**NOTATION, "acc": 76.1}, "unknown field 'acc'", "expected some of ks, e, d, r"),
    "another space": ({**NOTATION, "space": "resnet"}, "belongs to space 'resnet', expected 'ofa-mobilenetv3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_notation_in_a_file_is_named(tmp_path: Path, case: str) -> None:
    data, *messages = BAD[case]
    path = tmp_path / "archs.jsonl"
    path.write_text(f"{json.dumps(NOTATION)}\n{json.dumps(data)}\n")
    with pytest.raises(InputError) as caught:
        read_architectures(path, OFA)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert all(message in str(caught.value) for message in messages)


def test_both_notations_stand_in_one_file_gzipped_or_not(tmp_path: Path) -> None:
    lines = f"{json.dumps(NOTATION)}\n{json.dumps(to_json(OFA, EXPECTED))}\n".encode()
    for name, content in (("archs.jsonl", lines), ("archs.jsonl.gz", gzip.compress(lines))):
        (tmp_path / name).write_bytes(content)
        assert read_architectures(tmp_path / name, OFA) == [EXPECTED, EXPECTED]


@pytest.mark.parametrize("cut", [1, 5, 30, -9, -1])
def test_a_torn_gzip_is_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "archs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(NOTATION).encode())[:cut])
    with pytest.raises(InputError, match=r"archs\.jsonl\.gz"):
        read_architectures(path, OFA)


# units of unlike depths, and coupled ones


def test_places_go_by_the_depth_of_each_unit() -> None:
    """ProxylessNAS: the last of 21 places is the sixth unit's one block, whose depth may be left out or too great."""
    kernels, expansions = [3, 5, 0, 0, 7, 3, 5, 0] + [3] * 12 + [7], [3, 4, 0, 0, 6, 4, 3, 0] + [6] * 12 + [4]
    fields = {"ks": kernels, "e": expansions, "d": [2, 3, 4, 4, 4, 1], "r": [128]}
    architecture = from_json(PROXYLESS, fields)
    four = (block(3, 6),) * 4
    units = ((block(3, 3), block(5, 4)), (block(7, 6), block(3, 4), block(5, 3)), four, four, four, (block(7, 4),))
    assert architecture == Architecture("ofa-proxyless", units, Options({"resolution": 128}))
    assert to_ofa(PROXYLESS, architecture) == fields
    for depths in ([2, 3, 4, 4, 4], [2, 3, 4, 4, 4, 4], [2, 3, 4, 4, 4, 2.0]):
        assert from_json(PROXYLESS, {**fields, "d": depths}) == architecture
    for depths, message in (
        ([2, 3, 4, 4], "d has 4 values, expected a list of 6"),
        ([2, 3, 4, 4, 4, 0], "d has 0 for unit 6, expected one of 1"),
        ([2, 3, 4, 4, 5, 1], "d has 5 for unit 5, expected one of 2, 3, 4"),
        ([2, 3, 4, 4, 4, None], "d has None for unit 6"),
        ([2, 3, 4, 4, 4, float("nan")], "d has nan for unit 6"),
        ([2, 3, 4, 4, 4, float("inf")], "d has inf for unit 6"),
    ):
        with pytest.raises(InputError, match=message):
            from_json(PROXYLESS, {**fields, "d": depths})


COMPOUND = {
    "ks": [3] * 4 + [5] * 4 + [3] * 8 + [5] * 4,
    "e": [3] * 4 + [4] * 4 + [6] * 4 + [3] * 4 + [4] * 4,
    "d": [2, 3, 4, 2, 3],
    "r": [176],
}
"""As in the published data: what a unit has stands in all four places of it."""


def test_where_the_space_fixes_the_kernels_they_must_agree_or_be_left_out() -> None:
    """The kernels of a unit are those that the published data have."""
    units = tuple((Options({"expansion": e}),) * d for e, d in zip((3, 4, 6, 3, 4), (2, 3, 4, 2, 3), strict=True))
    expected = Architecture("compofa-fixed", units, Options({"resolution": 176}))
    assert from_json(FIXED, COMPOUND) == expected
    assert from_json(FIXED, {name: value for name, value in COMPOUND.items() if name != "ks"}) == expected
    kernels = list(COMPOUND["ks"])
    kernels[3] = 7
    assert from_json(FIXED, {**COMPOUND, "ks": kernels}) == expected, "the fourth block is absent"
    kernels[1] = 7
    with pytest.raises(InputError, match="ks has 7 for unit 1, block 2, expected 3: the space fixes the kernel"):
        from_json(FIXED, {**COMPOUND, "ks": kernels})
    with pytest.raises(InputError, match="ks has 2 values, expected a list of 20"):
        from_json(FIXED, {**COMPOUND, "ks": [3, 3]})


@pytest.mark.parametrize("space", [FIXED, ELASTIC], ids=lambda space: space.name)
def test_the_expansion_must_be_the_one_that_the_depth_has(space: Space) -> None:
    expansions = list(COMPOUND["e"])
    expansions[3] = 9
    from_json(space, {**COMPOUND, "e": expansions})  # absent
    expansions[1] = 4
    with pytest.raises(InputError, match="unit 1, block 2: expansion is 4, expected 3 in a unit of 2 blocks"):
        from_json(space, {**COMPOUND, "e": expansions})


# ResNet50

OF_RESNET = {
    "d": [2, 0, 1, 2, 0],
    "e": [0.2, 0.35, 0, 0, 0.25, 0.25, 0.2, 0, 0.2, 0.2, 0.25, 0.25, 0.35, 0.35, 0.2, 0.25, 0, 0],
    "w": [0, 1, 2, 2, 0, 1],
    "r": [224],
}


def test_the_notation_of_a_resnet_by_hand() -> None:
    """`w` counts shares, first two of the stem; `d` counts blocks beyond 2, 2, 4, 2, its first the stem's own."""
    network = Options({"resolution": 224, "stem_block": 1, "stem_middle": 0.65, "stem_width": 0.8})
    chosen = (
        (1, (0.2, 0.35)),
        (1, (0.25, 0.25, 0.2)),
        (0.65, (0.2, 0.2, 0.25, 0.25, 0.35, 0.35)),
        (0.8, (0.2, 0.25)),
    )
    units = tuple(tuple(Options({"expansion": e, "width": width}) for e in row) for width, row in chosen)
    expected = Architecture("ofa-resnet50", units, network)
    assert from_json(RESNET, OF_RESNET) == expected
    assert to_ofa(RESNET, expected) == OF_RESNET
    for skipped in (0, 1):  # anything but the greatest depth leaves the block out
        without = from_json(RESNET, {**OF_RESNET, "d": [skipped, 0, 1, 2, 0]})
        assert without == Architecture("ofa-resnet50", units, Options({**network, "stem_block": 0}))
        assert to_ofa(RESNET, without)["d"] == [0, 0, 1, 2, 0]


BAD_RESNETS = {
    "no widths": ({"w": None}, "w is None, expected a list of 6"),
    "a width beyond": ({"w": [0, 0, 0, 0, 0, 3]}, "w has 3 for width, expected 0 to 2"),
    "a share for its place": ({"w": [0, 0.65, 0, 0, 0, 0]}, "w has 0.65 for stem_width, expected 0 to 2"),
    "a negative width": ({"w": [-1, 0, 0, 0, 0, 0]}, "w has -1 for stem_middle, expected 0 to 2"),
    "too deep": ({"d": [2, 0, 3, 0, 0]}, "d has 3 for unit 2, expected one of 0, 1, 2"),
    "a whole depth": ({"d": [2, 2, 2, 4, 2]}, "d has 4 for unit 3, expected one of 0, 1, 2"),
    "a stem too deep": ({"d": [3, 0, 0, 0, 0]}, "d has 3 for the stem, expected one of 0 to 2"),
    "no stem": ({"d": [0, 0, 0, 0]}, "d has 4 values, expected a list of 5"),
    "kernels": ({"ks": [3] * 18}, "unknown field 'ks' beside d, e and w, expected some of d, e, w, r, wid, space"),
    "an expansion": ({"e": [0.3] * 18}, "unit 1, block 1: expansion is 0.3, expected one of 0.2, 0.25, 0.35"),
}


@pytest.mark.parametrize("case", BAD_RESNETS)
def test_a_bad_notation_of_a_resnet_is_named(case: str) -> None:
    change, message = BAD_RESNETS[case]
    with pytest.raises(InputError, match=message):
        from_json(RESNET, {**OF_RESNET, **change})


# there and back

OWN = Space("two", ((1, 2),) * 2, block=(Feature("kernel", (3, 5)),), unit=(Feature("expansion", (3, 6)),))
FRACTIONS = Space(
    "halves",
    ((1, 3), (2,)),
    block=(Feature("kernel", (3, 5)),),
    coupled=(Coupled.of("expansion", {1: 0.5, 2: 4, 3: 4}),),
    network=(Feature("resolution", (32, 48)),),
)


@given(st.sampled_from([OFA, PROXYLESS, RESNET, FIXED, ELASTIC, OWN, FRACTIONS]), st.data())
def test_what_is_written_is_read_back(space: Space, data: st.DataObject) -> None:
    architecture = data.draw(architectures(space))
    fields = json.loads(json.dumps(to_ofa(space, architecture)))
    assert from_json(space, fields) == architecture
    assert [*fields] == [*ofa_lists(space), *(["r"] if space.network else [])]
    places = sum(max(depths) for depths in space.depths)
    assert all(len(fields[name]) == places for name in ("ks", "e") if name in fields)
    assert fields["e"].count(0) == places - architecture.depth


def test_a_space_of_ones_own_with_the_same_layout_has_the_notation() -> None:
    read = from_json(OWN, {"ks": [3, 5, 5, 3], "e": [6, 6, 3, 0], "d": [2, 1]})
    assert read.units == ((block(3, 6), block(5, 6)), (block(5, 3),))
    with pytest.raises(InputError, match="unit 1, block 2: expansion is 3, expected 6 as in block 1"):
        from_json(OWN, {"ks": [3, 5, 5, 3], "e": [6, 3, 3, 0], "d": [2, 1]})


@pytest.mark.parametrize(
    "space",
    [
        find_space("densenet"),
        Space("more", ((1, 2),), block=(*OFA.block, Feature("se", (0, 1)))),
        Space("net", ((1, 2),), block=OFA.block, network=(Feature("width", (1, 2)),)),
        Space("no-kernel", ((1, 2),), block=OFA.block[1:]),
        Space("no-list", ((1, 2),), block=OFA.block[1:], export=Export("mobilenetv3", {"kernels": 3})),
        Space("no-unit", ((1, 2),), block=OFA.block[1:], export=Export("mobilenetv3", {"kernels": [3, 3]})),
        Space("no-stem", RESNET.depths, block=RESNET.block, unit=RESNET.unit, network=RESNET.network[:2]),
        Space("free-width", RESNET.depths, block=(*RESNET.block, *RESNET.unit), network=RESNET.network),
    ],
    ids=lambda space: space.name,
)
def test_a_space_that_it_cannot_say_has_it_not(space: Space) -> None:
    assert ofa_lists(space) == ()
    with pytest.raises(InputError, match="without the field 'space'"):
        from_json(space, NOTATION)
    network = Options({feature.name: feature.options[0] for feature in space.network})
    shallow = Architecture(space.name, tuple((space.combinations[0],) * d[0] for d in space.depths), network)
    with pytest.raises(InputError, match=f"space '{space.name}' has no notation of Once-for-All's, expected kernel"):
        to_ofa(space, shallow)
