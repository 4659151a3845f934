"""Looks for what is wrong with measured latencies before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.architectures.genome import genome_columns
from esm_onnx.errors import InputError
from esm_onnx.prediction.encoding import named, values_of
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.lint_fit import fit
from esm_onnx.prediction.lint_groups import cache_findings, duplicate_findings, groups_of, leak_findings
from esm_onnx.prediction.lint_order import LEAST_ROWS, order_findings
from esm_onnx.prediction.lint_outliers import outlier_findings
from esm_onnx.prediction.lint_sums import flat_findings, sum_findings
from esm_onnx.prediction.lint_table import SEVERITIES, Finding, Matrix, Rows, numbered
from esm_onnx.prediction.lint_values import (
    clock_findings,
    clock_of,
    latencies,
    of_another_unit,
    provenance_findings,
    repeated_findings,
    repeated_value,
    sentinel_findings,
    unit_findings,
)
from esm_onnx.prediction.lint_work import launch_findings

LEAST = 2
"""Rows that can be compared."""


def lint(rows: Rows) -> list[Finding]:
    """All findings about a table, gravest first; each check leaves out the rows that earlier ones found to be none."""
    found = [*provenance_findings(rows), *sentinel_findings(rows), *_of_latencies(rows.select(latencies(rows)))]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_latencies(rows: Rows) -> Iterator[Finding]:
    """Findings about rows that all have a latency."""
    clock = clock_of(rows.latency_ms)
    repeated = repeated_value(rows, clock)
    yield from repeated_findings(rows, repeated)
    yield from clock_findings(rows, clock)
    rows = rows.select(~repeated)
    foreign = of_another_unit(rows)
    yield from unit_findings(rows, foreign)
    rows = rows.select(~foreign)
    if len(rows) < LEAST:
        return
    groups, sums = groups_of(rows, clock), list(sum_findings(rows, clock))
    if sums:  # they are equal where their terms are
        groups = replace(groups, measurement=np.arange(len(rows)))
    yield from (*sums, *cache_findings(rows, groups), *duplicate_findings(rows, groups), *leak_findings(rows, groups))
    if len(rows) >= LEAST_ROWS and not sums:  # nobody measured sums in any order
        yield from (*flat_findings(rows), *launch_findings(rows))
        fitted = fit(rows)
        yield from (*outlier_findings(rows, fitted), *order_findings(rows, fitted))


def rows_of_genomes(
    space: Space,
    genomes: NDArray[np.int64],
    latency_ms: NDArray[np.float64],
    sessions: Sequence[object] | None = None,
    provenance: Sequence[str] | None = None,
) -> Rows:
    """Genomes as rows: options of the network as the numbers that they are, those of blocks as their indices.

    Args:
        genomes: [n, genome length], in the order of measuring.
        latency_ms: [n] in ms.
        sessions: [n] a label for the session of each; None: all are of one.
        provenance: [n] how each latency came about, "measured" or other words; None where unknown.
    """
    features = genomes.astype(np.float64)
    for i, feature in enumerate(space.network):
        if not named(feature):
            features[:, i] = np.array(values_of(feature))[genomes[:, i]]
    numbers, names = (None, ("",)) if sessions is None else numbered(sessions)
    return Rows(
        features,
        tuple(genome_columns(space)),
        np.asarray(latency_ms, np.float64),
        numbers,
        names,
        None if provenance is None else tuple(provenance),
        work=_work(space, genomes),
    )


def _work(space: Space, genomes: NDArray[np.int64]) -> Matrix | None:
    """Numbers of layers and of multiply-adds; None where no writer of ours tells them."""
    cost = find_encoding("cost")
    try:
        columns = cost.columns(space)
    except InputError:
        return None
    counts = cost.encode(space, genomes)
    macs = [i for i, name in enumerate(columns) if "macs" in name]
    return np.column_stack([counts[:, columns.index("cost.layers")], counts[:, macs].sum(axis=1)])
