"""From a dataset to a predictor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins, divide
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.conformal import calibrate, measured_coverage
from esm_onnx.prediction.dataset import Dataset, row_digests
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.evaluation import Coverage, Evaluation, evaluate
from esm_onnx.prediction.mlp import MlpSettings, fit_mlp
from esm_onnx.prediction.predictor import Predictor, predict_latency
from esm_onnx.prediction.surrogate import Matrix, Surrogate, Vector

LEAST_ROWS = 2
"""One row has no spread to standardise by."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a predictor is made.

    Attributes:
        encoding, surrogate: their names.
        held_out: share of the rows never trained on, from which accuracy and interval come.
        coverage: share that the interval shall enclose.
        bins: N_Bins; None divides the space in the usual way.
        mlp: how an MLP is trained.
        seed: of the split and of the surrogate.
    """

    encoding: str = "fcc"
    surrogate: str = "mlp"
    held_out: float = 0.2
    coverage: float = 0.9
    bins: int | None = None
    mlp: MlpSettings = field(default_factory=MlpSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        find_encoding(self.encoding)
        if self.surrogate not in SURROGATES:
            raise InputError(f"surrogate {self.surrogate!r}, expected one of {', '.join(SURROGATES)}")
        for name in ("held_out", "coverage"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected a share between 0 and 1")


def _fit_mlp(x: Matrix, y: Vector, settings: TrainSettings) -> Surrogate:
    return fit_mlp(x, y, settings.mlp, settings.seed)


SURROGATES: dict[str, Callable[[Matrix, Vector, TrainSettings], Surrogate]] = {"mlp": _fit_mlp}
"""How each surrogate is fitted on encoded architectures [n, columns] and latencies in ms [n]."""


def train(
    dataset: Dataset, settings: TrainSettings, *, held_out: Dataset | None = None
) -> tuple[Predictor, Evaluation]:
    """Fits a predictor, and evaluates and calibrates it on rows that it has not seen.

    Args:
        dataset: what to train on, less a share that is held out when `held_out` is None.
        held_out: measurements to evaluate on instead; no architecture of them may be in `dataset`.

    Raises:
        InputError: too few rows, another space held out, or an architecture on both sides.
        WorkError: the surrogate diverged.
    """
    bins = divide(dataset.space, settings.bins)
    if held_out is None:
        outside = split(dataset, bins, settings.held_out, np.random.default_rng(settings.seed))
        dataset, held_out = dataset.select(~outside), dataset.select(outside)
    _check(dataset, held_out)
    encoding = find_encoding(settings.encoding)
    surrogate = SURROGATES[settings.surrogate](
        encoding.encode(dataset.space, dataset.genomes), dataset.latency_ms, settings
    )
    predicted = predict_latency(dataset.space, encoding.name, surrogate, held_out.genomes).astype(np.float64)
    if not np.isfinite(predicted).all():
        raise WorkError(f"the {settings.surrogate} did not settle on finite latencies: train with another seed")
    measured, rng = held_out.latency_ms, np.random.default_rng(settings.seed)
    share = measured_coverage(predicted, measured, settings.coverage, rng)
    coverage = Coverage(100 * settings.coverage, None if share is None else 100 * share)
    evaluation = evaluate(predicted, measured, held_out.depths, bins, held_out.noise_floor, coverage)
    predictor = Predictor(
        space=dataset.space,
        encoding=encoding.name,
        surrogate=surrogate,
        interval=calibrate(predicted, measured, settings.coverage),
        target=dataset.target,
        trained=row_digests(dataset.genomes),
        calibrated=row_digests(held_out.genomes),
        dataset=dataset.joined(held_out).digest,
        evaluation=evaluation,
    )
    return predictor, evaluation


def split(dataset: Dataset, bins: Bins, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which rows are held out: about `share` of each bin of depth, at least one row and never all of them."""
    of_bin = np.array([bins.index(int(depth)) for depth in dataset.depths])
    outside = np.zeros(len(dataset), bool)
    for i in range(len(bins)):
        rows = rng.permutation(np.flatnonzero(of_bin == i))
        outside[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return outside


def _check(dataset: Dataset, held_out: Dataset) -> None:
    if len(dataset) < LEAST_ROWS or not len(held_out):
        raise InputError(
            f"{len(dataset)} measurements to train on and {len(held_out)} held out, expected at least {LEAST_ROWS} and "
            f"1: measure more architectures"
        )
    if held_out.space.fingerprint != dataset.space.fingerprint:
        raise InputError(
            f"measurements of space {held_out.space.name!r} ({held_out.space.fingerprint}) are held out, expected "
            f"{dataset.space.name!r} ({dataset.space.fingerprint}), which is trained on"
        )
    both = set(map(bytes, dataset.genomes)) & set(map(bytes, held_out.genomes))
    if both:
        raise InputError(f"{len(both)} architectures are both trained on and held out, expected none")
