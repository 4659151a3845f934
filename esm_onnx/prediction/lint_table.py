"""What a lint looks at, and what it says: a table of features with latencies, and findings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""An error: rows that are no measurements. A warning: what a predictor suffers from. A note: good to know."""
MEASURED = "measured"
ABSENT = -1
"""What stands in a genome, and in all columns, for a block that is not there."""
FEW = 5
"""Rows that a finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a table.

    Attributes:
        kind: one word for what it is.
        severity: one of `SEVERITIES`.
        message: what was found, with its numbers.
        rows: number of rows that it concerns.
        first: the first few of them.
        advice: what to do.
    """

    kind: str
    severity: str
    message: str
    rows: int
    first: tuple[str, ...]
    advice: str

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return {name: getattr(self, name) for name in self.__slots__} | {"first": list(self.first)}


@dataclass(frozen=True)
class Rows:
    """Architectures as numbers, and what was measured of them, in the order of measuring.

    Attributes:
        features: [n, k] numbers: the value of a feature, or a number that stands for an option; equal for blocks that
            are absent.
        columns: their names. `u1b2.kernel` is a feature of block 2 in unit 1, `ops[3]` the third digit of `ops`; every
            other name is a feature of the whole network.
        latency_ms: [n]: anything that a file may hold, also NaN, 0 and -1.
        sessions: [n] number of the session of each row, from 0; None: all rows are of one.
        names: of the sessions.
        provenance: [n] how each latency came about; None where unknown.
        places: [n] place of each row in its session, from 1; None counts them.
        work: [n, 2] number of layers and of multiply-adds; None where unknown.
        merged: rows of one architecture count as one wherever something is trained on them.

    Raises:
        InputError: columns and rows that do not fit together, or a feature that is no finite number.
    """

    features: Matrix
    columns: tuple[str, ...]
    latency_ms: Vector
    sessions: Indices | None = None
    names: tuple[str, ...] = ("",)
    provenance: tuple[str, ...] | None = None
    places: Indices | None = None
    work: Matrix | None = None
    merged: bool = False

    def __post_init__(self) -> None:
        n = len(self.latency_ms)
        if self.features.shape != (n, len(self.columns)):
            raise InputError(f"features are {self.features.shape}, expected {(n, len(self.columns))}")
        if not np.isfinite(self.features).all():
            row, column = np.argwhere(~np.isfinite(self.features))[0]
            raise InputError(f"row {row + 1} has no finite {self.columns[column]!r}, expected a number")
        for name in ("sessions", "provenance", "places", "work"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise InputError(f"{len(value)} {name}, expected one for each of {n} rows")

    def __len__(self) -> int:
        return len(self.latency_ms)

    @property
    def session(self) -> Indices:
        """[n] number of each row's session."""
        return np.zeros(len(self), np.int64) if self.sessions is None else self.sessions

    def select(self, mask: Mask) -> Rows:
        """Some of the rows, each with the place that it had."""
        return replace(
            self,
            features=self.features[mask],
            latency_ms=self.latency_ms[mask],
            sessions=self.session[mask],
            provenance=self.provenance and tuple(p for p, chosen in zip(self.provenance, mask, strict=True) if chosen),
            places=self._places()[mask],
            work=None if self.work is None else self.work[mask],
        )

    def first(self, mask: Mask) -> tuple[str, ...]:
        """Names of the first few rows of a mask."""
        places = self._places()
        return tuple(self._named(int(self.session[i]), int(places[i])) for i in np.flatnonzero(mask)[:FEW])

    def stretch(self, rows: Indices) -> str:
        """The name of consecutive rows of one session."""
        places, session = self._places(), int(self.session[rows[0]])
        first, last = int(places[rows[0]]), int(places[rows[-1]])
        return self._named(session, first if first == last else f"{first}–{last}")

    def _named(self, session: int, place: int | str) -> str:
        rows = "rows" if isinstance(place, str) else "row"
        return f"{self.names[session]} {rows} {place}".strip() if len(self.names) > 1 else f"{rows} {place}"

    def _places(self) -> Indices:
        if self.places is not None:
            return self.places
        places = np.empty(len(self), np.int64)
        for number in np.unique(self.session):
            of = self.session == number
            places[of] = np.arange(1, of.sum() + 1)
        return places


def numbered(labels: Sequence[object]) -> tuple[Indices, tuple[str, ...]]:
    """The number of each label, from 0 in the order of first appearance, and the labels in that order."""
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([order[label] for label in labels], np.int64), tuple(map(str, order))


def percent(logarithm: float) -> str:
    """The logarithm of a ratio as a difference in per cent, or as a factor where that says more."""
    share = 100 * math.expm1(logarithm)
    return f"{share:+.1f} %" if -90 < share < 1000 else f"×{math.exp(logarithm):.3g}"


def names_of(columns: Iterable[str]) -> list[str]:
    """Names of features: those of blocks and digits once."""
    return list(dict.fromkeys(map(short_name, columns)))


def short_name(column: str) -> str:
    """The name of a feature without its block, or of a row of digits without the place."""
    return re.sub(r"^u\d+b\d+\.|\[\d+\]$", "", column)
