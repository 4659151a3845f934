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
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.hybrid import Hybrid
from esm_onnx.prediction.mlp import MlpSettings
from esm_onnx.prediction.predictor import Predictor
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
    "transfer": WRITTEN,
}
"""The surrogates (`transfer`: a hybrid with other predictors in front), each with the space that its predictor is for:
with a writer or none, with features of units or none, with options of the network or none."""
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
            predictor = _transferred(dataset) if kind == "transfer" else _alone(dataset, kind)
        write_predictor(predictor, path, check=dataset)
        return path.read_bytes()


def thousand(kind: str) -> np.ndarray:
    """Random genomes of its space, some of them several times where it has no more."""
    return np.resize(genomes_of(SPACES[kind], 1000, seed=1), (1000, genomes_of(SPACES[kind], 1).shape[1]))


def _alone(dataset: Dataset, kind: str) -> Predictor:
    return train(dataset, TrainSettings(surrogate=kind, held_out=0.2))[0]


def _transferred(dataset: Dataset) -> Predictor:
    """From a few of the rows, and from predictors of which one holds trees."""
    with TemporaryDirectory() as folder:
        bases = []
        for kind in ("hybrid", "boosted"):
            path = Path(folder) / f"{kind}.onnx"
            path.write_bytes(file_of(kind))
            bases.append(Base.open(path))
    predictor, _ = train(dataset.select(slice(30)), TrainSettings(), bases=bases)
    assert isinstance(predictor.surrogate, Hybrid)
    assert predictor.surrogate.first.bases, "a transfer without a base shows nothing"
    return predictor


def _dataset(kind: str, space: Space, folder: Path) -> Dataset:
    if not kind.startswith("lut"):
        return made_up_latencies(space, 120)
    with Store(folder / "esm.db") as store:
        whole_table(store, space)
        return dataset_of(store, space, factor=0.8, bias=3.0)
