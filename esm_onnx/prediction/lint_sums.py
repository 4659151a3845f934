"""What latencies depend on: exactly on a sum over features, or not at all on a feature that should matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from esm_onnx.prediction.lint_fit import MOST_OPTIONS, Basis, fit_logarithms, network_columns, pooled
from esm_onnx.prediction.lint_table import ERROR, WARNING, Finding, Mask, Matrix, Rows, percent
from esm_onnx.prediction.lint_values import Clock

EXACT = 2e-4
"""No machine repeats itself to this share of a latency, so residuals below it are of arithmetic."""
ROUNDED = 1e-3
"""Latencies that are rounded to this share or more could hide their own noise."""
SPARE, ENOUGH = 20, 3000
"""Rows beyond the columns of a fit that make its residuals evidence; and rows that are always enough."""
MOST_FLAT, SURE = 20, 4.0
FLAT = 0.1
"""Latency grows with a power of a feature that makes work, the first or second: a tenth of the first is nothing, where
it also makes less than a tenth of the latency from the least value to the greatest."""


def sum_findings(rows: Rows, clock: Clock) -> Iterator[Finding]:
    """Latencies that are exactly a sum over features or blocks: the output of a table, not of a device."""
    if clock.error >= ROUNDED:
        return
    tolerance = max(EXACT, 1.1 * clock.error)
    for stratum, told in _strata(rows):
        part = rows.select(stratum & (np.cumsum(stratum) % (1 + stratum.sum() // ENOUGH) == 0))
        for what, matrix in _additive_designs(part):
            error = _beyond_sum(part, matrix)
            if error is not None and error <= tolerance * float(np.median(rows.latency_ms)):
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
            yield stratum, f"among rows with {rows.columns[i]} {option:g} "


def _additive_designs(rows: Rows) -> Iterator[tuple[str, Matrix]]:
    """What a table may be by: options, or combinations of options in blocks."""
    yield "options of features", _one_hot(rows)
    counts = list(pooled(rows))
    if counts:
        yield "combinations of options in blocks", np.hstack(counts)
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
        (power, error), low, high = _power(rows, i), float(values.min()), float(values.max())
        ratio = math.log(high / low)
        if (abs(power) + SURE * error) * max(ratio, 1.0) < FLAT:
            change, doubt = percent(power * ratio), 100 * SURE * error * ratio
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
    fitted = fit_logarithms(others)
    x = np.log(rows.features[:, column])
    x = x - fitted.basis.explain(x)
    squares = float(x @ x)
    if len(rows) < SPARE or squares < 1e-6 * len(rows):
        return 0.0, math.inf
    power = float(x @ fitted.residual) / squares
    return power, float((fitted.residual - power * x).std()) / math.sqrt(squares)


def _without(rows: Rows, column: int) -> Rows:
    columns = rows.columns[:column] + rows.columns[column + 1 :]
    return replace(rows, features=np.delete(rows.features, column, axis=1), columns=columns)
