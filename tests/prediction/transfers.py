"""What the tests of transfer share: latencies of imaginary devices, and predictors of them as bases."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from esm_onnx.runtimes import dry
from prediction.test_surrogates import WRITTEN

from esm_onnx.architectures import Space, find_space, sample, to_genome
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import graph_of
from esm_onnx.prediction import mlp, trees
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.mlp import MlpSettings
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train

RESNET = find_space("resnet")
CPU = dry.DEVICES["cpu"]
DEVICES = {
    **{name: dry.DEVICES[name] for name in ("gpu", "cpu", "board")},
    "newer cpu": replace(CPU, rate=1.5 * CPU.rate, bandwidth=1.8 * CPU.bandwidth, cache_bytes=2 * CPU.cache_bytes),
}
COUNTS = {RESNET: 300, WRITTEN: 240}
BASE_ROWS = 120


@cache
def _drawn(space: Space) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Genomes, and what the formula of `dry` gives for them on each device."""
    architectures = sample(space, COUNTS[space], strategy="balanced", rng=Random(1))
    latencies: dict[str, list[float]] = {name: [] for name in DEVICES}
    for architecture in architectures:
        subnet = graph_of(space, architecture, ExportSettings())
        shapes = dry.shapes_of(subnet)
        for name, device in DEVICES.items():
            latencies[name].append(dry.latency_of(subnet.graph, shapes, device))
    genomes = np.array([to_genome(space, architecture) for architecture in architectures], np.int64)
    return genomes, {name: np.array(values) for name, values in latencies.items()}


def measured_on(device: str, space: Space = RESNET) -> Dataset:
    """Architectures of the space with their latencies on that device, and 1 % of noise."""
    genomes, latencies = _drawn(space)
    noise = np.random.default_rng(list(device.encode())).standard_normal(len(genomes))
    target = {"name": f"dry {device}", "facts": {"device": device}}
    return Dataset(space, genomes, latencies[device] * (1 + 0.01 * noise), target)


def few_and_unseen(device: str, count: int, seed: int, space: Space = RESNET) -> tuple[Dataset, Dataset]:
    """A few rows, and a hundred others."""
    whole = measured_on(device, space)
    order = np.random.default_rng(seed).permutation(len(whole) - 100)
    return whole.select(order[:count]), whole.select(slice(len(whole) - 100, None))


def as_base(dataset: Dataset, surrogate: str = "hybrid") -> Base:
    """A predictor trained on these rows, read from its file, which is gone afterwards."""
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(mlp, "MlpSettings", partial(MlpSettings, steps=200)),
        mock.patch.object(trees, "TREES", 50),
    ):
        predictor, _ = train(dataset, TrainSettings(surrogate=surrogate, held_out=0.2))
        return written(predictor, dataset, Path(folder) / "base.onnx")


def written(predictor: Predictor, dataset: Dataset, path: Path) -> Base:
    write_predictor(predictor, path, check=dataset)
    return Base.open(path)


@cache
def base_of(device: str, space: Space = RESNET, surrogate: str = "hybrid") -> Base:
    return as_base(measured_on(device, space).select(slice(BASE_ROWS)), surrogate)


@cache
def noise_base() -> Base:
    """A predictor of latencies that stand beside the wrong architectures."""
    rows = measured_on("gpu").select(slice(BASE_ROWS))
    return as_base(replace(rows, latency_ms=np.random.default_rng(5).permutation(rows.latency_ms)))


def accuracy(predicted: np.ndarray, unseen: Dataset) -> float:
    """In %."""
    return float(100 * (1 - np.mean(np.abs(predicted / unseen.latency_ms - 1))))
