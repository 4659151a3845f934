"""What an error of esm-onnx says."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from esm_onnx.errors import EsmError, InputError, SpaceExhausted, ThresholdNotMet, WorkError, shown


def test_the_message_is_one_line_that_begins_with_the_place() -> None:
    assert str(InputError("kernel is 4,\n expected 3")) == "kernel is 4, expected 3"
    assert str(InputError("kernel is 4", file="a.jsonl")) == "a.jsonl: kernel is 4"
    assert str(InputError("kernel is 4", file=Path("a.jsonl"), line=3)) == "a.jsonl:3: kernel is 4"


def test_the_place_can_be_added_later() -> None:
    error = SpaceExhausted("few are left")
    assert error.at("a.jsonl", 7) is error
    assert str(error) == "a.jsonl:7: few are left"


@pytest.mark.parametrize(
    ("kind", "code"), [(EsmError, 1), (InputError, 2), (SpaceExhausted, 2), (WorkError, 1), (ThresholdNotMet, 3)]
)
def test_each_kind_has_its_exit_code(kind: type[EsmError], code: int) -> None:
    assert issubclass(kind, EsmError)
    assert kind.exit_code == code


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), ("3", "'3'"), (True, "True"), (None, "None"), ([1, "a"], "[1, 'a']"), ("a\nb\x00", r"'a\nb\x00'")],
)
def test_a_short_value_is_shown_as_it_is(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value",
    ["x" * 9999, [["y" * 99] * 99] * 99, {i: i for i in range(999)}, 16**9999, [Fraction(1, 7)] * 999],
    ids=["text", "lists", "dict", "integer", "fractions"],
)
def test_a_long_value_is_shown_short(value: object) -> None:
    assert 1 <= len(shown(value)) <= 80


def test_a_deep_value_is_shown() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert len(shown(value)) <= 80
