"""What latencies say by themselves: how they came about, values that are none, one value too often, coarse clocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from esm_onnx.prediction.lint_fit import network_columns, numbered_rows
from esm_onnx.prediction.lint_table import ERROR, MEASURED, NOTE, WARNING, Finding, Indices, Mask, Rows, Vector

CHANCE = 1e-4
"""How often chance may be taken for a defect."""
LEAST_MS, GREATEST_MS = 1e-9, 1e9
"""What a latency can be, in ms: from below a clock's tick to eleven days."""
COARSE, TOO_COARSE = 0.002, 0.005
"""Error of rounding over the latency: worth a note, worth a warning."""
LEAST_VALUES = 10
"""Latencies that show a grid."""
FAR, LEAST_FAR, LEAST_REPEATED = 1.5, 3, 5
"""A bound lies beyond all others by this factor and is there so often; elsewhere a value must be there more often."""
APART, LEAST_APART = math.log(20), 5
"""Logarithm of the factor between groups of latencies that are of two units; and rows that show groups."""
NEIGHBOURS, MARGIN = 3, 1.5
"""Different values on each side that show how dense latencies are; and a margin, since density bends."""
FLOAT32 = 1.2e-7


@dataclass(frozen=True)
class Clock:
    """The grid that latencies lie on.

    Attributes:
        step_ms: 0 where there is none to be seen.
        error: standard deviation of rounding to it over the latency, as a share.
    """

    step_ms: float
    error: float


def provenance_findings(rows: Rows) -> Iterator[Finding]:
    """Latencies that are said to be no measurements."""
    if rows.provenance is None:
        return
    stated = np.array([bool(p) and p != MEASURED for p in rows.provenance])
    if stated.any():
        kinds = sorted({p for p, other in zip(rows.provenance, stated, strict=True) if other})
        yield Finding(
            "provenance",
            ERROR,
            f"{stated.sum()} of {len(rows)} latencies are no measurements but {', '.join(kinds)}",
            int(stated.sum()),
            rows.first(stated),
            "a predictor learns their rule, not a device: measure",
        )


def latencies(rows: Rows) -> Mask:
    """Which rows have a latency: a positive number that is neither absurdly small nor great."""
    possible: Mask = (rows.latency_ms >= LEAST_MS) & (rows.latency_ms <= GREATEST_MS)
    return possible


def sentinel_findings(rows: Rows) -> Iterator[Finding]:
    """Values that stand for a failure, not for a latency."""
    wrong = ~latencies(rows)
    if wrong.any():
        values, counts = np.unique(rows.latency_ms[wrong], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:4]
        told = ", ".join(f"{values[i]:g} ({counts[i]}×)" for i in order)
        yield Finding(
            "sentinels",
            ERROR,
            f"{wrong.sum()} of {len(rows)} values are no latencies: {told}",
            int(wrong.sum()),
            rows.first(wrong),
            "leave these rows out; a failure is no latency",
        )


def of_another_unit(rows: Rows) -> Mask:
    """Rows of the smaller of two groups of latencies, where nothing lies for a long way between them.

    Not where a feature of the whole network tells the groups apart: images of another size, say.
    """
    none = np.zeros(len(rows), bool)
    if len(rows) < LEAST_APART:
        return none
    order = np.argsort(rows.latency_ms, kind="stable")
    steps = np.diff(np.log(rows.latency_ms[order]))
    at = int(steps.argmax())
    widths = steps[:at].sum(), steps[at + 1 :].sum()
    if steps[at] < APART or steps[at] < max(widths):
        return none
    low = none.copy()
    low[order[: at + 1]] = True
    if any(not set(column[low]) & set(column[~low]) for column in rows.features[:, network_columns(rows)].T):
        return none
    return low if low.sum() <= len(rows) / 2 else ~low


def unit_findings(rows: Rows, mask: Mask) -> Iterator[Finding]:
    """Latencies of two units in one table."""
    if mask.any():
        these, others = rows.latency_ms[mask], rows.latency_ms[~mask]
        factor = float(np.exp(np.log(these).mean() - np.log(others).mean()))
        low, high = (others, these) if factor > 1 else (these, others)
        yield Finding(
            "units",
            ERROR,
            f"{mask.sum()} of {len(rows)} latencies are ×{factor:.3g} of the others in the mean, with nothing between "
            f"{low.max():.4g} and {high.min():.4g} ms",
            int(mask.sum()),
            rows.first(mask),
            "look for another unit or a lost decimal point: bring all rows to ms, or leave these out",
        )


