"""The set of architectures that a family allows, as a table."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from esm_onnx.architectures.architecture import Architecture, Option, Options
from esm_onnx.errors import InputError, shown

MOST_COMBINATIONS = 10_000
"""Beyond this, nobody wants them listed: neither memory nor data suffice for a column each."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What a block, a unit or the network may vary, and the values allowed for it."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Export:
    """How the architectures of a space become ONNX.

    Attributes:
        writer: name of one of our writers, of an entry point of the group `esm_onnx.writers`, or "module:function".
        settings: what is fixed in this space and the writer needs (widths, strides, …).
    """

    writer: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Space:
    """A table: units with their allowed depths, and the features of block, unit and network.

    Attributes:
        name: what architectures call it.
        depths: for each unit the allowed numbers of blocks, ascending.
        block: features that each block chooses for itself.
        unit: features that all blocks of a unit share; in an architecture they stand in each block and must agree.
        network: features of the whole network.
        export: how it is written as ONNX; None for a space whose latencies only come from elsewhere.
    """

    name: str
    depths: tuple[tuple[int, ...], ...]
    block: tuple[Feature, ...]
    unit: tuple[Feature, ...] = ()
    network: tuple[Feature, ...] = ()
    export: Export | None = None

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """All features that stand in a block, in the order of the genome: the block's own, then the unit's."""
        return self.block + self.unit

    @cached_property
    def combinations(self) -> tuple[Options, ...]:
        """Every choice of one option for each feature of a block; the last feature varies fastest.

        Raises:
            InputError: there are more than 10,000.
        """
        count = choices(self.features)
        if count > MOST_COMBINATIONS:
            raise InputError(
                f"a block of space {self.name!r} has {count} combinations of options, expected at most "
                f"{MOST_COMBINATIONS} where each is counted: take fewer features, or count options instead"
            )
        places = itertools.product(*(range(len(feature.options)) for feature in self.features))
        return tuple(self.block_of(indices) for indices in places)

    def block_of(self, indices: tuple[int, ...]) -> Options:
        """The options of a block by their places in `features`: one object, however many architectures hold it."""
        if indices not in self._blocks:
            self._blocks[indices] = select(self.features, indices)
        return self._blocks[indices]

    @cached_property
    def _blocks(self) -> dict[tuple[int, ...], Options]:
        return {}

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """Greatest depth of each unit."""
        return tuple(max(depths) for depths in self.depths)

    @cached_property
    def depth_range(self) -> tuple[int, int]:
        """Least and greatest number of blocks of an architecture."""
        return sum(min(depths) for depths in self.depths), sum(self.slots)

    @cached_property
    def size(self) -> int:
        """Number of architectures (ESM, Table I)."""
        count = math.prod(len(feature.options) for feature in self.network)
        for depths in self.depths:
            count *= sum(self.choices_at_depth(depth) for depth in depths)
        return count

    def choices_at_depth(self, depth: int) -> int:
        """Number of different units with `depth` blocks."""
        count: int = choices(self.unit) * choices(self.block) ** depth
        return count

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ where a genome would mean something else."""
        return hashlib.sha256(json.dumps(self.table()).encode()).hexdigest()[:16]

    def table(self, *, export: bool = False) -> dict[str, Any]:
        """The space as JSON data, in the layout of a TOML space; `export` adds how it is written.

        The order of the features is the order in the genome: keep it when writing the table down.
        """
        table: dict[str, Any] = {
            "name": self.name,
            "units": len(self.depths),
            "depth": [list(depths) for depths in self.depths],
        }
        for part in ("block", "unit", "network"):
            features: tuple[Feature, ...] = getattr(self, part)
            if features:
                table[part] = {f.name: [plain(option) for option in f.options] for f in features}
        if export and self.export is not None:
            table["export"] = {"writer": self.export.writer, **self.export.settings}
        return table

    def check(self, architecture: Architecture) -> Architecture:
        """The architecture itself, if it belongs to this space.

        Raises:
            InputError: it does not; the message names the place, the value and what is allowed there.
        """
        if architecture.space != self.name:
            raise InputError(f"the architecture belongs to space {shown(architecture.space)}, expected {self.name!r}")
        _check_options(architecture.network, self.network, "network")
        if len(architecture.units) != len(self.depths):
            raise InputError(f"{len(architecture.units)} units, expected {len(self.depths)} in space {self.name!r}")
        for u, (blocks, depths) in enumerate(zip(architecture.units, self.depths, strict=True), 1):
            if len(blocks) not in depths:
                raise InputError(f"unit {u} has {len(blocks)} blocks, expected one of {listed(depths)}")
            for j, block in enumerate(blocks, 1):
                _check_options(block, self.features, f"unit {u}, block {j}")
                for feature in self.unit:
                    if block[feature.name] != blocks[0][feature.name]:
                        value, first = block[feature.name], blocks[0][feature.name]
                        raise InputError(
                            f"unit {u}, block {j}: {feature.name} is {shown(plain(value))}, expected {first} as in "
                            f"block 1: all blocks of a unit share it"
                        )
        return architecture


def choices(features: tuple[Feature, ...]) -> int:
    """Number of ways to choose one option for each of the features."""
    return math.prod(len(feature.options) for feature in features)


def plain(option: Option) -> int | float | str:
    """An option as JSON and TOML hold it: a fraction is a string."""
    return str(option) if isinstance(option, Fraction) else option


def listed(options: tuple[Option, ...]) -> str:
    """Options as a message shows them."""
    return ", ".join(str(option) for option in options)


def select(features: tuple[Feature, ...], indices: Sequence[int]) -> Options:
    """The option of each feature that stands at the place `indices` gives."""
    return Options({feature.name: feature.options[i] for feature, i in zip(features, indices, strict=True)})


def _check_options(options: Options, features: tuple[Feature, ...], place: str) -> None:
    for feature in features:
        if feature.name not in options:
            raise InputError(f"{place}: no {feature.name!r}, expected one of {listed(feature.options)}")
        value = options[feature.name]
        if isinstance(value, bool) or value not in feature.options:
            got = shown(plain(value))
            raise InputError(f"{place}: {feature.name} is {got}, expected one of {listed(feature.options)}")
    for name in options:
        if name not in {feature.name for feature in features}:
            known = listed(tuple(feature.name for feature in features)) or "none"
            raise InputError(f"{place}: unknown feature {shown(name)}, expected {known}")
