"""The surrogates by name. What each needs is imported when it is fitted: some need torch, some scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.errors import InputError
from esm_onnx.prediction.encodings import has_encoding
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
        encoding: what it is usually fitted on, in any space.
        with_folds: fits one, and predicts each row by one that has not seen its fold.
        preferred: what it is fitted on instead where the space has it.
        quick: it is fitted in far less than a second, so that many folds do not matter.
    """

    fit: Callable[[Examples], Surrogate]
    encoding: str
    with_folds: WithFolds
    preferred: str | None = None
    quick: bool = False


def _each_fold(
    fit: Callable[[Examples], Surrogate], encoding: str, *, preferred: str | None = None, quick: bool = False
) -> Entry:
    return Entry(fit, encoding, lambda examples, folds: fit_with_folds(fit, examples, folds), preferred, quick)


def _mlp(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.mlp import MlpSettings, fit_mlp

    return fit_mlp(examples.x, examples.y, MlpSettings(), examples.seed)


def _mlp_ofa(examples: Examples) -> Surrogate:
    from esm_onnx.prediction.ofa_paper import fit_ofa

    return fit_ofa(examples.x, examples.y, examples.seed)


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
    "hybrid": Entry(_hybrid, "counts", _hybrid_with_folds, preferred="cost+counts", quick=True),
    "mlp": _each_fold(_mlp, "fcc"),
    "mlp-ofa": _each_fold(_mlp_ofa, "one-hot", preferred="ofa"),
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
    return entry.preferred if entry.preferred and has_encoding(space, entry.preferred) else entry.encoding
