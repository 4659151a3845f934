"""Which rows are judged by what was not trained on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Bins
from esm_onnx.errors import InputError
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.lint_groups import CACHED
from esm_onnx.prediction.lint_table import Finding

SPLITS = ("random", "time", "blocks")
"""Rows at random; stretches of measuring, so that what drifts is not learned from its neighbours in time; or networks
of the same blocks together, whatever the network's options (a resolution), at random."""
BLOCKS = "blocks"

Indices = NDArray[np.int64]


def together(dataset: Dataset, split: str) -> Indices:
    """[n] number of the group of rows that are not torn apart."""
    if split != BLOCKS:
        return np.arange(len(dataset))
    blocks = dataset.genomes[:, len(dataset.space.network) :]
    _, group = np.unique(blocks, axis=0, return_inverse=True)
    return group.ravel().astype(np.int64)


def folds_of(dataset: Dataset, bins: Bins, split: str, count: int, seed: int) -> Indices:
    """[n] number of each row's fold, of `count` folds or of as many as there are groups."""
    if split == "time":
        return np.arange(len(dataset)) * count // len(dataset)
    group = together(dataset, split)
    of_bin = _bins_of(dataset, bins, group)
    order = np.random.default_rng(seed).permutation(len(of_bin))
    order = order[np.argsort(of_bin[order], kind="stable")]  # bin by bin, so that each fold has its share of each
    folds = np.empty(len(of_bin), np.int64)
    folds[order] = np.arange(len(of_bin)) % count
    return folds[group]


def held_out_of(dataset: Dataset, bins: Bins, split: str, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[n] which rows are held out: about `share` of the groups of each bin of depth, at least one, never all of them;
    of "time" the last ones."""
    if split == "time":
        return np.arange(len(dataset)) >= len(dataset) - min(max(1, round(share * len(dataset))), len(dataset) - 1)
    group = together(dataset, split)
    of_bin = _bins_of(dataset, bins, group)
    outside = np.zeros(len(of_bin), bool)
    for i in range(len(bins)):
        groups = rng.permutation(np.flatnonzero(of_bin == i))
        outside[groups[: min(max(1, round(share * len(groups))), len(groups) - 1)]] = True
    return outside[group]


def demand_apart(findings: Sequence[Finding], split: str) -> None:
    """Makes sure that no row is judged by a copy of itself.

    Raises:
        InputError: rows hold the measurement of another row, and the split would tear them apart.
    """
    for finding in findings:
        if finding.kind == CACHED and split != BLOCKS:
            raise InputError(
                f"split {split!r} is refused: {finding.message}; any accuracy would be that of remembering; take "
                f"--split {BLOCKS}, which keeps networks of the same blocks together"
            )


def _bins_of(dataset: Dataset, bins: Bins, group: Indices) -> Indices:
    """The bin of depth of each group."""
    of_bin = np.empty(group.max() + 1 if len(group) else 0, np.int64)
    of_bin[group] = bins.indices(dataset.depths)
    return of_bin
