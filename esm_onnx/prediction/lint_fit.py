"""A cheap fit of latencies on any table of features, whose residuals show what features do not explain.

Ridge regression of the logarithm of the latency, robust against outliers, its penalty chosen by leaving one out
(Allen's PRESS, which ridge has in closed form). What is left over is exchangeable when rows stand in random order,
however bad the fit is; so tests on it hold on any data, and a better fit only makes them sharper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from esm_onnx.prediction.lint_table import ABSENT, Indices, Matrix, Rows, Vector, short_name

BLOCK = re.compile(r"u(\d+)b(\d+)\.(.+)")
PLACE = re.compile(r"(.+)\[\d+\]")
MOST_OPTIONS = 12
"""A column with more different values is a number."""
MOST_COLUMNS = 600
"""Of a design, so that ten thousand rows take a second."""
MOST_CROSSED = 2
"""Numbers of the network that blocks are crossed with."""
LEAST_BENT = 30
FURTHEST = 5.0
PENALTIES = np.logspace(-7, 1, 17)
"""As shares of the greatest eigenvalue."""
WINSOR = 3.0
"""Residuals beyond so many standard deviations pull no more than one at that place."""


@dataclass(frozen=True)
class Basis:
    """What a constant and the columns of a design can express.

    Attributes:
        constant: [n] of length 1.
        u: [n, m] orthonormal columns, and orthogonal to the constant.
        eigenvalues: [m] of the design's Gram matrix.
    """

    constant: Vector
    u: Matrix
    eigenvalues: Vector

    @classmethod
    def of(cls, design: Matrix, weights: Vector | None = None) -> Basis:
        """The basis of a design [n, columns] whose rows have these weights [n], 1 each unless given."""
        weights = np.ones(len(design)) if weights is None else weights
        constant = weights / np.linalg.norm(weights)
        z = design * weights[:, None]
        z -= constant[:, None] * (constant @ z)
        tall = len(z) >= z.shape[1]
        eigenvalues, vectors = np.linalg.eigh(z.T @ z if tall else z @ z.T)
        kept = eigenvalues > 1e-9 * max(eigenvalues.max(initial=0.0), 1e-300)
        u = z @ (vectors[:, kept] / np.sqrt(eigenvalues[kept])) if tall else vectors[:, kept]
        return cls(constant, u, eigenvalues[kept])

    @cached_property
    def shrunk(self) -> Matrix:
        """[penalties, m]: what each penalty leaves of each column."""
        greatest = self.eigenvalues.max(initial=0.0)
        shrunk: Matrix = self.eigenvalues / (self.eigenvalues + PENALTIES[:, None] * greatest)
        return shrunk

    @cached_property
    def others(self) -> Matrix:
        """[penalties, n]: 1 less the row's leverage."""
        leverages = self.shrunk @ (self.u**2).T + self.constant**2
        return np.maximum(1 - leverages, 1e-10)

    def explain(self, y: Vector) -> Vector:
        """What the features say about each row's `y` [n] when it is fitted without that row."""
        left_out = self._left_out(y)
        explained: Vector = y - left_out[np.argmin((left_out**2).mean(axis=1))]
        return explained

    def support(self, y: Vector) -> Vector:
        """[n] how much the other rows say about each one where `y` is fitted: 1 less its leverage."""
        supported: Vector = self.others[np.argmin((self._left_out(y) ** 2).mean(axis=1))]
        return supported

    def _left_out(self, y: Vector) -> Matrix:
        """[penalties, n]: each row's `y` less what the fit without that row says of it."""
        fitted = self.constant * (self.constant @ y) + (self.shrunk * (self.u.T @ y)) @ self.u.T
        left_out: Matrix = (y - fitted) / self.others
        return left_out


@dataclass(frozen=True)
class Fit:
    """Latencies fitted on features.

    Attributes:
        basis: of the features.
        levels: [sessions] logarithm of each session's level over that of the middle one.
        fitted: [n] logarithm of ms, without the row itself and without its session's level.
        residual: [n] logarithm of the latency over what features and session say.
    """

    basis: Basis
    levels: Vector
    fitted: Vector
    residual: Vector


def fit(rows: Rows) -> Fit:
    """Fits latencies, all of them positive, on features and sessions: their logarithms, then themselves.

    A latency is a sum over blocks more than a product, but to fit sums with the same relative error everywhere takes
    latencies that are known about; the better of the two is taken.
    """
    by_logarithm = fit_logarithms(rows)
    expected = np.exp(by_logarithm.fitted)
    weighted = Basis.of(np.hstack([design(rows), *crossed(rows)]), 1 / expected)

    def explain_sum(target: Vector) -> Vector:
        relative = weighted.explain(np.exp(target) / expected)
        explained: Vector = np.log(expected * np.clip(relative, 1 / FURTHEST, FURTHEST))
        return explained

    by_sum = _alternate(rows, by_logarithm.basis, explain_sum, by_logarithm.levels)
    return min(by_logarithm, by_sum, key=lambda fitted: spread(fitted.residual))


def fit_logarithms(rows: Rows) -> Fit:
    """Fits the logarithms of latencies on features and sessions."""
    basis = Basis.of(design(rows))
    return _alternate(rows, basis, basis.explain, np.zeros(len(rows.names)))


