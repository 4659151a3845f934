"""The lookup tables of the papers: the sum of measured parts, as it is or brought in line with whole networks.

    lut        the sum of the entries (Cai et al. 2020, *Once-for-All*); it learns nothing from the rows
    lut-bias   bias + factor · that sum, by least squares over the rows

Both stand on the encoding `entries` alone, which counts what the table is multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.prediction.lookup_encoding import ENTRIES, Lookup
from esm_onnx.prediction.surrogate import Examples, Matrix, Nodes


@dataclass(frozen=True)
class Lut:
    """bias + factor · Σ counts × entries, in ms; the option of the network says which row of entries.

    Attributes:
        entries: [network options, entries], in ms; one row where the network has no options.
        options: number of columns that say which option the network has, in front of the counts; 0 for none.
        bias: in ms.
    """

    entries: NDArray[np.float32]
    options: int
    bias: float = 0.0
    factor: float = 1.0
    name: str = "lut"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n], of architectures encoded by `entries`, [n, columns]."""
        chosen, counts = np.split(x.astype(np.float32), [self.options], axis=1)
        rows = chosen @ self.entries if self.options else self.entries
        result: NDArray[np.float32] = np.float32(self.factor) * (counts * rows).sum(axis=1) + np.float32(self.bias)
        return result

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes: [batch, 1]."""
        name = self.name
        if not self.options:
            return graph.linear(f"{name}.value", x, self.factor * self.entries.astype(np.float64).T, [self.bias])
        chosen = graph.part(f"{name}.chosen", x, range(self.options))
        counts = graph.part(f"{name}.counts", x, range(self.options, self.options + self.entries.shape[1]))
        terms = graph.add("Mul", f"{name}.terms", counts, graph.linear(f"{name}.rows", chosen, self.entries))
        return graph.linear(f"{name}.value", terms, np.full((self.entries.shape[1], 1), self.factor), [self.bias])


def fit_lut(examples: Examples, lookup: Lookup | str) -> Lut:
    """The table; nothing is fitted.

    Args:
        lookup: the table, or why there is none.

    Raises:
        InputError: there is none, or the rows are encoded by another encoding than `entries`.
    """
    if isinstance(lookup, str):
        raise InputError(lookup)
    if examples.columns != lookup.columns:
        raise InputError(f"a lookup table stands on the encoding {ENTRIES.name!r} alone, expected no other --encoding")
    return lut_of(lookup)


def lut_of(lookup: Lookup) -> Lut:
    """The surrogate that a table is by itself."""
    return Lut(lookup.latency_ms.astype(np.float32), len(lookup.columns) - lookup.latency_ms.shape[1])


def fit_lut_bias(examples: Examples, lookup: Lookup | str) -> Lut:
    """The table, scaled and shifted by least squares over the rows.

    Raises:
        InputError: as `fit_lut`.
    """
    lut = fit_lut(examples, lookup)
    sums = lut.predict(examples.x).astype(np.float64)
    factor, bias = np.linalg.lstsq(np.stack([sums, np.ones_like(sums)], axis=1), examples.y)[0]
    return replace(lut, bias=float(bias), factor=float(factor), name="lut-bias")
