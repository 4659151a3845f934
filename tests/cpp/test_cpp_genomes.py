"""Architectures, arrays and genomes are read, written and checked as in Python."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from cpp.programs import ELASTIC, FIXED, MIXED, OFA, SPACES, Programs, drawn, predictor_file
from prediction.made_up import rows

from esm_onnx.architectures import Space, find_space, from_genome, from_json, genome_length, to_genome, to_json
from esm_onnx.errors import InputError


@pytest.mark.parametrize("name", SPACES)
def test_architectures_are_read_and_written_as_in_python(name: str, programs: Programs, path: Path) -> None:
    space = SPACES[name]
    path.write_bytes(predictor_file(space))
    architectures = drawn(space, 300, seed=5)
    given = [to_json(space, architecture) for architecture in architectures]
    found = programs.answers("probe", "read", path, given=given)
    assert [each["genome"] for each in found] == [list(to_genome(space, a)) for a in architectures]
    assert [list(each["json"]) for each in found] == [list(each) for each in given]


def arrays(space: Space, random: Random) -> dict[str, Any]:
    """Of any architecture of a space of inverted residuals."""
    depths = [random.choice(allowed) for allowed in space.depths]
    lists: dict[str, list[int]] = {"ks": [], "e": []}
    for u, (depth, slots) in enumerate(zip(depths, space.slots, strict=True)):
        lists["ks"] += [(3, 5, 3, 3, 5)[u]] * slots if space is FIXED else random.choices((3, 5, 7), k=slots)
        lists["e"] += [{2: 3, 3: 4, 4: 6}[depth]] * slots if space.coupled else random.choices((3, 4, 6), k=slots)
    return {**lists, "d": depths, "r": random.choice((128, [176])), "wid": None}


@pytest.mark.parametrize("name", ["ofa-mobilenetv3", "ofa-proxyless", "compofa-fixed", "compofa-elastic"])
def test_arrays_of_once_for_all_are_read_as_in_python(name: str, programs: Programs, path: Path) -> None:
    space = find_space(name)
    path.write_bytes(predictor_file(space))
    random = Random(0)
    given = [arrays(space, random) for _ in range(100)]
    expected = [to_json(space, from_json(space, each)) for each in given]
    assert [each["json"] for each in programs.answers("probe", "read", path, given=given)] == expected
    typed = [{**each, "arrays": True, "r": expected[i]["resolution"]} for i, each in enumerate(given)]
    assert [each["json"] for each in programs.answers("probe", "read", path, given=typed)] == expected


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("compofa-fixed", "ks", None, None),
        ("compofa-fixed", "ks", [3] * 20, "ks has 3 for unit 2, block 1, expected 5: the space fixes the kernel"),
        ("compofa-fixed", "ks", [3] * 19, "ks is [3,3,3,3"),
        ("compofa-fixed", "e", None, "e is missing, expected a list of 20"),
        ("compofa-fixed", "e", [3] * 20, None),
        ("compofa-fixed", "e", [4] * 20, "unit 1, block 1: expansion is 4, expected 3 in a unit of 2 blocks"),
        ("compofa-elastic", "ks", None, "ks is missing, expected a list of 20"),
        ("compofa-elastic", "e", [3] * 16 + [6] * 4, "unit 5, block 1: expansion is 6, expected 3 in a unit of 2"),
        ("ofa-proxyless", "d", [2, 3, 4, 2, 3], None),
        ("ofa-proxyless", "d", [2, 3, 4, 2, 3, 4], None),
        ("ofa-proxyless", "d", [2, 3, 4, 2, 3, 0], "d has 0 for unit 6, expected one of"),
        ("ofa-proxyless", "d", [2, 3, 4, 2], "expected a list of 6"),
        ("ofa-proxyless", "r", None, None),
    ],
)
def test_what_arrays_may_leave_out_and_must_agree_in(
    name: str, field: str, value: object, message: str | None, programs: Programs, path: Path
) -> None:
    space = find_space(name)
    path.write_bytes(predictor_file(space))
    kernels = [3] * 4 + [5] * 4 + [3] * 8 + [5] * 4
    places = sum(space.slots)
    fields: dict[str, Any] = {"ks": [*kernels, 3][:places], "e": [3] * places, "d": [2] * 5, "r": 176}
    if field == "r":
        fields["image_size"] = fields.pop("r")
    elif value is None:
        del fields[field]
    else:
        fields[field] = value
    (found,) = programs.answers("probe", "read", path, given=[fields])
    if message is None:
        assert found["json"] == to_json(space, from_json(space, fields))
    else:
        assert message in found["error"]
        with pytest.raises(InputError):  # Python refuses the same
            from_json(space, fields)


@pytest.mark.parametrize("space", [ELASTIC, MIXED], ids=lambda space: space.name)
def test_blocks_may_leave_out_what_the_depth_decides(space: Space, programs: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(space))
    architectures = drawn(space, 100, seed=6)
    given = [to_json(space, architecture) for architecture in architectures]
    coupled = [feature.name for feature in space.coupled]
    for each in given:
        for block in (block for blocks in each["units"] for block in blocks):
            for name in coupled:
                del block[name]
    found = programs.answers("probe", "read", path, given=given)
    assert [each["genome"] for each in found] == [list(to_genome(space, a)) for a in architectures]


def changed(data: Any, place: list[Any], value: Any) -> Any:
    """A copy with another value at a place, or with a field more."""
    if not place:
        return value
    copy = data.copy()
    if isinstance(data, list) and place[0] == len(data):
        copy.append(value)
    else:
        copy[place[0]] = changed(data[place[0]], place[1:], value) if len(place) > 1 else value
    return copy


BLOCK = {"kernel": 3, "op": "mbconv", "se": 0, "width": "1/2"}
RIGHT = {"space": MIXED.name, "stem": "a", "resolution": 160, "units": [[BLOCK], [BLOCK] * 2, [BLOCK] * 2]}
OFA_RIGHT = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 176}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["units", 1, 1, "kernel"], 4, "unit 2, block 2: kernel is 4, expected one of 3, 5.5, 2/3"),
        (["units", 1, 1, "kernel"], "5/0", 'unit 2, block 2: kernel is "5/0", expected one of 3, 5.5, 2/3'),
        (["units", 1, 1, "kernel"], True, "unit 2, block 2: kernel is true, expected one of 3, 5.5, 2/3"),
        (["units", 0, 0, "op"], None, "unit 1, block 1: op is null, expected one of mbconv, skip-connect, größe"),
        (["units", 0, 0, "colour"], 1, 'block 1: unknown feature "colour", expected kernel, op, se, width, ratio'),
        (["units", 0, 0, "ratio"], 7, "unit 1, block 1: ratio is 7, expected one of 1/2, 4, 8"),
        (
            ["units", 1, 1, "ratio"],
            8,
            "unit 2, block 2: ratio is 8, expected 4 in a unit of 2 blocks",
        ),
        (["units", 0, 0], {"kernel": 3}, "unit 1, block 1: no 'op', expected one of mbconv, skip-connect, größe"),
        (["units", 1, 1, "se"], 1, "unit 2, block 2: se is 1, expected 0 as in block 1: all blocks of a unit share it"),
        (["units", 0], [BLOCK] * 2, "unit 1 has 2 blocks, expected one of 1, 3"),
        (["units", 2], [BLOCK] * 1000, "unit 3 has 1000 blocks, expected one of 1, 2, 4"),
        (["units", 2], 7, "unit 3 is 7, expected a list of blocks"),
        (["units"], [[BLOCK]], "expected a list of 3 lists of blocks"),
        (["resolution"], 224, "network: resolution is 224, expected one of 160, 192.5"),
        (["color"], 1, 'network: unknown feature "color", expected stem, resolution'),
        (["space"], "resnet", 'space is "resnet", expected "größe.mixed"'),
        ([], 3, "an architecture is 3, expected a JSON object"),
        ([], {"space": MIXED.name}, "an architecture without the field 'units'"),
    ],
)
def test_an_error_names_the_field(
    place: list[Any], value: object, message: str, programs: Programs, path: Path
) -> None:
    path.write_bytes(predictor_file(MIXED))
    wrong = changed(RIGHT, place, value)
    with pytest.raises(InputError):  # Python refuses the same
        from_json(MIXED, wrong)
    right, refused = programs.answers("probe", "read", path, given=[RIGHT, wrong])
    assert right["json"] == to_json(MIXED, from_json(MIXED, RIGHT))
    assert message in refused["error"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ks", [3] * 19, "expected a list of 20"),
        ("e", [3] * 19 + [5], None),  # beyond the unit's depth: left out of account
        ("e", [5] * 20, "unit 1, block 1: expansion is 5, expected one of 3, 4, 6"),
        ("d", [2, 2, 2, 2, 5], "d has 5 for unit 5, expected one of"),
        ("d", [2, 2, True, 2, 2], "d has true for unit 3, expected one of"),
        ("r", 177, "network: resolution is 177, expected one of 112"),
        ("wid", 1.2, "wid is 1.2, expected null"),
        ("width", 1.2, 'unknown field "width" beside ks, e and d'),
    ],
)
def test_an_error_names_the_array(
    field: str, value: object, message: str | None, programs: Programs, path: Path
) -> None:
    path.write_bytes(predictor_file(OFA))
    (found,) = programs.answers("probe", "read", path, given=[OFA_RIGHT | {field: value}])
    assert message is None or message in found["error"]
    assert ("error" in found) == (message is not None)


def test_text_that_is_no_json_is_refused(programs: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(MIXED))
    given = ["{", '{"space": 1, "space": 2}', "[" * 100_000, "nan", '"\\ud800"', "\x00"]
    lines = programs.lines("probe", "read", path, given="\n".join(given))
    assert [line.startswith('{"error":') for line in lines] == [True] * len(given)
    assert r"the key \"space\" stands twice" in lines[1]
    assert "nested too deeply" in lines[2]


@pytest.mark.parametrize("name", ["densenet", "compofa-elastic", "größe.mixed"])
def test_a_row_is_checked_as_in_python_and_as_in_the_graph(name: str, programs: Programs, path: Path) -> None:
    space = SPACES[name]
    path.write_bytes(predictor_file(space))
    random = np.random.default_rng(0)
    genomes = rows(space, drawn(space, 500))
    for row in genomes[100:]:
        row[random.integers(0, len(row), 2)] = random.integers(-2, 4, 2)
    expected = []
    for row in genomes:
        try:
            expected.append(from_genome(space, row) is not None)
        except InputError:
            expected.append(False)
    assert 100 < sum(expected) < 450
    found = programs.answers("probe", "check", path, given=[{"row": row.tolist()} for row in genomes])
    assert [each == "right" for each in found] == expected
    np.testing.assert_array_equal(~np.isnan(programs.predict(path, genomes, batch=500)[0]), expected)


def test_a_genome_of_another_space_or_length_is_refused(programs: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(OFA))
    row = [0] * genome_length(OFA)
    given = [{"row": row}, {"row": row, "fingerprint": "0" * 16}, {"row": row[1:]}, {"row": [*row[:1], 3, *row[2:]]}]
    right, other, short, far = programs.answers("probe", "check", path, given=given)
    assert right == "right"
    assert other["error"] == f"fingerprint is {'0' * 16}, expected {OFA.fingerprint} of space ofa-mobilenetv3"
    assert short["error"].startswith(f"a genome of {len(row) - 1} integers, expected {len(row)}")
    assert far["error"] == "unit 1, block 1: kernel has index 3, expected 0 to 2"