def clock_of(latency_ms: Vector) -> Clock:
    """The grid of latencies: steps of a decimal place, or multiples of the least distance."""
    values = np.unique(latency_ms)
    if len(latency_ms) < LEAST_VALUES or len(values) < 2:
        return Clock(0.0, 0.0)
    candidates = [10.0**-places for places in range(-2, 9)]
    if len(values) < len(latency_ms) / 2:
        candidates.append(float(np.diff(values).min()))
    for step in sorted(candidates, reverse=True):
        multiples = values / step
        if np.all(np.abs(multiples - np.round(multiples)) < 1e-6 + 4e-16 * multiples):
            return Clock(step, step / math.sqrt(12) / float(np.median(latency_ms)))
    return Clock(0.0, 0.0)


def clock_findings(rows: Rows, clock: Clock) -> Iterator[Finding]:
    """A clock that is coarse beside the latencies."""
    if clock.error >= COARSE:
        yield Finding(
            "coarse clock",
            WARNING if clock.error >= TOO_COARSE else NOTE,
            f"latencies are whole multiples of {clock.step_ms:g} ms ({len(np.unique(rows.latency_ms))} different "
            f"values): rounding alone is an error of {100 * clock.error:.1f} %",
            len(rows),
            rows.first(np.ones(len(rows), bool)),
            "time many inferences at once, or with a finer clock; no predictor can be better than this",
        )


def repeated_value(rows: Rows, clock: Clock) -> Mask:
    """Rows that hold one value that is there improbably often: the bound of a timeout, a default."""
    pairs = np.unique(np.column_stack([numbered_rows(rows.features), rows.latency_ms]), axis=0)
    values, counts = np.unique(pairs[:, 1], return_counts=True)
    none = np.zeros(len(rows), bool)
    if len(values) == 1 and counts[0] >= LEAST_VALUES:
        return ~none
    if len(values) <= NEIGHBOURS:
        return none
    far = values[-1] > FAR * values[-2] and counts[-1] >= LEAST_FAR
    most = len(values) - 1 if far else int(np.argmax(counts))
    if not far and counts[most] < max(LEAST_REPEATED, 4 * np.sort(counts)[-2]):
        return none
    if poisson_tail(int(counts[most]) - 1, float(by_neighbours(values, counts, clock)[most])) * len(values) > CHANCE:
        return none
    found: Mask = rows.latency_ms == values[most]
    return found


def repeated_findings(rows: Rows, mask: Mask) -> Iterator[Finding]:
    """One value instead of many."""
    if mask.any():
        value = rows.latency_ms[mask][0]
        ranks = {rows.latency_ms.min(): "the least of all", rows.latency_ms.max(): "the greatest of all"}
        rank = ranks.get(value, "in the midst of others")
        yield Finding(
            "repeated value",
            WARNING,
            f"{mask.sum()} of {len(rows)} latencies are exactly {value:g} ms, {rank}: a bound or a default, no latency",
            int(mask.sum()),
            rows.first(mask),
            "leave these rows out; where it is a timeout, they are failures",
        )


def poisson_tail(count: int, mean: float) -> float:
    """An upper bound of the share of a Poisson distribution at `count` or more (Chernoff)."""
    if count <= mean:
        return 1.0
    return math.exp(count - mean - count * math.log(count / mean)) if mean > 0 else 0.0


def by_neighbours(values: Vector, counts: Indices, clock: Clock) -> Vector:
    """How often chance gives each of these ascending values at most, by how dense others are around it.

    A step is the clock's; or what single precision tells apart; or the least distance of two values, since no clock
    that they come from is coarser.
    """
    step = np.maximum(max(clock.step_ms, float(np.diff(values).min())), FLOAT32 * values)
    places = np.arange(len(values))
    low, high = np.maximum(places - NEIGHBOURS, 0), np.minimum(places + NEIGHBOURS, len(values) - 1)
    total = np.concatenate([[0], np.cumsum(counts)])
    density = (total[high + 1] - total[low] - counts) / (values[high] - values[low])
    expected: Vector = MARGIN * density * step
    return expected
