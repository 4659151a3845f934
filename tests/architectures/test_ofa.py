"""Once-for-All's space, and its notation wherever an architecture is read."""

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
    Feature,
    Options,
    Space,
    find_space,
    from_json,
    genome_length,
    read_architectures,
    to_json,
)
from esm_onnx.architectures.ofa import has_ofa_layout
from esm_onnx.errors import InputError

OFA = find_space("ofa-mobilenetv3")

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


@pytest.mark.parametrize(
    "change",
    [{}, {"r": [176]}, {"r": 176.0}, {"wid": None}, {"space": "ofa-mobilenetv3"}, {"d": [2.0, 3, 4, 2, 3]}],
    ids=str,
)
def test_the_notation_by_hand(change: dict[str, object]) -> None:
    assert from_json(OFA, {**NOTATION, **change}) == EXPECTED


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
    "no depths": ({k: v for k, v in NOTATION.items() if k != "d"}, "d is None, expected a list of 5"),
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


def test_a_space_of_ones_own_with_the_same_layout_has_the_notation() -> None:
    space = Space("two", ((1, 2),) * 2, block=(Feature("kernel", (3, 5)),), unit=(Feature("expansion", (3, 6)),))
    read = from_json(space, {"ks": [3, 5, 5, 3], "e": [6, 6, 3, 0], "d": [2, 1]})
    assert read.units == ((block(3, 6), block(5, 6)), (block(5, 3),))
    with pytest.raises(InputError, match="unit 1, block 2: expansion is 3, expected 6 as in block 1"):
        from_json(space, {"ks": [3, 5, 5, 3], "e": [6, 3, 3, 0], "d": [2, 1]})


@pytest.mark.parametrize(
    "space",
    [
        find_space("densenet"),
        Space("uneven", ((1, 2), (1, 2, 3)), block=OFA.block),
        Space("more", ((1, 2),), block=(*OFA.block, Feature("se", (0, 1)))),
        Space("net", ((1, 2),), block=OFA.block, network=(Feature("width", (1, 2)),)),
    ],
    ids=lambda space: space.name,
)
def test_a_space_that_it_cannot_say_has_it_not(space: Space) -> None:
    assert not has_ofa_layout(space)
    with pytest.raises(InputError, match="without the field 'space'"):
        from_json(space, NOTATION)
