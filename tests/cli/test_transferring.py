"""`esm-onnx transfer` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from cli.calls import Run, error_of, lines, write_architectures
from prediction.test_surrogates import WRITTEN as SPACE

from esm_onnx.architectures import read_architectures, sample, to_genome
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quantities import ENERGY, LATENCY, Quantity
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train

TOML = """
name = "written"
units = 2
depth = [1, 2, 3]
[block]
kernel = [3, 5]
expansion = ["1/2", 1, "5/3"]
[network]
resolution = [32, 36, 40, 44, 48, 64]
[export]
writer = "mobilenetv3"
widths = [8, 16]
ratio = 4
stem = 8
head = [32, 32]
classes = 10
"""
OF_TWO = TOML.replace("depth = [1, 2, 3]", "depth = [1, 2]")
ON_BOARD = ["--runtime", "dry", "--device", "board", "--runs", 20, "--references", 2]


def measured(store_path: Path, device: str, count: int, quantity: Quantity = LATENCY, seed: int = 0) -> Dataset:
    """Measures on an imaginary device what is not measured yet."""
    protocol = Protocol(runs=20, references=2, quantities=("energy",))
    with Store(store_path) as store:
        settings = RuntimeSettings(device=device)
        with Profiler(SPACE, store, "dry", folder=store_path.parent, settings=settings, protocol=protocol) as profiler:
            profiler.profile(sample(SPACE, count, strategy="balanced", rng=Random(seed)))
        content = choose(store, quantity=quantity)
        return assemble(store, content.space, content.target, quantity=quantity)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with predictors of another device, and with 12 measurements of the new one."""
    folder = tmp_path_factory.mktemp("prepared")
    latency = measured(folder / "old.db", "cpu", 50)
    measured(folder / "new.db", "board", 12, seed=1)
    with Store(folder / "old.db") as store:
        content = choose(store, quantity=ENERGY)
        energy = assemble(store, content.space, content.target, quantity=ENERGY)
    for dataset, name in ((latency, "base"), (energy, "energy")):
        predictor, _ = train(dataset, TrainSettings("linear"))
        write_predictor(predictor, folder / f"{name}.onnx", check=dataset)
    return folder


@pytest.fixture
def there(esm: Run, prepared: Path, tmp_path: Path) -> Run:
    """`esm-onnx` in a folder with all of it, and with the space as a file."""
    for name in ("base.onnx", "energy.onnx", "new.db", "old.db"):
        shutil.copy(prepared / name, tmp_path)
    (tmp_path / "written.toml").write_text(TOML)
    (tmp_path / "other.toml").write_text(OF_TWO)
    return esm


