"""Encoding + surrogate + interval: what becomes predictor.onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.dataset import depths_of
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.evaluation import Evaluation
from esm_onnx.prediction.surrogate import Matrix, Surrogate

LEAST_MS = 1e-6
"""Predictions end here: a surrogate that extrapolates may go below 0, a latency cannot."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor, before it is a file.

    Attributes:
        encoding: name of the encoding.
        target: name and facts of what was measured, as JSON data.
        trained, calibrated: digests of the rows trained on, and of those that set the interval; see `row_digests`.
        dataset: digest of everything it was made from, held-out rows included.
        evaluation: on rows that were held out, or predicted out of their fold; None where there are no measurements.
        out_of_fold: [trained rows] what surrogates that had not seen a row predicted for it; empty where rows were
            held out instead.
        bases: predictors of other devices, whose predictions stand in front of what is encoded.
    """

    space: Space
    encoding: str
    surrogate: Surrogate
    interval: Interval
    target: Mapping[str, Any]
    trained: tuple[str, ...]
    calibrated: tuple[str, ...]
    dataset: str
    evaluation: Evaluation | None
    bases: tuple[Base, ...] = ()
    out_of_fold: tuple[float, ...] = ()

    def predict(self, genomes: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """The quantity (latency_ms in most) and the bounds of its interval, each [n], of genomes [n, genome length]."""
        latency = predict_latency(self.space, self.encoding, self.surrogate, genomes, self.bases)
        factors = self.interval.factors[self.interval.bins_of(depths_of(self.space, genomes))]
        return latency, latency * factors[:, 0], latency * factors[:, 1]


def predict_latency(
    space: Space, encoding: str, surrogate: Surrogate, genomes: NDArray[np.int64], bases: Sequence[Base] = ()
) -> Floats:
    """Latencies in ms, or what else was fitted in its unit, [n], of valid genomes [n, genome length]."""
    encoded = encode(space, encoding, genomes, bases)
    return np.maximum(surrogate.predict(encoded), np.float32(LEAST_MS))


def encode(space: Space, encoding: str, genomes: NDArray[np.int64], bases: Sequence[Base] = ()) -> Matrix:
    """What a surrogate takes, [n, columns]: what the bases predict, then the encoded genomes [n, genome length]."""
    encoded = find_encoding(encoding).encode(space, genomes)
    return np.column_stack([*(base.predict(genomes) for base in bases), encoded]) if bases else encoded
