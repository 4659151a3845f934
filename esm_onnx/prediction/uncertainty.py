"""Which architectures would teach a predictor most.

A linear predictor on standardised columns, with a prior of unit variance on its weights, is least sure of a row x where
xᵀ(λI + Σ x_i x_iᵀ)⁻¹x is greatest, whatever was measured (Bayesian linear regression; choosing the greatest again and
again approaches a D-optimal design: Fedorov 1972). Each choice counts as known for the next, so choices differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from esm_onnx.architectures import Architecture, Bins, Space, to_genome
from esm_onnx.prediction.encoding import Encoding, Matrix
from esm_onnx.prediction.encodings import find_encoding

PRIOR = 1.0
"""λ: the variance of a measurement over that of a weight."""


def columns_to_learn(space: Space, encoding: Encoding, rows: int) -> Encoding:
    """The encoding whose weights are to be learned next: of joined ones the first alone, while there are fewer
    measurements than columns in all, for so long `hybrid` can confirm little beyond its first stage."""
    first = find_encoding(encoding.name.split("+")[0])
    return first if rows < len(encoding.columns(space)) else encoding


def most_uncertain(
    space: Space,
    encoding: Encoding,
    candidates: Sequence[Architecture],
    quotas: Sequence[int],
    *,
    bins: Bins,
    known: Sequence[Architecture],
) -> list[Architecture]:
    """Chooses `quotas[i]` of the candidates in each bin, or all where there are fewer, the least known first."""
    if not candidates:
        return []
    genomes = np.array([to_genome(space, architecture) for architecture in (*candidates, *known)], np.int64)
    x = standardised(encoding.encode(space, genomes))
    rows, measured = x[: len(candidates)], x[len(candidates) :]
    inverse = np.linalg.inv(PRIOR * np.eye(x.shape[1]) + measured.T @ measured)
    variance = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    of_bin = np.array(bins.indices(candidate.depth for candidate in candidates))
    left = np.array(quotas)
    chosen: list[int] = []
    while True:
        open_rows = left[of_bin] > 0
        open_rows[chosen] = False
        if not open_rows.any():
            return [candidates[i] for i in chosen]
        best = int(np.argmax(np.where(open_rows, variance, -1.0)))
        chosen.append(best)
        left[of_bin[best]] -= 1
        towards = inverse @ rows[best]
        norm = 1 + rows[best] @ towards
        variance = variance - (rows @ towards) ** 2 / norm  # Sherman and Morrison 1950
        inverse = inverse - np.outer(towards, towards) / norm


def standardised(x: Matrix) -> Matrix:
    """Columns with mean 0 and standard deviation 1; constant ones are 0."""
    scale = x.std(axis=0)
    standard: Matrix = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    return standard
