"""From one device to another with a few measurements: a base helps, or it is left out and does no harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from prediction.made_up import drawn, rows
from prediction.test_surrogates import UNWRITTEN, WRITTEN
from prediction.transfers import accuracy, base_of, few_and_unseen, measured_on, noise_base, written

from esm_onnx.architectures import Space, divide, find_space
from esm_onnx.errors import InputError
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.dataset import Dataset, depths_of
from esm_onnx.prediction.first_stage import Verdict
from esm_onnx.prediction.hybrid import Hybrid
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

SEEDS = range(3)


def trained(known: Dataset, *bases: Base) -> Predictor:
    return train(known, TrainSettings(), bases=bases)[0]


def verdicts_of(predictor: Predictor) -> Sequence[Verdict]:
    assert isinstance(predictor.surrogate, Hybrid)
    return predictor.surrogate.first.verdicts


@cache
def mean_accuracy(device: str, count: int, *sources: str) -> float:
    """Of predictors for the device, over sets of measurements; from bases of these devices."""
    found = []
    for seed in SEEDS:
        known, unseen = few_and_unseen(device, count, seed)
        predictor = trained(known, *map(base_of, sources))
        found.append(accuracy(predictor.predict(unseen.genomes)[0], unseen))
    return float(np.mean(found))


def affine_accuracy(device: str, count: int, source: str) -> float:
    """Of a line through the logarithms of the base's predictions and the measurements: what needs no encoding."""
    found = []
    for seed in SEEDS:
        known, unseen = few_and_unseen(device, count, seed)
        said, asked = (np.log(base_of(source).predict(part.genomes)) for part in (known, unseen))
        slope, bias = np.polyfit(said, np.log(known.latency_ms), 1)
        found.append(accuracy(np.exp(bias + slope * asked), unseen))
    return float(np.mean(found))


@pytest.mark.parametrize(("device", "count"), [("cpu", 5), ("cpu", 10), ("board", 5), ("board", 20)])
def test_a_base_of_another_kind_of_device_is_at_least_no_worse(device: str, count: int) -> None:
    """Than none, and than a line, without being told which of them is the better one."""
    found = mean_accuracy(device, count, "gpu")
    assert found >= mean_accuracy(device, count) - 1  # which is within what three draws differ by
    assert found >= affine_accuracy(device, count, "gpu") - 1


def test_a_base_of_a_like_device_saves_half_of_the_measurements() -> None:
    alone = mean_accuracy("newer cpu", 5)
    found = mean_accuracy("newer cpu", 5, "cpu")
    assert found > alone + 1
    assert found > mean_accuracy("newer cpu", 10)
    assert found > affine_accuracy("newer cpu", 5, "cpu") - 0.5


@pytest.mark.parametrize("count", [5, 20])
def test_a_base_of_noise_is_refused_and_does_no_harm(count: int) -> None:
    for seed in (0, 1):
        known, unseen = few_and_unseen("cpu", count, seed)
        predictor, alone = trained(known, noise_base()), trained(known)
        (verdict,) = verdicts_of(predictor)
        assert verdict.weight == 0
        assert verdict.refused is not None
        assert "of what varies here, expected at least 50 %" in verdict.refused
        np.testing.assert_allclose(predictor.predict(unseen.genomes), alone.predict(unseen.genomes), rtol=1e-6)


def test_of_two_bases_the_good_one_counts() -> None:
    known, unseen = few_and_unseen("newer cpu", 5, 0)
    predictor = trained(known, noise_base(), base_of("cpu"))
    bad, good = verdicts_of(predictor)
    assert (bad.name, good.name) == ("dry gpu", "dry cpu")
    assert (bad.weight, good.refused) == (0, None)
    assert good.weight > 0.5
    only = trained(known, base_of("cpu"))
    assert (
        accuracy(predictor.predict(unseen.genomes)[0], unseen) > accuracy(only.predict(unseen.genomes)[0], unseen) - 1
    )


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_one_measurement_in_ten_that_is_wrong_by_a_factor_costs_little(factor: float) -> None:
    known, unseen = few_and_unseen("newer cpu", 10, 1)
    spoiled = known.latency_ms.copy()
    spoiled[4] *= factor
    clean, robust = (
        accuracy(trained(each, base_of("cpu")).predict(unseen.genomes)[0], unseen)
        for each in (known, replace(known, latency_ms=spoiled))
    )
    assert robust > clean - 5  # the mean of the logarithms is off by 11 %