def _alternate(rows: Rows, basis: Basis, explain: Callable[[Vector], Vector], levels: Vector) -> Fit:
    """Fits features and levels of sessions in turn; outliers pull no more than their sign."""
    y, session = np.log(rows.latency_ms), rows.session
    target = winsorized(y)  # one that is off by a thousand would bend all that follows
    for _ in range(4):
        fitted = _bent(explain(target - levels[session]), target - levels[session])
        rest = y - fitted
        levels = _levels(rest, session, len(rows.names))
        residual = rest - levels[session]
        target = y - residual + winsorized(residual)
    return Fit(basis, levels, fitted, residual)


def _bent(fitted: Vector, y: Vector) -> Vector:
    """The cubic of the fitted value that is nearest to `y`: for sums that are no sums of logarithms."""
    centred = fitted - fitted.mean()
    scale = centred.std()
    if not scale or len(y) < LEAST_BENT:
        return fitted
    powers = np.vander(np.clip(centred / scale, -3, 3), 4)
    bent: Vector = fitted + powers @ np.linalg.lstsq(powers, y - fitted, rcond=None)[0]
    return bent


def _levels(rest: Vector, session: Indices, count: int) -> Vector:
    if count == 1:
        return np.zeros(1)
    medians = np.array([np.median(rest[session == s]) if (session == s).any() else np.nan for s in range(count)])
    levels: Vector = np.nan_to_num(medians - np.nanmedian(medians))
    return levels


def winsorized(residual: Vector) -> Vector:
    """Residuals, none further from the median than three (robust) standard deviations."""
    median, most = np.median(residual), WINSOR * spread(residual)
    clipped: Vector = np.clip(residual, median - most, median + most)
    return clipped


def spread(values: Vector) -> float:
    """Standard deviation, from the distance to the median that a fifth of the values exceed."""
    return float(np.quantile(np.abs(values - np.median(values)), 0.8)) / 1.2816


def design(rows: Rows) -> Matrix:
    """Columns that a latency may be a sum of, [n, columns]: options as zeros and ones, combinations of each block,
    their counts by unit, numbers with their squares."""
    parts: list[Matrix] = [*totals(rows), *pooled(rows)]
    for column in rows.features.T:
        few = len(options := np.unique(column)) <= MOST_OPTIONS
        if not few or sum(part.shape[1] for part in parts) + len(options) > MOST_COLUMNS:
            scaled = (column - column.mean()) / (column.std() or 1.0)
            parts.append(np.column_stack([scaled] if few else [scaled, scaled**2]))
        elif len(options) > 1:
            parts.append((column[:, None] == options).astype(float))
    return np.hstack(parts) if parts else np.zeros((len(rows), 0))


def blocks(rows: Rows) -> dict[tuple[str, str], list[int]]:
    """The columns of each block, by unit and block."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(rows.columns):
        if match := BLOCK.fullmatch(name):
            found.setdefault((match[1], match[2]), []).append(i)
    return found


def pooled(rows: Rows) -> Iterator[Matrix]:
    """For each unit, which combination its first block is, and how many of the others are of each."""
    of_blocks = blocks(rows)
    if len({len(columns) for columns in of_blocks.values()}) != 1:
        return
    stacked = np.vstack([rows.features[:, columns] for columns in of_blocks.values()])
    codes = numbered_rows(stacked)
    present = np.unique(codes[(stacked != ABSENT).any(axis=1)])
    by_unit: dict[str, list[Indices]] = {}
    for (unit, _), code in zip(of_blocks, codes.reshape(len(of_blocks), len(rows)), strict=True):
        by_unit.setdefault(unit, []).append(code)
    if 2 * len(by_unit) * len(present) > MOST_COLUMNS:
        return
    for first, *others in by_unit.values():
        yield (first[:, None] == present).astype(float)
        if others:
            yield np.sum([code[:, None] == present for code in others], axis=0, dtype=float)


def totals(rows: Rows) -> Iterator[Matrix]:
    """How many blocks, or digits, have each option, over the whole network: what few rows already tell."""
    by_name: dict[str, list[int]] = {}
    for i, name in enumerate(rows.columns):
        by_name.setdefault(short_name(name), []).append(i)
    for places in by_name.values():
        options = np.unique(rows.features[:, places])
        if len(places) > 1 and len(options) <= MOST_OPTIONS:
            counts = (rows.features[:, places, None] == options[options != ABSENT]).sum(axis=1)
            yield counts.astype(float)


def numbered_rows(matrix: Matrix) -> Indices:
    """A number for each row of a matrix, the same for rows that are equal."""
    numbers = np.zeros(len(matrix), np.int64)
    for column in matrix.T:
        options, of_column = np.unique(column, return_inverse=True)
        _, numbers = np.unique(numbers * len(options) + of_column, return_inverse=True)
    return numbers


def crossed(rows: Rows) -> Iterator[Matrix]:
    """All counts, times each number that the whole network has: a block costs more at a higher resolution."""
    for i in network_columns(rows)[:MOST_CROSSED]:
        if rows.features[:, i].std() > 0:
            scaled = (rows.features[:, i] - rows.features[:, i].mean()) / rows.features[:, i].std()
            yield from (part * scaled[:, None] for part in (*totals(rows), *pooled(rows)))


def network_columns(rows: Rows) -> list[int]:
    """Columns that are no part of a block and no digit of a row of digits."""
    inside = {i for columns in blocks(rows).values() for i in columns}
    return [i for i, name in enumerate(rows.columns) if i not in inside and not PLACE.fullmatch(name)]
