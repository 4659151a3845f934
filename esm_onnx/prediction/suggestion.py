"""Which few architectures to measure on a new device, when predictors of other devices are at hand.

What is unknown of a new device is by how much more or less each kind of work takes there (`base_stage`). A measurement
teaches most where its shares of work are unlike those already known; chosen is, one after another, what lowers the
variance of the predictions over all architectures most (Bayesian linear regression; greedy V-optimal design: Seo et al.
2000, *Gaussian Process Regression: Active Data Selection*), in each bin of depth as many as in any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Architecture, Bins, Space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.base import Base, check_bases, surveyed_genomes
from esm_onnx.prediction.base_stage import explain
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.hybrid import Layout
from esm_onnx.prediction.predictor import encode
from esm_onnx.prediction.surrogate import Matrix
from esm_onnx.prediction.surrogates import usual_encoding

POOL = 1000
"""Architectures to choose from."""
PRIOR, NOISE = 0.2, 0.03
"""Standard deviations, in logarithms: of what one kind of work may take more than all, and of a measurement."""


def suggest(
    space: Space,
    bases: Sequence[Base],
    count: int,
    *,
    bins: Bins,
    rng: Random,
    measured: Sequence[Architecture] = (),
) -> list[Architecture]:
    """Chooses `count` architectures to measure, beside those that are measured already; best first.

    Raises:
        InputError: a base is for another space, or the space has too few architectures.
    """
    if not bases:
        raise InputError("no base, expected a predictor of another device")
    check_bases(bases, space, bases[0].loaded.quantity.field)
    pool = sample(space, min(POOL, space.size), strategy="random" if space.size <= POOL else "balanced", rng=rng)
    pool = [architecture for architecture in pool if architecture not in set(measured)]
    if len(pool) < count:
        raise InputError(
            f"{count} architectures to suggest, expected at most the {len(pool)} that are not measured yet"
        )
    genomes = np.array([to_genome(space, architecture) for architecture in (*pool, *measured)], np.int64)
    x = _directions(space, bases, genomes)
    of_bin = np.array(bins.indices(architecture.depth for architecture in (*pool, *measured)))
    chosen = choose(x[: len(pool)], of_bin[: len(pool)], count, known=x[len(pool) :], known_bins=of_bin[len(pool) :])
    return [pool[i] for i in chosen]


def choose(
    x: Matrix, of_bin: NDArray[np.int64], count: int, *, known: Matrix, known_bins: NDArray[np.int64]
) -> list[int]:
    """Rows of x [n, columns], in units of a measurement's noise, with a prior of unit variance on their weights."""
    inverse = np.linalg.inv(np.eye(x.shape[1]) + known.T @ known)
    spread = x.T @ x / len(x)
    bins = int(of_bin.max()) + 1
    taken = np.bincount(known_bins, minlength=bins)
    left = np.bincount(of_bin, minlength=bins)
    open_rows, chosen = np.ones(len(x), bool), list[int]()
    while len(chosen) < count:
        towards = x @ inverse
        variance = np.einsum("ij,ij->i", towards, x)
        gain = np.einsum("ij,jk,ik->i", towards, spread, towards) / (1 + variance)
        fewest = taken == taken[left > 0].min()
        best = int(np.argmax(np.where(open_rows & fewest[of_bin], gain, -1.0)))
        chosen.append(best)
        open_rows[best] = False
        taken[of_bin[best]] += 1
        left[of_bin[best]] -= 1
        inverse -= np.outer(towards[best], towards[best]) / (1 + variance[best])  # Sherman and Morrison 1950
    return chosen


def _directions(space: Space, bases: Sequence[Base], genomes: NDArray[np.int64]) -> Matrix:
    """What latencies may differ by, [n, columns]: the shares of work of each base, and a level."""
    encoding = usual_encoding("hybrid", space)
    columns = tuple(f"base{i}" for i in range(len(bases))) + tuple(find_encoding(encoding).columns(space))
    layout = Layout.of(columns, len(bases))
    surveyed, head, _ = layout.parts(encode(space, encoding, surveyed_genomes(space, 0), bases))
    predicted, x, _ = layout.parts(encode(space, encoding, genomes, bases))
    shares = [explain(surveyed[:, i], head).shares(predicted[:, i], x) for i in range(len(bases))]
    centred = np.hstack([each - each.mean(axis=0) for each in shares]) * (PRIOR / len(bases) ** 0.5)
    return np.hstack([centred, np.ones((len(genomes), 1))]) / NOISE
