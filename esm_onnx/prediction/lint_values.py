"""What latencies say by themselves and beside the features: no latencies at all, copies, caches, sums, coarse clocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from esm_onnx.prediction.lint_fit import (
    MOST_OPTIONS,
    Basis,
    fit,
    network_columns,
    numbered_rows,
    pooled,
)
from esm_onnx.prediction.lint_table import (
    ERROR,
    MEASURED,
    NOTE,
    WARNING,
    Finding,
    Indices,
    Mask,
    Matrix,
    Rows,
    Vector,
    names_of,
    percent,
)

EXACT = 2e-4
"""No machine repeats itself to this share of a latency, so residuals below it are of arithmetic."""
SPARE = 20
"""Rows beyond the columns of a fit that make its residuals evidence."""
FLOAT32 = 1.2e-7
COARSE, TOO_COARSE = 0.002, 0.01
"""Error of rounding over the latency: worth a note, worth a warning."""
NEIGHBOURS, MARGIN = 3, 1.5
FAR, LEAST_FAR, LEAST_REPEATED = 1.5, 3, 5
FLAT = 0.1
"""Latency grows with a power of a feature that makes work, the first or second; a tenth of the first is nothing."""
MOST_FLAT, SURE = 20, 4.0
SHARE = 0.01
"""Fewer rows than this do no harm to an accuracy."""
CHANCE = 1e-4


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
    """Which rows have a latency: a positive number."""
    good: Mask = np.isfinite(rows.latency_ms) & (rows.latency_ms > 0)
    return good


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


def clock_of(latency_ms: Vector) -> Clock:
    """The grid of latencies: steps of a decimal place, or multiples of the least distance."""
    values = np.unique(latency_ms)
    if len(latency_ms) < 10 or len(values) < 2:
        return Clock(0.0, 0.0)
    candidates = [10.0**-places for places in range(-2, 9)]
    gap = float(np.diff(values).min())
    if len(values) < len(latency_ms) / 2:
        candidates.append(gap)
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
    if len(values) < 3:
        return none
    far = values[-1] > FAR * values[-2] and counts[-1] >= LEAST_FAR
    most = len(values) - 1 if far else int(np.argmax(counts))
    if not far and counts[most] < max(LEAST_REPEATED, 4 * np.sort(counts)[-2]):
        return none
    if _poisson_tail(int(counts[most]) - 1, float(_by_neighbours(values, counts, clock)[most])) * len(values) > CHANCE:
        return none
    return rows.latency_ms == values[most]


def repeated_findings(rows: Rows, mask: Mask) -> Iterator[Finding]:
    """One value instead of many."""
    if mask.any():
        value = rows.latency_ms[mask][0]
        rank = "the greatest of all" if value == rows.latency_ms.max() else "the least of all"
        rank = rank if value in (rows.latency_ms.max(), rows.latency_ms.min()) else "in the midst of others"
        yield Finding(
            "repeated value",
            WARNING,
            f"{mask.sum()} of {len(rows)} latencies are exactly {value:g} ms, {rank}: a bound or a default, no latency",
            int(mask.sum()),
            rows.first(mask),
            "leave these rows out; where it is a timeout, they are failures",
        )


def _poisson_tail(count: int, mean: float) -> float:
    """An upper bound of the share of a Poisson distribution at `count` or more (Chernoff)."""
    if count <= mean:
        return 1.0
    return math.exp(count - mean - count * math.log(count / mean)) if mean > 0 else 0.0


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
    if not tied or len(values) < 3:
        return alone
    chance = float((counts * _by_neighbours(values, counts, clock)).sum() / 2)
    if chance > len(pairs) / 5 or counts[counts > 1].sum() - 2 * chance < SHARE * len(pairs):
        return alone
    if _poisson_tail(int(tied), chance) > CHANCE:
        return alone
    _, measurement = np.unique(rows.latency_ms, return_inverse=True)
    return Groups(architecture, measurement.ravel())


def _by_neighbours(values: Vector, counts: Indices, clock: Clock) -> Vector:
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
        WARNING if again.mean() >= SHARE else NOTE,
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
        "cached measurements",
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
    sizes = np.bincount(together)[together]
    inside = sizes > 1
    if not inside.any():
        return
    held_out = 0.2
    seen = float((1 - held_out ** (sizes - 1)).mean())
    yield Finding(
        "leak",
        WARNING if inside.mean() >= SHARE else NOTE,
        f"{inside.sum()} of {len(rows)} rows share their architecture or measurement with another, in "
        f"{len(np.unique(together[inside]))} groups of up to {sizes.max()}: of {100 * held_out:.0f} % held out at "
        f"random, {100 * seen:.0f} % are in the training set too",
        int(inside.sum()),
        rows.first(inside),
        "split by group, not by row, or the accuracy is that of remembering",
    )


def sum_findings(rows: Rows, clock: Clock) -> Iterator[Finding]:
    """Latencies that are exactly a sum over features or blocks: the output of a table, not of a device."""
    if clock.error >= EXACT:
        return  # rounding hides what is left over
    for stratum, told in _strata(rows):
        part = rows.select(stratum)
        for what, matrix in _additive_designs(part):
            error = _beyond_sum(part, matrix)
            if error is not None and error <= EXACT * float(np.median(part.latency_ms)):
                yield Finding(
                    "sums",
                    ERROR,
                    f"{told}a sum over {what} gives every latency to {error:.1e} ms: these are sums of a table or of "
                    f"a formula, not measurements",
                    len(rows),
                    rows.first(np.ones(len(rows), bool)),
                    "a predictor learns the table, not a device; measure, or state it as the provenance",
                )
                return


def _strata(rows: Rows) -> Iterator[tuple[Mask, str]]:
    """All rows, then those of the most frequent option of each feature of the network that has few."""
    everything = np.ones(len(rows), bool)
    yield everything, ""
    for i in network_columns(rows):
        options, counts = np.unique(rows.features[:, i], return_counts=True)
        if 1 < len(options) <= 10 * MOST_OPTIONS:
            option = options[np.argmax(counts)]
            stratum = rows.features[:, i] == option
            yield stratum, f"among the {counts.max()} rows with {rows.columns[i]} {option:g} "


def _additive_designs(rows: Rows) -> Iterator[tuple[str, Matrix]]:
    """What a table may be by: options, or combinations of options in blocks."""
    yield "options of features", _one_hot(rows)
    counts = list(pooled(rows))
    if counts:
        yield "combinations of options in blocks", np.hstack([*counts, _one_hot(rows)])


def _one_hot(rows: Rows) -> Matrix:
    columns = [(column, np.unique(column)) for column in rows.features.T]
    parts = [
        (column[:, None] == options).astype(float) if len(options) <= MOST_OPTIONS else column[:, None]
        for column, options in columns
    ]
    return np.hstack([np.zeros((len(rows), 0)), *parts])


def _beyond_sum(rows: Rows, matrix: Matrix) -> float | None:
    """Standard deviation in ms of what the best sum leaves over; None where too few rows are left to tell."""
    _, first = np.unique(np.column_stack([rows.features, rows.latency_ms]), axis=0, return_index=True)
    basis, values = Basis.of(matrix[first]), rows.latency_ms[first]
    spare = len(np.unique(values)) - len(basis.eigenvalues) - 1
    if spare < SPARE:
        return None
    centred = values - values.mean()
    rest = centred - basis.u @ (basis.u.T @ centred)
    return float(np.sqrt((rest @ rest) / spare))


def flat_findings(rows: Rows) -> Iterator[Finding]:
    """Features of the whole network that the latency should grow with, and does not."""
    flat = []
    for i in network_columns(rows)[:MOST_FLAT]:
        values = rows.features[:, i]
        if (values <= 0).any() or len(np.unique(values)) < 2:
            continue
        power, error = _power(rows, i)
        if abs(power) + SURE * error < FLAT:
            low, high = float(values.min()), float(values.max())
            doubt = 100 * SURE * error * math.log(high / low)
            change = percent(power * math.log(high / low))
            flat.append(f"{rows.columns[i]} (from {low:g} to {high:g}: {change} ± {doubt:.1f} %)")
    if flat:
        yield Finding(
            "no effect",
            WARNING,
            f"the latency hardly depends on {', '.join(flat)}",
            len(rows),
            rows.first(np.ones(len(rows), bool)),
            "launch-bound (batch 1 on a fast device), cached without it, or of no concern here; no predictor can learn "
            "it from these rows",
        )


def _power(rows: Rows, column: int) -> tuple[float, float]:
    """The power of a feature that the latency grows with, others held; and its standard error, infinite if unknown."""
    others = _without(rows, column)
    fitted = fit(others)
    x = np.log(rows.features[:, column])
    x = x - fitted.basis.explain(x)
    squares = float(x @ x)
    if len(rows) < SPARE or squares < 1e-6 * len(rows):
        return 0.0, math.inf
    power = float(x @ fitted.residual) / squares
    return power, float((fitted.residual - power * x).std()) / math.sqrt(squares)


def _without(rows: Rows, column: int) -> Rows:
    kept = [i for i in range(len(rows.columns)) if i != column]
    return Rows(
        rows.features[:, kept],
        tuple(rows.columns[i] for i in kept),
        rows.latency_ms,
        rows.sessions,
        rows.names,
        places=rows.places,
    )
