"""What a report is made of: read once, and checked where it comes from outside."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space
from esm_onnx.architectures.blocks import is_block_space
from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.exchange import provenances
from esm_onnx.measurement.quantities import LATENCY, quantity_of
from esm_onnx.measurement.record import Measurement
from esm_onnx.measurement.session_report import SessionReport, read_sessions
from esm_onnx.measurement.store import ACCEPTED, Content, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.assembly import dataset_of
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.loaded import LoadedPredictor

Vector = NDArray[np.float64]
Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """A space on a target.

    Attributes:
        sessions: the report of each, oldest first.
        records: the measurements that stand, subjects and references.
        dataset: of latencies; it may have no rows.
        ways: how the latencies came about.
    """

    space: Space
    target: Target
    sessions: tuple[SessionReport, ...]
    records: tuple[Measurement, ...]
    dataset: Dataset
    ways: tuple[str, ...]

    @property
    def name(self) -> str:
        """What charts say they are of."""
        return f"{self.space.name} on {self.target.name}"


@dataclass(frozen=True)
class Predicted:
    """A predictor beside measurements of its space on its target, or on another one.

    Attributes:
        measured: the rows, of the quantity that is predicted.
        latency, lower, upper: [n], predicted by what has not seen the row; NaN where only what has can tell.
        trained, calibrated: [n], whether the row was trained on, or set the width of the interval.
    """

    loaded: LoadedPredictor
    target: Target
    measured: Dataset
    latency: Vector
    lower: Vector
    upper: Vector
    trained: Rows
    calibrated: Rows

    @property
    def name(self) -> str:
        """What charts say they are of."""
        at_home = self.target.digest == self.loaded.target.digest
        return f"{self.loaded.path.name}, {self.loaded.space.name} on {self.target.name}" + (
            "" if at_home else f", predicted for {self.loaded.target.name}"
        )


@dataclass(frozen=True)
class Compared:
    """What `compare --out` wrote: a row for each surrogate, encoding and number of training rows."""

    name: str
    rows: tuple[Mapping[str, str], ...]

    def figure(self, row: Mapping[str, str], name: str) -> float | None:
        """A figure of a row; None where it has none."""
        return float(row[name]) if row.get(name) else None


@dataclass(frozen=True)
class Searched:
    """What `search --json` printed."""

    name: str
    found: Mapping[str, Any]


@dataclass(frozen=True)
class Material:
    """All of it; `threshold` is the accuracy that a bin shall reach, as a share."""

    measured: tuple[Measured, ...] = ()
    predicted: tuple[Predicted, ...] = ()
    predictors: tuple[LoadedPredictor, ...] = ()
    compared: tuple[Compared, ...] = ()
    searched: tuple[Searched, ...] = ()
    threshold: float = 0.95


def read_material(
    store: Store | None,
    *,
    space: Space | None = None,
    target: str | None = None,
    predictors: Sequence[Path] = (),
    comparisons: Sequence[Path] = (),
    searches: Sequence[Path] = (),
    threshold: float = 0.95,
) -> Material:
    """Reads a store, predictors, and what `compare` and `search` wrote.

    Args:
        space, target: only these of the store.

    Raises:
        InputError: a file is not what it should be; or there is nothing of that space and target.
    """
    contents = [] if store is None else [c for c in store.contents() if c.matches(space, target)]
    contents = [c for c in contents if space is not None or not is_block_space(c.space)] or contents
    if store is not None and not contents:
        asked = " of that space and target" if space is not None or target is not None else ""
        raise InputError(f"nothing measured{asked}: `esm-onnx data list` shows what is there", file=store.path)
    measured = tuple(_measured(store, content) for content in contents if store is not None)
    loaded = tuple(LoadedPredictor.open(path) for path in predictors)
    return Material(
        measured,
        tuple(found for each in loaded for found in _beside(each, measured)),
        loaded,
        tuple(map(read_comparison, comparisons)),
        tuple(map(read_search, searches)),
        threshold,
    )


def _measured(store: Store, content: Content) -> Measured:
    space, target = content.space, content.target
    sessions: list[SessionReport] = []
    records: list[Measurement] = []
    for report, standing in read_sessions(store, space, target):
        sessions.append(report)
        records += standing if report.status == ACCEPTED else []
    dataset = dataset_of(records, space, target)
    return Measured(space, target, tuple(sessions), tuple(records), dataset, tuple(provenances(store, content)))


def _beside(loaded: LoadedPredictor, measured: Sequence[Measured]) -> list[Predicted]:
    """The predictor beside measurements on its own target; where there are none, on each other target of its space."""
    fitting = [each for each in measured if each.space.fingerprint == loaded.space.fingerprint and len(each.dataset)]
    own = [each for each in fitting if each.target.digest == loaded.target.digest]
    found = [_predicted(loaded, each) for each in own or fitting]
    return [each for each in found if len(each.measured)]


def _predicted(loaded: LoadedPredictor, measured: Measured) -> Predicted:
    dataset, quantity = measured.dataset, loaded.quantity
    if quantity != LATENCY:
        dataset = dataset_of(measured.records, measured.space, measured.target, quantity=quantity)
    genomes = dataset.genomes
    latency, lower, upper = (column.astype(np.float64) for column in loaded.predict(genomes))
    own = measured.target.digest == loaded.target.digest
    trained, calibrated = (known(genomes) & own for known in (loaded.trained_on, loaded.calibrated_on))
    with np.errstate(invalid="ignore"):  # an infinite bound over its prediction
        below, above = lower / latency, upper / latency
    latency = np.where(trained, loaded.out_of_fold(genomes), latency)
    bounds = latency * below, latency * above
    return Predicted(loaded, measured.target, dataset, latency, *bounds, trained, calibrated)


def read_comparison(path: Path) -> Compared:
    """What `compare --out` wrote.

    Raises:
        InputError: it is no such file.
    """
    needed = ("surrogate", "encoding", "rows", "accuracy", "accuracy_std")
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error}), expected what `esm-onnx compare --out` wrote", file=path) from None
    missing = [name for name in needed if not lines or name not in lines[0]]
    if missing:
        raise InputError(f"no column {missing[0]!r}, expected what `esm-onnx compare --out` wrote", file=path)
    for number, line in enumerate(lines, 2):
        for name in needed[2:]:
            if (line[name] or name == "rows") and not _is_number(line[name]):
                raise InputError(f"{name} is {shown(line[name])}, expected a number", file=path, line=number)
    return Compared(path.name, tuple(lines))


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def read_search(path: Path) -> Searched:
    """What `search --json` printed.

    Raises:
        InputError: it is no such file.
    """
    expected = "expected what `esm-onnx search --json` printed"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read ({error}), {expected}", file=path) from None
    try:
        quantity_of(found["quantity"])
        verified = found.get("verification", {}).get("finalists", [])
        figures = [(row[found["objective"]], row[found["quantity"]]) for row in (*found["found"], *verified)]
        figures += [(row[f"measured_{found['quantity']}"], 1) for row in verified]
        sound = all(isinstance(each, int | float) and math.isfinite(each) for pair in figures for each in pair)
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"lacks {error}, {expected}", file=path) from None
    if not sound:
        raise InputError(f"a figure of an architecture is no number, {expected}", file=path)
    return Searched(path.name, found)
