"""Records as rows of a store's tables, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from esm_onnx.architectures import Space, from_genome, to_genome
from esm_onnx.measurement.record import Calibration, Failure, Measurement, Pairing

MEASUREMENT = (
    "measurements.id, role, genome, runs_ms, measurements.started_at, elapsed_s, dropped, shift, "
    "calibration_ms, nominal_ms, calibrating_ms"
)
FAILURE = "genome, kind, message, failures.started_at"
CALIBRATION = "genome, nominal_ms, spread, started_at"
"""The columns that the functions below read, in their order."""


def row_of_measurement(space: Space, measurement: Measurement) -> dict[str, Any]:
    """The columns that a measurement fills."""
    pairing = measurement.pairing
    return {
        "role": measurement.role,
        "genome": _genome(space, measurement),
        "latency_ms": measurement.latency_ms,
        "trimmed_ms": measurement.trimmed_ms,
        "error": measurement.error if math.isfinite(measurement.error) else None,
        "shift": measurement.shift,
        "nominal_ms": pairing and pairing.nominal_ms,
        "calibrating_ms": pairing and pairing.spent_ms,
        "started_at": measurement.started_at,
        "elapsed_s": measurement.elapsed_s,
        "runs_ms": _blob(measurement.runs_ms),
        "calibration_ms": pairing and _blob(pairing.calibration_ms),
        "dropped": bytes(measurement.dropped) or None,
    }


HOST = "host_ms"
"""Name of the row that holds how long the host waited for each run; the others hold one number each."""


def rows_of_quantities(measurement: Measurement) -> Iterator[dict[str, Any]]:
    """The columns that each row beside a measurement fills."""
    if measurement.host_ms:
        yield {"name": HOST, "numbers": _blob(measurement.host_ms)}
    for name, value in measurement.quantities.items():
        yield {"name": name, "numbers": _blob((value,))}


def measurement_of_row(space: Space, row: tuple[Any, ...], beside: Iterable[tuple[str, bytes]]) -> Measurement:
    """A measurement from the columns of `MEASUREMENT`, and names and numbers of the rows beside it."""
    quantities = {name: _numbers(blob) for name, blob in beside}
    _, role, genome, runs, started_at, elapsed_s, dropped, shift, calibration, *pairing = row
    return Measurement(
        architecture=from_genome(space, json.loads(genome)),
        role=role,
        runs_ms=_numbers(runs),
        started_at=started_at,
        dropped=tuple(dropped or ()),
        pairing=None if calibration is None else Pairing(_numbers(calibration), *pairing),
        shift=shift,
        elapsed_s=elapsed_s,
        host_ms=quantities.pop(HOST, ()),
        quantities={name: value for name, (value,) in quantities.items()},
    )


def row_of_failure(space: Space, failure: Failure) -> dict[str, Any]:
    """The columns that a failure fills."""
    return {
        "genome": _genome(space, failure),
        "kind": failure.kind,
        "message": failure.message,
        "started_at": failure.started_at,
    }


def failure_of_row(space: Space, row: tuple[Any, ...]) -> Failure:
    """A failure from the columns of `FAILURE`."""
    genome, kind, message, started_at = row
    return Failure(from_genome(space, json.loads(genome)), kind, message, started_at)


def row_of_calibration(space: Space, calibration: Calibration) -> dict[str, Any]:
    """The columns that a calibration fills."""
    return {
        "genome": _genome(space, calibration),
        "nominal_ms": calibration.nominal_ms,
        "spread": calibration.spread,
        "started_at": calibration.started_at,
    }


def calibration_of_row(space: Space, row: tuple[Any, ...]) -> Calibration:
    """A calibration from the columns of `CALIBRATION`."""
    genome, nominal_ms, spread, started_at = row
    return Calibration(from_genome(space, json.loads(genome)), nominal_ms, spread, started_at)


def _genome(space: Space, record: Measurement | Failure | Calibration) -> str:
    return json.dumps(to_genome(space, record.architecture), separators=(",", ":"))


def _blob(numbers: tuple[float, ...]) -> bytes:
    return np.asarray(numbers, "<f8").tobytes()


def _numbers(blob: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(blob, "<f8").tolist())
