"""Spaces from TOML files, and what is said of a bad one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from esm_onnx.architectures import Coupled, Export, Feature, Space, find_space, space_names, toml_space
from esm_onnx.architectures.toml_space import read_space, space_from_table
from esm_onnx.errors import InputError

EXAMPLE = """\
name = "mnasnet"
units = 7
depth = [1, 2, 3]                 # or one list a unit
[block]                           # options of each block
kernel = [3, 5]
[unit]                            # options shared by all blocks of a unit
expansion = [1, 4, 6]
se = [0, 1]
[network]                         # options of the whole network
resolution = [192, 224]
[export]                          # only needed to profile: which writer builds the ONNX, and its fixed settings
writer = "mobilenetv3"
widths = [16, 24, 40, 80, 112, 192, 320]
"""
MNASNET = Space(
    "mnasnet",
    depths=((1, 2, 3),) * 7,
    block=(Feature("kernel", (3, 5)),),
    unit=(Feature("expansion", (1, 4, 6)), Feature("se", (0, 1))),
    network=(Feature("resolution", (192, 224)),),
    export=Export("mobilenetv3", {"widths": [16, 24, 40, 80, 112, 192, 320]}),
)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "space.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_example_of_the_design(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, EXAMPLE))
    assert space == MNASNET
    assert space.export == MNASNET.export
    assert space.size == 2 * (6 * (2 + 2**2 + 2**3)) ** 7


def test_the_example_of_the_module(tmp_path: Path) -> None:
    _, example = str(toml_space.__doc__).split("\n\n", 1)
    space = read_space(written(tmp_path, example))
    assert [feature.name for feature in space.features] == ["kernel", "expansion", "se"]
    assert space.size == 2 * (3 * (2 + 2**2 + 2**3)) ** 7


@pytest.mark.parametrize(
    "content",
    [
        EXAMPLE.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + EXAMPLE.encode(),
        EXAMPLE.rstrip().encode(),
        EXAMPLE.replace("depth = [1, 2, 3] ", "depth = [3, 1, 2] ").encode(),
        EXAMPLE.replace("depth = [1, 2, 3] ", "depth = [[1, 2, 3]" + ", [1, 2, 3]" * 6 + "]").encode(),
        EXAMPLE.replace("[1, 4, 6]", "[1.0, 4, '12/2']").encode(),
        EXAMPLE.replace("[block]", "").replace("kernel =", "block.kernel =").encode(),
        EXAMPLE.replace("[block]", "").replace("kernel = [3, 5]", "block = {kernel = [3, 5]}").encode(),
    ],
    ids=["CRLF", "byte order mark", "unended", "unsorted depths", "a list a unit", "numbers", "dotted", "inline"],
)
def test_the_same_space_otherwise_written(tmp_path: Path, content: bytes) -> None:
    space = read_space(written(tmp_path, content))
    assert space == MNASNET
    assert space.fingerprint == MNASNET.fingerprint


def test_the_kinds_of_option(tmp_path: Path) -> None:
    text = """
        name = "kinds"
        units = 2
        depth = [[2, 4], [3]]
        [block]
        ratio = ["2/3", 0.65, 1, "4/2"]
        op = ["skip-connect", "3x3 conv"]
        """
    assert read_space(written(tmp_path, text)) == Space(
        "kinds",
        depths=((2, 4), (3,)),
        block=(Feature("ratio", (Fraction(2, 3), 0.65, 1, 2)), Feature("op", ("skip-connect", "3x3 conv"))),
    )


COUPLED = """\
name = "coupled"
units = 2
depth = [[2, 3], [3, 5]]
[block]
kernel = [3, 5]
[coupled]
op = {5 = "wide", 2 = "narrow", 3 = "wide"}
expansion = {2 = "1/2", 3 = 4, 5 = 6.0}
"""


@pytest.mark.parametrize(
    "text",
    [
        COUPLED,
        COUPLED.replace('op = {5 = "wide", 2 = "narrow", 3 = "wide"}', "op.2 = 'narrow'\nop.5 = 'wide'\nop.3 = 'wide'"),
        COUPLED.replace('expansion = {2 = "1/2", 3 = 4, 5 = 6.0}', "[coupled.expansion]\n2 = '2/4'\n3 = 4.0\n'5' = 6"),
    ],
    ids=["inline", "dotted", "tables"],
)
def test_options_that_the_depth_decides(tmp_path: Path, text: str) -> None:
    space = read_space(written(tmp_path, text))
    assert space == Space(
        "coupled",
        depths=((2, 3), (3, 5)),
        block=(Feature("kernel", (3, 5)),),
        coupled=(
            Coupled("op", ("narrow", "wide"), ((2, 0), (3, 1), (5, 1))),
            Coupled("expansion", (Fraction(1, 2), 4, 6), ((2, 0), (3, 1), (5, 2))),
        ),
    )
    assert space.size == (2**2 + 2**3) * (2**3 + 2**5)


BAD_COUPLED = {
    # what: text, line, value, expectation
    "no table": (
        COUPLED.split("[block]")[0] + "coupled = [2, 3]",
        4,
        "coupled is [2, 3]",
        "expected a table of features",
    ),
    "no table of depths": (
        COUPLED.replace('{2 = "1/2", 3 = 4, 5 = 6.0}', "[1, 4, 6]"),
        8,
        "expansion is [1, 4, 6]",
        "expected an option for each depth: {2 = …}",
    ),
    "a depth that no unit has": (
        COUPLED.replace("3 = 4,", "3 = 4, 4 = 5,"),
        8,
        "expansion has an option for depth '4'",
        "expected one for each of [2, 3, 5]",
    ),
    "a depth that is none": (
        COUPLED.replace("expansion = {", "[coupled.expansion]\n3 = 4\n5 = 6\n02 = 3 #"),
        11,
        "expansion has an option for depth '02'",
        "expected one for each of [2, 3, 5]",
    ),
    "a depth left out": (
        COUPLED.replace("3 = 4,", ""),
        8,
        "expansion has no option for depth 3",
        "expected one for each of [2, 3, 5]",
    ),
    "no option": (COUPLED.replace("3 = 4,", "3 = true,"), 8, "expansion has True", "expected numbers, fractions like"),
    "a list": (COUPLED.replace("3 = 4,", "3 = [4],"), 8, "expansion has [4]", "expected numbers, fractions like"),
    "mixed": (COUPLED.replace("3 = 4,", "3 = 'a',"), 8, "expansion is ['1/2', 'a', 6.0]", "all numbers or all names"),
    "name in another part": (
        COUPLED.replace("expansion =", "kernel ="),
        8,
        "'kernel' stands in [block] and [coupled]",
        "expected it in one",
    ),
    "name reserved": (COUPLED.replace("op =", "units ="), 7, "feature 'units'", "expected another name"),
    "unnamed": (COUPLED.replace("op =", "'a.b' ="), None, "feature 'a.b'", "expected letters, digits"),
    "of 1,000 depths": (
        COUPLED.replace("[[2, 3], [3, 5]]", str([list(range(1, 501))] * 2)),
        7,
        "op has no option for depth 1",
        "expected one for each of [1, 2, 3, 4, 5",
    ),
}


@pytest.mark.parametrize(
    "text",
    [
        "name = 'a'\nunits = 1\ndepth = [1]\nblock.kernel = [3]",
        "name = 'a'\nunits = 1\ndepth = [1]\ncoupled.kernel.1 = 3",
        "name = 'a'\nunits = 1\ndepth = [1000]\nunit.kernel = [3]",
        "name = 'a'\nunits = 1000\ndepth = [1]\nunit.kernel = [3]",
        f"name = '{'a' * 80}'\nunits = 500\ndepth = [2, 1]\nblock.kernel = {list(range(1000))}",
    ],
    ids=["tiny", "coupled alone", "one deep unit", "many units", "huge"],
)
def test_the_limits_are_inside(tmp_path: Path, text: str) -> None:
    space = read_space(written(tmp_path, text))
    assert space.size >= 1
    assert space.depth_range[1] <= 1000


@pytest.mark.parametrize("name", space_names())
def test_a_built_in_space_survives_its_table(name: str) -> None:
    space = find_space(name)
    again = space_from_table(space.table(export=True))
    assert again == space
    assert again.export == space.export


def changed(old: str, new: str) -> str:
    assert EXAMPLE.count(old) == 1
    return EXAMPLE.replace(old, new)


DEEP = "[" * 20_000 + "]" * 20_000

BAD = {
    # what: text, line (None: the message is of the whole file), value, expectation
    "not TOML": (changed("units = 7", "units : 7"), 2, "not TOML (Expected '='", "expected name, units, depth"),
    "NUL": (changed("units = 7", "units = 7 # \x00"), 2, r"Found invalid character '\x00'", "expected name"),
    "key twice": (changed("units = 7", "units = 7\nunits = 7"), 3, "Cannot overwrite a value", "expected name"),
    "table twice": (changed("[unit] ", "[block]"), 6, "Cannot declare ('block',) twice", "expected name"),
    "unclosed": (EXAMPLE.rstrip()[:-1], 13, "Unclosed array (at end of document)", "expected name"),
    "long number": (
        changed("units = 7", f"units = {'7' * 5000}"),
        None,
        "not TOML (a number of too many digits)",
        "expected name",
    ),
    "too deep": (changed("[1, 2, 3] ", DEEP), None, "not TOML (nested too deeply)", "expected name"),
    "empty": ("", None, "no 'name'", "expected name, units and depth"),
    "no name": (changed('name = "mnasnet"', ""), None, "no 'name'", "expected name, units and depth"),
    "no units": (changed("units = 7", ""), None, "no 'units'", "expected name, units and depth"),
    "no depth": (changed("depth = [1, 2, 3] ", ""), None, "no 'depth'", "expected name, units and depth"),
    "unknown key": (changed("units = 7", "units = 7\nwidth = 3"), 3, "unknown key 'width'", "expected one of name,"),
    "unknown table": (changed("[network] ", "[net]"), 9, "unknown key 'net'", "expected one of name, units"),
    "quoted key": (changed("units = 7", 'units = 7\n"a b" = 3'), 3, "unknown key 'a b'", "expected one of name"),
    "name no text": (changed('"mnasnet"', "7"), 1, "name is 7", "expected a letter or digit"),
    "name empty": (changed('"mnasnet"', '""'), 1, "name is ''", "expected a letter or digit"),
    "name a path": (changed('"mnasnet"', '"../x"'), 1, "name is '../x'", "expected a letter or digit"),
    "name of two lines": (changed('"mnasnet"', r'"a\nb"'), 1, r"name is 'a\nb'", "expected a letter or digit"),
    "units 0": (changed("units = 7", "units = 0"), 2, "units is 0", "expected a whole number from 1 to 1000"),
    "units true": (changed("units = 7", "units = true"), 2, "units is True", "expected a whole number from 1"),
    "units text": (changed("units = 7", "units = '7'"), 2, "units is '7'", "expected a whole number from 1"),
    "units 7.0": (changed("units = 7", "units = 7.0"), 2, "units is 7.0", "expected a whole number from 1"),
    "units huge": (changed("units = 7", f"units = 0x{'f' * 5000}"), 2, "units is a int too long", "from 1 to 1000"),
    "depth a number": (changed("[1, 2, 3] ", "3"), 3, "depth is 3", "expected a list of numbers of blocks"),
    "depth empty": (changed("[1, 2, 3] ", "[]"), 3, "depth is []", "expected a list of numbers of blocks"),
    "depth 0": (changed("[1, 2, 3] ", "[0, 1]"), 3, "depth has 0", "expected whole numbers from 1 to 1000"),
    "depth negative": (changed("[1, 2, 3] ", "[-1, 1]"), 3, "depth has -1", "expected whole numbers from 1"),
    "depth 1.5": (changed("[1, 2, 3] ", "[1, 1.5]"), 3, "depth has 1.5", "expected whole numbers from 1"),
    "depth true": (changed("[1, 2, 3] ", "[true]"), 3, "depth has True", "expected whole numbers from 1"),
    "depth text": (changed("[1, 2, 3] ", "['1']"), 3, "depth has '1'", "expected whole numbers from 1"),
    "depth 1001": (changed("[1, 2, 3] ", "[1001]"), 3, "depth has 1001", "expected whole numbers from 1 to 1000"),
    "depth twice": (changed("[1, 2, 3] ", "[1, 2, 1]"), 3, "depth has [1, 2, 1]", "expected each number once"),
    "depth mixed": (changed("[1, 2, 3] ", "[1, [2]]"), 3, "depth has [2]", "expected whole numbers from 1"),
    "depth of a unit": (
        changed("[1, 2, 3] ", f"[[1],{'[1],' * 5} 2]"),
        3,
        "depth has 2,",
        "expected a list of numbers",
    ),
    "unit empty": (changed("[1, 2, 3] ", f"[[1],{'[1],' * 5} []]"), 3, "depth has []", "expected a list of numbers"),
    "depth of 2 units": (changed("[1, 2, 3] ", "[[1], [2]]"), 3, "depth has 2 lists", "each of the 7 units"),
    "too many blocks": (changed("[1, 2, 3] ", "[1, 143]"), 3, "depth allows 1001 blocks", "expected at most 1000"),
    "block a list": (
        changed("[block] ", "[[block]]"),
        4,
        "block is [{'kernel': [3, 5]}]",
        "expected a table of features",
    ),
    "block a number": (
        changed("units = 7", "units = 7\nunit = 3").replace("[unit] ", "[export.x]"),
        3,
        "unit is 3",
        "table",
    ),
    "no feature": (
        "name = 'a'\nunits = 1\ndepth = [1]",
        None,
        "none of [block], [unit] and [coupled] has a feature",
        "expected at least one",
    ),
    "options a number": (changed("[3, 5]", "3"), 5, "kernel is 3", "expected a list of options"),
    "options empty": (changed("[3, 5]", "[]"), 5, "kernel is []", "expected a list of options"),
    "options a table": (changed("[3, 5]", "{a = 1}"), 5, "kernel is {'a': 1}", "expected a list of options"),
    "option true": (changed("[0, 1]", "[false, true]"), 8, "se has False", "expected numbers, fractions like '2/3'"),
    "option a list": (changed("[3, 5]", "[[3], 5]"), 5, "kernel has [3]", "expected numbers, fractions like"),
    "option a date": (changed("[3, 5]", "[1979-05-27]"), 5, "kernel has datetime.date", "expected numbers, fractions"),
    "option nan": (changed("[3, 5]", "[3, nan]"), 5, "kernel has nan", "expected numbers, fractions like '2/3'"),
    "option inf": (changed("[3, 5]", "[3, -inf]"), 5, "kernel has -inf", "expected numbers, fractions like '2/3'"),
    "option huge": (changed("[3, 5]", f"[0x{'f' * 5000}]"), 5, "kernel has a int too long", "expected numbers"),
    "option in quotes": (
        changed("[3, 5]", "['3', '5']"),
        5,
        "kernel has '3'",
        "expected numbers, fractions like '2/3'",
    ),
    "option a half": (changed("[3, 5]", "['1/0']"), 5, "kernel has '1/0'", "expected numbers, fractions like '2/3'"),
    "option empty": (changed("[3, 5]", "['']"), 5, "kernel has ''", "expected numbers, fractions like '2/3', or names"),
    "option twice": (changed("[3, 5]", "[3, 5, 3]"), 5, "kernel has 3 twice", "expected each option once"),
    "option twice, spelt": (
        changed("[3, 5]", "[0.5, '1/2']"),
        5,
        "kernel has '1/2' twice",
        "expected each option once",
    ),
    "options mixed": (changed("[3, 5]", "[3, 'a']"), 5, "kernel is [3, 'a']", "expected all numbers or all names"),
    "feature twice": (changed("se =", "kernel ="), 8, "'kernel' stands in [block] and [unit]", "expected it in one"),
    "feature in network": (changed("resolution =", "se ="), 10, "'se' stands in [unit] and [network]", "in one"),
    "feature reserved": (changed("resolution =", "units ="), 10, "feature 'units'", "expected another name"),
    "feature with a dot": (changed("kernel =", "'a.b' ="), None, "feature 'a.b'", "expected letters, digits"),
    "feature unnamed": (changed("kernel =", "'' ="), None, "feature ''", "expected letters, digits"),
    "feature of depth 2": (changed("kernel =", "a.b ="), 5, "a is {'b': [3, 5]}", "expected a list of options"),
    "export a number": (
        EXAMPLE.split("[unit]")[0].replace("[block]", "export = 3\n[block]"),
        4,
        "[export] has no writer",
        "expected writer",
    ),
    "no writer": (changed("writer =", "write ="), 11, "[export] has no writer", "expected writer = "),
    "writer no text": (changed('"mobilenetv3"', "3"), 12, "writer is 3", "expected one of ours, an entry point"),
    "writer empty": (changed('"mobilenetv3"', '""'), 12, "writer is ''", "expected one of ours, an entry point"),
    "setting a date": (
        changed("320]", "320]\nborn = 1979-05-27"),
        14,
        "born is datetime.date",
        "expected numbers, texts",
    ),
    "setting nan": (changed("320]", "nan]"), 13, "widths is [16, 24, 40", "expected numbers, texts"),
}


@pytest.mark.parametrize(
    ("text", "line", "value", "expected"),
    [*BAD.values(), *BAD_COUPLED.values()],
    ids=[*BAD, *(f"coupled: {what}" for what in BAD_COUPLED)],
)
def test_a_bad_file(tmp_path: Path, text: str, line: int | None, value: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_space(path)
    message = str(caught.value)
    if line is not None:
        assert message.startswith(f"{path}:{line}: ")
    assert message.startswith(str(path))
    assert value in message
    assert expected in message
    assert "expected" in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


@pytest.mark.parametrize("content", [b"name = '\xff'", EXAMPLE.encode("utf-16")], ids=["latin", "utf-16"])
def test_a_file_that_is_not_utf_8(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=r":1: byte 0xff is not UTF-8, expected text"):
        read_space(path)


def test_the_line_is_found_after_an_array_of_many_lines(tmp_path: Path) -> None:
    text = "name = 'a'\ndepth = [\n  [1],\n  [2, 3],\n  [2]\n]\nunits = 4\n[ block ]  # options\n  'kernel' = [3]"
    with pytest.raises(InputError, match=r":2: depth has 3 lists, expected one for each of the 4 units"):
        read_space(written(tmp_path, text))
    with pytest.raises(InputError, match=r":7: units is 'x'"):
        read_space(written(tmp_path, text.replace("units = 4", "units = 'x'")))
    with pytest.raises(InputError, match=r":9: kernel has True, expected numbers"):
        read_space(written(tmp_path, text.replace("units = 4", "units = 3").replace("[3]", "[true]")))


@pytest.mark.parametrize("data", [None, [], 3, "resnet"])
def test_data_that_are_no_table(data: object) -> None:
    with pytest.raises(InputError, match="expected a table"):
        space_from_table(data)


def test_a_space_is_found_by_name_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, EXAMPLE)
    assert find_space(str(path)) == find_space(path) == MNASNET
    path.rename(tmp_path / "plain")
    assert find_space(tmp_path / "plain") == MNASNET
    for name in space_names():
        assert find_space(name).name == name
    monkeypatch.chdir(tmp_path)
    Path("resnet").write_text(EXAMPLE)
    assert find_space("resnet").name == "resnet"
    assert find_space("./resnet") == MNASNET


@pytest.mark.parametrize("name", ["ResNet", "", "x" * 5000, "a\x00b", "/", "none"])
def test_a_space_that_is_neither(name: str) -> None:
    names = ", ".join(space_names())
    with pytest.raises(InputError, match=rf"no space '.*', expected one of {names}, or the path"):
        find_space(name)


@pytest.mark.parametrize("name", ["none.toml", "a\x00.toml", "x" * 5000 + ".toml"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match="cannot be read: "):
        find_space(name)
