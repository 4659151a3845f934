"""Spaces, rows and predictors that are made up, without training where a test does not ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper
from strategies import spaces

from esm_onnx.architectures import Architecture, Space, divide, find_space, sample, to_genome
from esm_onnx.architectures.space import choices
from esm_onnx.measurement.record import SUBJECT, Measurement
from esm_onnx.measurement.store import ACCEPTED, OPEN, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.dataset import Dataset, depths_of, row_digests
from esm_onnx.prediction.drawing import draw_encoding
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.evaluation import evaluate
from esm_onnx.prediction.mlp import Mlp
from esm_onnx.prediction.predictor import Predictor, predict_latency
from esm_onnx.prediction.surrogate import Nodes, Surrogate

MANY_COMBINATIONS = 60
"""Combinations of a block beyond which a test would spend its time on zeros."""


def moderate_spaces() -> st.SearchStrategy[Space]:
    """Any space whose tables stay small."""
    return spaces().filter(lambda space: choices(space.features) <= MANY_COMBINATIONS)


def rows(space: Space, architectures: Sequence[Architecture]) -> np.ndarray:
    length = len(to_genome(space, architectures[0]))
    return np.array([to_genome(space, a) for a in architectures], np.int64).reshape(-1, length)


def drawn(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    """At most `count` architectures of any space, fewer where it has no more."""
    return sample(space, min(count, space.size), strategy="random", rng=Random(seed))


def latency_ms(architecture: Architecture) -> float:
    """A formula over the blocks: 1 ms, and for each block something by unit, kernel and expansion."""
    total = 1.0
    for u, blocks in enumerate(architecture.units, 1):
        for block in blocks:
            total += 0.05 * u + 0.02 * float(block["kernel"]) * float(block["expansion"])
    return total


def dataset(count: int, seed: int = 0, *, space: Space | None = None, noise: float = 0.0) -> Dataset:
    """ResNets, evenly from the bins of depth, with the latencies of the formula and noise."""
    space = space or find_space("resnet")
    architectures = sample(space, count, strategy="balanced", rng=Random(seed))
    factors = 1 + noise * np.random.default_rng(seed).standard_normal(count)
    latencies = np.array([latency_ms(a) for a in architectures]) * factors
    target = {"name": "somewhere", "facts": {"device": "abacus", "threads": 2}}
    return Dataset(space, rows(space, architectures), latencies, target, noise_floor=noise or None)


def random_mlp(space: Space, encoding: str, genomes: np.ndarray, seed: int = 0) -> Mlp:
    """An MLP that nobody trained: random weights, standardised on these genomes, about 10 ms."""
    rng = np.random.default_rng(seed)
    encoded = find_encoding(encoding).encode(space, genomes)
    widths = [encoded.shape[1], 16, 16, 1]
    layers = tuple(
        (
            (rng.standard_normal((after, before)) / np.sqrt(before)).astype(np.float32),
            rng.standard_normal(after).astype(np.float32),
        )
        for before, after in itertools.pairwise(widths)
    )
    scale = np.where(np.ptp(encoded, axis=0) > 0, encoded.std(axis=0), 1.0)
    mean = encoded.mean(axis=0).astype(np.float32)
    return Mlp(layers, mean, scale.astype(np.float32), np.float32(10), np.float32(1))


def predictor_of(
    space: Space,
    encoding: str,
    surrogate: Surrogate,
    genomes: np.ndarray,
    width: float = 0.1,
    *,
    interval: Interval | None = None,
) -> Predictor:
    """A predictor of that surrogate, its interval as wide in each bin unless there is another; its evaluation is on
    latencies that are 3 % above its predictions."""
    predicted = predict_latency(space, encoding, surrogate, genomes).astype(np.float64)
    depths = depths_of(space, genomes)
    ranges = divide(space).ranges
    return Predictor(
        space=space,
        encoding=encoding,
        surrogate=surrogate,
        interval=interval or Interval(0.9, ranges, (width,) * len(ranges), 50),
        target={"name": "somewhere", "facts": {"device": "abacus", "threads": 2}},
        trained=row_digests(genomes),
        calibrated=(),
        dataset="digest",
        evaluation=evaluate(predicted, predicted * 1.03, depths, divide(space)),
    )


def encoded_by_graph(space: Space, encoding: str, genomes: np.ndarray) -> np.ndarray:
    """What the encoding drawn for predictor.onnx gives, [n, columns], in float32."""
    graph = Nodes()
    row = graph.add("Cast", "row", "genome", to=TensorProto.FLOAT)
    result = draw_encoding(graph, space, encoding, row)
    takes = helper.make_tensor_value_info("genome", TensorProto.INT64, [None, genomes.shape[1]])
    gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, None])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "encoding", [takes], [gives], graph.constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    encoded: np.ndarray = session_of(model).run(None, {"genome": genomes})[0]
    return encoded


def checked(predictor: Predictor, genomes: np.ndarray) -> Dataset:
    """A dataset to write a predictor with: its own predictions."""
    latency, _, _ = predictor.predict(genomes)
    return Dataset(predictor.space, genomes, latency.astype(np.float64), predictor.target)


def session_of(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    """The CPU, one thread, so that the machine is left to others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def measured(
    store: Store,
    space: Space,
    target: Target,
    latencies: Sequence[tuple[Architecture, float]],
    *,
    role: str = SUBJECT,
    status: str = ACCEPTED,
    elapsed_s: float = 0.0,
) -> None:
    """One session of single runs."""
    session = store.open_session(space, target, {"of": len(list(store.sessions(space, target)))})
    for architecture, latency in latencies:
        store.append(session, space, Measurement(architecture, role, (latency,), 0.0, elapsed_s=elapsed_s))
    if status != OPEN:
        store.close_session(session, status=status, verdict="")
