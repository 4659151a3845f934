"""What a device may answer: everything else is refused before anything is made of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.errors import InputError
from esm_onnx.measurement.replies import read_facts, read_object, read_reply
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Lost

JOB = {"runs": 3, "calibration": None}
PAIRED = {"runs": 3, "calibration": "c.onnx"}
GOOD = {
    "runs_ns": [10, 11, 12],
    "dropped": [0, 1, 0],
    "calibration_ns": [],
    "calibrating_ns": 0,
    "host_ns": [],
    "quantities": {"energy_mj": 1.5},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=6,
)


def test_a_timing_is_taken_as_it_is() -> None:
    reply = read_reply({"job": 1, "timing": GOOD}, JOB)
    assert not isinstance(reply, Lost)
    assert Timing(**reply["timing"]) == Timing([10, 11, 12], [0, 1, 0], [], quantities={"energy_mj": 1.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs_ns": []}, "0 runs"),
        ({"runs_ns": [1, 2, 3, 4], "dropped": [0] * 4}, "4 runs, expected 1 to 3"),
        ({"runs_ns": [0, 1, 2]}, "runs_ns has 0"),
        ({"runs_ns": [1.5, 1, 2]}, "runs_ns has 1.5"),
        ({"runs_ns": [True, 1, 2]}, "runs_ns has True"),
        ({"runs_ns": "123"}, "expected a list"),
        ({"dropped": [0, 0]}, "dropped has 2 values"),
        ({"dropped": [0, 0, 1 << 30]}, "dropped has 1073741824"),
        ({"calibration_ns": [1.0, 1.0, 1.0]}, "calibration_ns has 3 values, expected 0"),
        ({"calibrating_ns": -1}, "calibrating_ns has -1"),
        ({"host_ns": [1]}, "host_ns has 1 values, expected 3"),
        ({"quantities": {"karma": 1.0}}, "karma"),
        ({"quantities": {"energy_mj": float("nan")}}, "nan"),
    ],
)
def test_a_timing_that_no_worker_gives_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_reply({"timing": {**GOOD, **change}}, JOB)


def test_paired_runs_need_their_calibration() -> None:
    with pytest.raises(InputError, match="calibration_ns has 0 values, expected 3"):
        read_reply({"timing": GOOD}, PAIRED)
    read_reply({"timing": {**GOOD, "calibration_ns": [1.0, 2.0, 2.0]}}, PAIRED)


def test_a_failure_has_a_known_kind_and_one_printable_line() -> None:
    assert read_reply({"kind": "crash", "message": "ended\nwith \x1b[31m 11"}, JOB) == Lost(
        "crash", "ended with [31m 11"
    )
    for wrong in {"kind": "mutiny", "message": "x"}, {"kind": "run", "message": 7}, {"kind": ["run"], "message": "x"}:
        with pytest.raises(InputError, match="a failure of kind"):
            read_reply(wrong, JOB)


@given(JSON, JSON, JSON)
def test_whatever_arrives_is_read_or_refused(reply: Any, timing: Any, value: Any) -> None:
    read = [
        lambda: read_object(json.dumps(reply), 1000),
        lambda: read_reply({"timing": timing}, JOB),
        lambda: read_reply({"timing": {**GOOD, "runs_ns": value}}, JOB),
        lambda: read_reply({"kind": value, "message": reply}, JOB),
        lambda: read_reply({"layers": value}, {"layers": True}),
        lambda: read_facts(value),
    ]
    for each in read:
        with suppress(InputError):
            each()


def test_a_reply_is_one_json_object_of_a_size_that_can_be() -> None:
    assert read_object('{"a": [1]}', 20) == {"a": [1]}
    for wrong in "[1]", "{", '{"a": NaN}', '{"a": 1}' + " " * 20, "[" * 19, 7:
        with pytest.raises(InputError, match="expected a JSON object"):
            read_object(wrong, 20)


def test_facts_are_plain_and_name_the_device() -> None:
    assert read_facts({"device": "abacus", "threads": 2}) == {"device": "abacus", "threads": 2}
    for wrong in (
        {"threads": 2},
        {"device": 7},
        {"device": "a\n"},
        {"device": "a", "b": [1]},
        {"device": "a", "b": 1e300},
    ):
        with pytest.raises(InputError, match="facts"):
            read_facts(wrong)
