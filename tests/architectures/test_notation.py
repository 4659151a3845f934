"""Architectures as JSON, and the files of them."""

from __future__ import annotations

import io
import json
import random
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, coupled_spaces, every_architecture, spaces

from esm_onnx.architectures import (
    Architecture,
    Feature,
    Options,
    Space,
    find_space,
    from_genome,
    from_json,
    read_architectures,
    sample,
    space_names,
    to_genome,
    to_json,
)
from esm_onnx.architectures.notation import read_json_lines, read_text, to_option
from esm_onnx.errors import InputError

TOY = Space(
    "toy",
    depths=((1, 2), (1,)),
    block=(Feature("kernel", (3, 5)), Feature("expansion", (Fraction(1, 2), Fraction(2, 3), 1))),
    unit=(Feature("op", ("conv", "skip connect")),),
    network=(Feature("resolution", (192, 224)), Feature("rate", (0.65, 1.5))),
)
BLOCK = {"kernel": 3, "expansion": "2/3", "op": "conv"}
DATA = {"space": "toy", "resolution": 224, "rate": 0.65, "units": [[BLOCK], [{**BLOCK, "expansion": 1}]]}
LINE = json.dumps(DATA)


def test_the_layout_by_hand() -> None:
    architecture = from_json(TOY, DATA)
    assert architecture == Architecture(
        "toy",
        (
            (Options({"kernel": 3, "expansion": Fraction(2, 3), "op": "conv"}),),
            (Options({"kernel": 3, "expansion": 1, "op": "conv"}),),
        ),
        Options({"resolution": 224, "rate": 0.65}),
    )
    assert json.dumps(to_json(TOY, architecture)) == LINE


def test_the_example_of_the_design() -> None:
    space = Space(
        "ofa-mobilenetv3",
        depths=((2, 3, 4),) * 5,
        block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))),
        network=(Feature("resolution", (192, 224)),),
    )
    unit = [{"kernel": 3, "expansion": 4}, {"kernel": 7, "expansion": 6}]
    data = {"space": "ofa-mobilenetv3", "resolution": 224, "units": [unit] * 5}
    assert to_json(space, from_json(space, data)) == data


@given(st.data(), spaces())
def test_an_architecture_survives_its_json(data: st.DataObject, space: Space) -> None:
    architecture = data.draw(architectures(space))
    text = json.dumps(to_json(space, architecture))
    assert from_json(space, json.loads(text)) == architecture


@given(st.data(), coupled_spaces())
def test_blocks_may_leave_out_what_the_depth_decides(data: st.DataObject, space: Space) -> None:
    architecture = data.draw(architectures(space))
    whole = to_json(space, architecture)
    coupled = {feature.name for feature in space.coupled}
    units = [
        [{name: block[name] for name in block if name not in coupled} for block in unit] for unit in whole["units"]
    ]
    assert from_json(space, {**whole, "units": units}) == architecture
    depth = max(max(depths) for depths in space.depths) + 1
    with pytest.raises(InputError, match=f"unit 1 has {depth} blocks, expected one of"):
        from_json(space, {**whole, "units": [units[0][:1] * depth, *units[1:]]})


@given(st.data(), spaces())
def test_genome_and_json_say_the_same(data: st.DataObject, space: Space) -> None:
    architecture = data.draw(architectures(space))
    by_genome = from_genome(space, to_genome(space, architecture))
    assert json.dumps(to_json(space, by_genome)) == json.dumps(to_json(space, architecture))


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("strategy", ["random", "balanced"])
def test_architectures_of_the_families_survive_their_json(name: str, strategy: str) -> None:
    space = find_space(name)
    for architecture in sample(space, 200, strategy=strategy, rng=random.Random(2)):
        assert from_json(space, json.loads(json.dumps(to_json(space, architecture)))) == architecture


@given(spaces(greatest_size=1000))
def test_different_architectures_have_different_json(space: Space) -> None:
    listed = list(every_architecture(space))
    assert len({json.dumps(to_json(space, architecture)) for architecture in listed}) == len(listed)


@pytest.mark.parametrize(
    "block",
    [
        {"kernel": 5, "expansion": "1/2", "op": "conv"},
        {"op": "conv", "expansion": "1/2", "kernel": 5},
        {"kernel": 5.0, "expansion": 0.5, "op": "conv"},
        {"kernel": "10/2", "expansion": "3/6", "op": "conv"},
    ],
)
def test_one_architecture_is_written_in_one_way_however_it_was_read(block: dict[str, object]) -> None:
    data = {"units": [[block], [block]], "rate": 1.5, "resolution": 192.0, "space": "toy"}
    written = '{"kernel": 5, "expansion": "1/2", "op": "conv"}'
    expected = f'{{"space": "toy", "resolution": 192, "rate": 1.5, "units": [[{written}], [{written}]]}}'
    assert json.dumps(to_json(TOY, from_json(TOY, data))) == expected


