"""Measurements in and out of a store: JSON Lines, and what `importers` reads of others' files.

A line is `{"architecture": {…}, "latency_ms": 3.2}`, and what else is known beside it. Optional fields, written by
`exported_lines` and read back: `target` (name), `facts` (of the target), `started_at` (seconds since 1970), `runs_ms`
(every run), and beside the runs what else makes the latency of them: `dropped` (for each run the bits of `Reason`),
`calibration_ms` (the calibration beside each run) with `nominal_ms`, and `shift`; `host_ms` (for each run how long the
host waited for it); `quantities` (what was measured beside the latency: `{"energy_mj": 8.1, "memory_mb": 12.5}`); of
`provenance`, how it came about, the text `how` ("measured", "sum of a table"). Kept for people and not read back:
`trimmed_ms`, the paper's statistic.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from esm_onnx.architectures import Space, from_json, read_json_lines, to_genome, to_json
from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.importers import AS_IT_IS, JSON_LINES, MEASURED, Reading, Row, find_format
from esm_onnx.measurement.quantities import BESIDE
from esm_onnx.measurement.record import SUBJECT, Measurement, Pairing
from esm_onnx.measurement.store import ACCEPTED, Content, Store
from esm_onnx.measurement.target import Target

LEAST_MS, GREATEST_MS = 1e-9, 1e9
"""What a latency can be, in ms: from below a clock's tick to eleven days."""
GREATEST_NUMBER = 1e18
GREATEST_SHIFT = 1e3
EVERY_REASON = sum(Reason)
OF_RUNS = ("dropped", "calibration_ms", "nominal_ms", "shift", "host_ms")
FIELDS = (
    *("architecture", "latency_ms", "trimmed_ms", "target", "facts", "started_at", "provenance", "runs_ms"),
    *OF_RUNS,
    "quantities",
)
LONGEST_HOW = 80


class NoLatency(InputError):
    """A number that stands where a latency should, and is none: NaN, 0, −1, or nothing."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What one line gives: a measurement of a target, how it came about, and what tells the line from another."""

    target: Target
    how: str
    measurement: Measurement
    identity: object


@dataclass(frozen=True, slots=True)
class Foreign:
    """Measurements from elsewhere of one space, as a file has them.

    Attributes:
        file: its name.
        digest: of what it says.
        sessions: target and measurements in their order, by digest of the target and how the latencies came about.
    """

    space: Space
    file: str
    digest: str
    sessions: Mapping[tuple[str, str], tuple[Target, Sequence[Measurement]]]


def read_file(
    path: Path | str,
    space: Space,
    *,
    target: str | None = None,
    provenance: str | None = None,
    reading: Reading = AS_IT_IS,
    on_invalid: Callable[[NoLatency], None] | None = None,
) -> Foreign:
    """Reads a file of measured latencies; rows keep their order.

    Args:
        target: name of the device; None takes the name that the file gives.
        provenance: how the latencies came about; None takes what the file says, else what its format means.
        reading: how the file is to be read.
        on_invalid: told of each row whose latency is none, which is left out; None refuses them.

    Raises:
        InputError: with file and line.
    """
    if provenance is not None and not _is_how(provenance):
        raise InputError(f"provenance is {shown(provenance)}, expected 1 to {LONGEST_HOW} printable characters")
    sessions: dict[tuple[str, str], tuple[Target, list[Measurement]]] = {}
    seen = hashlib.sha256()
    for read in _lines(path, space, reading, target):
        if isinstance(read, NoLatency):
            if on_invalid is None:
                raise read
            on_invalid(read)
            continue
        digest = read.target.digest
        seen.update(repr((digest, read.identity)).encode())
        sessions.setdefault((digest, provenance or read.how), (read.target, []))[1].append(read.measurement)
    if not sessions:
        raise InputError("no line with a latency, expected at least one", file=path)
    return Foreign(space, Path(path).name, seen.hexdigest()[:16], sessions)


def add_foreign(store: Store, found: Foreign) -> dict[str, int]:
    """Puts measurements from elsewhere into a store.

    Returns:
        Their number by name of the target; 0 where the same ones are there already, whatever the file was called and
        however they were said to have come about.
    """
    space = found.space
    before = {
        digest: {
            how_of(provenance)
            for _, status, provenance, _ in store.sessions(space, of)
            if status == ACCEPTED and provenance.get("digest") == found.digest
        }
        for (digest, _), (of, _) in found.sessions.items()
    }
    counts: dict[str, int] = {}
    for (digest, how), (of, measurements) in found.sessions.items():
        origin = {
            "imported": found.file,
            "digest": found.digest,
            "target": digest,
            "space": space.fingerprint,
            **({} if how == MEASURED else {"how": how}),  # so that what was imported before this word is known again
        }
        alone = sum(other == digest for other, _ in found.sessions) == 1  # else an import may have been cut between two
        known = before[digest] if alone else how in before[digest]
        counts[of.name] = counts.get(of.name, 0) + (0 if known else store.add(space, of, origin, measurements))
    return counts


