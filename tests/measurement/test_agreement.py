"""What a runtime computes, beside what it should."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from plugins import install_faulty

from esm_onnx.architectures import find_space, sample
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import TOLERANCES, disagreement, expected_outputs
from esm_onnx.measurement.inputs import random_inputs
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Lost, Worker
from esm_onnx.testing import tiny_space


@pytest.fixture
def subnet(tmp_path: Path) -> Path:
    space = tiny_space()
    (architecture,) = sample(space, 1, strategy="random", rng=Random(1))
    return write_subnet(space, architecture, tmp_path).path


@given(st.sampled_from(sorted(TOLERANCES)), st.floats(1e-6, 1e6), st.integers(0, 2**32), st.floats(0, 2))
def test_an_output_may_differ_by_the_tolerance_and_no_more(
    precision: str, scale: float, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    right = rng.uniform(-scale, scale, (2, 5))
    wrong = right.copy()
    wrong[0, 3] += share * TOLERANCES[precision] * np.abs(right).max()
    agrees = disagreement([wrong], [right], precision) is None
    assert agrees == (share <= 1) or abs(share - 1) < 1e-6


def test_number_and_shapes_of_outputs_must_agree() -> None:
    one, two = np.ones((1, 2)), np.ones((2, 1))
    assert "1 outputs, expected 2" in str(disagreement([one], [one, two], "fp32"))
    assert "the shape (1, 2), expected (2, 1)" in str(disagreement([one], [two], "fp32"))


def test_arithmetic_of_ten_bits_is_not_taken_for_fp32(tmp_path: Path) -> None:
    space = find_space("mobilenetv3")
    (architecture,) = sample(space, 1, strategy="balanced", rng=Random(4))
    wide, narrow = (write_subnet(space, architecture, tmp_path, ExportSettings(precision=p)) for p in ("fp32", "fp16"))
    inputs = random_inputs(narrow.path, 0)
    expected, rounded = (expected_outputs(subnet.path, inputs) for subnet in (wide, narrow))
    assert disagreement(rounded, expected, "fp16") is None
    assert disagreement(rounded, expected, "fp32") is not None


def test_zeros_must_be_zeros() -> None:
    assert disagreement([np.zeros(3)], [np.zeros(3)], "fp32") is None
    assert disagreement([np.full(3, 1e-30)], [np.zeros(3)], "fp16") is not None


def test_what_is_expected_is_what_onnx_itself_says(subnet: Path) -> None:
    inputs = random_inputs(subnet, 3)
    expected = ReferenceEvaluator(onnx.load(subnet)).run(None, inputs)
    assert disagreement(expected_outputs(subnet, inputs), expected, "fp32") is None


def test_inputs_are_the_same_for_both_precisions(tmp_path: Path) -> None:
    space = tiny_space()
    (architecture,) = sample(space, 1, strategy="random", rng=Random(1))
    wide, narrow = (write_subnet(space, architecture, tmp_path, ExportSettings(precision=p)) for p in ("fp32", "fp16"))
    (x,), (y,) = random_inputs(wide.path, 5).values(), random_inputs(narrow.path, 5).values()
    assert (x.dtype, y.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(x.astype(np.float16), y)


def test_an_input_of_whole_numbers_or_without_a_size(tmp_path: Path) -> None:
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["rows", 4])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.INT32, ["rows", 4])
    node = onnx.helper.make_node("Identity", ["ids"], ["out"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [ids], [out])), tmp_path / "ids.onnx")
    (value,) = random_inputs(tmp_path / "ids.onnx", 0).values()
    assert (value.dtype, value.tolist()) == (np.int32, [[0, 0, 0, 0]])


@pytest.mark.parametrize("device", ["right", "wrong"])
def test_a_runtime_that_computes_something_else_gives_a_failure(
    device: str, subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin").mkdir()
    install_faulty(tmp_path / "plugin", monkeypatch)
    with Worker("faulty", RuntimeSettings(device=device)) as worker:
        reply = worker.time(subnet, runs=5, warmup=0, deadline_s=60)
    if device == "right":
        assert isinstance(reply, Timing)
    else:
        assert isinstance(reply, Lost)
        assert reply.kind == "wrong"
        assert "expected at most 0.01 % of that in fp32" in reply.message


def test_fp16_is_compared_with_fp32(tmp_path: Path) -> None:
    space = tiny_space()
    one, other = sample(space, 2, strategy="random", rng=Random(1))
    narrow, wide, another = (
        write_subnet(space, architecture, tmp_path, ExportSettings(precision=precision)).path
        for architecture, precision in ((one, "fp16"), (one, "fp32"), (other, "fp32"))
    )
    with Worker("ort-cpu", RuntimeSettings(precision="fp16")) as worker:
        right = worker.time(narrow, runs=5, warmup=0, deadline_s=60, fp32=wide)
        wrong = worker.time(narrow, runs=5, warmup=0, deadline_s=60, fp32=another)
    assert isinstance(right, Timing)
    assert isinstance(wrong, Lost)
    assert wrong.kind == "wrong"
