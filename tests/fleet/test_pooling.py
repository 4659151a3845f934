from __future__ import annotations

from random import Random

import pytest

from esm_onnx.architectures import sample
from esm_onnx.fleet.pooling import agree, apart
from esm_onnx.testing import tiny_space

ONE, TWO, THREE = sample(tiny_space(), 3, strategy="random", rng=Random(0))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({ONE: 10.29, TWO: 19.5}, True),
        ({ONE: 10.31, TWO: 20.0}, False),  # one reference is enough
        ({ONE: 9.69, TWO: 20.0}, False),
        ({TWO: 20.0, THREE: 1.0}, True),
        ({THREE: 1.0}, False),  # nothing in common says nothing
    ],
)
def test_devices_agree_where_every_common_reference_is_within_three_percent(
    other: dict[object, float], expected: bool
) -> None:
    assert agree({ONE: 10.0, TWO: 20.0}, other) is expected  # type: ignore[arg-type]


def test_each_pooled_device_agrees_with_every_other() -> None:
    levels = {"b": {ONE: 10.2}, "a": {ONE: 10.0}, "c": {ONE: 9.85}, "d": {ONE: 12.0}}
    assert apart(levels) == ["c", "d"]  # c agrees with a and not with b
    assert apart(levels, [{ONE: 12.1}]) == ["a", "b", "c"]  # what the target was before counts