@pytest.mark.parametrize(("count", "factor"), [(5, 1000.0), (5, 0.001), (45, 1000.0)])
def test_units_scale_predictions_and_change_nothing_else(count: int, factor: float) -> None:
    """From a GPU of some ms to a CPU of a second: the paper's fine-tuning fails there for its scale."""
    known, unseen = few_and_unseen("cpu", count, 0)
    plain, scaled = (
        trained(each, base_of("gpu")).predict(unseen.genomes)[0]
        for each in (known, replace(known, latency_ms=factor * known.latency_ms))
    )
    np.testing.assert_allclose(scaled, factor * plain, rtol=1e-4)


# odd sets of measurements


def of_one_depth(whole: Dataset) -> Dataset:
    return whole.select(whole.depths == np.bincount(whole.depths).argmax())


def of_one_bin(whole: Dataset) -> Dataset:
    return whole.select(np.array(divide(whole.space).indices(whole.depths)) == 0).select(slice(12))


ODD = {
    "three": lambda whole: whole.select(slice(3)),
    "four": lambda whole: whole.select(slice(4)),
    "constant": lambda whole: replace(whole, latency_ms=np.full(len(whole), 7.3)).select(slice(17)),
    "of one depth": of_one_depth,
    "of one bin": of_one_bin,
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_measurements_give_finite_predictions_and_a_whole_file(kind: str, tmp_path: Path) -> None:
    whole = measured_on("cpu")
    known = ODD[kind](whole)
    predictor = trained(known, base_of("gpu"))
    loaded = written(predictor, known, tmp_path / "predictor.onnx").loaded
    latency, lower, upper = loaded.predict(whole.genomes)
    assert np.isfinite(latency).all()
    assert (lower > 0).all() | (lower == 0).all()
    assert (lower <= latency).all()
    assert (latency <= upper).all()
    np.testing.assert_allclose(latency, predictor.predict(whole.genomes)[0], rtol=1e-4)
    (verdict,) = verdicts_of(predictor)
    assert -100 < verdict.explained <= 1
    assert 0 <= verdict.weight <= 1


def test_fewer_than_three_measurements_are_too_few() -> None:
    for count in (0, 1, 2):
        with pytest.raises(InputError, match=f"^{count} measurements to train on, expected at least 3"):
            trained(measured_on("cpu").select(slice(count)), base_of("gpu"))


def test_an_architecture_measured_twice_is_refused() -> None:
    with pytest.raises(InputError, match="1 rows are of architectures that other rows have"):
        trained(measured_on("cpu").select(np.array([0, 1, 2, 3, 1])), base_of("gpu"))


def test_a_base_helps_when_rows_are_held_out_too() -> None:
    known, unseen = few_and_unseen("newer cpu", 12, 0)
    predictor, evaluation = train(known, TrainSettings(held_out=0.3), bases=[base_of("cpu")])
    assert len(predictor.trained) + evaluation.overall.count == 12
    assert verdicts_of(predictor)[0].weight > 0
    assert accuracy(predictor.predict(unseen.genomes)[0], unseen) > 90


# other spaces


def made_up(space: Space, count: int, factor: float) -> Dataset:
    """Half of a latency goes by depth, half by all options; the factor says how much the first half takes."""
    genomes = rows(space, drawn(space, count))
    depth, options = depths_of(space, genomes), np.maximum(genomes, 0) @ np.linspace(0.1, 0.2, genomes.shape[1])
    target = Target(f"factor {factor}", {"device": "abacus"})
    return Dataset(space, genomes, 1 + factor * depth + options, {"name": target.name, "facts": dict(target.facts)})


@pytest.mark.parametrize(
    "space", [tiny_space(), find_space("compofa-fixed"), UNWRITTEN, WRITTEN], ids=lambda space: space.name
)
def test_every_kind_of_space_can_be_transferred(space: Space, tmp_path: Path) -> None:
    """Tiny, coupled, without a writer, with features of the network."""
    there, here = made_up(space, 60, 1.0), made_up(space, 60, 1.5)
    base = written(train(there, TrainSettings("linear"))[0], there, tmp_path / "base.onnx")
    predictor, evaluation = train(here.select(slice(12)), TrainSettings(), bases=[base])
    written(predictor, here, tmp_path / "predictor.onnx")
    (tmp_path / "base.onnx").unlink()
    loaded = LoadedPredictor.open(tmp_path / "predictor.onnx")
    np.testing.assert_allclose(loaded.predict(here.genomes), predictor.predict(here.genomes), rtol=1e-4)
    wrong = here.genomes.copy()
    wrong[:, 0] = 99
    assert np.isnan(loaded.predict(wrong)).all()
    assert accuracy(loaded.predict(here.genomes)[0], here) > 85
    assert evaluation.overall.count == 12
