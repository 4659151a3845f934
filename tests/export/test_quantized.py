"""Quantised subnets: what TensorRT demands of them, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from export import small_spaces as s
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from esm_onnx.export import ExportSettings, export_facts, write_subnet
from esm_onnx.export.quantized import KINDS

FAMILIES = (*s.FAMILIES, *s.ELASTIC)
IN_INT8 = {
    "resnet": {"QLinearConv", "QLinearAdd", "NhwcMaxPool", "QLinearGlobalAveragePool", "Flatten", "QGemm"},
    "ofa-proxyless": {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "Flatten", "QGemm"},
}
"""All that is left of a network whose layers all have int8 kernels on the CPU, ReLU and ReLU6 in none of their own."""
AT_THE_ENDS = {"QuantizeLinear", "DequantizeLinear", "Transpose"}


def written(family: str, precision: str, folder: Path, opset: int = 17) -> Path:
    space = s.narrow(family)
    settings = ExportSettings(precision=precision, opset=opset)
    return write_subnet(space, s.several(space, 1, seed=2)[0], folder, settings).path


def made_by(model: ModelProto) -> Mapping[str, str]:
    return {output: node.op_type for node in model.graph.node for output in node.output}


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_close_to_fp32_and_the_same_each_time(family: str, precision: str, tmp_path: Path) -> None:
    wide, narrow = (written(family, name, tmp_path, opset=19) for name in ("fp32", precision))
    bytes_then = narrow.read_bytes()
    assert written(family, precision, tmp_path, opset=19).read_bytes() == bytes_then
    model = onnx.load(narrow)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    image = np.random.default_rng(9).standard_normal(s.shape_of(model.graph.input[0]), dtype=np.float32)
    right, found = (ReferenceEvaluator(onnx.load(path)).run(None, {"input": image})[0] for path in (wide, narrow))
    assert 0 < np.abs(right - found).max() < 0.1 * np.abs(right).max()


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_computes_with_int8_weights_of_7_bits(family: str, precision: str, tmp_path: Path) -> None:
    graph = onnx.load(written(family, precision, tmp_path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers
    for node in layers:
        weights = values[stored[node.input[1]]]
        assert weights.dtype == np.int8, node.name
        assert 60 <= np.abs(weights).max() <= 64, node.name
        assert values[node.input[2]].dtype == np.float32 if node.input[2:] else True


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_what_tensorrt_takes(family: str, tmp_path: Path) -> None:
    """As NVIDIA's guide to explicit quantisation has it: int8 around 0, no other type, and layers that can be fused."""
    model = onnx.load(written(family, "int8", tmp_path))
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    before = made_by(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = values[node.input[2]]
            assert zero_point.data_type == TensorProto.INT8, node.name
            assert not numpy_helper.to_array(zero_point).any(), node.name
        if node.op_type in ("Conv", "Gemm", "Add", "Mul"):
            activations = [name for name in node.input if name not in values]
            assert {before[name] for name in activations} <= {"DequantizeLinear"}, node.name
        if node.op_type in ("Relu", "Clip", "HardSwish", "HardSigmoid"):
            assert before[node.input[0]] in {"Conv", "Gemm", "Add", "BatchNormalization"}, node.name


@pytest.mark.parametrize("family", FAMILIES)
def test_uint8_computes_in_int8_on_the_cpu(family: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    subnet = written(family, "uint8", tmp_path)
    onnxruntime.InferenceSession(str(subnet), options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "QLinearConv" in left
    assert not left & {"Conv", "FusedConv", "Gemm", "Add", "Relu", "Clip", "MaxPool", "Concat"}
    if family in IN_INT8:
        assert left <= IN_INT8[family] | AT_THE_ENDS


def test_the_two_kinds_are_never_mixed() -> None:
    space = s.narrow("resnet")
    facts = [export_facts(space, ExportSettings(precision=precision)) for precision in KINDS]
    assert {fact["weights"] for fact in facts} == {"embedded"}
    first, second = (str(fact["quantiser"]) for fact in facts)
    assert first != second
    assert onnxruntime.__version__ in first
