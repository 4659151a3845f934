"""Transfer on latencies that others measured: HELP's columns of Once-for-All, at batch 64 and at batch 1.

Data: HayeonLee/HELP @ 45f70eb, MIT. Not part of this repository; where it is absent, this is skipped.
"""

from __future__ import annotations

import csv
import gzip
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from prediction.test_public_data import architecture
from prediction.transfers import accuracy, as_base

from esm_onnx.architectures import find_space, to_genome
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.hybrid import Hybrid
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.training import TrainSettings, train

DATA = Path(__file__).parents[3] / "shared" / "data" / "help_ofa" / "help_ofa.csv.gz"
pytestmark = pytest.mark.skipif(not DATA.is_file(), reason=f"the public data are not beside the repository: no {DATA}")
SPACE = find_space("ofa-mobilenetv3")
ROWS, BASE_ROWS = 1500, 180
"""From the 500th row on: one of the columns is too high before."""


@cache
def table() -> tuple[np.ndarray, list[dict[str, str]]]:
    with gzip.open(DATA, "rt", newline="") as file:
        lines = list(csv.DictReader(file))[500 : 500 + ROWS]
    return np.array([to_genome(SPACE, architecture(SPACE, line)) for line in lines], np.int64), lines


def column(name: str) -> Dataset:
    genomes, lines = table()
    latencies = np.array([float(line[name]) for line in lines])
    return Dataset(SPACE, genomes, latencies, {"name": name, "facts": {"device": name}})


@cache
def base_of(name: str) -> Base:
    return as_base(column(name).select(slice(BASE_ROWS)))


def transferred(goal: str, count: int, *sources: str) -> list[tuple[Predictor, float]]:
    """Three predictors, each with its accuracy on rows that nothing was trained on."""
    whole, found = column(goal), []
    for draw in range(3):
        known = whole.select(slice(BASE_ROWS + count * draw, BASE_ROWS + count * (draw + 1)))
        unseen = whole.select(slice(500, None))
        predictor, _ = train(known, TrainSettings(), bases=[base_of(source) for source in sources])
        found.append((predictor, accuracy(predictor.predict(unseen.genomes)[0], unseen)))
    return found


def test_twenty_measurements_bring_a_2080_ti_to_a_titan_xp() -> None:
    found = transferred("titan_xp_64_ms", 20, "2080ti_64_ms")
    assert np.mean([accuracy for _, accuracy in found]) >= 97


def test_a_base_at_batch_1_is_refused_for_batch_64() -> None:
    """It waits for its host: its ranks are hardly those of batch 64."""
    for predictor, _ in transferred("titan_xp_64_ms", 20, "2080ti_1_ms", "2080ti_64_ms"):
        assert isinstance(predictor.surrogate, Hybrid)
        wrong, right = predictor.surrogate.first.verdicts
        assert (wrong.weight, right.refused) == (0, None)
        assert right.weight > 0
        assert wrong.refused is not None
        assert wrong.refused.startswith("it explains ")
        assert "another batch" in wrong.refused
