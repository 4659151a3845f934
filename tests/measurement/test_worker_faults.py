"""Whatever a subnet does in a measuring process is told by its kind, and nothing of it is left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper, save
from plugins import install_faulty, started_in

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export import write_subnet
from esm_onnx.measurement.containment import TOKEN, is_out_of_memory, processes_with, usual_memory_bytes
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import KEPT, Lost, Worker

HALF_A_GIB = 1 << 29


@pytest.fixture
def subnet(tiny: Space, eight: list[Architecture], tmp_path: Path) -> Path:
    return write_subnet(tiny, eight[0], tmp_path / "subnets").path


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plugin"
    folder.mkdir()
    install_faulty(folder, monkeypatch)
    return folder


def faulty(fault: str) -> Worker:
    return Worker("faulty", RuntimeSettings(device=fault), memory_bytes=HALF_A_GIB)


def time(worker: Worker, subnet: Path, deadline_s: float = 30) -> Timing | Lost:
    return worker.time(subnet, runs=5, warmup=1, deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("load", "load", "ValueError: this operator is unknown"),
        ("run", "run", "RuntimeError: unit 3 failed second line"),
        ("nan", "nan", "1 of the 2 values of output 1 are NaN or infinite"),
        ("memory", "memory", "MemoryError"),
        ("segfault", "crash", "signal SIGSEGV"),
        ("segfault with a grandchild", "crash", "signal SIGSEGV"),
        ("abort", "crash", "signal SIGABRT"),
        ("aborted allocation", "memory", "signal SIGABRT: terminate called after throwing an instance of 'std::bad"),
        ("exit", "exit", "exit code 7: out of patience"),
    ],
)
def test_a_fault_is_told_and_the_next_job_has_a_live_worker(
    fault: str, kind: str, message: str, subnet: Path, plugin: Path
) -> None:
    with faulty(fault) as worker:
        for _ in range(2):
            reply = time(worker, subnet)
            assert isinstance(reply, Lost)
            assert reply.kind == kind
            assert message in reply.message
            assert started_in(plugin) == []


@pytest.mark.parametrize("fault", ["hang", "hang, printing", "hang with a grandchild"])
def test_what_hangs_is_ended_with_all_that_it_started(fault: str, subnet: Path, plugin: Path) -> None:
    with faulty(fault) as worker:
        for _ in range(2):
            assert time(worker, subnet, deadline_s=0.5) == Lost("deadline", "not finished after 0.5 s")
            assert started_in(plugin) == []


def test_a_sound_subnet_may_leave_a_process_until_the_worker_ends(subnet: Path, plugin: Path) -> None:
    with faulty("a grandchild") as worker:
        assert isinstance(time(worker, subnet), Timing)
        assert len(started_in(plugin)) == 2  # the worker and the grandchild: the helper above sees such processes
    assert started_in(plugin) == []


@pytest.mark.usefixtures("plugin")
def test_only_processes_of_the_same_worker_are_ended(subnet: Path) -> None:
    with faulty("a grandchild") as one, faulty("segfault") as other:
        assert isinstance(time(one, subnet), Timing)
        assert isinstance(time(other, subnet), Lost)
        assert isinstance(time(one, subnet), Timing)


@pytest.mark.usefixtures("plugin")
def test_hundreds_of_megabytes_printed_disturb_nothing_and_are_not_kept(subnet: Path) -> None:
    with faulty("prints") as worker:
        assert isinstance(time(worker, subnet), Timing)
        assert len(worker._printed) <= KEPT


def onnx_file(
    path: Path, nodes: list[object], *, kind: int = TensorProto.FLOAT, axes: Sequence[int | str] = (1,)
) -> Path:
    """A file of the nodes given, from the input x to the output y."""
    x = helper.make_tensor_value_info("x", kind, axes)
    y = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(nodes, "g", [x], [y])
    made: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(made, path)
    return path


def constant(name: str, kind: int, values: list[float], shape: list[int]) -> object:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))


def loops_for_ever() -> list[object]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )
    return [
        constant("times", TensorProto.INT64, [2**62], []),
        constant("yes", TensorProto.BOOL, [1], []),
        helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body),
    ]


def takes_64_gib() -> list[object]:
    return [
        constant("shape", TensorProto.INT64, [1 << 34], [1]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["zeros", "x"], ["y"]),
    ]


def logarithm_of_minus_one() -> list[object]:
    return [constant("minus", TensorProto.FLOAT, [-1.0], [1]), helper.make_node("Log", ["minus"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "kind", "message"),
    [
        (loops_for_ever(), "deadline", "not finished after 1 s"),
        (takes_64_gib(), "memory", "allocate memory"),
        (logarithm_of_minus_one(), "nan", "1 of the 1 values of output 0"),
        ([helper.make_node("Abacus", ["x"], ["y"])], "load", "Abacus"),
    ],
    ids=["loop", "memory", "nan", "unknown operator"],
)
def test_the_real_runtime_goes_on_after_each_fault(
    nodes: list[object], kind: str, message: str, subnet: Path, tmp_path: Path
) -> None:
    bad = onnx_file(tmp_path / "bad.onnx", nodes)
    with Worker("ort-cpu", RuntimeSettings(), memory_bytes=1 << 30) as worker:
        reply = time(worker, bad, deadline_s=1)
        assert isinstance(reply, Lost)
        assert reply.kind == kind
        assert message in reply.message
        assert isinstance(time(worker, subnet), Timing)


def test_a_file_that_is_no_onnx_is_told_by_the_real_runtime(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no onnx")
    with Worker("ort-cpu", RuntimeSettings()) as worker:
        reply = time(worker, broken)
    assert isinstance(reply, Lost)
    assert reply.kind == "load"


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_inputs_and_outputs_of_any_number_format_are_measured(kind: int, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "x.onnx", [helper.make_node("Identity", ["x"], ["y"])], kind=kind, axes=["batch", 3])
    with Worker("ort-cpu", RuntimeSettings()) as worker:
        assert isinstance(time(worker, path), Timing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemoryError: ", True),
        ("RuntimeException: std::bad_alloc", True),
        ("Failed to allocate memory for requested buffer of size 4294967296", True),
        ("CUDA_ERROR_OUT_OF_MEMORY", True),
        ("CUDA failure 2: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("Requested amount of GPU memory (4194304 bytes) could not be allocated", True),
        ("OutOfMemory (Requested size was 4194304 bytes.)", True),
        ("Available memory of 1024 is smaller than requested bytes of 4096", True),
        ("Cannot allocate memory", True),
        ("memory allocation failed", True),
        ("Invalid Graph: allocation of names is ambiguous", False),
        ("ended with signal SIGSEGV", False),
    ],
)
def test_messages_of_exhausted_memory_are_recognised(text: str, expected: bool) -> None:
    assert is_out_of_memory(text) == expected


def test_the_usual_limit_leaves_something_to_others() -> None:
    assert 0 < usual_memory_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("plugin")
def test_a_process_is_found_by_its_token_only() -> None:
    with faulty("sound") as worker:
        process = worker._process
        assert process is not None
        environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        (token,) = [entry.split("=")[1] for entry in environment if entry.startswith(TOKEN)]
        assert processes_with(token) == [process.pid]
    assert processes_with(token) == []
