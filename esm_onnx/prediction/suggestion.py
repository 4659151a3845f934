"""Which few architectures to measure on a new device, when predictors of other devices are at hand.

What is unknown of a new device is by how much more or less each kind of work takes there. So those to measure shall be
to all architectures what a good survey is to a people: as the bins of depth, the bases' predictions and the kinds of
work are spread over all, so over the few. That is kernel herding (Chen, Welling and Smola 2010, *Super-Samples from
Kernel Herding*): chosen is, one after another, what brings the mean of the chosen nearest to the mean of all, in the
space of a Gaussian kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from esm_onnx.architectures import Architecture, Bins, Space, extend, left_in_bins, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.base import Base, check_bases
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.hybrid import Layout
from esm_onnx.prediction.predictor import encode
from esm_onnx.prediction.surrogate import Matrix
from esm_onnx.prediction.surrogates import usual_encoding
from esm_onnx.prediction.uncertainty import standardised

POOL = 1000
"""Architectures to choose from, evenly from the bins of depth."""


def suggest(
    space: Space,
    bases: Sequence[Base],
    count: int,
    *,
    bins: Bins,
    rng: Random,
    measured: Sequence[Architecture] = (),
) -> list[Architecture]:
    """Chooses `count` architectures to measure, beside those that are measured already; the first ones say the most.

    Raises:
        InputError: no base, one for another space, or too few architectures.
    """
    if not bases:
        raise InputError("no base, expected a predictor of another device")
    check_bases(bases, space, bases[0].loaded.quantity.field)
    drawn = _pool(space, bins, rng)
    pool = [architecture for architecture in drawn if architecture not in set(measured)]
    if len(pool) < count:
        raise InputError(f"{count} architectures to suggest, expected at most the {len(pool)} not measured yet")
    genomes = np.array([to_genome(space, architecture) for architecture in (*pool, *measured)], np.int64)
    return [pool[i] for i in suggest_among(space, bases, genomes, count, measured=len(measured))]


def _pool(space: Space, bins: Bins, rng: Random) -> list[Architecture]:
    """Evenly from the bins; of a bin that has no more, all."""
    left = left_in_bins(space, bins, ())
    return extend(space, [min(count, POOL // len(bins)) for count in left], bins=bins, rng=rng)


def suggest_among(
    space: Space, bases: Sequence[Base], genomes: NDArray[np.int64], count: int, *, measured: int = 0
) -> list[int]:
    """The places of `count` of the genomes [n, length]; the last `measured` of them are chosen already."""
    return herd(_described(space, bases, genomes), count, measured)


def herd(x: Matrix, count: int, known: int = 0) -> list[int]:
    """The places of `count` rows of x [n, columns] whose mean, with the last `known` rows, is nearest to that of all.

    The kernel is exp(−d² / median of d²).
    """
    distance = cdist(x, x, "sqeuclidean")
    kernel = np.exp(-distance / max(float(np.median(distance)), np.finfo(float).tiny))
    everywhere = kernel.mean(axis=1)
    at = list(range(len(x) - known, len(x)))
    covered, open_rows = kernel[:, at].sum(axis=1), np.ones(len(x), bool)
    open_rows[at] = False
    chosen: list[int] = []
    for turn in range(known + 1, known + count + 1):
        gain = turn * everywhere - covered
        best = int(np.argmax(np.where(open_rows, gain, -np.inf)))
        chosen.append(best)
        open_rows[best] = False
        covered += kernel[:, best]
    return chosen


def _described(space: Space, bases: Sequence[Base], genomes: NDArray[np.int64]) -> Matrix:
    """What architectures differ by, [n, columns]: the kinds of their work, and the bases' predictions, each as much as
    the other."""
    encoding = usual_encoding("hybrid", space)
    columns = tuple(f"base{i}" for i in range(len(bases))) + tuple(find_encoding(encoding).columns(space))
    predicted, work, _ = Layout.of(columns, len(bases)).parts(encode(space, encoding, genomes, bases))
    return np.hstack([standardised(part) / part.shape[1] ** 0.5 for part in (work, np.log(predicted))])