def test_an_architecture_made_by_hand_is_written_as_the_space_spells_it() -> None:
    block = Options({"op": "conv", "kernel": 3.0, "expansion": 0.5})
    architecture = Architecture("toy", ((block,), (block,)), Options({"rate": 1.5, "resolution": 192.0}))
    assert json.dumps(to_json(TOY, architecture)["units"][0][0]) == '{"kernel": 3, "expansion": "1/2", "op": "conv"}'


def test_spaces_that_spell_an_option_differently_do_not_meddle() -> None:
    """0.5 and 1/2 are equal, and so are blocks that hold them: each space still writes its own spelling."""
    for option, plain in ((Fraction(1, 2), "1/2"), (0.5, 0.5), (Fraction(1, 2), "1/2")):
        space = Space("half", ((1,),), block=(Feature("expansion", (option,)),))
        drawn = sample(space, 1, strategy="random", rng=random.Random(0))
        assert to_json(space, drawn[0])["units"] == [[{"expansion": plain}]]
        assert type(drawn[0].units[0][0]["expansion"]) is type(option)


@pytest.mark.parametrize(
    ("value", "option"),
    [
        (3, 3),
        (3.0, 3),
        (-2, -2),
        (0.65, 0.65),
        ("2/3", Fraction(2, 3)),
        ("4/6", Fraction(2, 3)),
        ("-1/2", Fraction(-1, 2)),
        ("6/3", 2),
        ("0/5", 0),
        ("mbconv_3x3", "mbconv_3x3"),
        ("3x3", "3x3"),
        ("skip connect", "skip connect"),
        ("größe", "größe"),
    ],
)
def test_what_can_be_an_option(value: object, option: object) -> None:
    assert to_option(value) == option
    assert type(to_option(value)) is type(option)


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, None, [], {}, float("nan"), float("inf"), -float("inf"), 1e300, 2**53 + 1, 16**5000),
        *("", " ", "3", "0.5", "1/0", "1/2/3", "1 / 2", "٢/٣", f"1/{'9' * 5000}", " conv", "a\nb", "a\x00", "a" * 81),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_an_option(value: object) -> None:
    assert to_option(value) is None


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in DATA.items() if name != key}


def with_block(block: object) -> dict[str, object]:
    return {**DATA, "units": [[BLOCK, block], [BLOCK]]}


BAD = {
    "not an object": ([DATA], "an architecture is [", "expected a JSON object"),
    "a number": (5, "an architecture is 5", "expected a JSON object"),
    "no space": (without("space"), "without the field 'space'", 'expected {"space": "toy", "units":'),
    "no units": (without("units"), "without the field 'units'", 'expected {"space": "toy", "units":'),
    "wrong space": ({**DATA, "space": "resnet"}, "belongs to space 'resnet'", "expected 'toy'"),
    "space no text": ({**DATA, "space": [1]}, "belongs to space [1]", "expected 'toy'"),
    "units no list": ({**DATA, "units": 4}, "units is 4", "expected a list of 2 lists of blocks"),
    "unit no list": ({**DATA, "units": [BLOCK, [BLOCK]]}, "unit 1 is {", "expected a list of blocks"),
    "too few units": ({**DATA, "units": [[BLOCK]]}, "1 units", "expected 2 in space 'toy'"),
    "impossible depth": ({**DATA, "units": [[BLOCK] * 3, [BLOCK]]}, "unit 1 has 3 blocks", "expected one of 1, 2"),
    "empty unit": ({**DATA, "units": [[BLOCK], []]}, "unit 2 has 0 blocks", "expected one of 1"),
    "block no object": (with_block("conv"), "unit 1, block 2 is 'conv'", "expected a JSON object"),
    "unknown option": (with_block({**BLOCK, "kernel": 4}), "unit 1, block 2: kernel is 4", "expected one of 3, 5"),
    "number in quotes": (with_block({**BLOCK, "kernel": "3"}), "block 2: kernel is '3'", "expected one of 3, 5"),
    "truth value": (with_block({**BLOCK, "expansion": True}), "block 2: expansion is True", "expected one of 1/2"),
    "null": (with_block({**BLOCK, "kernel": None}), "block 2: kernel is None", "expected one of 3, 5"),
    "list as option": (with_block({**BLOCK, "kernel": [3]}), "block 2: kernel is [3]", "expected one of 3, 5"),
    "near a fraction": (with_block({**BLOCK, "expansion": 0.6667}), "expansion is 0.6667", "expected one of 1/2, 2/3"),
    "unknown name": (with_block({**BLOCK, "op": "Conv"}), "op is 'Conv'", "expected one of conv, skip connect"),
    "unknown feature": (
        with_block({**BLOCK, "kernal": 3}),
        "unknown feature 'kernal'",
        "expected kernel, expansion, op",
    ),
    "missing feature": (with_block({"kernel": 3, "op": "conv"}), "block 2: no 'expansion'", "expected one of 1/2"),
    "unit disagrees": (
        with_block({**BLOCK, "op": "skip connect"}),
        "op is 'skip connect'",
        "expected conv as in block 1",
    ),
    "no network option": (without("resolution"), "network: no 'resolution'", "expected one of 192, 224"),
    "bad network option": ({**DATA, "rate": 0.66}, "network: rate is 0.66", "expected one of 0.65, 1.5"),
    "unknown field": ({**DATA, "latency": 3}, "network: unknown feature 'latency'", "expected resolution, rate"),
}