def import_file(store: Store, path: Path | str, space: Space, **reading: Any) -> dict[str, int]:
    """Reads a file into a store, all or nothing: `read_file` and `add_foreign`, whose arguments and value it has."""
    return add_foreign(store, read_file(path, space, **reading))


def how_of(provenance: Mapping[str, Any]) -> str:
    """How the latencies of a session came about, from its provenance: "measured", "sum of a table", …"""
    return str(provenance.get("how", MEASURED))


def provenances(store: Store, content: Content) -> list[str]:
    """How the accepted latencies of one space on one target came about: each way once, oldest first."""
    sessions = store.sessions(content.space, content.target)
    return list(dict.fromkeys(how_of(provenance) for _, status, provenance, _ in sessions if status == ACCEPTED))


def exported_lines(
    store: Store, *, space: Space | None = None, target: str | None = None, runs: bool = False
) -> Iterator[dict[str, Any]]:
    """The accepted measurements of a store as JSON data, for one space or target or for all.

    Raises:
        InputError: nothing fits.
    """
    found = False
    for content in store.contents():
        if not content.matches(space, target):
            continue
        for session, status, provenance, _ in store.sessions(content.space, content.target):
            if status != ACCEPTED:
                continue
            origin = {"session": session, **provenance, "how": how_of(provenance)}
            for measurement in store.measurements(content.space, content.target, session=session):
                if measurement.role == SUBJECT:
                    found = True
                    yield _line(content.space, content.target, origin, measurement, runs)
    if not found:
        raise InputError("no accepted measurement of that space and target", file=store.path)


def _line(
    space: Space, target: Target, provenance: dict[str, Any], measurement: Measurement, runs: bool
) -> dict[str, Any]:
    return {
        "architecture": to_json(space, measurement.architecture),
        "latency_ms": measurement.latency_ms,
        "trimmed_ms": measurement.trimmed_ms,
        "target": target.name,
        "facts": dict(target.facts),
        "started_at": measurement.started_at,
        "provenance": provenance,
        **({"quantities": dict(measurement.quantities)} if measurement.quantities else {}),
        **(_runs_line(measurement) if runs else {}),
    }


def _runs_line(measurement: Measurement) -> dict[str, Any]:
    """Every run, and what else its latency is made of where there is more."""
    line: dict[str, Any] = {"runs_ms": list(measurement.runs_ms)}
    if measurement.dropped:
        line["dropped"] = list(measurement.dropped)
    if measurement.pairing is not None:
        line["calibration_ms"] = list(measurement.pairing.calibration_ms)
        line["nominal_ms"] = measurement.pairing.nominal_ms
    if measurement.host_ms:
        line["host_ms"] = list(measurement.host_ms)
    if measurement.shift != 1:
        line["shift"] = measurement.shift
    return line


def _lines(path: Path | str, space: Space, reading: Reading, target: str | None) -> Iterator[Imported | NoLatency]:
    """What each line gives: a measurement, or the news that its latency is none."""
    found = find_format(path, reading)
    if found is JSON_LINES:  # which may hold more than a latency
        for line, data in read_json_lines(path):
            yield _placed(partial(_read, space, data, target), path, line)
    else:
        for place, row in enumerate(found.read(path, space, reading)):
            yield _placed(partial(_read_row, space, row, place, target), row.file, row.line)


def _placed(read: Callable[[], Imported], file: Path | str, line: int) -> Imported | NoLatency:
    try:
        return read()
    except NoLatency as error:
        error.at(file, line)
        return error
    except InputError as error:
        raise error.at(file, line) from None


def _read_row(space: Space, row: Row, place: int, target: str | None) -> Imported:
    """The place stands for the time, which is unknown: it keeps the order of measuring."""
    measurement = Measurement(row.architecture, SUBJECT, (_latency(row.latency_ms),), float(place))
    identity = to_genome(space, row.architecture), row.latency_ms
    return Imported(_target({"target": row.target}, target), row.how, measurement, identity)


