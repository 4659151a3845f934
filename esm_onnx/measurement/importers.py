"""Latencies that others hold, read row by row: JSON Lines, CSV, and Once-for-All's lookup tables.

What a row says of the architecture is checked. Its latency may be what no latency is (NaN, 0, −1): who imports the file
refuses such a row (`exchange.import_file`), and who looks for what is wrong with it wants to see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from esm_onnx.architectures import Architecture, Space, from_json, read_json_lines
from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.importers_csv import few, find_layout, read_csv
from esm_onnx.measurement.importers_lut import COLUMNS, YAML, read_lookup_table

MEASURED, SUMMED = "measured", "sum of a table"
"""How latencies come about, unless told otherwise."""

LATENCY = "latency_ms"
MISSING = ("", "na", "n/a", "none", "null", "-")
"""What stands in a cell where a number is missing, besides "nan"."""

OPTIONS = {"latency": "--latency", "columns": "--column", "architectures": "--architectures"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read.

    Attributes:
        format: name of one of `FORMATS`; None: as the file's name and its columns say.
        latency: the column that holds the latency; None: `latency_ms`, or the only one that is left.
        columns: what the file calls a column, where that is another name than ours: `{"u1b1.kernel": "k11"}`.
        architectures: JSON Lines of those that a lookup table shall be summed for.
    """

    format: str | None = None
    latency: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    architectures: Path | str | None = None


AS_IT_IS = Reading()


@dataclass(frozen=True, slots=True)
class Row:
    """One latency of a file.

    Attributes:
        latency_ms: what stands as the latency; NaN where nothing does.
        file, line: where it stands.
        target: the name of the device, where the file says it.
        how: how the latency came about.
    """

    architecture: Architecture
    latency_ms: float
    file: Path | str
    line: int
    target: str | None = None
    how: str = MEASURED


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files.

    Attributes:
        read: the rows of a file.
        takes: the fields of a `Reading` that mean something for it.
    """

    name: str
    read: Callable[[Path | str, Space, Reading], Iterator[Row]]
    takes: tuple[str, ...] = ()


def read_table(path: Path | str, space: Space, reading: Reading = AS_IT_IS) -> Iterator[Row]:
    """The rows of a file of latencies in their order, one by one (`-` is standard input).

    Raises:
        InputError: with file and line: the file cannot be read, or a row holds no architecture of this space.
    """
    return find_format(path, reading).read(path, space, reading)


def find_format(path: Path | str, reading: Reading = AS_IT_IS) -> Format:
    """The format that the reading names; else that of the file's suffix, and for a CSV file of its columns.

    Raises:
        InputError: there is no such format, it does not go with the rest of the reading, or the file cannot be read.
    """
    if reading.format is not None and reading.format not in FORMATS:
        raise InputError(f"no format {shown(reading.format)}, expected one of {', '.join(FORMATS)}")
    found = _recognised(path) if reading.format is None else FORMATS[reading.format]
    for given, option in OPTIONS.items():
        if getattr(reading, given) and given not in found.takes:
            fit = ", ".join(other.name for other in FORMATS.values() if given in other.takes)
            raise InputError(f"{option} means nothing for format {found.name!r}, expected {fit} (--format)", file=path)
    return found


def _recognised(path: Path | str) -> Format:
    name = Path(path).name.removesuffix(".gz")
    if name.endswith(YAML) or Path(path).is_dir():
        return OFA_LUT
    if not name.endswith(".csv"):
        return JSON_LINES
    columns, _ = read_csv(path)
    return OFA_LUT if set(COLUMNS) <= set(columns) else CSV


def _json_lines(path: Path | str, space: Space, _: Reading) -> Iterator[Row]:
    for line, data in read_json_lines(path):
        try:
            if not isinstance(data, dict) or "architecture" not in data or LATENCY not in data:
                raise InputError(f'{shown(data)}, expected {{"architecture": {{…}}, "{LATENCY}": 3.2}}')
            architecture, latency_ms = from_json(space, data["architecture"]), _number_in_json(data[LATENCY])
        except InputError as error:
            raise error.at(path, line) from None
        target = data.get("target")
        yield Row(architecture, latency_ms, path, line, target if isinstance(target, str) else None)


def _csv(path: Path | str, space: Space, reading: Reading) -> Iterator[Row]:
    columns, rows = read_csv(path)
    try:
        layout = find_layout(space, columns, reading.columns)
        called = {name: reading.columns.get(name, name) for name in layout.columns(space)}
        latency = _latency_column([name for name in columns if name not in called.values()], reading.latency)
    except InputError as error:
        raise error.at(path) from None
    target = None if latency == LATENCY else latency.removesuffix("_ms")
    for line, cells in rows:
        try:
            architecture = layout.read(space, {name: cells[column] for name, column in called.items()})
            latency_ms = _number_in_cell(cells[latency], latency)
        except InputError as error:
            raise error.at(path, line) from None
        yield Row(architecture, latency_ms, path, line, target)


def _ofa_lut(path: Path | str, space: Space, reading: Reading) -> Iterator[Row]:
    if Path(path).is_dir() and not any(file.suffix in YAML for file in Path(path).iterdir()):
        raise InputError("a folder without the YAML files of a lookup table, expected a file", file=path)
    if reading.architectures is None:
        raise InputError("is a lookup table, expected the architectures to sum it for: --architectures FILE", file=path)
    table = read_lookup_table(path)
    for line, data in read_json_lines(reading.architectures):
        try:
            architecture = from_json(space, data)
            latency_ms = table.sum_ms(space, architecture)
        except InputError as error:
            raise error.at(reading.architectures, line) from None
        yield Row(architecture, latency_ms, reading.architectures, line, table.device, SUMMED)


JSON_LINES = Format("jsonl", _json_lines)
CSV = Format("csv", _csv, takes=("latency", "columns"))
OFA_LUT = Format("ofa-lut", _ofa_lut, takes=("architectures",))
FORMATS: Mapping[str, Format] = {found.name: found for found in (JSON_LINES, CSV, OFA_LUT)}


def _latency_column(left: Sequence[str], asked: str | None) -> str:
    """The column of the latency among those that say nothing of the architecture."""
    there = few(left) or "none beside the architecture"
    if asked is not None:
        if asked not in left:
            raise InputError(f"no column {shown(asked)} of latencies; there are {there}")
        return asked
    if LATENCY in left:
        return LATENCY
    if len(left) != 1:
        raise InputError(
            f"{len(left)} columns may be the latency, expected one: name it with --latency; there are {there}"
        )
    return left[0]


def _number_in_cell(text: str, column: str) -> float:
    if text.lower() in MISSING:
        return math.nan
    try:
        return float(text if "_" not in text else "")  # Python would read 1_000
    except ValueError:
        raise InputError(f"{column} is {shown(text)}, expected a number of ms") from None


def _number_in_json(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{LATENCY} is {shown(value)}, expected a number of ms")
    try:
        return float(value)
    except OverflowError:
        return math.inf
