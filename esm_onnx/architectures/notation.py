"""Architectures as JSON, and JSON Lines files of them.

One object: `{"space": "resnet", "units": [[{"kernel": 3, "expansion": "1/2"}, …], …]}`, with network options beside
`units`. Fractions are strings.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from esm_onnx.architectures.architecture import Architecture, Option, Options
from esm_onnx.architectures.space import Feature, Space, listed, plain
from esm_onnx.errors import InputError

RESERVED = ("space", "units")
"""Names beside which the network's options stand, so no feature may be called so."""


def to_json(space: Space, architecture: Architecture) -> dict[str, Any]:
    """The architecture as JSON data."""
    space.check(architecture)
    return {
        "space": architecture.space,
        **{feature.name: plain(architecture.network[feature.name]) for feature in space.network},
        "units": [
            [{feature.name: plain(block[feature.name]) for feature in space.features} for block in blocks]
            for blocks in architecture.units
        ],
    }


def from_json(space: Space, data: object) -> Architecture:
    """The architecture that JSON data describe.

    Raises:
        InputError: a field is missing or unknown, a value is not an option, or it belongs to another space.
    """
    fields = _object(data, "an architecture")
    for name in RESERVED:
        if name not in fields:
            raise InputError(f"an architecture without the field {name!r}, expected {_layout(space)}")
    if fields["space"] != space.name:
        raise InputError(f"the architecture belongs to space {fields['space']!r}, expected {space.name!r}")
    if not isinstance(fields["units"], list):
        raise InputError(f"units is {_short(fields['units'])}, expected a list of {len(space.depths)} lists of blocks")
    units = []
    for u, blocks in enumerate(fields["units"], 1):
        if not isinstance(blocks, list):
            raise InputError(f"unit {u} is {_short(blocks)}, expected a list of blocks")
        units.append(
            tuple(
                _options(space.features, _object(block, f"unit {u}, block {j}"), f"unit {u}, block {j}")
                for j, block in enumerate(blocks, 1)
            )
        )
    rest = {name: value for name, value in fields.items() if name not in RESERVED}
    return space.check(Architecture(space.name, tuple(units), _options(space.network, rest, "network")))


def read_architectures(path: Path | str, space: Space) -> list[Architecture]:
    """Reads a JSON Lines file of architectures (`-` is standard input).

    Raises:
        InputError: with file and line.
    """
    architectures = []
    for line, data in read_json_lines(path):
        try:
            architectures.append(from_json(space, data))
        except InputError as error:
            raise error.at(path, line) from None
    if not architectures:
        raise InputError("no architecture in the file, expected one JSON object a line", file=path)
    return architectures


def read_json_lines(path: Path | str) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file, each with its line number; empty lines are passed over.

    Raises:
        InputError: the file cannot be read or a line is not JSON.
    """
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise InputError(
                    f"not JSON ({reason}): {_short(text)}; expected one whole JSON object a line", file=path, line=line
                ) from None


def read_text(path: Path | str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8 text: is it another kind of file?", file=path) from None


def to_option(value: object) -> Option | None:
    """An option as JSON and TOML hold it (`"2/3"` is a fraction); None where the value cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        return None
    if isinstance(value, str) and re.fullmatch(r"\d+/0*[1-9]\d*", value):
        fraction = Fraction(value)
        return int(fraction) if fraction.denominator == 1 else fraction
    return value


def _options(features: tuple[Feature, ...], fields: dict[str, Any], place: str) -> Options:
    known = {feature.name: feature for feature in features}
    chosen: dict[str, Option] = {}
    for name, value in fields.items():
        if name not in known:
            names = listed(tuple(known)) or "none"
            raise InputError(f"{place}: unknown feature {name!r}, expected {names}")
        option, options = to_option(value), known[name].options
        if option is None or option not in options:
            raise InputError(f"{place}: {name} is {_short(value)}, expected one of {listed(options)}")
        chosen[name] = options[options.index(option)]
    for name, feature in known.items():
        if name not in chosen:
            raise InputError(f"{place}: no {name!r}, expected one of {listed(feature.options)}")
    return Options(chosen)


def _object(data: object, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{what} is {_short(data)}, expected a JSON object")
    return data


def _layout(space: Space) -> str:
    return f'{{"space": "{space.name}", "units": [[{{…}}, …], …]}}'


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return repr(text) if len(text) <= 60 else repr(text[:60]) + "…"
