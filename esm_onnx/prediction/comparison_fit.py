"""One fit of a comparison: what it is fitted on, what it predicts of rows that it has not seen, what that is worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins
from esm_onnx.errors import InputError
from esm_onnx.prediction.conformal import Interval, calibrate
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.evaluation import evaluate
from esm_onnx.prediction.predictor import LEAST_MS, predict_latency
from esm_onnx.prediction.splits import together
from esm_onnx.prediction.surrogate import Vector
from esm_onnx.prediction.surrogates import find_surrogate
from esm_onnx.prediction.training import TrainSettings, assign_folds, examples_of, finite

Pair = tuple[str, str]
"""Names of a surrogate and of the encoding that it is fitted on."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How good one fit is on the rows held out, or the mean or the spread of several.

    Attributes:
        accuracy, rmse_ms, rmse_percent, within_5, kendall: as in `evaluation.Metrics`.
        worst_bin: accuracy in the bin of depth where it is least, in %.
        coverage: share of held-out latencies inside their intervals, in %; None without intervals.
        width_percent: mean over the held-out rows of how far the interval reaches to either side, in % of the
            prediction; None without intervals, and where too few rows set them to have an end.
        train_s: seconds to fit, encoding left out; with intervals all folds. The first fit of a process also imports.
        predict_s: seconds to encode and predict the held-out rows.
    """

    accuracy: float | None
    worst_bin: float | None
    rmse_ms: float | None
    rmse_percent: float | None
    within_5: float | None
    kendall: float | None
    coverage: float | None
    width_percent: float | None
    train_s: float | None
    predict_s: float | None


FIGURES = tuple(field.name for field in fields(Figures))


@dataclass(frozen=True)
class Fit:
    """One fit, and what it says of rows that it has not seen.

    Attributes:
        predicted: latencies in ms, [unseen rows].
        interval: None where none was asked for.
    """

    predicted: Vector
    interval: Interval | None
    train_s: float
    predict_s: float

    def widths(self, depths: NDArray[np.int64]) -> Vector:
        """How far the interval of each unseen row reaches to either side, as a share of the prediction."""
        if self.interval is None:
            raise InputError("no interval was asked for, expected a coverage")
        return np.array(self.interval.widths)[self.interval.bins_of(depths)]

    def inside(self, unseen: Dataset) -> NDArray[np.bool_]:
        """Whether each unseen latency lies in its interval."""
        reach: Vector = self.widths(unseen.depths) * self.predicted
        return np.abs(unseen.latency_ms - self.predicted) <= reach


def without(dataset: Dataset, other: Dataset) -> Dataset:
    """The rows of a dataset whose architectures another one does not have."""
    there = set(map(bytes, other.genomes))
    return dataset.select(np.array([bytes(genome) not in there for genome in dataset.genomes], bool))


def shuffled(dataset: Dataset, test: int, seed: int, split: str = "random") -> tuple[Dataset, Dataset]:
    """The rows of one permutation: what may be trained on, in its order, and the last `test`, which are held out, less
    those that the split would keep with one to train on.

    Raises:
        InputError: none is left of them.
    """
    group = together(dataset, split)
    rank = np.argsort(np.random.default_rng(seed).permutation(group.max() + 1))
    known, unseen = np.split(np.argsort(rank[group], kind="stable"), [len(dataset) - test])
    apart = unseen[~np.isin(group[unseen], group[known])]
    if len(apart) < min(test, 1):
        raise InputError(
            f"all {test} measurements held out have the blocks of others, expected some more: hold out more"
        )
    return dataset.select(known), dataset.select(apart)


def fit_once(
    pair: Pair,
    known: Dataset,
    unseen: Dataset,
    *,
    bins: Bins,
    seed: int = 0,
    coverage: float | None = None,
    split: str = "random",
    clock: Callable[[], float] = time.perf_counter,
) -> Fit:
    """Fits one pair on known rows, and predicts others.

    Args:
        coverage: share that intervals shall enclose; None for none, which saves a fit for each fold.
        split: of those folds.
        clock: seconds; only differences count.

    Raises:
        InputError: the space does not go with the encoding.
        WorkError: the surrogate cannot be fitted on these rows, or diverged.
    """
    name, encoding = pair
    entry, interval = find_surrogate(name), None
    examples = examples_of(known, encoding, seed)
    started = clock()
    if coverage is None:
        surrogate = entry.fit(examples)
    else:
        fitted = entry.with_folds(examples, assign_folds(known, bins, TrainSettings(name, split=split, seed=seed)))
        out_of_fold = np.maximum(finite(fitted.out_of_fold, name), LEAST_MS)
        surrogate, interval = fitted.surrogate, calibrate(out_of_fold, known.latency_ms, known.depths, bins, coverage)
    trained = clock()
    predicted = predict_latency(known.space, encoding, surrogate, unseen.genomes).astype(np.float64)
    return Fit(finite(predicted, name), interval, trained - started, clock() - trained)


def figures_of(fit: Fit, unseen: Dataset, bins: Bins) -> Figures:
    """What a fit is worth on rows that it has not seen."""
    evaluation = evaluate(fit.predicted, unseen.latency_ms, unseen.depths, bins)
    overall, worst = evaluation.overall, evaluation.worst_bin
    coverage = width = None
    if fit.interval is not None:
        coverage, width = float(100 * fit.inside(unseen).mean()), float(100 * fit.widths(unseen.depths).mean())
    return Figures(
        accuracy=overall.accuracy,
        worst_bin=worst.accuracy if worst else None,
        rmse_ms=overall.rmse_ms,
        rmse_percent=overall.rmse_percent,
        within_5=overall.within_5,
        kendall=overall.kendall,
        coverage=coverage,
        width_percent=width if width is None or np.isfinite(width) else None,
        train_s=fit.train_s,
        predict_s=fit.predict_s,
    )
