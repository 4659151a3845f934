"""Files from outside: the known attacks are refused in one line, and whatever a file holds, the parent lives on."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.untrusted import check_untrusted
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Lost, Worker

POOL_FILE = "pool-0-8.f32"


def model(*nodes: NodeProto, initializers: tuple[TensorProto, ...] = (), axes: object = (1, 4)) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])
    graph = helper.make_graph(list(nodes) or [helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(location: str, name: str = "w", offset: object = 0, length: object = 16, **more: str) -> TensorProto:
    tensor = TensorProto(name=name, dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": str(length), **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def taking(tensor: TensorProto) -> ModelProto:
    return model(helper.make_node("Add", ["x", tensor.name], ["y"]), initializers=(tensor,))


def inside_a_branch(tensor: TensorProto) -> ModelProto:
    """The tensor as the value of a Constant in a branch of an If."""
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    return model(yes, choice, helper.make_node("Add", ["x", "chosen"], ["y"]))


def as_sparse_initializer(tensor: TensorProto) -> ModelProto:
    made = model()
    sparse = made.graph.sparse_initializer.add(dims=[8])
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [4], [0, 2, 4, 6]))
    return made


def in_a_list_of_an_attribute(tensor: TensorProto) -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.attribute.add(name="hidden", type=AttributeProto.TENSORS).tensors.append(tensor)
    return model(node)


def chain_of_functions(length: int) -> ModelProto:
    """Each function calls the next: what ONNX Runtime inlines by recursion."""
    made = model(helper.make_node("f0", ["x"], ["y"], domain="own"))
    made.opset_import.append(helper.make_opsetid("own", 1))
    opsets = list(made.opset_import)
    for i in range(length):
        last = i == length - 1
        call = helper.make_node("Relu" if last else f"f{i + 1}", ["a"], ["b"], domain="" if last else "own")
        made.functions.append(helper.make_function("own", f"f{i}", ["a"], ["b"], [call], opsets))
    return made


def nested(depth: int) -> bytes:
    """Subgraphs in subgraphs, deeper than protobuf's libraries can be asked to build them."""
    content = GraphProto(name="g").SerializeToString()
    for _ in range(depth):  # GraphProto.node (1) of NodeProto.attribute (5) of AttributeProto.g (6)
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + varint(len(content)) + content
    return bytes([7 << 3 | 2]) + varint(len(content)) + content


def varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def epcontext() -> ModelProto:
    made = model(helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="../secret"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def two_locations() -> TensorProto:
    tensor = external(POOL_FILE)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


PLACES: list[Callable[[TensorProto], ModelProto]] = [
    taking,
    inside_a_branch,
    as_sparse_initializer,
    in_a_list_of_an_attribute,
]

REFUSED: dict[str, tuple[ModelProto | bytes, str]] = {
    "a chain of functions": (chain_of_functions(3000), "3000 model-local functions"),
    "an operator that loads a file": (epcontext(), "com.microsoft.EPContext"),
    "an offset beyond the file": (taking(external(POOL_FILE, offset=1 << 12)), "beyond the 4096 bytes"),
    "an offset below the file": (taking(external(POOL_FILE, offset=-1)), "expected a location, an offset"),
    "a length without end": (taking(external(POOL_FILE, length="9" * 5000)), "expected a location, an offset"),
    "an unknown entry": (taking(external(POOL_FILE, basepath="/etc")), "expected a location, an offset"),
    "two locations": (taking(two_locations()), "expected them inside the file"),
    "a pool that is absent": (taking(external("pool-1-8.f32")), "cannot be read: No such file"),
    "a pool that is a folder": (taking(external("pool-2-8.f32")), "no regular file"),
    "a pool that is a link": (taking(external("pool-3-8.f32")), "no regular file"),
    "nothing": (b"", "onnx.checker refuses it"),
    "text": (b"no onnx at all", "is no ONNX file"),
    "deep nesting": (nested(5000), "is no ONNX file"),
    "an unknown operator": (model(helper.make_node("Abacus", ["x"], ["y"])), "onnx.checker refuses it"),
    "a free width": (model(axes=[1, "width"]), "axis 1 of the input 'x' is free"),
    "an empty axis": (model(axes=[1, 0]), "axis 1 of the input 'x' is 0"),
    "no shape": (model(axes=None), "has no shape"),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker("ort-cpu", RuntimeSettings(), memory_bytes=1 << 30) as opened:
        yield opened


def time(worker: Worker, path: Path) -> Timing | Lost:
    return worker.time(path, runs=2, warmup=0, deadline_s=30, check=True)


def write(folder: Path, content: ModelProto | bytes) -> Path:
    """The file, with a pool beside it, and what looks like one."""
    folder.mkdir(exist_ok=True)
    (folder / POOL_FILE).write_bytes(struct.pack("<1024f", *[0.5] * 1024))
    (folder / "pool-2-8.f32").mkdir(exist_ok=True)
    (folder / "pool-3-8.f32").unlink(missing_ok=True)
    (folder / "pool-3-8.f32").symlink_to(POOL_FILE)
    path = folder / "strange.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_attack_is_refused_in_one_line(
    content: ModelProto | bytes, message: str, worker: Worker, tmp_path: Path
) -> None:
    path = write(tmp_path, content)
    reply = time(worker, path)
    assert isinstance(reply, Lost)
    assert reply.kind == "refused"
    assert message in reply.message
    assert str(path) in reply.message
    assert "\n" not in reply.message
    assert len(reply.message) < 1000


def test_loading_an_attack_that_nobody_checked_harms_only_the_measuring_process(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good", model()), write(tmp_path / "bad", chain_of_functions(3000))
    with Worker("ort-cpu", RuntimeSettings(), memory_bytes=1 << 30) as worker:
        reply = worker.time(bad, runs=1, warmup=0, deadline_s=30)
        assert isinstance(reply, Lost)
        assert reply.kind in ("crash", "load")  # ONNX Runtime 1.31 overflows its stack
        assert isinstance(time(worker, good), Timing)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location",
    [
        *("../../etc/passwd", "/etc/passwd", "", ".", "notes.txt", "x/pool-0-8.f32", "./pool-0-8.f32"),
        *("../pool-0-8.f32", "pool-0-8.f32\n", "pool-0-8.f32\0", "*/_ORT_MEM_ADDR_/*", "pool-٣-8.f32"),
    ],
)
def test_no_tensor_anywhere_names_a_file_that_is_no_pool(
    place: Callable[[TensorProto], ModelProto], location: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"takes the values of 'w' from .*, expected them inside the file"):
        check_untrusted(write(tmp_path / "folder", place(external(location))))


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_that_only_hides_its_location_is_refused_too(
    place: Callable[[TensorProto], ModelProto], tmp_path: Path
) -> None:
    hidden = external("/etc/passwd")
    hidden.data_location = TensorProto.DEFAULT
    with pytest.raises(InputError, match="takes the values of 'w' from '/etc/passwd'"):
        check_untrusted(write(tmp_path, place(hidden)))


@pytest.mark.parametrize("kind", ["folder", "pipe", "absent", "link to nothing"])
def test_what_is_no_file_is_refused(kind: str, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "strange.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to("nowhere")
    reply = time(worker, path)
    assert isinstance(reply, Lost)
    assert reply.kind == "refused"
    assert reply.message.startswith(str(path))


def test_a_small_file_that_takes_all_memory_is_stopped_by_the_limit(worker: Worker, tmp_path: Path) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [1 << 33])
    greedy = model(
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        initializers=(shape,),
    )
    assert greedy.ByteSize() < 200
    reply = time(worker, write(tmp_path, greedy))
    assert isinstance(reply, Lost)
    assert reply.kind == "memory"


@pytest.mark.parametrize(
    "content",
    [model(), model(axes=["batch", 4]), model(axes=[None, 4]), taking(external(POOL_FILE, offset=4080))],
    ids=["plain", "named batch", "free batch", "pool"],
)
def test_a_good_file_is_timed(content: ModelProto, worker: Worker, tmp_path: Path) -> None:
    assert isinstance(time(worker, write(tmp_path, content)), Timing)


@pytest.mark.parametrize("embed", [False, True])
def test_our_own_subnets_pass(
    embed: bool, worker: Worker, tiny: Space, eight: list[Architecture], tmp_path: Path
) -> None:
    for architecture in eight[:3]:
        subnet = write_subnet(tiny, architecture, tmp_path, ExportSettings(embed_weights=embed))
        check_untrusted(subnet.path)
        assert isinstance(time(worker, subnet.path), Timing)


GOOD = inside_a_branch(external(POOL_FILE)).SerializeToString()

mutations = st.lists(
    st.tuples(st.integers(0, len(GOOD) - 1), st.sampled_from(["set", "drop", "add"]), st.integers(0, 255)),
    min_size=1,
    max_size=8,
)


def mutated(changes: list[tuple[int, str, int]]) -> bytes:
    content = bytearray(GOOD)
    for place, how, byte in changes:
        at = place % max(1, len(content))
        content[at : at + (how != "add")] = b"" if how == "drop" else bytes([byte])
    return bytes(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | mutations.map(mutated))
def test_no_garbage_brings_the_parent_down(content: bytes, worker: Worker, tmp_path: Path) -> None:
    reply = time(worker, write(tmp_path, content))
    if isinstance(reply, Lost):
        assert "Traceback" not in reply.message
        assert "\n" not in reply.message
