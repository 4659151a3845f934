"""Single latencies that are off by a factor: a wrong unit, a lost decimal point, a measurement that was disturbed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from esm_onnx.prediction.lint_fit import Fit, spread, winsorized
from esm_onnx.prediction.lint_table import WARNING, Finding, Rows, percent

FAR = math.log(1.5)
"""What is off by less may be what features do not tell: of ten thousand sound latencies of a Tesla P40 (Syed and
Srinivasan's public data), the furthest is off by 15 %."""
FURTHER = math.log(6)
"""What is off by more is told even where the others say little of it, as of the shallowest networks among few."""
SPREADS = 10.0
"""So many (robust) standard deviations of all rows: where features tell little, much is far off."""
LEAST_ROWS = 30
"""With fewer, the fit says little of those at the ends."""
SHOWN = 3


def outlier_findings(rows: Rows, fitted: Fit) -> Iterator[Finding]:
    """Rows whose latency is far from what the others let expect; further where these say little of it."""
    apart = fitted.residual - np.median(fitted.residual)
    distance = np.abs(apart)
    if len(rows) < LEAST_ROWS or not (distance > FAR).any():
        return
    spreads = distance / max(spread(fitted.residual), 1e-12)
    support = fitted.basis.support(winsorized(np.log(rows.latency_ms)))
    off = (distance > FAR) & (spreads * np.sqrt(support) > SPREADS)
    off |= (distance > FURTHER) & (spreads > SPREADS)
    if not off.any():
        return
    furthest = np.flatnonzero(off)[np.argsort(-distance[off], kind="stable")][:SHOWN]
    told = ", ".join(f"{rows.stretch(np.array([i]))} {percent(apart[i])}" for i in furthest)
    yield Finding(
        "outliers",
        WARNING,
        f"{off.sum()} of {len(rows)} latencies {'is' if off.sum() == 1 else 'are'} far from what the other rows let "
        f"expect: {told}",
        int(off.sum()),
        rows.first(off),
        "look for a wrong unit or a lost decimal point; else leave these rows out, or measure them again",
    )
