"""Linear maps of a graph under construction: two in a row become one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from prediction.made_up import session_of

from esm_onnx.prediction.surrogate import Nodes


def run(graph: Nodes, output: str, x: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The output's value, and the operators that remain."""
    graph.drop_unused([output])
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, x.shape[1]])
    gives = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "nodes", [takes], [gives], graph.constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    named = {name for node in graph.nodes for name in node.input} - {"x"}
    assert {constant.name for constant in graph.constants} <= named
    value = session_of(model).run(None, {"x": x.astype(np.float32)})[0]
    return value, [node.op_type for node in graph.nodes]


@settings(max_examples=60, deadline=None)
@given(widths=st.lists(st.integers(1, 8), min_size=3, max_size=5), biased=st.booleans(), seed=st.integers(0, 99))
def test_maps_in_a_row_give_what_they_give_one_by_one(widths: list[int], biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, graph, name = rng.standard_normal((7, widths[0])), Nodes(), "x"
    expected = x
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        weights, bias = rng.standard_normal((before, after)), rng.standard_normal(after) * biased
        name, expected = graph.linear(f"map{i}", name, weights, bias), expected @ weights + bias
    found, operators = run(graph, name, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert set(operators) == {"Gemm" if biased else "MatMul"}
    assert len(operators) < len(widths) - 1 or min(widths[1:-1]) < min(widths[0], widths[-1])


def test_a_detour_through_many_columns_is_saved_and_one_through_few_is_kept() -> None:
    x = np.ones((3, 4))
    for between, operators in ((100, ["MatMul"]), (1, ["MatMul", "MatMul"])):
        graph = Nodes()
        graph.linear("there", "x", np.ones((4, between)))
        graph.linear("back", "there", np.ones((between, 4)))
        found, kept = run(graph, "back", x)
        np.testing.assert_array_equal(found, np.full((3, 4), 4.0 * between))
        assert kept == operators


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 5), size=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_part_of_a_map_is_a_map(start: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights, bias, after = (rng.standard_normal(shape) for shape in ((7, 3), (3, 11), 11, (size, 2)))
    graph = Nodes()
    part = graph.part("part", graph.linear("whole", "x", weights, bias), range(start, start + size))
    expected = (x @ weights + bias)[:, start : start + size]
    found, operators = run(graph, graph.linear("after", part, after), x)
    np.testing.assert_allclose(found, expected @ after, rtol=1e-4, atol=1e-5)
    assert operators in (["Gemm"], ["Gemm", "Slice", "MatMul"])


def test_a_joined_tensor_gives_its_pieces_back() -> None:
    graph, x = Nodes(), np.arange(12.0).reshape(2, 6)
    pieces = {graph.add("Neg", "a", "x"): 6, graph.add("Abs", "b", "x"): 6}
    joined = graph.join("both", pieces)
    assert graph.part("second", joined, range(6, 12)) == "b"
    across = graph.part("across", joined, range(5, 8))
    assert across == "across"
    found, operators = run(graph, across, x)
    np.testing.assert_array_equal(found, np.hstack([-x, x])[:, 5:8])
    assert operators == ["Neg", "Abs", "Concat", "Slice"]
