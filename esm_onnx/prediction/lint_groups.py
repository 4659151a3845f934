"""Rows that belong together: of one architecture, or of one measurement that stands in several rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from esm_onnx.prediction.lint_fit import numbered_rows
from esm_onnx.prediction.lint_table import ERROR, NOTE, WARNING, Finding, Indices, Rows, names_of, percent
from esm_onnx.prediction.lint_values import CHANCE, NEIGHBOURS, Clock, by_neighbours, poisson_tail

CACHED = "cached measurements"
"""The kind of the finding that rows hold the measurement of another row."""
SHARE = 0.01
"""Fewer rows than this do no harm to an accuracy."""
HELD_OUT = 0.2
"""The share that a random split would hold out."""
APART = math.log(1.1)
"""Latencies of one architecture that differ by more are not measurements of the same thing."""


@dataclass(frozen=True)
class Groups:
    """Rows that belong together.

    Attributes:
        architecture: [n] number of the architecture.
        measurement: [n] number of the group of rows that share one measurement; by itself where it shares none.
    """

    architecture: Indices
    measurement: Indices

    @property
    def together(self) -> Indices:
        """[n] number of the group of rows that are linked by an architecture or a measurement."""
        label = np.arange(len(self.architecture))
        while True:
            before = label
            for part in (self.architecture, self.measurement):
                least = np.full(len(label), len(label))
                np.minimum.at(least, part, label)
                label = least[part]
            if np.array_equal(label, before):
                return label


def groups_of(rows: Rows, clock: Clock) -> Groups:
    """Finds rows of one architecture, and rows of one measurement where more of them are equal than chance makes."""
    architecture = numbered_rows(rows.features)
    alone = Groups(architecture, np.arange(len(rows)))
    pairs = np.unique(np.column_stack([architecture, rows.latency_ms]), axis=0)
    values, counts = np.unique(pairs[:, 1], return_counts=True)
    tied = float((counts * (counts - 1)).sum() / 2)
    if not tied or len(values) <= NEIGHBOURS:
        return alone
    chance = float((counts * by_neighbours(values, counts, clock)).sum() / 2)
    if chance > len(pairs) / 5 or counts[counts > 1].sum() - 2 * chance < SHARE * len(pairs):
        return alone
    if poisson_tail(int(tied), chance) > CHANCE:
        return alone
    _, measurement = np.unique(rows.latency_ms, return_inverse=True)
    return Groups(architecture, measurement.ravel())


def duplicate_findings(rows: Rows, groups: Groups) -> Iterator[Finding]:
    """Architectures that are there more than once."""
    counts = np.bincount(groups.architecture)
    again = counts[groups.architecture] > 1
    if not again.any():
        return
    least, greatest = np.full(len(counts), np.inf), np.zeros(len(counts))
    np.minimum.at(least, groups.architecture, rows.latency_ms)
    np.maximum.at(greatest, groups.architecture, rows.latency_ms)
    several = counts > 1
    equal = several & (least == greatest)
    differing = several & ~equal
    told = []
    if equal.any():
        told.append(f"{equal.sum()} with the same latency to the last digit each time")
    apart = np.log(greatest[differing] / least[differing])
    if differing.any():
        told.append(
            f"{differing.sum()} with latencies that differ, the greatest from the least by "
            f"{percent(float(np.median(apart)))} in the median and {percent(float(apart.max()))} at most"
        )
    yield Finding(
        "duplicates",
        WARNING if again.mean() >= SHARE and (equal.any() or np.median(apart) > APART) else NOTE,
        f"of {len(counts)} architectures in {len(rows)} rows {several.sum()} are there more than once: "
        f"{'; '.join(told)}",
        int(again.sum()),
        rows.first(again),
        "copies are no second measurements: keep one row of each; others are merged into their mean",
    )


def cache_findings(rows: Rows, groups: Groups) -> Iterator[Finding]:
    """Rows of different architectures that hold one and the same measurement."""
    counts = np.bincount(groups.measurement)
    order = np.lexsort((groups.architecture, groups.measurement))
    same = np.diff(groups.measurement[order]) == 0
    other = same & (np.diff(groups.architecture[order]) != 0)
    if not other.any():
        return
    left, right = order[:-1][other], order[1:][other]
    varies = (rows.features[left] != rows.features[right]).mean(axis=0)
    ignored = names_of([name for name, share in zip(rows.columns, varies, strict=True) if share > 0.01])
    key = names_of([name for name, share in zip(rows.columns, varies, strict=True) if share <= 0.01])
    key = [name for name in key if name not in ignored]
    inside = np.zeros(len(rows), bool)
    inside[np.isin(groups.measurement, groups.measurement[left])] = True
    yield Finding(
        CACHED,
        ERROR,
        f"{len(rows)} rows hold {len(counts)} measurements: {inside.sum()} rows have exactly the latency of a row that "
        f"differs in {', '.join(ignored)}{' but not in ' + ', '.join(key) if key else ''}",
        int(inside.sum()),
        rows.first(inside),
        f"measure each architecture; until then keep one row of each measurement, or drop {', '.join(ignored)}",
    )


def leak_findings(rows: Rows, groups: Groups) -> Iterator[Finding]:
    """Groups of rows that a random split would tear apart."""
    together = groups.together
    if rows.merged:
        _, first = np.unique(groups.architecture, return_index=True)
        kept = np.isin(np.arange(len(rows)), first)
        rows, together = rows.select(kept), together[kept]
    sizes = np.bincount(together)[together]
    inside = sizes > 1
    if inside.mean() < SHARE:
        return
    seen = float((1 - HELD_OUT ** (sizes - 1)).mean())
    yield Finding(
        "leak",
        WARNING,
        f"{inside.sum()} of {len(rows)} rows share their architecture or measurement with another, in "
        f"{len(np.unique(together[inside]))} groups of up to {sizes.max()}: of {100 * HELD_OUT:.0f} % held out at "
        f"random, {100 * seen:.0f} % are in the training set too",
        int(inside.sum()),
        rows.first(inside),
        "split by group, not by row, or the accuracy is that of remembering",
    )
