"""Whether a session can be believed: how far its references scatter (ESM, Section V)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from esm_onnx.architectures import Architecture
from esm_onnx.measurement.record import REFERENCE, Measurement


@dataclass(frozen=True, slots=True)
class Quality:
    """The relative standard deviation of each reference in a session, as a share, and the greatest allowed."""

    spreads: Mapping[str, float]
    tolerance: float

    @property
    def outliers(self) -> list[str]:
        """References that scatter beyond the tolerance."""
        return [name for name, spread in self.spreads.items() if not spread <= self.tolerance]

    @property
    def accepted(self) -> bool:
        """Whether every reference stayed within the tolerance."""
        return not self.outliers

    def __str__(self) -> str:
        worst = ", ".join(f"{name} {100 * self.spreads[name]:.1f} %" for name in self.outliers)
        limit = f"{100 * self.tolerance:g} %"
        if worst:
            return f"references beyond {limit} relative standard deviation: {worst}"
        return f"all {len(self.spreads)} references within {limit} relative standard deviation"


def judge(measurements: Iterable[Measurement], tolerance: float) -> Quality:
    """The quality of a session, from its measurements of references."""
    by_reference = reference_latencies(measurements)
    return Quality(
        {
            f"reference {number} (depth {architecture.depth})": relative_std(latencies)
            for number, (architecture, latencies) in enumerate(by_reference.items(), 1)
        },
        tolerance,
    )


def noise_floor(measurements: Iterable[Measurement]) -> float | None:
    """The relative standard deviation that repeated measurements of one architecture show, as a share.

    Pooled over all references and all sessions given: what no predictor can be better than. None where no reference
    was measured twice.
    """
    groups = [np.asarray(latencies) for latencies in reference_latencies(measurements).values() if len(latencies) > 1]
    if not groups:
        return None
    squares = sum(float(((group / group.mean() - 1) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))


def relative_std(latencies: list[float]) -> float:
    """Standard deviation (of the sample, n − 1) over mean; 0 for a single value."""
    return float(np.std(latencies, ddof=1) / np.mean(latencies)) if len(latencies) > 1 else 0.0


def reference_latencies(measurements: Iterable[Measurement]) -> dict[Architecture, list[float]]:
    """The latencies of each reference in ms, in the order of measuring."""
    latencies: dict[Architecture, list[float]] = {}
    for measurement in measurements:
        if measurement.role == REFERENCE:
            latencies.setdefault(measurement.architecture, []).append(measurement.latency_ms)
    return latencies
