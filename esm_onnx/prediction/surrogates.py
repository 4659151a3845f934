"""The surrogates by name. What each needs is imported when it is fitted: some need torch, some scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.errors import InputError
from esm_onnx.prediction.encodings import COST, find_encoding
from esm_onnx.prediction.surrogate import Examples, Fitted, Surrogate, fit_with_folds

HYBRID_FOLDS = 10
"""By which the stages of a hybrid confirm each other where nobody asks for folds."""

LINEAR_STRENGTHS = np.logspace(-4, 4, 17)

WithFolds = Callable[[Examples, NDArray[np.int64]], Fitted]


@dataclass(frozen=True, slots=True)
class Entry:
    """A kind of surrogate.

    Attributes:
        fit: fits one.
        encoding: what it is usually fitted on.
        with_folds: fits one, and predicts each row by one that has not seen its fold.
        quick: it is fitted in far less than a second, so that many folds do not matter.
        uses_cost: the encoding `cost` is put in front where the space has it.
    """

    fit: Callable[[Examples], Surrogate]
    encoding: str
    with_folds: WithFolds
    uses_cost: bool = False
    quick: bool = False


def _each_fold(fit: Callable[[Examples], Surrogate], encoding: str, *, quick: bool = False) -> Entry:
    return Entry(fit, encoding, lambda examples, folds: fit_with_folds(fit, examples, folds), quick=quick)


def _mlp(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.mlp import MlpSettings, fit_mlp

    return fit_mlp(examples.x, examples.y, MlpSettings(), examples.seed)


def _mlp_ofa(examples: Examples) -> Surrogate:
    """Two hidden layers of 400 (Syed and Srinivasan 2021, "Generalized Latency Performance Estimation for Once-For-All
    Neural Architecture Search"), which they train on 7,000 rows encoded as zeros and ones.

    Their code (NAS_PerformanceEstimation, where it has a third such layer) takes the root of the mean square, and SGD
    with momentum, in batches of 32 for 50 epochs. Ours takes the mean square, and Adam with the same rate and decay, in
    batches of 64 for about as many epochs of 7,000 rows.
    """
    from esm_onnx.prediction.mlp import MlpSettings, fit_mlp

    settings = MlpSettings(hidden=(400, 400), learning_rate=0.001, weight_decay=0.001, batch=64)
    return replace(fit_mlp(examples.x, examples.y, settings, examples.seed), name="mlp-ofa")


def _linear(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.linear import fit_ridge

    return fit_ridge(examples.x, examples.y, LINEAR_STRENGTHS)


def _tree(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.trees import fit_tree

    return fit_tree(examples)


def _boosted(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.trees import fit_boosted

    return fit_boosted(examples)


def _gaussian_process(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.gaussian_process import fit_gaussian_process

    return fit_gaussian_process(examples)


def _lut(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.lut import fit_lut

    return fit_lut(examples, examples.lookup)


def _lut_bias(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.lut import fit_lut_bias

    return fit_lut_bias(examples, examples.lookup)


def _hybrid(examples: Examples) -> Surrogate:
    order = np.random.default_rng(examples.seed).permutation(len(examples))
    return _hybrid_with_folds(examples, order % min(HYBRID_FOLDS, len(examples))).surrogate


def _hybrid_with_folds(examples: Examples, folds: NDArray[np.int64]) -> Fitted:
    from esm_onnx.prediction.hybrid import fit_hybrid

    return fit_hybrid(examples, folds)


SURROGATES: dict[str, Entry] = {
    "hybrid": Entry(_hybrid, "counts", _hybrid_with_folds, uses_cost=True, quick=True),
    "mlp": _each_fold(_mlp, "fcc"),
    "mlp-ofa": _each_fold(_mlp_ofa, "one-hot"),
    "linear": _each_fold(_linear, "fcc", quick=True),
    "tree": _each_fold(_tree, "fcc"),
    "boosted": _each_fold(_boosted, "fcc"),
    "lut": _each_fold(_lut, "entries", quick=True),
    "lut-bias": _each_fold(_lut_bias, "entries", quick=True),
    "gp": _each_fold(_gaussian_process, "fcc"),
}


def find_surrogate(name: str) -> Entry:
    """The surrogate of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SURROGATES:
        raise InputError(f"surrogate {name!r}, expected one of {', '.join(SURROGATES)}")
    return SURROGATES[name]


def usual_encoding(surrogate: str, space: Space) -> str:
    """What a surrogate is fitted on where nobody says otherwise."""
    entry = find_surrogate(surrogate)
    if entry.uses_cost:
        try:
            COST.table(space)
        except InputError:  # no writer of ours, or too many options: counts alone, then
            return entry.encoding
        return find_encoding(f"{COST.name}+{entry.encoding}").name
    return entry.encoding
