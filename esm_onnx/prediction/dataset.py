"""Arrays taken from accepted sessions of one target."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import LATENCY, quantity_of
from esm_onnx.prediction.lookup_encoding import NO_TABLE, Lookup

Genomes = NDArray[np.int64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Dataset:
    """Architectures and what was measured of them.

    Attributes:
        genomes: [n, genome length], one row for each architecture.
        latency_ms: [n], in ms; the values of another quantity, in its unit, where `quantity` says so.
        target: name and facts of the device and runtime, as JSON data.
        noise_floor: relative standard deviation, as a share, that repeated measurements show; None where unknown.
        lookup: the lookup table of the same target, or why there is none.
        quantity: what was measured, by its field: "latency_ms", "energy_mj", "memory_mb".

    Raises:
        InputError: a value that is not a positive number.
    """

    space: Space
    genomes: Genomes
    latency_ms: Vector
    target: Mapping[str, Any]
    noise_floor: float | None = None
    lookup: Lookup | str = NO_TABLE
    quantity: str = LATENCY.field

    def __post_init__(self) -> None:
        wrong = ~(np.isfinite(self.latency_ms) & (self.latency_ms > 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            quantity, value = quantity_of(self.quantity), self.latency_ms[row]
            raise InputError(f"row {row}: {quantity.name} is {value} {quantity.unit}, expected a positive number")

    def __len__(self) -> int:
        return len(self.latency_ms)

    @cached_property
    def depths(self) -> NDArray[np.int64]:
        """Number of blocks of each row."""
        return depths_of(self.space, self.genomes)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal digits that differ where space, rows or latencies do; the order of the rows does not count."""
        order = np.lexsort((self.latency_ms, *self.genomes.T))
        content = hashlib.sha256(self.space.fingerprint.encode())
        content.update(np.ascontiguousarray(self.genomes[order], "<i8").tobytes())
        content.update(np.ascontiguousarray(self.latency_ms[order], "<f8").tobytes())
        return content.hexdigest()

    def select(self, rows: NDArray[Any] | slice) -> Dataset:
        """Some of the rows: a mask, indices or a slice."""
        return replace(self, genomes=self.genomes[rows], latency_ms=self.latency_ms[rows])

    def joined(self, other: Dataset) -> Dataset:
        """These rows, then those of another dataset of the same space and target."""
        return replace(
            self,
            genomes=np.concatenate([self.genomes, other.genomes]),
            latency_ms=np.concatenate([self.latency_ms, other.latency_ms]),
        )


def depths_of(space: Space, genomes: Genomes) -> NDArray[np.int64]:
    """Number of blocks of each genome."""
    blocks = genomes[:, len(space.network) :: len(space.features)]
    depths: NDArray[np.int64] = (blocks >= 0).sum(axis=1, dtype=np.int64)
    return depths


def row_digests(genomes: Genomes) -> tuple[str, ...]:
    """Eight letters for each row, by which a predictor knows again what it was trained on (48 bits of BLAKE2b)."""
    rows = np.ascontiguousarray(genomes, "<i8")
    return tuple(base64.b64encode(hashlib.blake2b(row, digest_size=6).digest()).decode() for row in rows)
