"""Architectures as JSON, and JSON Lines files of them.

One object: `{"space": "resnet", "units": [[{"kernel": 3, "expansion": "1/2"}, …], …]}`, with network options beside
`units`. Fractions are strings. Once-for-All's `{"ks": […], "e": […], "d": […], "r": 176}` is read where a space has it;
and blocks that leave out what the depth of their unit decides.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from esm_onnx.architectures.architecture import Architecture, Option, Options
from esm_onnx.architectures.ofa_notation import in_full, is_ofa_notation, ofa_lists
from esm_onnx.architectures.space import Feature, Space, listed, plain, select
from esm_onnx.errors import InputError, shown

RESERVED = ("space", "units")
"""Names beside which the network's options stand, so no feature may be called so."""

_FRACTION = re.compile(r"-?[0-9]{1,9}/0*[1-9][0-9]{0,8}")
_GREATEST_NUMBER = 2**53  # beyond it, what else reads JSON (and every float) confuses neighbouring integers
_LONGEST_NAME = 80
_GZIP = b"\x1f\x8b"


def to_json(space: Space, architecture: Architecture) -> dict[str, Any]:
    """The architecture as JSON data: one form for each architecture, in the order and the spelling of the space.

    Raises:
        InputError: the architecture is not of this space.
    """
    space.check(architecture)
    return {
        "space": architecture.space,
        **_fields(space.network, architecture.network),
        "units": [[_fields(space.features, block) for block in blocks] for blocks in architecture.units],
    }


def from_json(space: Space, data: object) -> Architecture:
    """The architecture that JSON data describe.

    Raises:
        InputError: a field is missing or unknown, a value is not an option, or it belongs to another space.
    """
    fields = _object(data, "an architecture")
    if is_ofa_notation(fields) and ofa_lists(space):
        fields = in_full(space, fields)
    for name in RESERVED:
        if name not in fields:
            raise InputError(f"an architecture without the field {name!r}, expected {_layout(space)}")
    if fields["space"] != space.name:
        raise InputError(f"the architecture belongs to space {shown(fields['space'])}, expected {space.name!r}")
    if not isinstance(fields["units"], list):
        raise InputError(f"units is {shown(fields['units'])}, expected a list of {len(space.depths)} lists of blocks")
    units = []
    for u, blocks in enumerate(fields["units"], 1):
        if not isinstance(blocks, list):
            raise InputError(f"unit {u} is {shown(blocks)}, expected a list of blocks")
        decided = _decided(space, len(blocks), f"unit {u}")
        units.append(tuple(_block(space, block, decided, f"unit {u}, block {j}") for j, block in enumerate(blocks, 1)))
    rest = {name: value for name, value in fields.items() if name not in RESERVED}
    network = select(space.network, _indices(space.network, rest, "network"))
    return space.check(Architecture(space.name, tuple(units), network))


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
    """The JSON values of a file (`-` is standard input), each with its line number; empty lines are passed over.

    Raises:
        InputError: the file cannot be read, a line is not JSON, or an object has a key twice.
    """
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            try:
                data = json.loads(text, object_pairs_hook=_no_key_twice)
            except InputError as error:
                raise error.at(path, line) from None
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"not JSON ({reason(error)}): {shown(text)}, expected one whole JSON value a line",
                    file=path,
                    line=line,
                ) from None
            yield line, data


def read_text(path: Path | str) -> str:
    """The text of a file, or of standard input for `-`: UTF-8, gzipped or not; lines end with `\\n`.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before, wrong = error.object[: error.start], error.object[error.start]
        raise InputError(
            f"byte 0x{wrong:02x} is not UTF-8, expected text: is it another kind of file?",
            file=path,
            line=before.count(b"\n") + 1,
        ) from None
    except (OSError, ValueError, EOFError, zlib.error) as error:  # ValueError: a path that no file can have
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None


def reason(error: ValueError | RecursionError) -> str:
    """Why a JSON or TOML parser of the standard library gave up."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "a number of too many digits"  # int() refuses it, and the parsers let that through


def to_option(value: object) -> Option | None:
    """An option as JSON and TOML hold it; None where the value cannot be one.

    A number is itself, a whole one an `int`; `"2/3"` is a fraction; any other text is a name if it holds a letter and
    nothing unprintable. `"3"` is neither a number nor a name: a number in quotes is a slip.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return _text_option(value)
    if not -_GREATEST_NUMBER <= value <= _GREATEST_NUMBER:  # nor is nan within them
        return None
    return int(value) if value == int(value) else value


def _text_option(text: str) -> Option | None:
    if _FRACTION.fullmatch(text):
        fraction = Fraction(text)
        return int(fraction) if fraction.denominator == 1 else fraction
    named = any(character.isalpha() for character in text) and text.isprintable() and text == text.strip()
    return text if named and len(text) <= _LONGEST_NAME else None


def _fields(features: tuple[Feature, ...], options: Options) -> dict[str, int | float | str]:
    return {f.name: plain(f.options[f.options.index(options[f.name])]) for f in features}


def _decided(space: Space, depth: int, place: str) -> dict[str, int | float | str]:
    """The options that the depth of a unit decides, so that its blocks may leave them out."""
    decided = {}
    for feature in space.coupled:
        places = dict(feature.places)
        if depth not in places:
            raise InputError(f"{place} has {depth} blocks, expected one of {listed(tuple(places))}")
        decided[feature.name] = plain(feature.options[places[depth]])
    return decided


def _block(space: Space, data: object, decided: Mapping[str, object], place: str) -> Options:
    return space.block_of(_indices(space.features, {**decided, **_object(data, place)}, place))


def _indices(features: tuple[Feature, ...], fields: Mapping[str, object], place: str) -> tuple[int, ...]:
    names = [feature.name for feature in features]
    for name in fields:
        if name not in names:
            raise InputError(f"{place}: unknown feature {shown(name)}, expected {', '.join(names) or 'none'}")
    return tuple(_index(feature, fields, place) for feature in features)


def _index(feature: Feature, fields: Mapping[str, object], place: str) -> int:
    if feature.name not in fields:
        raise InputError(f"{place}: no {feature.name!r}, expected one of {listed(feature.options)}")
    value = fields[feature.name]
    option = to_option(value)
    if option is None or option not in feature.options:
        raise InputError(f"{place}: {feature.name} is {shown(value)}, expected one of {listed(feature.options)}")
    return feature.options.index(option)


def _object(data: object, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{what} is {shown(data)}, expected a JSON object")
    return data


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise InputError(f"the key {shown(key)} stands twice in one object, expected it once")
        data[key] = value
    return data


def _layout(space: Space) -> str:
    return f'{{"space": "{space.name}", "units": [[{{…}}, …], …]}}'
