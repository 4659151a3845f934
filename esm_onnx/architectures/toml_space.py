"""A space from a TOML file.

name = "mnasnet"
units = 7
depth = [1, 2, 3]                 # or one list for each unit
[block]                           # options of each block
kernel = [3, 5]
[unit]                            # options shared by all blocks of a unit
expansion = [1, 4, 6]
[network]                         # options of the whole network
resolution = [192, 224]
[export]                          # only to profile: which writer builds the ONNX, and its fixed settings
writer = "mobilenetv3"
widths = [16, 24, 40, 80, 112, 192, 320]
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from esm_onnx.architectures.notation import RESERVED, read_text, to_option
from esm_onnx.architectures.space import Export, Feature, Space
from esm_onnx.errors import InputError

GREATEST_DEPTH = 1000
PARTS = ("block", "unit", "network")
KEYS = ("name", "units", "depth", *PARTS, "export")


def read_space(path: Path | str) -> Space:
    """Reads a space from a TOML file.

    Raises:
        InputError: with file, line, the value and what was expected.
    """
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise InputError(f"not TOML: {error}", file=path, line=int(found[1]) if found else None) from None
    try:
        return space_from_table(data)
    except _MisfitError as misfit:
        raise InputError(misfit.message, file=path, line=_line(text, misfit.place)) from None


def space_from_table(data: dict[str, Any]) -> Space:
    """A space from the data of a TOML file, or from `Space.table(export=True)`.

    Raises:
        InputError: a key is missing or unknown, or a value impossible.
    """
    for key in data:
        if key not in KEYS:
            raise _MisfitError(f"unknown key {key!r}, expected one of {', '.join(KEYS)}", key)
    for key in ("name", "units", "depth"):
        if key not in data:
            raise _MisfitError(f"no {key!r}, expected name, units and depth", "")
    name, units = data["name"], data["units"]
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]{1,80}", name):
        raise _MisfitError(f"name is {name!r}, expected letters, digits, '.', '_', '+' or '-'", "name")
    if isinstance(units, bool) or not isinstance(units, int) or not 1 <= units <= GREATEST_DEPTH:
        raise _MisfitError(f"units is {units!r}, expected a whole number from 1 to {GREATEST_DEPTH}", "units")
    parts = {part: _features(data.get(part, {}), part) for part in PARTS}
    names = [feature.name for features in parts.values() for feature in features]
    for twice in {n for n in names if names.count(n) > 1}:
        raise _MisfitError(f"feature {twice!r} stands in two tables, expected it in one of {', '.join(PARTS)}", twice)
    if not parts["block"] and not parts["unit"]:
        raise _MisfitError("neither [block] nor [unit] has a feature, expected at least one", "")
    return Space(name, _depths(data["depth"], units), **parts, export=_export(data.get("export")))


class _MisfitError(InputError):
    """An InputError that knows in which key of the table it stands: `place` is "key" or "table.key"."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


def _depths(value: object, units: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not value:
        raise _MisfitError(
            f"depth is {value!r}, expected a list of numbers of blocks, or one list for each unit", "depth"
        )
    lists = value if isinstance(value[0], list) else [value] * units
    if len(lists) != units:
        raise _MisfitError(f"depth has {len(lists)} lists, expected one for each of the {units} units", "depth")
    return tuple(_unit_depths(depths) for depths in lists)


def _unit_depths(depths: object) -> tuple[int, ...]:
    if not isinstance(depths, list) or not depths:
        raise _MisfitError(f"depth has {depths!r}, expected a list of numbers of blocks", "depth")
    for depth in depths:
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= GREATEST_DEPTH:
            raise _MisfitError(f"depth has {depth!r}, expected whole numbers from 1 to {GREATEST_DEPTH}", "depth")
    if len(set(depths)) < len(depths):
        raise _MisfitError(f"depth {depths!r} names a number twice", "depth")
    return tuple(sorted(depths))


def _features(table: object, part: str) -> tuple[Feature, ...]:
    if not isinstance(table, dict):
        raise _MisfitError(f"{part} is {table!r}, expected a table of features", part)
    return tuple(_feature(name, options, part) for name, options in table.items())


def _feature(name: str, values: object, part: str) -> Feature:
    place = f"{part}.{name}"
    if name in RESERVED:
        raise _MisfitError(f"a feature may not be called {name!r}: the word has a meaning in an architecture", place)
    if not isinstance(values, list) or not values:
        raise _MisfitError(f"{name} is {values!r}, expected a list of options", place)
    options = []
    for value in values:
        option = to_option(value)
        if option is None:
            raise _MisfitError(f"{name} has {value!r}, expected numbers, fractions like '2/3', or names", place)
        options.append(option)
    if len(set(options)) < len(options):
        raise _MisfitError(f"{name} = {values!r} names an option twice", place)
    if len({isinstance(option, str) for option in options}) > 1:
        raise _MisfitError(f"{name} = {values!r} mixes numbers and names", place)
    return Feature(name, tuple(options))


def _export(table: object) -> Export | None:
    if table is None:
        return None
    if not isinstance(table, dict) or not isinstance(table.get("writer"), str):
        raise _MisfitError('[export] needs writer = "…": one of ours, an entry point, or "module:function"', "export")
    return Export(table["writer"], {key: value for key, value in table.items() if key != "writer"})


def _line(text: str, place: str) -> int | None:
    """The line on which a key, or the key of a table, is set; None where it is not found."""
    *table, key = place.split(".")
    inside = not table
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[\s*([\w.\"'-]+)\s*\]", line)
        if header:
            inside = bool(table) and header[1] == table[0]
            if not table and header[1] == key:
                return number
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return None
