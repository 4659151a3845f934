"""What arrives from another machine's measuring process, checked once before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from esm_onnx.errors import InputError, shown
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.quantities import BESIDE
from esm_onnx.measurement.target import Fact
from esm_onnx.measurement.worker import CALIBRATION_LOST, UNMEASURABLE, Lost

LONGEST_NS = 10**15
"""Of a run: eleven days, as for imported latencies."""
LONGEST_TEXT = 2000
MOST_FACTS = 200
KINDS = (
    "refused",
    "load",
    "run",
    "nan",
    "wrong",
    "memory",
    "deadline",
    "crash",
    "exit",
    CALIBRATION_LOST,
    UNMEASURABLE,
)
"""Of `Lost`, which the worker may tell."""


def read_object(text: object, longest: int) -> dict[str, Any]:
    """A JSON object.

    Args:
        longest: characters that it may have.

    Raises:
        InputError: it is none.
    """
    if not isinstance(text, str) or len(text) > longest:
        raise InputError(f"reply {shown(text)}, expected a JSON object of at most {longest} characters")
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InputError(f"reply {shown(text)}, expected a JSON object") from None
    if not isinstance(data, dict):
        raise InputError(f"reply {shown(data)}, expected a JSON object")
    return data


def read_facts(data: object) -> dict[str, Fact]:
    """Facts of a runtime: names and printable texts or finite numbers, `device` among them.

    Raises:
        InputError: they are none.
    """
    good = isinstance(data, dict) and len(data) <= MOST_FACTS and all(map(_is_fact, (*data, *data.values())))
    if not isinstance(data, dict) or not good or not isinstance(data.get("device"), str):
        raise InputError(f"facts {shown(data)}, expected an object of printable texts and finite numbers with a device")
    return data


def read_reply(data: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any] | Lost:
    """The reply to a job: what `Measurer.ask` gives.

    Raises:
        InputError: it is none that a worker would give to this job.
    """
    if "kind" in data:
        kind, message = data["kind"], data.get("message")
        if kind not in KINDS or not isinstance(message, str):
            raise InputError(f"a failure of kind {shown(kind)}: {shown(message)}, expected one of {', '.join(KINDS)}")
        printable = "".join(letter if letter.isprintable() else " " for letter in message[:LONGEST_TEXT])
        return Lost(kind, " ".join(printable.split()))
    if "layers" in job:
        return {"layers": _numbers_by_name(data.get("layers"), "layers")}
    timing = data.get("timing")
    if not isinstance(timing, dict):
        raise InputError(f"timing {shown(timing)}, expected an object")
    return {"timing": _timing(timing, job["runs"], paired=job["calibration"] is not None)}


def _timing(data: dict[str, Any], most: int, *, paired: bool) -> dict[str, Any]:
    """The fields of a `Timing`."""
    runs = _list(data, "runs_ns", 1, LONGEST_NS, whole=True)
    if not 1 <= len(runs) <= most:
        raise InputError(f"{len(runs)} runs, expected 1 to {most}")
    dropped = _list(data, "dropped", 0, sum(Reason), whole=True)
    calibration = _list(data, "calibration_ns", 0, LONGEST_NS)
    host = _list(data, "host_ns", 0, LONGEST_NS, whole=True)
    lengths = {"dropped": (dropped, 1), "calibration_ns": (calibration, paired), "host_ns": (host, bool(host))}
    for name, (values, there) in lengths.items():
        if len(values) != len(runs) * there:
            raise InputError(f"{name} has {len(values)} values, expected {len(runs) * there} beside {len(runs)} runs")
    quantities = _numbers_by_name(data.get("quantities"), "quantities")
    if strange := [name for name in quantities if name not in BESIDE]:
        raise InputError(f"quantity {shown(strange[0])}, expected some of {', '.join(BESIDE)}")
    return {
        "runs_ns": runs,
        "dropped": dropped,
        "calibration_ns": calibration,
        "calibrating_ns": _number(data.get("calibrating_ns"), "calibrating_ns", 0, 10**18, whole=True),
        "host_ns": host,
        "quantities": quantities,
    }


def _list(data: dict[str, Any], name: str, least: float, greatest: float, *, whole: bool = False) -> list[Any]:
    values = data.get(name)
    if not isinstance(values, list):
        raise InputError(f"{name} is {shown(values)}, expected a list")
    return [_number(value, name, least, greatest, whole=whole) for value in values]


def _numbers_by_name(data: object, what: str) -> dict[str, float]:
    if not isinstance(data, dict) or not all(map(_is_text, data)):
        raise InputError(f"{what} is {shown(data)}, expected an object of numbers")
    return {name: _number(value, name, 0, 1e18) for name, value in data.items()}


def _number(value: Any, name: str, least: float, greatest: float, *, whole: bool = False) -> Any:
    number = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not number or not least <= value <= greatest:
        raise InputError(f"{name} has {shown(value)}, expected a number from {least:g} to {greatest:g}")
    return value


def _is_fact(value: object) -> bool:
    return _is_text(value) or (isinstance(value, int | float) and abs(value) <= 1e18)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


def _refuse(constant: str) -> None:
    raise ValueError(constant)
