"""`lut` and `lut-bias` from a store to predictor.onnx."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from prediction.made_up import measured
from prediction.test_lookup import OFA, sum_of_parts, target_of, whole_table

from esm_onnx.architectures import Space, genome_length, sample
from esm_onnx.errors import InputError
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space


def dataset_of(store: Store, space: Space, *, factor: float, bias: float, count: int = 60) -> Dataset:
    """Architectures that take `bias + factor · sum of their parts` in ms."""
    drawn = sample(space, count, strategy="balanced", rng=Random(0))
    rows = [(architecture, bias + factor * sum_of_parts(space, architecture)) for architecture in drawn]
    measured(store, space, target_of(space), rows)
    content = choose(store)  # the blocks in the same store are not meant
    assert content.space == space
    return assemble(store, content.space, content.target)


@pytest.mark.parametrize("space", [tiny_space(), OFA], ids=lambda space: space.name)
def test_the_table_of_the_store_becomes_a_predictor(store: Store, space: Space, tmp_path: Path) -> None:
    whole_table(store, space)
    dataset = dataset_of(store, space, factor=0.8, bias=3.0)
    accuracies = {}
    for name in ("lut", "lut-bias"):
        predictor, evaluation = train(dataset, TrainSettings(surrogate=name))
        assert (predictor.surrogate.name, predictor.encoding) == (name, "entries")
        accuracies[name] = evaluation.overall.accuracy
        write_predictor(predictor, tmp_path / "predictor.onnx", check=dataset)
        loaded = LoadedPredictor.open(tmp_path / "predictor.onnx")
        np.testing.assert_allclose(loaded.predict(dataset.genomes), predictor.predict(dataset.genomes), rtol=1e-4)
        wrong = np.full((1, genome_length(space)), 9)
        assert np.isnan(loaded.predict(wrong)).all()
    assert accuracies["lut-bias"] > 99.99 > 95 > accuracies["lut"]
    np.testing.assert_allclose(predictor.predict(dataset.genomes)[0], dataset.latency_ms, rtol=1e-4)


def test_without_a_table_the_command_is_told_that_measures_it(store: Store, tiny: Space) -> None:
    dataset = dataset_of(store, tiny, factor=1.0, bias=0.0)
    for name in ("lut", "lut-bias"):
        with pytest.raises(InputError, match=r"18 of the 18 entries .* `esm-onnx profile --lookup-table --space tiny"):
            train(dataset, TrainSettings(surrogate=name))


def test_no_other_encoding_will_do(store: Store, tiny: Space) -> None:
    whole_table(store, tiny)
    with pytest.raises(InputError, match="expected no other --encoding"):
        train(dataset_of(store, tiny, factor=1.0, bias=0.0), TrainSettings(surrogate="lut", encoding="fcc"))
