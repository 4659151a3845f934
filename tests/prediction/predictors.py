"""A small predictor of every surrogate, as the file that it is shipped as."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from prediction.test_lookup import whole_table
from prediction.test_lut import dataset_of
from prediction.test_surrogates import UNWRITTEN, WRITTEN, genomes_of
from prediction.test_surrogates import measured as made_up_latencies

from esm_onnx.architectures import Space
from esm_onnx.measurement.store import Store
from esm_onnx.prediction import mlp, trees
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.mlp import MlpSettings
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

SPACES = {
    "hybrid": WRITTEN,
    "mlp": UNWRITTEN,
    "linear": UNWRITTEN,
    "tree": UNWRITTEN,
    "boosted": WRITTEN,
    "gp": UNWRITTEN,
    "lut-bias": tiny_space(),
}
"""The surrogates, each with the space that its predictor is for: with a writer or none, with features of units or none,
with options of the network or none."""
KINDS = tuple(SPACES)


@cache
def file_of(kind: str) -> bytes:
    """The content of predictor.onnx of that surrogate."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.onnx"
        dataset = _dataset(kind, SPACES[kind], Path(folder))
        with (
            mock.patch.object(mlp, "MlpSettings", partial(MlpSettings, steps=40)),
            mock.patch.object(trees, "TREES", 50),
        ):
            predictor, _ = train(dataset, TrainSettings(surrogate=kind, held_out=0.2))
        write_predictor(predictor, path, check=dataset)
        return path.read_bytes()


def thousand(kind: str) -> np.ndarray:
    """Random genomes of its space, some of them several times where it has no more."""
    return np.resize(genomes_of(SPACES[kind], 1000, seed=1), (1000, genomes_of(SPACES[kind], 1).shape[1]))


def _dataset(kind: str, space: Space, folder: Path) -> Dataset:
    if not kind.startswith("lut"):
        return made_up_latencies(space, 120)
    with Store(folder / "esm.db") as store:
        whole_table(store, space)
        return dataset_of(store, space, factor=0.8, bias=3.0)
