"""From a dataset to a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins, divide
from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.base import Base, check_bases, surveyed_genomes
from esm_onnx.prediction.conformal import calibrate, measured_coverage
from esm_onnx.prediction.dataset import Dataset, row_digests
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.evaluation import Coverage, Evaluation, evaluate
from esm_onnx.prediction.predictor import LEAST_MS, Predictor, encode, predict_latency
from esm_onnx.prediction.splits import SPLITS, folds_of, held_out_of
from esm_onnx.prediction.surrogate import Examples, Fit, Survey, Vector
from esm_onnx.prediction.surrogates import SURROGATES, find_surrogate, usual_encoding

LEAST_ROWS = 3
"""Two remain when one is left out: one has no spread to standardise by."""
FINER = ((1000, 4), (3000, 2))


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a predictor is made.

    Attributes:
        surrogate: its name.
        encoding: its name; None takes what suits surrogate and space.
        folds: parts of the rows, each predicted by a surrogate fitted on the others: accuracy and interval come from
            these predictions. Fewer where there are fewer rows. A surrogate that is fitted quickly takes four times as
            many below 1,000 rows and twice as many below 3,000, so that they are as good as the one fitted on all.
        split: which rows may be judged by which, see `splits.SPLITS`.
        held_out: share of the rows never trained on, from which accuracy and interval come instead: one fit in place
            of `folds` + 1. None: cross-validation.
        coverage: share that the interval shall enclose.
        bins: N_Bins; None divides the space in the usual way.
        seed: of the folds and of the surrogate.
    """

    surrogate: str = "hybrid"
    encoding: str | None = None
    folds: int = 5
    split: str = "random"
    held_out: float | None = None
    coverage: float = 0.9
    bins: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        find_surrogate(self.surrogate)
        if self.encoding is not None:
            find_encoding(self.encoding)
        if self.folds < 2:
            raise InputError(f"folds is {self.folds}, expected at least 2")
        if self.split not in SPLITS:
            raise InputError(f"split {self.split!r}, expected one of {', '.join(SPLITS)}")
        for name in ("held_out", "coverage"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} is {value}, expected a share between 0 and 1")


def train(
    dataset: Dataset,
    settings: TrainSettings,
    *,
    held_out: Dataset | None = None,
    test: Dataset | None = None,
    fit: Fit | None = None,
    bases: Sequence[Base] = (),
) -> tuple[Predictor, Evaluation]:
    """Fits a predictor, and evaluates and calibrates it on predictions of rows that were not trained on.

    Args:
        dataset: what to train on, less a share that is held out where the settings say so.
        held_out: measurements to evaluate and calibrate on, in place of cross-validation.
        test: measurements to evaluate on alone; the interval is not calibrated on them.
        fit: how the surrogate is fitted, instead of as its name says; only where rows are held out.
        bases: predictors of other devices, to start from.

    Raises:
        InputError: too few rows, another space held out, an architecture on both sides, or a base for something else.
        WorkError: the surrogate diverged.
    """
    check_bases(bases, dataset.space, dataset.quantity)
    bins, whole = divide(dataset.space, settings.bins), dataset
    if held_out is None and settings.held_out is not None:
        outside = held_out_of(dataset, bins, settings.split, settings.held_out, np.random.default_rng(settings.seed))
        dataset, held_out = dataset.select(~outside), dataset.select(outside)
    elif held_out is not None:
        whole = dataset.joined(held_out)
    _check_rows(dataset, held_out)
    for other in (held_out, test):
        if other is not None:
            _check_apart(dataset, other)
    out_of_fold: tuple[float, ...] = ()
    encoding = settings.encoding or usual_encoding(settings.surrogate, dataset.space)
    examples = examples_of(dataset, encoding, settings.seed, bases)
    if held_out is None:
        judged = dataset
        fitted = SURROGATES[settings.surrogate].with_folds(examples, assign_folds(dataset, bins, settings))
        surrogate, predicted = fitted.surrogate, np.maximum(finite(fitted.out_of_fold, settings.surrogate), LEAST_MS)
        out_of_fold = tuple(predicted.tolist())
    else:
        judged = held_out
        surrogate = (fit or SURROGATES[settings.surrogate].fit)(examples)
        found = predict_latency(dataset.space, encoding, surrogate, held_out.genomes, bases).astype(np.float64)
        predicted = finite(found, settings.surrogate)
    interval = calibrate(predicted, judged.latency_ms, judged.depths, bins, settings.coverage)
    coverage = _coverage(predicted, judged, bins, settings)
    evaluation = evaluate(predicted, judged.latency_ms, judged.depths, bins, judged.noise_floor, coverage)
    predictor = Predictor(
        space=dataset.space,
        encoding=encoding,
        surrogate=surrogate,
        interval=interval,
        target=dataset.target,
        trained=row_digests(dataset.genomes),
        calibrated=row_digests(judged.genomes),
        dataset=whole.digest,
        evaluation=evaluation,
        bases=tuple(bases),
        out_of_fold=out_of_fold,
    )
    if test is None:
        return predictor, evaluation
    evaluation = evaluate_on(predictor, test, bins)
    return replace(predictor, evaluation=evaluation), evaluation


