"""Once-for-All's lookup tables: the latency of each layer by its shape, and sums of them.

The released form is a folder of YAML files, one for each resolution: `layer: {count: …, mean: …, std: …}`, in ms. As
one CSV file it has the columns `device`, `resolution`, `op_key` and `mean_ms`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esm_onnx.architectures import Architecture, Space
from esm_onnx.architectures.blocks import HEAD, STEM
from esm_onnx.architectures.notation import read_text
from esm_onnx.errors import InputError, shown
from esm_onnx.export.blocks import BLOCK
from esm_onnx.export.mobilenetv3 import MobileNetV3, plan_mobilenetv3
from esm_onnx.export.writers import export_of
from esm_onnx.measurement.importers_csv import few, read_csv

YAML = (".yaml", ".yml")
COLUMNS = ("device", "resolution", "op_key", "mean_ms")

_STEM = re.compile(r"Conv-input:([1-9][0-9]{0,5})x\1x3-.*")

Entries = dict[tuple[int, str], float]
"""Mean latency of a layer in ms, by the resolution of the network and the key of the layer."""


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Latencies of layers on one device.

    Attributes:
        device: its name; None where the file does not say it.
        entries_ms: the mean of a layer's runs, in ms. A layer of one shape was timed anew for each resolution.
    """

    device: str | None
    entries_ms: Mapping[tuple[int, str], float]

    def sum_ms(self, space: Space, architecture: Architecture) -> float:
        """The sum over the layers of an architecture, in ms: what Once-for-All takes for its latency.

        Raises:
            InputError: a layer is not in the table, or the writer of the space is not that of MobileNetV3.
        """
        return math.fsum(latency_ms for _, latency_ms in self._layers(space, architecture))

    def parts_ms(self, space: Space, architecture: Architecture) -> dict[str, float]:
        """The same sum part by part: `stem`, each block (`u2.b3`), and `head`.

        Raises:
            InputError: as `sum_ms`.
        """
        layers: dict[str, list[float]] = {}
        for part, latency_ms in self._layers(space, architecture):
            layers.setdefault(part, []).append(latency_ms)
        return {part: math.fsum(latencies_ms) for part, latencies_ms in layers.items()}

    def _layers(self, space: Space, architecture: Architecture) -> Iterator[tuple[str, float]]:
        """Part and latency in ms of each layer."""
        export_of(space)  # raises for a space without one
        try:
            plan = plan_mobilenetv3(space, architecture)
        except InputError as error:
            raise InputError(
                f"{error.message}: these tables hold layers of what the writer 'mobilenetv3' draws, and no others"
            ) from None
        for part, key in layer_keys(plan):
            if (plan.resolution, key) not in self.entries_ms:
                raise InputError(
                    f"no entry {key!r} at resolution {plan.resolution} in the table, expected one for each layer"
                )
            yield part, self.entries_ms[plan.resolution, key]


def layer_keys(plan: MobileNetV3) -> Iterator[tuple[str, str]]:
    """The layers of a network: the part that each belongs to, and its key, as Once-for-All writes it; squeeze-excite
    and activations are inside. A block before all units belongs to the stem."""

    def shape(channels: int) -> str:
        return f"{side}x{side}x{channels}"

    side = plan.resolution
    taken, side = shape(3), _strided(side, 2)
    yield STEM, f"Conv-input:{taken}-output:{shape(plan.stem)}"
    width = plan.stem
    for block in plan.blocks:
        taken, side, width = shape(block.inputs), _strided(side, block.stride), block.width
        hard_swish = block.activation == "hard_swish"
        yield (
            block.name if BLOCK.match(f"{block.name}.") else STEM,
            f"expanded_conv-input:{taken}-output:{shape(width)}-expand:{block.middle}-kernel:{block.kernel}"
            f"-stride:{block.stride}-idskip:{block.skips:d}-se:{block.excites:d}-hs:{hard_swish:d}",
        )
    wide, wider = plan.head
    yield HEAD, f"Conv_1-input:{shape(width)}-output:{shape(wide)}"
    yield HEAD, f"AvgPool2D-input:{shape(wide)}-output:1x1x{wide}"
    yield HEAD, f"Conv_2-input:1x1x{wide}-output:1x1x{wider}"
    yield HEAD, f"Logits-input:1x1x{wider}-output:{plan.classes}"


def _strided(side: int, stride: int) -> int:
    return -(-side // stride)


def read_lookup_table(path: Path | str) -> LookupTable:
    """Reads a table from a CSV file, a YAML file, or a folder of YAML files.

    Raises:
        InputError: with file and line, where there is one.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in YAML)
        if not files:
            raise InputError("no YAML file in this folder, expected one for each resolution", file=path)
        return LookupTable(None, {place: ms for file in files for place, ms in _read_yaml(file).items()})
    return LookupTable(None, _read_yaml(path)) if path.suffix in YAML else _read_csv(path)


def _read_csv(path: Path) -> LookupTable:
    columns, rows = read_csv(path)
    for name in COLUMNS:
        if name not in columns:
            raise InputError(f"no column {name!r}, expected {', '.join(COLUMNS)}; there are {few(columns)}", file=path)
    entries: Entries = {}
    device = None
    for line, cells in rows:
        try:
            place = _whole(cells["resolution"]), cells["op_key"]
            if place in entries:
                raise InputError(f"{place[1]} stands twice at resolution {place[0]}, expected it once")
            if device not in (None, cells["device"]):
                raise InputError(f"device is {shown(cells['device'])}, expected {device!r} as above: one a file")
            device, entries[place] = cells["device"], _mean_ms(cells["mean_ms"])
        except InputError as error:
            raise error.at(path, line) from None
    return LookupTable(device, entries)


def _read_yaml(path: Path) -> Entries:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("YAML needs PyYAML: pip install 'esm-onnx[import]'", file=path) from None
    try:
        data = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InputError(
            f"not YAML ({problem}), expected layer: {{mean: …}}", file=path, line=mark.line + 1 if mark else None
        ) from None
    try:
        return _entries(data)
    except InputError as error:
        raise error.at(path) from None


def _entries(data: object) -> Entries:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{shown(data)}, expected layer: {{count: …, mean: …, std: …}}")
    resolutions = [int(stem[1]) for key in data if (stem := _STEM.fullmatch(key))]
    if len(resolutions) != 1:
        raise InputError(
            f"{len(resolutions)} layers Conv-input:RxRx3-…, expected one, which tells the resolution of all"
        )
    return {(resolutions[0], key): _of_layer(key, value) for key, value in data.items()}


def _of_layer(key: str, value: Any) -> float:
    if not isinstance(value, dict) or "mean" not in value:
        raise InputError(f"{key} is {shown(value)}, expected {{count: …, mean: …, std: …}}")
    return _mean_ms(value["mean"])


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InputError(f"resolution is {shown(text)}, expected a whole number of pixels")
    return int(text)


def _mean_ms(value: object) -> float:
    try:
        mean_ms = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        mean_ms = math.nan
    if not 0 <= mean_ms < math.inf:
        raise InputError(f"the mean of a layer is {shown(value)}, expected a number of ms, at least 0")
    return mean_ms