@pytest.mark.parametrize(("data", "value", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_architecture_in_a_file(tmp_path: Path, data: object, value: str, expected: str) -> None:
    path = tmp_path / "archs.jsonl"
    path.write_text(f"{LINE}\n\n{json.dumps(data)}\n{LINE}\n")
    message = error_of(path)
    assert message.startswith(f"{path}:3: ")
    assert value in message
    assert expected in message


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_architectures(path, TOY)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message


BROKEN = {
    "torn": (
        LINE[:90].encode(),
        "not JSON (Unterminated string starting at column 89)",
        "expected one whole JSON value a line",
    ),
    "torn text": (LINE[:9].encode(), "not JSON (Expecting value at column 10)", "expected one whole JSON value a line"),
    "two on a line": (
        f"{LINE} {LINE}".encode(),
        "not JSON (Extra data at column",
        "expected one whole JSON value a line",
    ),
    "no JSON": (
        b"kernel 3",
        "not JSON (Expecting value at column 1): 'kernel 3'",
        "expected one whole JSON value a line",
    ),
    "NUL": (b"\x00", r"not JSON (Expecting value at column 1): '\x00'", "expected one whole JSON value a line"),
    "too deep": (b"[" * 100_000, "not JSON (nested too deeply)", "expected one whole JSON value a line"),
    "closed but too deep": (
        b"[" * 100_000 + b"]" * 100_000,
        "not JSON (nested too deeply)",
        "expected one whole JSON value a line",
    ),
    "deep enough": (b"[" * 400 + b"]" * 400, "an architecture is [[[", "expected a JSON object"),
    "long number": (b"9" * 5000, "not JSON (a number of too many digits)", "expected one whole JSON value a line"),
    "key twice": (LINE.replace('"kernel": 3', '"kernel": 3, "kernel": 5', 1).encode(), "'kernel' stands twice", "once"),
    "not UTF-8": (b'{"space": "toy\xff"}', "byte 0xff is not UTF-8", "expected text"),
    "UTF-16": ('{"space"'.encode("utf-16"), "byte 0xff is not UTF-8", "expected text"),
    "half a letter": (LINE.encode() + b"\xc3", "byte 0xc3 is not UTF-8", "expected text"),
}


@pytest.mark.parametrize(("line", "value", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_line(tmp_path: Path, line: bytes, value: str, expected: str) -> None:
    path = tmp_path / "archs.jsonl"
    path.write_bytes(LINE.encode() + b"\n" + line)
    message = error_of(path)
    assert message.startswith(f"{path}:2: ")
    assert value in message
    assert expected in message
    assert len(message) < len(str(path)) + 250


def test_a_line_torn_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "archs.jsonl"
    for length in range(1, len(LINE)):
        path.write_text(f"{LINE}\n{LINE[:length]}")
        assert error_of(path).startswith(f"{path}:2: not JSON (")


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_architectures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "archs.jsonl"
    path.write_bytes(content)
    assert error_of(path) == f"{path}: no architecture in the file, expected one JSON object a line"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none") == f"{tmp_path}/none: cannot be read: No such file or directory"
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert "cannot be read: embedded null byte" in error_of(tmp_path / "a\x00b")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b" \t\r\n\r\n"], ids=["LF", "CRLF", "blank", "mixed"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "unended"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, mark: bytes, end: bytes, last: bool) -> None:
    path = tmp_path / "archs.jsonl"
    path.write_bytes(mark + end.join([LINE.encode()] * 3) + end * last)
    assert read_architectures(path, TOY) == [from_json(TOY, DATA)] * 3


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=5))
def test_json_lines_come_back_with_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, values: list[object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.jsonl"
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n\n" for value in values), encoding="utf-8")
    assert list(read_json_lines(path)) == [(2 * i + 1, value) for i, value in enumerate(values)]


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    path.write_text('"a\u2028b"\n', encoding="utf-8")
    assert list(read_json_lines(path)) == [(1, "a\u2028b")]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    give(b"\xef\xbb\xbf" + LINE.encode() + b"\r\n")
    assert read_architectures("-", TOY) == [from_json(TOY, DATA)]
    give("größe\r\n".encode())
    assert read_text("-") == "größe\n"
    give(b"\n\xff")
    with pytest.raises(InputError, match=r"^-:2: byte 0xff is not UTF-8"):
        read_text("-")
