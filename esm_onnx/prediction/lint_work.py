"""Does the latency depend on the work? A device that waits for its next kernel to be started is as fast with less."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from esm_onnx.prediction.lint_table import NOTE, Finding, Rows

LEAST_ROWS = 20
SURE = 3.0
"""Standard errors."""
LEAST_OF_LAYERS, MOST_OF_WORK = 0.5, 0.1
"""Shares of the mean latency that grow with the number of layers and with their multiply-adds, of a launch-bound set.
Where a device computes, the multiply-adds make up half of it and more."""


def launch_findings(rows: Rows) -> Iterator[Finding]:
    """Latencies that grow with the number of layers, and not with what these have to do."""
    if rows.work is None or len(rows) < LEAST_ROWS:
        return
    x = np.column_stack([rows.work / rows.work.mean(axis=0), np.ones(len(rows))]) / rows.latency_ms[:, None]
    inverse = np.linalg.pinv(x.T @ x)  # weighted for relative errors
    prices = inverse @ x.T @ np.ones(len(rows))
    scatter = float((1 - x @ prices).std())
    layers, multiply_adds = prices[:2] / rows.latency_ms.mean()
    doubt = SURE * scatter * math.sqrt(inverse[1, 1]) / float(rows.latency_ms.mean())
    if abs(multiply_adds) + doubt < MOST_OF_WORK and layers > LEAST_OF_LAYERS:
        yield Finding(
            "launch-bound",
            NOTE,
            f"{100 * layers:.0f} % of the latency grow with the number of layers, and {100 * multiply_adds:.1f} ± "
            f"{100 * doubt:.1f} % with their multiply-adds: the device waits for its kernels to be started",
            len(rows),
            rows.first(np.ones(len(rows), bool)),
            "a larger --batch, or --graph where the runtime has it, shows what the device can do",
        )
