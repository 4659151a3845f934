"""The set of architectures that a family allows, as a table."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True)
class Coupled(Feature):
    """A feature that all blocks of a unit share, and that the unit's depth decides (Sahni et al. 2021, *CompOFA*).

    Attributes:
        options: those that occur, in order of the least depth that has them.
        places: for each depth, ascending, the place in `options` of what it has.
    """

    places: tuple[tuple[int, int], ...]

    @staticmethod
    def of(name: str, option_of_depth: Mapping[int, Option]) -> Coupled:
        """The feature that has, in a unit of each depth, this option."""
        pairs = sorted(option_of_depth.items(), key=lambda pair: pair[0])
        options = tuple(dict.fromkeys(option for _, option in pairs))
        return Coupled(name, options, tuple((depth, options.index(option)) for depth, option in pairs))

    def index_at(self, depth: int) -> int:
        """The place in `options` of what a unit of that depth has."""
        return dict(self.places)[depth]


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

    In an architecture, what all blocks of a unit share stands in each of them, and must agree.

    Attributes:
        name: what architectures call it.
        depths: for each unit the allowed numbers of blocks, ascending.
        block: features that each block chooses for itself.
        unit: features that all blocks of a unit share.
        network: features of the whole network.
        export: how it is written as ONNX; None for a space whose latencies only come from elsewhere.
        coupled: features that all blocks of a unit share, and that its depth decides.
    """

    name: str
    depths: tuple[tuple[int, ...], ...]
    block: tuple[Feature, ...]
    unit: tuple[Feature, ...] = ()
    network: tuple[Feature, ...] = ()
    export: Export | None = None
    coupled: tuple[Coupled, ...] = ()

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """All features that stand in a block, in the order of the genome: the block's own, the unit's, the coupled."""
        return self.block + self.shared

    @cached_property
    def shared(self) -> tuple[Feature, ...]:
        """All features that the blocks of a unit share: the unit's, then the coupled."""
        return self.unit + self.coupled

    @cached_property
    def uncoupled(self) -> Space:
        """The space in which units choose the coupled features too: every genome of this one means the same there."""
        free = tuple(Feature(feature.name, feature.options) for feature in self.coupled)
        return replace(self, unit=self.unit + free, coupled=())

    def coupled_at(self, depth: int) -> tuple[int, ...]:
        """The place of each coupled feature's option in a unit of that depth."""
        return tuple(feature.index_at(depth) for feature in self.coupled)

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
        """Number of different units with `depth` blocks: what is coupled to the depth leaves no choice."""
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
        if self.coupled:
            table["coupled"] = {
                f.name: {str(depth): plain(f.options[i]) for depth, i in f.places} for f in self.coupled
            }
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
        for u, blocks in enumerate(architecture.units, 1):
            for j, block in enumerate(blocks, 1):
                _check_options(block, self.features, f"unit {u}, block {j}")
        return self.check_units(architecture)

    def check_units(self, architecture: Architecture) -> Architecture:
        """The architecture itself, all of whose options are this space's, if its units are too: their depths, and what
        their blocks share.

        Raises:
            InputError: they are not.
        """
        if len(architecture.units) != len(self.depths):
            raise InputError(f"{len(architecture.units)} units, expected {len(self.depths)} in space {self.name!r}")
        for u, (blocks, depths) in enumerate(zip(architecture.units, self.depths, strict=True), 1):
            if len(blocks) not in depths:
                raise InputError(f"unit {u} has {len(blocks)} blocks, expected one of {listed(depths)}")
            if self.unit or self.coupled:
                for j, block in enumerate(blocks, 1):
                    self._check_shared(block, blocks, f"unit {u}, block {j}")
        return architecture

    def _check_shared(self, block: Options, blocks: tuple[Options, ...], place: str) -> None:
        for feature in self.unit:
            value, first = block[feature.name], blocks[0][feature.name]
            if value != first:
                raise InputError(
                    f"{place}: {feature.name} is {shown(plain(value))}, expected {first} as in block 1: "
                    f"all blocks of a unit share it"
                )
        for coupled in self.coupled:
            value, decided = block[coupled.name], coupled.options[coupled.index_at(len(blocks))]
            if value != decided:
                raise InputError(
                    f"{place}: {coupled.name} is {shown(plain(value))}, expected {decided} in a unit of {len(blocks)} "
                    f"blocks: its depth decides it"
                )


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
    if len(options) == len(features):
        return  # they are all known, since none is missing
    names = tuple(feature.name for feature in features)
    for name in options:
        if name not in names:
            raise InputError(f"{place}: unknown feature {shown(name)}, expected {listed(names) or 'none'}")
