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
        name, rows = self.name, graph.floats(f"{self.name}.entries", self.entries)
        if self.options:
            columns = np.arange(self.options + self.entries.shape[1])
            chosen = graph.constant(f"{name}.chosen.columns", columns[: self.options])
            counts = graph.constant(f"{name}.counts.columns", columns[self.options :])
            rows = graph.add("MatMul", f"{name}.rows", graph.add("Gather", f"{name}.chosen", x, chosen, axis=1), rows)
            x = graph.add("Gather", f"{name}.counts", x, counts, axis=1)
        terms = graph.add("Mul", f"{name}.terms", x, rows)
        total = graph.add("ReduceSum", f"{name}.sum", terms, graph.constant(f"{name}.axis", np.array([1])), keepdims=1)
        scaled = graph.add("Mul", f"{name}.scaled", total, graph.floats(f"{name}.factor", self.factor))
        return graph.add("Add", f"{name}.value", scaled, graph.floats(f"{name}.bias", self.bias))


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
