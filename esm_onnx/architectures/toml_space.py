"""A space from a TOML file.

name = "mnasnet"
units = 7
depth = [1, 2, 3]                 # or one list for each unit
[block]                           # options of each block
kernel = [3, 5]
[unit]                            # options shared by all blocks of a unit
expansion = [1, 4, 6]
[coupled]                         # options that all blocks of a unit share, as its depth decides: depth = option
se = {1 = 0, 2 = 0, 3 = 1}
[network]                         # options of the whole network
resolution = [192, 224]
[export]                          # only to profile: which writer builds the ONNX, and its fixed settings
writer = "mobilenetv3"
widths = [16, 24, 40, 80, 112, 192, 320]
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from esm_onnx.architectures.architecture import Option
from esm_onnx.architectures.notation import RESERVED, read_text, reason, to_option
from esm_onnx.architectures.space import Coupled, Export, Feature, Space
from esm_onnx.errors import InputError, shown

GREATEST_DEPTH = 1000
PARTS = ("block", "unit", "network")
KEYS = ("name", "units", "depth", *PARTS, "coupled", "export")

Place = tuple[str, ...]
"""Where a value stands: `("depth",)`, `("block", "kernel")`; empty for the whole table."""


def read_space(path: Path | str) -> Space:
    """Reads a space from a TOML file.

    Raises:
        InputError: with file, line, the value and what was expected.
    """
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        last = text.rstrip().count("\n") + 1 if "end of document" in str(error) else None
        raise InputError(
            f"not TOML ({reason(error)}), expected name, units, depth and tables of features",
            file=path,
            line=int(found[1]) if found else last,
        ) from None
    try:
        return space_from_table(data)
    except _MisfitError as misfit:
        raise InputError(misfit.message, file=path, line=_line(text, misfit.place)) from None


def space_from_table(data: object) -> Space:
    """A space from the data of a TOML file, or from `Space.table(export=True)`.

    Raises:
        InputError: a key is missing or unknown, or a value impossible.
    """
    if not isinstance(data, dict):
        raise _MisfitError(f"the space is {shown(data)}, expected a table")
    for key in data:
        if key not in KEYS:
            raise _MisfitError(f"unknown key {shown(key)}, expected one of {', '.join(KEYS)}", key)
    for key in ("name", "units", "depth"):
        if key not in data:
            raise _MisfitError(f"no {key!r}, expected name, units and depth")
    parts = {part: _features(data.get(part, {}), part) for part in PARTS}
    depths = _depths(data["depth"], _units(data["units"]))
    coupled = _coupled(data.get("coupled", {}), depths)
    _check_names({**parts, "coupled": coupled})
    return Space(_name(data["name"]), depths, **parts, export=_export(data.get("export")), coupled=coupled)


class _MisfitError(InputError):
    """An InputError that knows where in the table it stands."""

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place: Place = place


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]{0,79}", value):
        raise _MisfitError(
            f"name is {shown(value)}, expected a letter or digit, then letters, digits, '.', '_', '+' or '-'", "name"
        )
    return value


def _units(value: object) -> int:
    if not _is_count(value):
        raise _MisfitError(f"units is {shown(value)}, expected a whole number from 1 to {GREATEST_DEPTH}", "units")
    return value


def _depths(value: object, units: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not value:
        raise _MisfitError(
            f"depth is {shown(value)}, expected a list of numbers of blocks, or one list for each unit", "depth"
        )
    lists = value if isinstance(value[0], list) else [value] * units
    if len(lists) != units:
        raise _MisfitError(f"depth has {len(lists)} lists, expected one for each of the {units} units", "depth")
    depths = tuple(_unit_depths(allowed) for allowed in lists)
    greatest = sum(max(allowed) for allowed in depths)
    if greatest > GREATEST_DEPTH:
        raise _MisfitError(f"depth allows {greatest} blocks in all, expected at most {GREATEST_DEPTH}", "depth")
    return depths


def _unit_depths(depths: object) -> tuple[int, ...]:
    if not isinstance(depths, list) or not depths:
        raise _MisfitError(f"depth has {shown(depths)}, expected a list of numbers of blocks", "depth")
    for depth in depths:
        if not _is_count(depth):
            raise _MisfitError(f"depth has {shown(depth)}, expected whole numbers from 1 to {GREATEST_DEPTH}", "depth")
    if len(set(depths)) < len(depths):
        raise _MisfitError(f"depth has {shown(depths)}, expected each number once", "depth")
    return tuple(sorted(depths))


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= GREATEST_DEPTH


def _features(table: object, part: str) -> tuple[Feature, ...]:
    return tuple(_feature(name, options, part) for name, options in _named(table, part))


def _named(table: object, part: str) -> list[tuple[str, object]]:
    if not isinstance(table, dict):
        raise _MisfitError(f"{part} is {shown(table)}, expected a table of features", part)
    for name in table:
        if not re.fullmatch(r"\w[\w+-]{0,79}", name):
            raise _MisfitError(
                f"feature {shown(name)}, expected letters, digits, '_', '+' or '-' in its name", part, name
            )
        if name in RESERVED:
            raise _MisfitError(f"feature {name!r}, expected another name: this one has a meaning already", part, name)
    return list(table.items())


def _feature(name: str, values: object, part: str) -> Feature:
    if not isinstance(values, list) or not values:
        raise _MisfitError(f"{name} is {shown(values)}, expected a list of options", part, name)
    options: list[Option] = []
    for option, value in zip(_options(name, values, part), values, strict=True):
        if option in options:
            raise _MisfitError(f"{name} has {shown(value)} twice, expected each option once", part, name)
        options.append(option)
    return Feature(name, tuple(options))


def _options(name: str, values: list[object], part: str) -> list[Option]:
    options: list[Option] = []
    for value in values:
        option = to_option(value)
        if option is None:
            raise _MisfitError(
                f"{name} has {shown(value)}, expected numbers, fractions like '2/3', or names", part, name
            )
        options.append(option)
    if len({isinstance(option, str) for option in options}) > 1:
        raise _MisfitError(f"{name} is {shown(values)}, expected all numbers or all names", part, name)
    return options


def _coupled(table: object, depths: tuple[tuple[int, ...], ...]) -> tuple[Coupled, ...]:
    part, allowed = "coupled", sorted({depth for of_unit in depths for depth in of_unit})
    features = []
    for name, by_depth in _named(table, part):
        if not isinstance(by_depth, dict):
            raise _MisfitError(
                f"{name} is {shown(by_depth)}, expected an option for each depth: {{{allowed[0]} = …}}", part, name
            )
        for key in by_depth:
            if key not in map(str, allowed):
                raise _MisfitError(
                    f"{name} has an option for depth {shown(key)}, expected one for each of {shown(allowed)}",
                    *(part, name, key),
                )
        for depth in allowed:
            if str(depth) not in by_depth:
                raise _MisfitError(
                    f"{name} has no option for depth {depth}, expected one for each of {shown(allowed)}",
                    *(part, name),
                )
        values = [by_depth[str(depth)] for depth in allowed]
        features.append(Coupled.of(name, dict(zip(allowed, _options(name, values, part), strict=True))))
    return tuple(features)


def _check_names(parts: Mapping[str, tuple[Feature, ...]]) -> None:
    stands_in: dict[str, str] = {}
    for part, features in parts.items():
        for feature in features:
            first = stands_in.setdefault(feature.name, part)
            if first != part:
                raise _MisfitError(
                    f"feature {feature.name!r} stands in [{first}] and [{part}], expected it in one", part, feature.name
                )
    if not any(parts[part] for part in ("block", "unit", "coupled")):
        raise _MisfitError("none of [block], [unit] and [coupled] has a feature, expected at least one")


def _export(table: object) -> Export | None:
    if table is None:
        return None
    if not isinstance(table, dict) or "writer" not in table:
        raise _MisfitError('[export] has no writer, expected writer = "…"', "export")
    writer = table["writer"]
    if not isinstance(writer, str) or not writer:
        raise _MisfitError(
            f'writer is {shown(writer)}, expected one of ours, an entry point, or "module:function"', "export", "writer"
        )
    settings = {key: value for key, value in table.items() if key != "writer"}
    for key, value in settings.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise _MisfitError(
                f"{key} is {shown(value)}, expected numbers, texts, and lists or tables of them", "export", key
            ) from None
    return Export(writer, settings)


def _line(text: str, place: Place) -> int | None:
    """The line on which the value at a place is set; else the line of its table; None where neither is found."""
    lines: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.split("\n"), 1):
        header = re.fullmatch(r"\s*\[{1,2}([\w\s.\"'+-]+)\]{1,2}\s*(?:#.*)?", line)
        key = re.match(r"([\w\s.\"'+-]+)=", line)
        if header and re.search(r"[^\W\d]", header[1]):  # [2] is a row of an array
            found = table = _key(header[1])
        elif key:
            found = table + _key(key[1])
        else:
            continue
        for length in range(1, len(found) + 1):
            lines.setdefault(found[:length], number)
    places = [place[:length] for length in range(len(place), 0, -1)]
    return next((lines[place] for place in places if place in lines), None)


def _key(text: str) -> Place:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
