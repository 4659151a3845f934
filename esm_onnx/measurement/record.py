"""What an attempt to measure leaves behind: a measurement with all its runs, or a failure with its kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Architecture

TRIM = 0.2
"""Share of runs dropped at either end (ESM, Section V: the fastest and the slowest 20 %)."""

SUBJECT, REFERENCE = "subject", "reference"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One architecture timed once.

    Attributes:
        role: "subject" for an architecture that is to be known, "reference" for one that watches the session.
        runs_ms: every timed run in the order of running, in ms.
        started_at: seconds since 1970.
    """

    architecture: Architecture
    role: str
    runs_ms: tuple[float, ...]
    started_at: float

    @property
    def latency_ms(self) -> float:
        """Trimmed mean of the runs, in ms."""
        return trimmed_mean(np.asarray(self.runs_ms))


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that gave no latency.

    Attributes:
        kind: "export", "load", "run", "crash" or "deadline".
        message: what was seen, one line.
        started_at: seconds since 1970.
    """

    architecture: Architecture
    kind: str
    message: str
    started_at: float


def trimmed_mean(runs: NDArray[np.float64], trim: float = TRIM) -> float:
    """Mean of what is left when the share `trim` of the runs is dropped at either end (rounded down)."""
    drop = int(len(runs) * trim)
    return float(np.sort(runs)[drop : len(runs) - drop].mean())
