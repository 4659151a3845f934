"""ONNX interpreted by PyTorch: each operator and each family beside ONNX Runtime, and what is refused."""

from __future__ import annotations

import gc
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export.small_spaces import ELASTIC, FAMILIES, narrow
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from esm_onnx.architectures import Space, sample
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.layers import times_by_block
from esm_onnx.measurement.runtime import Inference, RuntimeSettings, find_runtime, list_runtimes
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Worker
from esm_onnx.testing import tiny_space

torch_graph = importlib.import_module("esm_onnx.runtimes.torch_graph")

IMAGE = (2, 4, 9, 11)
SEED = 3


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(SEED).uniform(0.5, 1.5, shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def small(number: float) -> np.ndarray[Any, Any]:
    return np.array(number, np.float32)


def one_node(
    operator: str, operands: tuple[Any, ...], attributes: dict[str, Any], *, opset: int = 17
) -> onnx.ModelProto:
    """A graph of one node. An operand is the shape of an input, the array of a constant, or None where left out."""
    names = ["" if operand is None else f"operand.{i}" for i, operand in enumerate(operands)]
    named = list(zip(names, operands, strict=True))
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, each) for n, each in named if isinstance(each, tuple)]
    constants = [numpy_helper.from_array(each, n) for n, each in named if isinstance(each, np.ndarray)]
    node = helper.make_node(operator, names, ["y"], "only", **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output], constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def both(model: onnx.ModelProto, path: Path) -> tuple[list[Any], list[Any]]:
    """The outputs by PyTorch and by ONNX Runtime on the same random inputs."""
    path.write_bytes(model.SerializeToString())
    rng = np.random.default_rng(SEED)
    shapes = {x.name: [side.dim_value for side in x.type.tensor_type.shape.dim] for x in model.graph.input}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    with torch.inference_mode():
        outputs = torch_graph.read_graph(path)(*map(torch.from_numpy, feed.values()))
    return [output.numpy() for output in outputs], expected_outputs(path, dict(feed))


def agree(model: onnx.ModelProto, path: Path) -> None:
    ours, theirs = both(model, path)
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


