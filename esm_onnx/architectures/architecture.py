"""A point of a space: plain hashable data, with no weights and no device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

Option = int | float | Fraction | str
"""One allowed value of a feature: a number, or the name of an operation."""


class Options(Mapping[str, Option]):
    """One option for each feature, by name; immutable and hashable: `block["kernel"]`."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, Option] | None = None) -> None:
        self._items: dict[str, Option] = dict(items or {})
        self._hash = hash(frozenset(self._items.items()))

    def __getitem__(self, name: str) -> Option:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self._items == other._items

    def __reduce__(self) -> tuple[type[Options], tuple[dict[str, Option]]]:
        # A copy may live in another process, where the same text has another hash.
        return Options, (self._items,)

    def __repr__(self) -> str:
        return "Options({})".format(", ".join(f"{name}={value}" for name, value in self._items.items()))


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network of a space.

    Attributes:
        space: name of the space it belongs to.
        units: for each unit its blocks, each with one option for every block and unit feature.
            Only the blocks that exist: there are no inactive places in which two equal networks could differ.
        network: options of the whole network (resolution, …).
    """

    space: str
    units: tuple[tuple[Options, ...], ...]
    network: Options = NO_OPTIONS

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(len(unit) for unit in self.units)
