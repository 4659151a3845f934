"""Trees: every comparison in the file falls out as it did in training."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from prediction.made_up import rows, session_of
from strategies import every_architecture

from esm_onnx.architectures import Feature, Space
from esm_onnx.prediction import trees
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.predictor_onnx import build_model
from esm_onnx.prediction.surrogate import Examples, Nodes
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.prediction.trees import Trees, fit_boosted, fit_tree


def drawn_alone(surrogate: Trees, x: np.ndarray) -> np.ndarray:
    """What a file that holds nothing else gives for columns of float32."""
    graph = Nodes()
    result = surrogate.draw(graph, "x")
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, x.shape[1]])
    gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, 1])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "trees", [takes], [gives], graph.constants),
        opset_imports=[helper.make_opsetid("", 17), *(helper.make_opsetid(*pair) for pair in graph.domains.items())],
        ir_version=8,
    )
    return session_of(model).run(None, {"x": x})[0][:, 0]


def awkward(count: int, seed: int = 0) -> np.ndarray:
    """Columns whose midpoints float32 does not hold: thirds, tenths, great integers, small numbers, both signs."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(1, 9, (count, 6))
    scales = np.array([1 / 3, 0.1, 1e9 + 1, 1e-4, -0.7, np.pi])
    return np.hstack([whole * scales, rng.uniform(0.1, 0.2, (count, 2)), 2.0**24 + rng.integers(0, 99, (count, 1))])


@pytest.mark.parametrize("fit", [fit_tree, fit_boosted])
def test_every_comparison_falls_out_as_in_training(monkeypatch: pytest.MonkeyPatch, fit: object) -> None:
    """Next to each threshold, the nearest numbers that float32 holds on both sides of it, and the next ones."""
    monkeypatch.setattr(trees, "TREES", 100)
    x = awkward(400)
    y = 10 + np.random.default_rng(1).permutation(400) / 100  # to learn by heart: thresholds everywhere
    surrogate = fit(Examples(x, y, tuple("abcdefghi")))  # type: ignore[operator]
    estimators = np.ravel(getattr(surrogate.estimator, "estimators_", surrogate.estimator))
    found = [(f, t) for e in estimators for f, t in zip(e.tree_.feature, e.tree_.threshold, strict=True) if f >= 0]
    assert {column for column, _ in found} == set(range(9))
    near = []
    for place, (column, threshold) in enumerate(found[:1000]):
        value = np.float32(threshold)
        below, above = np.nextafter(value, np.float32(-np.inf)), np.nextafter(value, np.float32(np.inf))
        for number in (np.nextafter(below, np.float32(-np.inf)), below, value, above):
            row = x[place % len(x)].astype(np.float32)
            row[column] = number
            near.append(row)
    given, expected = drawn_alone(surrogate, np.array(near)), surrogate.predict(np.array(near, np.float64))
    assert len(np.unique(expected)) > 20
    np.testing.assert_allclose(given, expected, rtol=2e-6)


@pytest.mark.parametrize("kind", ["tree", "boosted"])
def test_means_and_deviations_at_a_threshold_agree(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Every architecture of a space whose means meet the midpoints of others, in numbers that are rounded: 0.1, 1/3."""
    monkeypatch.setattr(trees, "TREES", 100)
    space = Space(
        "rounded", ((1, 2, 3, 4),), block=(Feature("kernel", (0.1, 0.2, 0.3, 0.7)), Feature("expansion", (0.9, 1.1)))
    )
    genomes = rows(space, list(every_architecture(space)))
    assert len(genomes) == 8 + 8**2 + 8**3 + 8**4
    rng = np.random.default_rng(0)
    latencies = 1 + find_encoding("feature").encode(space, genomes) @ rng.uniform(0.5, 2, 8) + rng.uniform(0, 1, 4680)
    half = Dataset(space, genomes, latencies, {}).select(rng.permutation(4680)[:2000])
    predictor, _ = train(half, TrainSettings(surrogate=kind, encoding="statistical", held_out=0.1))
    (given,) = session_of(build_model(predictor)).run(["latency_ms"], {"genome": genomes})
    np.testing.assert_allclose(given, predictor.predict(genomes)[0], rtol=2e-6)


@pytest.mark.parametrize("fit", [fit_tree, fit_boosted])
def test_rounding_alone_is_nothing_to_split_on(monkeypatch: pytest.MonkeyPatch, fit: object) -> None:
    """Another machine may round otherwise. The columns are 0 or 0.1 in truth, and a great number that may be 0 too."""
    monkeypatch.setattr(trees, "TREES", 100)
    blocks = np.arange(60) % 7 + 1
    noise = 1e-16 * (np.arange(60) % 3 - 1)
    great = np.where(np.arange(60) % 2 == 0, 0.0, 1e9)
    x = np.stack([noise, blocks * 0.1 / blocks, great + 1e6 * noise], axis=1)
    y = 10 + np.arange(60) % 3 + (great > 0)
    surrogate = fit(Examples(x, y, ("noise", "tenth", "great")))  # type: ignore[operator]
    clean = np.stack([np.zeros(60), np.full(60, 0.1), great], axis=1)
    np.testing.assert_array_equal(surrogate.predict(x), surrogate.predict(clean))
    assert len(np.unique(surrogate.predict(x))) == 2


def test_a_tree_says_the_mean_of_its_leaf() -> None:
    x = np.repeat([[1.0], [2.0], [4.0]], 6, axis=0)
    y = np.repeat([10.0, 20.0, 40.0], 6) + np.tile([-1.0, 0.0, 1.0], 6)
    surrogate = fit_tree(Examples(x, y, ("a",)))
    predicted = surrogate.predict(np.array([[0.0], [1.0], [1.4], [1.6], [2.9], [3.1], [9.0]]))
    np.testing.assert_allclose(predicted, [10, 10, 10, 20, 20, 40, 40])


def test_boosted_trees_add_up_what_a_tree_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "TREES", 300)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (600, 6)).astype(float)
    y = 10 + x @ np.arange(1, 7)
    examples = Examples(x[:400], y[:400], tuple("abcdef"))
    off = [np.abs(fit(examples).predict(x[400:]) / y[400:] - 1).mean() for fit in (fit_tree, fit_boosted)]
    assert off[1] < 0.01 < off[0]