UNEVEN = {"pads": [0, 1, 2, 1]}
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Conv", (IMAGE, weights(6, 2, 3, 3), weights(6)), {**UNEVEN, "strides": [2, 1], "dilations": [1, 2], "group": 2}),
    ("Conv", (IMAGE, weights(4, 1, 5, 3)), {"kernel_shape": [5, 3], "pads": [2, 1, 2, 1], "group": 4}),
    ("Conv", (IMAGE, weights(3, 4, 1, 1), weights(3)), {"auto_pad": "VALID", "strides": [3, 2]}),
    ("MaxPool", (IMAGE,), {"kernel_shape": [3, 2]}),
    ("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], **UNEVEN, "strides": [2, 2], "dilations": [2, 1]}),
    ("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2], "storage_order": 1}),
    ("AveragePool", (IMAGE,), {"kernel_shape": [2, 3]}),
    ("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], **UNEVEN, "count_include_pad": 1}),
    ("BatchNormalization", (IMAGE, *(weights(4) for _ in range(4))), {"epsilon": 0.1, "momentum": 0.5}),
    ("HardSigmoid", (IMAGE,), {}),
    ("HardSigmoid", (IMAGE,), {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSigmoid", (IMAGE,), {"alpha": 1 / 6, "beta": 0.25}),
    ("HardSwish", (IMAGE,), {}),
    ("Relu", (IMAGE,), {}),
    ("Sigmoid", (IMAGE,), {}),
    ("Tanh", (IMAGE,), {}),
    ("LeakyRelu", (IMAGE,), {}),
    ("LeakyRelu", (IMAGE,), {"alpha": 0.3}),
    ("Identity", (IMAGE,), {}),
    ("Clip", (IMAGE, small(-0.5), small(0.25)), {}),
    ("Clip", (IMAGE, None, small(0.25)), {}),
    ("Clip", (IMAGE,), {}),
    ("Add", (IMAGE, (1, 4, 1, 1)), {}),
    ("Mul", (IMAGE, small(3)), {}),
    ("Sub", (weights(4, 1, 1), IMAGE), {}),
    ("Div", (IMAGE, weights(4, 1, 1)), {}),
    ("Div", (small(6), IMAGE), {}),
    ("Concat", (IMAGE, (2, 4, 3, 11), weights(2, 4, 1, 11)), {"axis": 2}),
    ("Concat", (IMAGE, IMAGE), {"axis": -1}),
    ("GlobalAveragePool", (IMAGE,), {}),
    ("GlobalMaxPool", (IMAGE,), {}),
    *(("Flatten", (IMAGE,), {"axis": axis}) for axis in (0, 1, 2, 3, -1)),
    ("Reshape", (IMAGE, whole(0, -1, 11)), {}),
    ("Reshape", ((2, 3), whole(3, 2)), {"allowzero": 1}),
    ("ReduceMean", (IMAGE,), {"axes": [2, 3], "keepdims": 0}),
    ("ReduceMean", (IMAGE,), {"axes": [-1]}),
    ("Pad", (IMAGE, whole(0, 1, 0, 2, 0, 0, 3, 1), small(2.5)), {"mode": "constant"}),
    ("Pad", (IMAGE, whole(0, 0, -2, 1, 0, 0, 0, -3)), {}),
    ("Softmax", (IMAGE,), {}),
    ("Softmax", (IMAGE,), {"axis": 1}),
    ("Transpose", (IMAGE,), {"perm": [0, 2, 3, 1]}),
    ("MatMul", ((2, 5, 3), (3, 4)), {}),
    ("Gemm", ((3, 5), weights(7, 5), weights(7)), {"transB": 1}),
    ("Gemm", ((3, 5), weights(5, 7)), {"alpha": 0.5}),
    ("Gemm", ((5, 3), (5, 7), (3, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", ((3, 5), weights(5, 7), weights(3, 7)), {}),
]


@pytest.mark.parametrize(("operator", "operands", "attributes"), CASES)
def test_an_operator_does_what_onnx_runtime_does(
    operator: str, operands: tuple[Any, ...], attributes: dict[str, Any], tmp_path: Path
) -> None:
    agree(one_node(operator, operands, attributes), tmp_path / "one.onnx")


def test_every_operator_of_the_table_is_among_the_cases() -> None:
    assert {operator for operator, *_ in CASES} == set(torch_graph.OPERATORS)


def test_axes_may_be_an_input_as_from_opset_18(tmp_path: Path) -> None:
    model = one_node("ReduceMean", (IMAGE, whole(1, 3)), {"keepdims": 0}, opset=18)
    agree(model, tmp_path / "one.onnx")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.data(),
)
def test_windows_of_any_shape_pool_what_onnx_runtime_pools(
    tmp_path_factory: pytest.TempPathFactory,
    operator: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    data: st.DataObject,
) -> None:
    pads = [data.draw(st.integers(0, side // 2), label="pad") for side in kernel] * 2
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": data.draw(st.integers(0, 1))}
    agree(one_node(operator, (IMAGE,), attributes), tmp_path_factory.getbasetemp() / "pooled.onnx")


REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    (
        "Erf",
        (IMAGE,),
        {},
        r"operator Erf of only is not interpreted here, expected one of Add, AveragePool, .*Transpose$",
    ),
    ("Conv", (IMAGE, weights(4, 4, 3, 3)), {"auto_pad": "SAME_UPPER"}, "Conv of only .*auto_pad SAME_UPPER"),
    ("AveragePool", (IMAGE,), {"kernel_shape": [3, 3], **UNEVEN}, "expected even pads"),
    ("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], **UNEVEN, "ceil_mode": 1}, "ceil_mode"),
    ("BatchNormalization", (IMAGE, *(weights(4) for _ in range(4))), {"training_mode": 1}, "training_mode"),
    ("Relu", (IMAGE,), {"slope": 3}, "slope"),
    ("Pad", (IMAGE, whole(*[0] * 8)), {"mode": "reflect"}, "reflect"),
    ("ReduceMean", (IMAGE,), {}, "no axes"),
    ("Transpose", (IMAGE,), {}, "perm"),
]


@pytest.mark.parametrize(("operator", "operands", "attributes", "said"), REFUSED)
def test_what_is_not_interpreted_is_told_with_the_file(
    operator: str, operands: tuple[Any, ...], attributes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.onnx"
    path.write_bytes(one_node(operator, operands, attributes).SerializeToString())
    with pytest.raises(InputError, match=said) as raised:
        torch_graph.read_graph(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_other_domains_older_operators_and_computed_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    foreign = one_node("Relu", (IMAGE,), {"domain": "com.microsoft"})
    old = one_node("Relu", (IMAGE,), {}, opset=11)
    computed = one_node("Reshape", (IMAGE, (1,)), {})
    for model, said in ((foreign, "Relu of only is not"), (old, "opset 11"), (computed, "shape is computed")):
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match=said):
            torch_graph.read_graph(path)


@pytest.fixture(params=[*FAMILIES, *ELASTIC])
def family(request: pytest.FixtureRequest) -> Space:
    return narrow(request.param)


def one_subnet(space: Space, folder: Path, **export: Any) -> Path:
    (architecture,) = sample(space, 1, strategy="random", rng=Random(1))
    return write_subnet(space, architecture, folder, ExportSettings(**export)).path


@pytest.mark.parametrize("batch", [1, 2])
def test_every_family_gives_the_outputs_of_onnx_runtime(family: Space, batch: int, tmp_path: Path) -> None:
    subnet = one_subnet(family, tmp_path, batch=batch)
    runtime = find_runtime("torch-cpu")(RuntimeSettings(seed=7))
    with runtime.load(subnet) as infer:
        outputs = infer()
    assert isinstance(outputs, list)
    assert disagreement(outputs, expected_outputs(subnet, runtime.inputs(subnet)), "fp32") is None


def test_weights_inside_the_file_and_the_newest_opset_will_do(tmp_path: Path) -> None:
    space = tiny_space()
    subnet = one_subnet(space, tmp_path, embed_weights=True, opset=onnx.defs.onnx_opset_version())
    runtime = find_runtime("torch-cpu")(RuntimeSettings())
    with runtime.load(subnet) as infer:
        outputs = infer()
    expected = ReferenceEvaluator(onnx.load(subnet)).run(None, dict(runtime.inputs(subnet)))
    assert isinstance(outputs, list)
    np.testing.assert_allclose(outputs[0], expected[0], rtol=1e-3, atol=1e-5)


def test_its_layers_are_the_nodes_of_the_file_in_order(family: Space, tmp_path: Path) -> None:
    subnet = one_subnet(family, tmp_path)
    with find_runtime("torch-cpu")(RuntimeSettings()).load(subnet) as infer:
        assert isinstance(infer, Inference)
        assert infer.layers is not None
        layers = infer.layers()
    file = onnx.load(subnet, load_external_data=False)
    assert list(layers) == [node.name for node in file.graph.node]
    assert min(layers.values()) > 0
    assert sum(times_by_block(file, layers).values()) == pytest.approx(sum(layers.values()))


def test_unnamed_nodes_are_called_by_their_outputs(tmp_path: Path) -> None:
    model = one_node("Relu", (IMAGE,), {})
    model.graph.node[0].name = ""
    (tmp_path / "one.onnx").write_bytes(model.SerializeToString())
    assert torch_graph.layers_of(torch_graph.read_graph(tmp_path / "one.onnx")) == ["y"]


def test_threads_are_those_asked_for_while_a_subnet_is_loaded(tmp_path: Path) -> None:
    subnet = one_subnet(tiny_space(), tmp_path)
    before = torch.get_num_threads()
    for threads in (1, 2):
        runtime = find_runtime("torch-cpu")(RuntimeSettings(threads=threads))
        assert runtime.facts()["threads"] == threads
        with runtime.load(subnet):
            assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


def tensors() -> int:
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_weights_go_with_their_subnet_before_python_collects_garbage(tmp_path: Path) -> None:
    (architecture,) = sample(tiny_space(), 1, strategy="random", rng=Random(0))
    subnet = write_subnet(tiny_space(), architecture, tmp_path).path
    weights = onnx.load(subnet).graph.initializer
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        with find_runtime("torch-cpu")(RuntimeSettings()).load(subnet) as infer:
            infer()
            assert tensors() - before > len(weights)
        assert tensors() - before == 1  # the input, which the inference holds as long as there is one
    finally:
        gc.enable()
    assert callable(infer)


def test_what_a_subnet_takes_is_its_constants_and_inputs(tmp_path: Path) -> None:
    (architecture,) = sample(tiny_space(), 1, strategy="random", rng=Random(0))
    subnet = write_subnet(tiny_space(), architecture, tmp_path).path
    floats = sum(math.prod(tensor.dims) for tensor in onnx.load(subnet).graph.initializer)
    taken = torch_graph.bytes_of(torch_graph.read_graph(subnet), [torch.zeros(2, 3, 32, 32)])
    assert taken == 4 * (floats + 2 * 3 * 32 * 32)


def test_it_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    subnet = one_subnet(tiny_space(), tmp_path)
    with Worker("torch-cpu", RuntimeSettings()) as worker:
        assert worker.facts["torch"] == str(torch.__version__)
        reply = worker.time(subnet, runs=5, warmup=1, deadline_s=60)
    assert isinstance(reply, Timing)
    assert min(reply.runs_ns) > 0


def test_without_a_compiler_torch_compile_says_what_it_needs(tmp_path: Path) -> None:
    subnet = one_subnet(tiny_space(), tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime\n"
        "runtime = find_runtime('torch-cpu')(RuntimeSettings(switches={'compile': True}))\n"
        "assert runtime.facts()['compile'] == 'on'\n"
        "try:\n"
        "    with runtime.load(Path(sys.argv[1])): print('loaded')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {"PATH": "", "CXX": "no-such-compiler", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    call = [sys.executable, "-c", program, str(subnet)]
    done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("InputError torch.compile gave up: ")
    assert "no-such-compiler" in done.stdout
    assert "C++ compiler for a CPU" in done.stdout


def test_without_torch_both_are_listed_with_the_install_line(tmp_path: Path) -> None:
    program = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from esm_onnx.measurement.runtime import list_runtimes\n"
        "print(json.dumps({entry.names[0]: entry.problem for entry in list_runtimes()}))"
    )
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    problems = json.loads(done.stdout)
    for name in ("torch-cpu", "torch-cuda"):
        assert problems[name] == "ImportError: torch is not installed: pip install 'esm-onnx[torch]'"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_torch_cuda_says_so_in_one_line() -> None:
    problems = {entry.names[0]: entry.problem for entry in list_runtimes()}
    said = problems["torch-cuda"]
    assert said is not None
    assert "\n" not in said
    assert said.startswith(
        f"ImportError: torch {torch.__version__} is built without CUDA"
        if torch.version.cuda is None
        else "ImportError: no NVIDIA "
    )


def test_a_wrong_device_or_switch_is_refused() -> None:
    runtime = find_runtime("torch-cpu")
    with pytest.raises(InputError, match="device 'cuda:0' on torch-cpu, expected cpu"):
        runtime(RuntimeSettings(device="cuda:0"))
    with pytest.raises(InputError, match="switch 'graph' on torch-cpu, expected one of compile"):
        runtime(RuntimeSettings(switches={"graph": True}))