def _read(space: Space, data: object, target: str | None) -> Imported:
    if not isinstance(data, dict):
        raise InputError('expected an object {"architecture": {…}, "latency_ms": 3.2}')
    for name in ("architecture", "latency_ms"):
        if name not in data:
            raise InputError(f"no field {name!r}, expected architecture and latency_ms")
    for name in data:
        if name not in FIELDS:
            raise InputError(f"unknown field {shown(name)}, expected some of {', '.join(FIELDS)}")
    architecture = from_json(space, data["architecture"])
    latency = _latency(data["latency_ms"])
    runs = tuple(_positive(run, "runs_ms") for run in _list(data.get("runs_ms", [latency]), "runs_ms"))
    if "runs_ms" not in data and (lonely := [name for name in OF_RUNS if name in data]):
        raise InputError(f"{lonely[0]} without runs_ms, expected both or neither")
    measurement = Measurement(
        architecture,
        SUBJECT,
        runs,
        _started_at(data.get("started_at")),
        _dropped(data, len(runs)),
        _pairing(data, len(runs)),
        _between(data.get("shift", 1.0), "shift", 1 / GREATEST_SHIFT, GREATEST_SHIFT, "factor"),
        host_ms=_host_ms(data, len(runs)),
        quantities=_quantities(data),
    )
    if not math.isclose(measurement.latency_ms, latency, rel_tol=1e-6):
        raise InputError(f"latency_ms is {shown(latency)}, expected {measurement.latency_ms!r}, as its runs_ms give it")
    return Imported(_target(data, target), _how(data.get("provenance")), measurement, data)


def _dropped(data: dict[str, Any], runs: int) -> tuple[int, ...]:
    if "dropped" not in data:
        return ()
    dropped = _list(data["dropped"], "dropped", length=runs)
    for bits in dropped:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= EVERY_REASON:
            raise InputError(f"dropped has {shown(bits)}, expected the bits of reasons, 0 to {EVERY_REASON}")
    return tuple(dropped)


def _host_ms(data: dict[str, Any], runs: int) -> tuple[float, ...]:
    if "host_ms" not in data:
        return ()
    return tuple(_positive(value, "host_ms") for value in _list(data["host_ms"], "host_ms", length=runs))


def _quantities(data: dict[str, Any]) -> dict[str, float]:
    quantities = data.get("quantities", {})
    if not isinstance(quantities, dict):
        raise InputError(f'quantities is {shown(quantities)}, expected an object such as {{"energy_mj": 8.1}}')
    for name in quantities:
        if name not in BESIDE:
            raise InputError(f"unknown quantity {shown(name)}, expected some of {', '.join(BESIDE)}")
    return {name: _between(value, name, 0.0, GREATEST_MS, "number") for name, value in quantities.items()}


def _pairing(data: dict[str, Any], runs: int) -> Pairing | None:
    if "calibration_ms" not in data and "nominal_ms" not in data:
        return None
    calibration = _list(data.get("calibration_ms"), "calibration_ms", length=runs)
    return Pairing(
        tuple(_positive(value, "calibration_ms") for value in calibration),
        _positive(data.get("nominal_ms"), "nominal_ms"),
    )


def _list(values: object, name: str, *, length: int | None = None) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{name} is {shown(values)}, expected a list with one value for each run")
    if length is not None and len(values) != length:
        raise InputError(f"{name} has {len(values)} values, expected {length}, one for each run")
    return values


def _target(data: dict[str, Any], asked: str | None) -> Target:
    name, facts = asked or data.get("target"), data.get("facts", {})
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InputError(f"target is {shown(name)}, expected a name in printable characters: give one with --target")
    if not isinstance(facts, dict) or not all(map(_is_fact, (*facts, *facts.values()))):
        raise InputError(f"facts is {shown(facts)}, expected an object of printable texts and finite numbers")
    return Target(name, facts)


def _is_fact(value: object) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    return isinstance(value, int | float) and abs(value) <= GREATEST_NUMBER


def _how(provenance: object) -> str:
    how = provenance.get("how") if isinstance(provenance, dict) else None
    return how if _is_how(how) else MEASURED


def _is_how(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_HOW and value.isprintable()


def _latency(value: object) -> float:
    try:
        return _positive(value, "latency_ms")
    except InputError as error:
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            raise NoLatency(
                f"{error.message}: `--skip-invalid` leaves such rows out and counts them; of a CSV file `esm-onnx data "
                "lint FILE` does so before"
            ) from None
        raise


def _positive(value: object, name: str) -> float:
    return _between(value, name, LEAST_MS, GREATEST_MS, "number of ms")


def _between(value: object, name: str, least: float, greatest: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= greatest:
        raise InputError(f"{name} is {shown(value)}, expected a positive {what}, {least:g} to {greatest:g}")
    return float(value)


def _started_at(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= GREATEST_NUMBER:
        raise InputError(f"started_at is {shown(value)}, expected seconds since 1970")
    return float(value)
