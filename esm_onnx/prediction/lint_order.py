"""What the order of measuring says about latencies: drift, level shifts, autocorrelation, sessions that disagree.

All tests are on normal scores (van der Waerden) of what features leave unexplained: each residual is replaced by the
normal quantile of its rank. If rows stand in random order their sums have known variances, whatever the noise is like.
Where the order is not random (deeper architectures later, say) rows are compared with rows that were as likely to be
measured then: the time is itself fitted on the features, and rows stratified by it (Rosenbaum and Rubin 1983).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from esm_onnx.prediction.lint_fit import Basis, Fit, fit, spread, winsorized
from esm_onnx.prediction.lint_table import NOTE, WARNING, Finding, Indices, Mask, Rows, Vector, percent

ALPHA = 1e-3
"""How often each test may speak up about data that are clean."""
LEAST_ROWS = 20
"""Rows of a session whose order says anything."""
LEAST_STRETCH = 8
"""Rows of a stretch, or of a session, whose level is judged."""
MATTERS = 0.002
"""Levels that are off by less than this share of the latency, in the mean over a session, are not worth a word: a tenth
of the error that a measurement is usually allowed."""
COMMON = 0.1
"""An autocorrelation below this is not worth one either: neighbours share so little of their variance."""
MOST_STEPS, MOST_SHOWN = 3, 4
"""Stretches, and sessions, that a message names."""
LINE = 0.8
"""A straight line explains three quarters of a step at most."""
PARTS, FINE, GRID, MOST_STRATA = 10, 50, 200, 50
"""How finely a session is divided: for a message, to take drift out, to find a stretch; and into what strata."""
TELLS = 0.01
"""Share of the variance of time that features must explain for the order not to pass as random."""
ORDER_ADVICE = (
    "measure again with references in each session (`esm-onnx profile`); until then split by time "
    "(--split time), and let the predictor know the order"
)


def order_findings(rows: Rows, fitted: Fit) -> Iterator[Finding]:
    """All that the order of measuring shows."""
    rising = float((np.diff(rows.latency_ms) >= 0).mean())
    if not 0.01 < rising < 0.99:
        yield Finding(
            "order",
            NOTE,
            "rows are sorted by latency: they do not tell in what order they were measured, nor of drift",
            len(rows),
            rows.first(np.ones(len(rows), bool)),
            "keep rows as they were measured",
        )
        return
    yield from _sessions(rows, fitted)
    residual = _without_features_of_time(rows, fitted)
    tests = len(np.unique(rows.session))
    for number in np.unique(rows.session):
        of = np.flatnonzero(rows.session == number)
        if len(of) >= LEAST_ROWS:
            yield from _levels(rows, residual, of, fitted.basis, ALPHA / tests)
    yield from _autocorrelation(rows, fitted, residual)


def _without_features_of_time(rows: Rows, fitted: Fit) -> Vector:
    """The residual, less its mean among rows whose features belong to the same time, where they tell the time."""
    time = np.concatenate([np.linspace(0, 1, count) for count in np.bincount(rows.session) if count])
    time = time[np.argsort(np.argsort(rows.session, kind="stable"), kind="stable")]
    told = fitted.basis.explain(time)
    if ((time - told) ** 2).mean() > (1 - TELLS) * time.var():
        return fitted.residual.copy()
    groups = _strata(told)
    sums = np.bincount(groups, winsorized(fitted.residual))
    residual: Vector = fitted.residual - (sums / np.bincount(groups))[groups]
    return residual


def _strata(score: Vector) -> Indices:
    """The number of each row's stratum: rows of about the same score."""
    count = max(1, min(MOST_STRATA, len(score) // LEAST_ROWS))
    edges = np.unique(np.quantile(score, np.linspace(0, 1, count + 1)[1:-1]))
    _, strata = np.unique(np.searchsorted(edges, score), return_inverse=True)
    return strata


def _sessions(rows: Rows, fitted: Fit) -> Iterator[Finding]:
    """Sessions whose level differs from that of the others, judged by a fit that knows of no sessions."""
    counts = np.bincount(rows.session, minlength=len(rows.names))
    judged = np.flatnonzero(counts >= LEAST_STRETCH)
    if len(judged) < 2:
        return
    apart = normal_scores(fit(replace(rows, sessions=None, names=("",))).residual)
    off = []
    for s in judged:
        inside, alpha = rows.session == s, ALPHA / len(judged)
        z = float(apart[inside].sum()) / math.sqrt(counts[s] * max(1 - counts[s] / len(rows), 1e-9) * apart.var())
        if abs(fitted.levels[s]) >= MATTERS and two_sided(z) < alpha and _p(apart, inside, fitted.basis) < alpha:
            off.append(int(s))
    if not off:
        return
    levels = {int(s): float(fitted.levels[s]) for s in judged}
    means = {s: float(rows.latency_ms[rows.session == s].mean()) for s in levels}
    low, high = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
    shown = list(levels) if len(levels) <= MOST_SHOWN else [high, low]
    inside = np.isin(rows.session, off)
    yield Finding(
        "sessions",
        WARNING,
        f"{len(off)} of {len(judged)} sessions stand on another level than the rest: with features accounted for, "
        f"{rows.names[high]} is {percent(levels[high] - levels[low])} against {rows.names[low]} "
        f"(mean latencies {', '.join(f'{means[s]:.4g} ms in {rows.names[s]}' for s in shown)})",
        int(inside.sum()),
        rows.first(inside),
        "keep one of them, or give each a target of its own; sessions are joined only through references in both",
    )


def _levels(rows: Rows, residual: Vector, of: Indices, basis: Basis, alpha: float) -> Iterator[Finding]:
    """A level shift or drift in one session; what is found is taken out of the residual.

    One step that explains all that is unusual is a shift; else the level drifts.
    """
    values = residual[of]
    if _chance(values) >= alpha or not _confirmed(residual, of[_located(values)], basis, alpha):
        return
    steps, left = _steps(values, alpha)
    one = len(steps) == 1 and _chance(left) >= alpha
    if one and _explained(values, _line(values)) <= LINE * _explained(values, values - left):
        residual[of] = left
        share = (steps[0].stop - steps[0].start) / len(of)
        if share * abs(_offset(values, steps[0], steps)) >= MATTERS:
            yield _shift_finding(rows, of, values, steps[0])
        return
    residual[of] -= _level(values)
    if _harm(values) >= MATTERS:
        yield _drift_finding(rows, of, values, steps)


def _steps(values: Vector, alpha: float) -> tuple[list[slice], Vector]:
    """Stretches that are off the others, the most unusual first, and what is left without them."""
    left = values.copy()
    steps: list[slice] = []
    while len(steps) < MOST_STEPS and _chance(left) < alpha:
        step = _located(left)
        left[step] -= np.median(left[step]) - np.median(np.delete(left, step))
        steps.append(step)
    return steps, left


def _offset(values: Vector, step: slice, steps: Sequence[slice]) -> float:
    """How far the level of a stretch is off that of the rows in none."""
    others = np.ones(len(values), bool)
    for other in steps:
        others[other] = False
    return _centre(values[step]) - _centre(values[others] if others.any() else values)


def _centre(values: Vector) -> float:
    """The mean of all but the least and the greatest twentieth."""
    cut = len(values) // 20
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _shift_finding(rows: Rows, of: Indices, values: Vector, step: slice) -> Finding:
    return Finding(
        "level shift",
        WARNING,
        f"{rows.stretch(of[step])} are {percent(_offset(values, step, [step]))} against the rest of their session, "
        f"with features accounted for; lag-1 autocorrelation {_lag_one(values):.2f}",
        step.stop - step.start,
        rows.first(_mask(rows, of[step])),
        "leave these rows out, or measure them again with references before and after",
    )


def _drift_finding(rows: Rows, of: Indices, values: Vector, steps: Sequence[slice]) -> Finding:
    which = f" of {rows.names[rows.session[of[0]]]}" if len(rows.names) > 1 else ""
    whole = _centre(values)
    levels = [_centre(part) - whole for part in np.array_split(values, PARTS)]
    tenths = " ".join(f"{100 * math.expm1(level):+.1f}" for level in levels)
    most = ", ".join(f"{rows.stretch(of[step])} {percent(_offset(values, step, steps))}" for step in steps)
    return Finding(
        "drift",
        WARNING,
        f"the level drifts in the order of measuring{which}: mean residual of each tenth {tenths} %; against the rest "
        f"{most}; lag-1 autocorrelation {_lag_one(values):.2f}",
        len(of),
        rows.first(_mask(rows, of)),
        ORDER_ADVICE,
    )


def _mask(rows: Rows, numbers: Indices) -> Mask:
    mask = np.zeros(len(rows), bool)
    mask[numbers] = True
    return mask


def _autocorrelation(rows: Rows, fitted: Fit, residual: Vector) -> Iterator[Finding]:
    """Neighbours in time that are off together, beyond drift and shifts."""
    if _neighbours(rows.session, fitted.fitted)[1] < ALPHA:
        return  # neighbours are alike in their architectures, so any lack of fit is alike too
    lag, p = _neighbours(rows.session, residual)
    if p >= ALPHA or abs(lag) < COMMON:
        return
    yield Finding(
        "autocorrelation",
        WARNING,
        f"residuals of neighbours in the order of measuring are correlated: {lag:.2f} at lag 1 beyond drift, "
        f"expected 0 ± {2 / math.sqrt(len(rows)):.2f}",
        len(rows),
        rows.first(np.ones(len(rows), bool)),
        ORDER_ADVICE,
    )


def _neighbours(session: Indices, values: Vector) -> tuple[float, float]:
    """Lag-1 autocorrelation within sessions, and its two-sided p-value."""
    products = squares = variance = 0.0
    for number in np.unique(session):
        scores = normal_scores(values[session == number])
        n = len(scores)
        if n < LEAST_ROWS:
            continue
        products += float(scores[1:] @ scores[:-1]) + float(scores @ scores) / n  # its mean over all orders is −1/n
        squares += float(scores @ scores)
        variance += (float(scores @ scores) / n) ** 2 * n
    if not squares:
        return 0.0, 1.0
    return products / squares, two_sided(products / math.sqrt(variance))


def _chance(values: Vector) -> float:
    """How often chance makes sums over stretches of half, a quarter, an eighth… of the rows as unusual as here."""
    scores = normal_scores(values)
    n, total = len(scores), np.concatenate([[0.0], np.cumsum(scores)])
    variance = float(scores @ scores) / (n - 1)
    greatest, tests, length = 0.0, 0, n // 2
    while length >= LEAST_STRETCH:
        starts = np.arange(0, n - length + 1, max(1, length // 2))
        z = (total[starts + length] - total[starts]) / math.sqrt(variance * length * (1 - length / n))
        greatest = max(greatest, float(np.abs(z).max()))
        tests += len(starts)
        length //= 2
    return two_sided(greatest) * tests if tests else 1.0


def _located(values: Vector) -> slice:
    """The consecutive rows, at most half of all, whose mean differs most from that of the others in standard errors."""
    values = winsorized(values)
    n, total = len(values), np.concatenate([[0.0], np.cumsum(values - values.mean())])

    def strength(start: Indices, end: Indices) -> Vector:
        length = end - start
        scale = np.sqrt(np.maximum(length * (1 - length / n), 1.0))
        allowed = (length >= LEAST_STRETCH // 2) & ((length <= n / 2) | (((start == 0) | (end == n)) & (length < n)))
        return np.where(allowed, np.abs(total[end] - total[start]) / scale, 0.0)

    grid = np.unique(np.linspace(0, n, GRID + 1).astype(np.int64))
    i, j = np.unravel_index(np.argmax(strength(grid[:, None], grid[None, :])), (len(grid), len(grid)))
    start, end = grid[i : i + 1], grid[j : j + 1]
    around = np.arange(-(n // GRID) - 1, n // GRID + 2)
    for _ in range(2):
        starts = np.clip(start + around, 0, n)
        start = starts[[np.argmax(strength(starts, end))]]
        ends = np.clip(end + around, 0, n)
        end = ends[[np.argmax(strength(start, ends))]]
    first, last = int(start[0]), int(end[0])
    if last - first > n / 2:
        first, last = (last, n) if first == 0 else (0, first)
    return slice(first, last)


def _confirmed(residual: Vector, stretch: Indices, basis: Basis, alpha: float) -> bool:
    """Whether rows are off the level of the others also when it counts what features say of being among them."""
    inside = np.zeros(len(residual), bool)
    inside[stretch] = True
    return _p(residual, inside, basis) < alpha


def _p(residual: Vector, inside: Mask, basis: Basis) -> float:
    """Two-sided p-value that rows inside are on the level of others that were as likely to be inside."""
    membership, scores = inside.astype(float), normal_scores(residual)
    strata = _strata(basis.explain(membership))
    sizes = np.bincount(strata)
    membership = membership - (np.bincount(strata, membership) / sizes)[strata]
    scores = scores - (np.bincount(strata, scores) / sizes)[strata]
    squares = float(membership @ membership)
    if squares < 1e-9:
        return 1.0
    slope = float(membership @ scores) / squares
    freedom = len(scores) - len(sizes) - 1
    rest = scores - slope * membership
    return two_sided(slope / math.sqrt(float(rest @ rest) / max(freedom, 1) / squares))


def _harm(values: Vector) -> float:
    """How far the level is off the usual one, in the mean over tenths, less what noise makes of it."""
    tenths = _tenths(values)
    return float(np.abs(tenths - np.median(tenths)).mean()) - 0.8 * spread(values) * math.sqrt(PARTS / len(values))


def _tenths(values: Vector) -> Vector:
    """Mean of each tenth, outliers drawn in."""
    return np.array([part.mean() for part in np.array_split(winsorized(values), PARTS)])


def _explained(values: Vector, level: Vector) -> float:
    """Share of the variance that goes when a level is taken out; outliers count little."""
    whole = winsorized(values)
    return 1 - float(winsorized(values - level).var() / max(whole.var(), 1e-300))


def _line(values: Vector) -> Vector:
    """The straight line through the values in their order."""
    x = np.linspace(-1, 1, len(values))
    line: Vector = x * float(x @ winsorized(values) / (x @ x))
    return line


def _level(values: Vector) -> Vector:
    """The level in the order of measuring: means of stretches, and straight lines between their middles."""
    n = len(values)
    parts = np.array_split(winsorized(values), max(2, min(FINE, n // LEAST_ROWS)))
    ends = np.cumsum([len(part) for part in parts])
    middles = ends - np.array([len(part) for part in parts]) / 2
    level: Vector = np.interp(np.arange(n), middles, [part.mean() for part in parts])
    return level


def _lag_one(values: Vector) -> float:
    centred = winsorized(values) - winsorized(values).mean()
    return float(centred[1:] @ centred[:-1] / max(float(centred @ centred), 1e-300))


def normal_scores(values: Vector) -> Vector:
    """The normal quantile of each value's rank; of values that are equal, the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    total = np.concatenate([[0.0], np.cumsum(_quantiles(len(values)))])
    ends = np.cumsum(counts)
    scores: Vector = ((total[ends] - total[ends - counts]) / counts)[places]
    return scores


@lru_cache(maxsize=8)
def _quantiles(n: int) -> Vector:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / n) for i in range(n)])


def two_sided(z: float) -> float:
    """The share of a normal distribution beyond ±z."""
    return math.erfc(abs(z) / math.sqrt(2))
