"""What a base knows beyond its own arithmetic."""

from __future__ import annotations

from random import Random

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from esm_onnx.architectures import find_space, sample, to_genome
from esm_onnx.prediction.base_stage import Detail, Explained, deviations, explain
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.first_stage import Known
from esm_onnx.prediction.hybrid import LEAST_FOR_COUNTS, Hybrid, _fit_detail, fit_hybrid
from esm_onnx.prediction.linear import Linear
from esm_onnx.prediction.surrogate import Examples, Matrix, Nodes, Survey, Vector

SPACE = find_space("mobilenetv3")
COUNT = 500
GENOMES = np.array([to_genome(SPACE, a) for a in sample(SPACE, COUNT, strategy="balanced", rng=Random(1))], np.int64)
X = find_encoding("cost").encode(SPACE, GENOMES)
COLUMNS = ("base1", *find_encoding("cost").columns(SPACE))
WORK = X @ (1 / np.abs(X).max(axis=0))


def quirks(seed: int) -> Vector:
    """What no sum over the graph says: a tenth more or less, architecture by architecture."""
    return 1 + 0.1 * np.random.default_rng(seed).standard_normal(COUNT)


def fitted(base: Vector, y: Vector, rows: int) -> tuple[Hybrid, Matrix]:
    x = np.column_stack([base, X])
    examples = Examples(x[:rows], y[:rows], COLUMNS, surveys=(Survey("other", base, x),))
    hybrid = fit_hybrid(examples, np.arange(rows) % 10).surrogate
    assert isinstance(hybrid, Hybrid)
    return hybrid, x


def detail_of(base: Vector, y: Vector, unseen: Vector) -> tuple[Detail | None, Vector]:
    known = [Known("other", explain(base, X))]
    return _fit_detail(known, base[:, None], X, y, unseen, np.ones(COUNT), np.arange(COUNT) % 10)


def test_quirks_that_devices_share_are_learned_from_a_base() -> None:
    """A quarter of the base's quirk is the new device's; the first stage says nothing of it."""
    shared, noise = quirks(0), 1 + 0.01 * np.random.default_rng(9).standard_normal(COUNT)
    y = 3 * WORK * (1 + 0.25 * (shared - 1)) * noise
    detail, unseen = detail_of(WORK * shared, y, 3 * WORK)
    assert detail is not None
    assert detail.share * detail.linear.weights[0] == pytest.approx(0.25, rel=0.1)
    before, after = (np.abs(predicted / y - 1).mean() for predicted in (3 * WORK, unseen))
    assert after < 0.5 * before
    nothing, same = detail_of(WORK * shared[::-1], y, 3 * WORK)  # the quirks of others
    assert nothing is None or nothing.share < 0.5
    assert np.abs(same / y - 1).mean() < 1.01 * before


@pytest.mark.parametrize("rows", [20, LEAST_FOR_COUNTS - 1])
def test_few_rows_confirm_nothing(rows: int) -> None:
    hybrid, _ = fitted(WORK * quirks(0), 3 * WORK * quirks(0), rows)
    assert hybrid.detail is None


def test_deviations_are_shares_of_what_explains_a_base() -> None:
    explained = Explained(np.array([2.0, 0.0]), 1.0)
    predicted, x = np.array([[11.0], [6.0]]), np.array([[5.0, 7.0], [2.0, 1.0]])
    np.testing.assert_allclose(deviations([explained], predicted, x), [[0.0], [0.2]])


def test_the_graph_computes_the_same() -> None:
    rng = np.random.default_rng(0)
    explained = tuple(Explained(rng.uniform(0, 1, 4), 0.5) for _ in range(2))
    detail = Detail(explained, Linear(*rng.normal(size=(2, 2)).astype(np.float32), np.float32(0.1)), 0.7)
    predicted, x = rng.uniform(1, 9, (30, 2)), rng.uniform(1, 9, (30, 4))
    graph = Nodes()
    given = {"p0": predicted[:, :1], "p1": predicted[:, 1:], "x": x}
    output = detail.draw(graph, ["p0", "p1"], "x")
    drawn = helper.make_graph(
        graph.nodes,
        "detail",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [30, v.shape[1]]) for n, v in given.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [30, 1])],
        graph.constants,
    )
    file = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    (found,) = session.run(None, {name: value.astype(np.float32) for name, value in given.items()})
    np.testing.assert_allclose(found[:, 0], detail.predict(predicted, x), rtol=1e-4, atol=1e-5)