def told(there: Run, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(there("transfer", *arguments, "--json").stdout)
    return found


def test_from_what_to_measure_to_a_predictor_that_passes_its_check(there: Run, tmp_path: Path) -> None:
    there("transfer", "--base", "base.onnx", "--suggest", 10, "--out", "few.jsonl")
    assert len(set(read_architectures(tmp_path / "few.jsonl", SPACE))) == 10
    there("profile", "--space", "written.toml", "--architectures", "few.jsonl", "--store", "mine.db", *ON_BOARD)
    done = there("transfer", "--base", "base.onnx", "--store", "mine.db", "--out", "p.onnx")
    header, base, here, *_ = done.stdout.splitlines()
    assert " ".join(header.split()) == "base target rank explains % error % weight % left out because"
    assert base.split()[:3] == ["base.onnx", "dry", "cpu"]
    assert here.split()[:2] == ["measured", "here"]
    assert done.stdout.splitlines()[-1] == "predictor for written on 'dry board' written to p.onnx"
    for name in ("base.onnx", "mine.db"):
        (tmp_path / name).unlink()
    there("check", "p.onnx")
    predicted = lines_of(there("predict", "p.onnx", "few.jsonl").stdout)
    assert len(predicted) == 10
    assert all(row["lower_ms"] <= row["latency_ms"] for row in predicted)
    unseen = measured(tmp_path / "more.db", "board", 60, seed=5)
    latency = LoadedPredictor.open(tmp_path / "p.onnx").predict(unseen.genomes)[0]
    assert np.mean(np.abs(latency / unseen.latency_ms - 1)) < 0.2


def lines_of(output: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_machine_is_told_the_verdict_on_each_base(there: Run, tmp_path: Path) -> None:
    arguments = ["--base", "base.onnx", "--base", "base.onnx", "--store", "new.db", "--out", "p.onnx"]
    found = told(there, *arguments)
    assert (found["predictor"], found["measurements"]) == ("p.onnx", 12)
    assert [base["name"] for base in found["bases"]] == ["dry cpu", "dry cpu"]
    for base in found["bases"]:
        assert set(base) == {"name", "rank", "explained", "error", "weight", "refused"}
        assert -1 <= base["rank"] <= 1
    assert found["weight_of_cost"] + sum(base["weight"] for base in found["bases"]) == pytest.approx(1)
    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert [base["target"] for base in metadata["bases"]] == ["dry cpu", "dry cpu"]
    assert metadata["target"]["name"] == "dry board"
    assert metadata["accuracy"]["overall"] == found["overall"]


def test_it_is_judged_by_a_test_set_of_its_own(there: Run, tmp_path: Path) -> None:
    measured(tmp_path / "test.db", "board", 20, seed=7)
    there("data", "export", "--store", "test.db", "--out", "test.jsonl")
    found = told(there, "--base", "base.onnx", "--store", "new.db", "--out", "p.onnx", "--test", "test.jsonl")
    assert (found["measurements"], found["overall"]["count"]) == (12, 20)


def test_energy_is_transferred_as_latency_is(there: Run, tmp_path: Path) -> None:
    arguments = ["--base", "energy.onnx", "--store", "new.db", "--quantity", "energy"]
    found = told(there, *arguments, "--out", "p.onnx")
    assert "rmse_mj" in found["overall"]
    assert LoadedPredictor.open(tmp_path / "p.onnx").quantity == ENERGY
    there("transfer", *arguments, "--suggest", 5, "--out", "more.jsonl")
    assert len(lines(tmp_path / "more.jsonl")) == 5


def test_what_is_measured_is_not_suggested_again(there: Run, tmp_path: Path) -> None:
    with Store(tmp_path / "new.db") as store:
        known = {measurement.architecture for measurement in store.measurements(SPACE)}
    there("transfer", "--base", "base.onnx", "--store", "new.db", "--suggest", 30, "--out", "more.jsonl")
    more = read_architectures(tmp_path / "more.jsonl", SPACE)
    assert len(set(more)) == 30
    assert not known & set(more)
    again = there("transfer", "--base", "base.onnx", "--store", "new.db", "--suggest", 30, "--out", "-").stdout
    assert again == (tmp_path / "more.jsonl").read_text()
    suggest = ["transfer", "--base", "base.onnx", "--suggest", 3, "--json"]
    assert json.loads(there(*suggest, "--out", "3.jsonl").stdout) == {"suggested": 3, "out": "3.jsonl"}
    assert "expected one of them" in error_of(there(*suggest, "--out", "-", code=2))


# what does not go


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --store, expected what was measured on the new device, or --suggest"),
        (
            ["--store", "new.db", "--surrogate", "mlp"],
            "surrogate is 'mlp', expected 'hybrid': the others know no bases",
        ),
        (["--store", "new.db", "--quantity", "energy"], "base.onnx: it predicts latency_ms, expected a predictor of e"),
        (["--store", "new.db", "--base", "energy.onnx"], "energy.onnx: it predicts energy_mj, expected a predictor of"),
        (
            ["--store", "new.db", "--target", "dry gpu"],
            "new.db: no measurements of space 'written' on target 'dry gpu'",
        ),
        (["--store", "new.db", "--space", "other.toml"], "new.db: no measurements of space 'written'"),
        (["--suggest", 3, "--space", "other.toml"], "base.onnx: a predictor for space 'written'"),
        (["--suggest", 2000], "2000 architectures to suggest, expected at most the 1000"),
        (["--suggest", 3, "--base", "new.db"], "new.db: not an ONNX file that ONNX Runtime can load"),
        (["--suggest", 3, "--base", "cut.onnx"], "cut.onnx: "),
        (["--gpu", "abacus"], "GPU 'abacus', expected one of GTX 1080 Ti"),
        (["--gpu", "Tesla P40"], "base.onnx: GPU 'dry cpu', expected one of GTX 1080 Ti"),
        (["--gpu", "Tesla P40", "--suggest", 3], "--gpu is for a GPU without measurements, expected neither --store"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(
    there: Run, tmp_path: Path, arguments: list[object], message: str
) -> None:
    content = (tmp_path / "base.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    done = there("transfer", "--base", "base.onnx", *arguments, "--out", "out.onnx", code=2)
    assert error_of(done).lower().startswith(f"error: {message}".lower())
    assert not (tmp_path / "out.onnx").exists()


def test_a_base_is_needed_and_0_is_no_number_to_suggest(there: Run) -> None:
    assert "--base" in error_of(there("transfer", "--store", "new.db", "--out", "p.onnx", code=2))
    assert "--suggest" in error_of(there("transfer", "--base", "base.onnx", "--suggest", 0, "--out", "-", code=2))


def test_two_measurements_are_too_few(there: Run, tmp_path: Path) -> None:
    write_architectures(tmp_path / "two.jsonl", SPACE, sample(SPACE, 2, strategy="random", rng=Random(0)))
    there("profile", "--space", "written.toml", "--architectures", "two.jsonl", "--store", "two.db", *ON_BOARD)
    done = there("transfer", "--base", "base.onnx", "--store", "two.db", "--out", "p.onnx", code=2)
    assert error_of(done).startswith("error: 2 measurements to train on, expected at least 3: measure more")


def test_a_base_that_does_not_fit_is_left_out_with_the_reason(there: Run, tmp_path: Path) -> None:
    """Latencies that stand beside the wrong architectures."""
    whole = measured(tmp_path / "more.db", "cpu", 50)
    order = np.random.default_rng(0).permutation(len(whole))
    wrong = Dataset(SPACE, whole.genomes, whole.latency_ms[order], {"name": "mixed up", "facts": {}})
    predictor, _ = train(wrong, TrainSettings("linear"))
    write_predictor(predictor, tmp_path / "wrong.onnx", check=wrong)
    arguments = ["--base", "wrong.onnx", "--store", "new.db", "--out", "p.onnx"]
    (base,) = told(there, *arguments)["bases"]
    assert base["weight"] == 0
    table = there("transfer", *arguments).stdout
    assert base["refused"] in table
    genomes = np.array([to_genome(SPACE, each) for each in sample(SPACE, 5, strategy="random", rng=Random(0))])
    assert np.isfinite(LoadedPredictor.open(tmp_path / "p.onnx").predict(genomes)[0]).all()