def examples_of(dataset: Dataset, encoding: str, seed: int, bases: Sequence[Base] = ()) -> Examples:
    """What a surrogate is fitted on."""
    space = dataset.space
    columns = tuple(f"base{i}" for i in range(1, len(bases) + 1)) + tuple(find_encoding(encoding).columns(space))
    x = encode(space, encoding, dataset.genomes, bases)
    surveys: tuple[Survey, ...] = ()
    if bases:
        genomes = surveyed_genomes(space, seed)
        seen = encode(space, encoding, genomes, bases)
        surveys = tuple(Survey(base.name, seen[:, i], seen, base.error) for i, base in enumerate(bases))
    return Examples(x, dataset.latency_ms, columns, seed, dataset.lookup, surveys)


def evaluate_on(predictor: Predictor, test: Dataset, bins: Bins) -> Evaluation:
    """A predictor against measurements that it was neither trained nor calibrated on."""
    latency, lower, upper = predictor.predict(test.genomes)
    inside = (lower <= test.latency_ms) & (test.latency_ms <= upper)
    coverage = Coverage(100 * predictor.interval.coverage, float(100 * inside.mean()))
    return evaluate(latency, test.latency_ms, test.depths, bins, test.noise_floor, coverage)


def assign_folds(dataset: Dataset, bins: Bins, settings: TrainSettings) -> NDArray[np.int64]:
    """The number of each row's fold."""
    finer = next((factor for rows, factor in FINER if len(dataset) < rows), 1)
    count = min(settings.folds * (finer if find_surrogate(settings.surrogate).quick else 1), len(dataset))
    return folds_of(dataset, bins, settings.split, count, settings.seed)


def finite(latency_ms: Vector, surrogate: str) -> Vector:
    """The latencies themselves.

    Raises:
        WorkError: one of them is no number: the surrogate diverged.
    """
    if not np.isfinite(latency_ms).all():
        raise WorkError(f"the {surrogate} did not settle on finite latencies: train with another seed")
    return latency_ms


def _coverage(predicted: Vector, judged: Dataset, bins: Bins, settings: TrainSettings) -> Coverage:
    rng = np.random.default_rng(settings.seed)
    share = measured_coverage(predicted, judged.latency_ms, judged.depths, bins, settings.coverage, rng)
    return Coverage(100 * settings.coverage, None if share is None else 100 * share)


def _check_rows(dataset: Dataset, held_out: Dataset | None) -> None:
    if len(dataset) < LEAST_ROWS or (held_out is not None and not len(held_out)):
        outside = "" if held_out is None else f" and {len(held_out)} held out"
        least = "" if held_out is None else " and 1"
        raise InputError(
            f"{len(dataset)} measurements to train on{outside}, expected at least {LEAST_ROWS}{least}: measure more "
            f"architectures"
        )
    repeated = len(dataset) - len(set(map(bytes, dataset.genomes)))
    if repeated:
        raise InputError(
            f"{repeated} rows are of architectures that other rows have, expected one row each: take the mean of its "
            f"measurements"
        )


def _check_apart(dataset: Dataset, other: Dataset) -> None:
    """Makes sure that the rows of `other` are of the same space, and none of them trained on."""
    if other.space.fingerprint != dataset.space.fingerprint:
        raise InputError(
            f"measurements of space {other.space.name!r} ({other.space.fingerprint}) are held out, expected "
            f"{dataset.space.name!r} ({dataset.space.fingerprint}), which is trained on"
        )
    both = set(map(bytes, dataset.genomes)) & set(map(bytes, other.genomes))
    if both:
        raise InputError(f"{len(both)} architectures are both trained on and held out, expected none")
