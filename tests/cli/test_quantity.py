"""`--quantity`: energy and memory from measuring to the predictor, as a user types it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cli.calls import Run, error_of, lines, write_architectures

from esm_onnx.architectures import Architecture, from_json, sample, to_genome, to_json
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quantities import ENERGY
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

DRY: ModuleType = sys.modules[find_runtime("dry").__module__]
SPACE = tiny_space()
FORTY = sample(SPACE, 40, strategy="balanced", rng=Random(0))
PROFILE = ["profile", "--space", "tiny.toml", "--runtime", "dry", "--device", "cpu", "--references", 2, "--runs", 20]
TRAIN = ["train", "--space", "tiny.toml", "--surrogate", "linear", "--out", "p.onnx"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 subnets, whose energy and memory were measured too."""
    folder = tmp_path_factory.mktemp("measured")
    protocol = Protocol(runs=20, references=2, quantities=("energy", "memory"))
    settings = RuntimeSettings(device="cpu")
    with Store(folder / "esm.db") as store:
        with Profiler(SPACE, store, "dry", folder=folder, settings=settings, protocol=protocol) as profiler:
            profiler.profile(FORTY)
    return folder / "esm.db"


@pytest.fixture
def measured(esm: Run, tmp_path: Path, stored: Path) -> Run:
    """`esm-onnx` in a folder with that store."""
    write_architectures(tmp_path / "a.jsonl", SPACE, FORTY)
    shutil.copy(stored, tmp_path)
    return esm


def formula(architecture: Architecture, folder: Path) -> tuple[float, float]:
    """Energy in mJ and memory in MB as the formula of dry gives them for the file of an architecture."""
    subnet = onnx.load(write_subnet(SPACE, architecture, folder, ExportSettings()).path, load_external_data=False)
    device, shapes = DRY.DEVICES["cpu"], DRY.shapes_of(subnet)
    energy = DRY.work_mj(subnet.graph, shapes, device) + DRY.cost_ms(subnet, device) * device.watts
    return energy, DRY.memory_bytes(subnet.graph, shapes) / 1e6


def test_what_is_measured_is_what_the_formula_gives(esm: Run, tmp_path: Path) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, FORTY)
    esm(*PROFILE, "--architectures", "a.jsonl", "--quantity", "energy,memory")
    esm("data", "export", "--out", "all.jsonl")
    exported = lines(tmp_path / "all.jsonl")
    assert len(exported) == 40
    for line in exported:
        found: Any = line["quantities"]
        energy, memory = formula(from_json(SPACE, line["architecture"]), tmp_path)
        assert found == {"energy_mj": pytest.approx(energy, rel=1e-6), "memory_mb": memory}
        assert "energy_counter" not in line["facts"]
    with closing(sqlite3.connect(tmp_path / "esm.db")) as db:  # as those read it who do not use this package
        rows = db.execute(
            "SELECT numbers FROM quantities JOIN measurements m ON m.id = measurement "
            "WHERE name = 'memory_mb' AND role = 'subject'"
        ).fetchall()
    memories = [line["quantities"]["memory_mb"] for line in exported]
    assert [np.frombuffer(blob, "<f8").tolist() for (blob,) in rows] == [[memory] for memory in memories]


def test_what_was_measured_twice_is_one_row_and_leaks_nowhere(measured: Run) -> None:
    measured(*PROFILE, "--architectures", "a.jsonl", "--quantity", "latency")
    before = measured(*TRAIN).stderr
    measured(*PROFILE, "--architectures", "a.jsonl", "--quantity", "memory", "--runs", 30)
    done = measured(*TRAIN)
    assert "leak" not in before + done.stderr
    assert "40" in done.stdout


def test_the_predictor_of_an_energy_says_so_and_is_that_of_python(measured: Run, tmp_path: Path) -> None:
    told = json.loads(measured(*TRAIN, "--quantity", "energy", "--json").stdout)
    assert told["measurements"] == 40
    assert told["overall"]["rmse_mj"] > 0
    assert "rmse_ms" not in json.dumps(told)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    assert [output.name for output in session.get_outputs()] == ["energy_mj", "lower_mj", "upper_mj"]
    with Store(tmp_path / "esm.db") as store:
        content = choose(store, quantity=ENERGY)
        dataset = assemble(store, content.space, content.target, quantity=ENERGY)
    predictor, _ = train(dataset, TrainSettings(surrogate="linear"))
    genomes = np.array([to_genome(SPACE, each) for each in sample(SPACE, 30, strategy="random", rng=Random(1))])
    given = session.run(None, {"genome": genomes})
    for found, expected in zip(given, predictor.predict(genomes), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    write_predictor(predictor, tmp_path / "again.onnx", check=dataset)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()

    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert metadata["quantity"] == "energy_mj"
    assert metadata["accuracy"]["overall"] == told["overall"]
    truth = [formula(each, tmp_path)[0] for each in FORTY]
    printed = [json.loads(line) for line in measured("predict", "p.onnx", "a.jsonl").stdout.splitlines()]
    assert [list(row) for row in printed] == [["energy_mj", "lower_mj", "upper_mj"]] * 40
    assert np.mean([abs(row["energy_mj"] / energy - 1) for row, energy in zip(printed, truth, strict=True)]) < 0.05


@pytest.mark.parametrize(
    ("quantity", "unit", "outputs"),
    [
        ("energy", "mJ", ["energy_mj", "lower_mj", "upper_mj"]),
        ("memory", "MB", ["memory_mb", "lower_mb", "upper_mb"]),
        ("latency", "ms", ["latency_ms", "lower_ms", "upper_ms"]),
    ],
)
def test_names_and_units_are_those_of_the_quantity(
    measured: Run, tmp_path: Path, quantity: str, unit: str, outputs: list[str]
) -> None:
    text = measured(*TRAIN, "--quantity", quantity).stdout
    assert f" RMSE {unit} " in text
    assert f"{outputs[1]} to {outputs[2]}: stated to enclose 90 %" in text
    assert [output.name for output in onnxruntime.InferenceSession(tmp_path / "p.onnx").get_outputs()] == outputs

    more = sample(SPACE, 8, strategy="random", rng=Random(5), exclude=FORTY)
    write_architectures(tmp_path / "more.jsonl", SPACE, more)
    measured(*PROFILE, "--architectures", "more.jsonl", "--quantity", "energy", "--quantity", "memory")
    judged = measured("evaluate", "p.onnx").stdout
    assert f" RMSE {unit} " in judged
    assert "8 of 48 measurements; on the others it was trained" in judged
    told = json.loads(measured("evaluate", "p.onnx", "--json").stdout)
    assert f"rmse_{outputs[0].partition('_')[2]}" in told["overall"]

    compare = ["compare", "--quantity", quantity, "--surrogate", "linear", "--sizes", 20, "--seeds", 1, "--test", 8]
    assert f"RMSE {unit}" in measured(*compare).stdout
    assert f"rmse_{outputs[0].partition('_')[2]}" in measured(*compare, "--out", "-").stdout.splitlines()[0]


def test_measurements_of_a_file_judge_by_their_quantity(measured: Run, tmp_path: Path) -> None:
    measured("data", "export", "--runs", "--out", "all.jsonl")
    rows = (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "first.jsonl").write_text("".join(rows[:28]))
    (tmp_path / "test.jsonl").write_text("".join(rows[28:]))
    measured("data", "import", "first.jsonl", "--space", "tiny.toml", "--store", "first.db")
    command = [*TRAIN, "--store", "first.db", "--quantity", "memory", "--test", "test.jsonl"]
    told = json.loads(measured(*command, "--json").stdout)
    assert (told["measurements"], told["overall"]["count"]) == (28, 12)
    predicted = [json.loads(line) for line in measured("predict", "p.onnx", "a.jsonl").stdout.splitlines()]
    of = {json.dumps(to_json(SPACE, each)): row["memory_mb"] for each, row in zip(FORTY, predicted, strict=True)}
    errors = []
    for row in map(json.loads, rows[28:]):
        memory = row["quantities"]["memory_mb"]
        errors.append(abs(of[json.dumps(to_json(SPACE, from_json(SPACE, row["architecture"])))] - memory) / memory)
    assert told["overall"]["accuracy"] == pytest.approx(100 * (1 - np.mean(errors)), abs=1e-3)


def test_build_predicts_the_first_quantity_and_measures_the_others_too(esm: Run, tmp_path: Path) -> None:
    build = ["build", *PROFILE[1:], "--initial", 30, "--threshold", "50%", "--surrogate", "linear", "--out", "p.onnx"]
    told = json.loads(esm(*build, "--quantity", "memory", "--quantity", "latency,energy", "--json").stdout)
    assert told["reached"]
    assert told["overall"]["rmse_mb"] > 0
    assert LoadedPredictor.open(tmp_path / "p.onnx").quantity.name == "memory"
    esm("data", "export", "--out", "all.jsonl")
    assert all(line["quantities"].keys() == {"energy_mj", "memory_mb"} for line in lines(tmp_path / "all.jsonl"))
    text = esm(*build, "--quantity", "energy,memory").stdout  # all is measured already
    assert " RMSE mJ " in text
    with Store(tmp_path / "esm.db") as store:
        assert store.contents()[0].measurements == 30


def test_what_was_not_measured_cannot_be_predicted(esm: Run, tmp_path: Path) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, FORTY)
    esm(*PROFILE, "--architectures", "a.jsonl")
    said = error_of(esm(*TRAIN, "--quantity", "energy", code=2))
    assert "esm.db: no accepted measurement has energy_mj: measure with `esm-onnx profile --quantity energy`" in said
    esm(*PROFILE, "--architectures", "a.jsonl", "--quantity", "memory")
    told = json.loads(esm(*TRAIN, "--quantity", "memory", "--json").stdout)
    assert told["measurements"] == 40
    said = error_of(esm(*TRAIN, "--surrogate", "lut", "--quantity", "memory", code=2))
    assert "lookup tables are of latencies, and what is predicted is memory" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PROFILE, "--architectures", "a.jsonl", "--quantity", "noise"], "quantity 'noise', expected one of latency"),
        ([*PROFILE, "--architectures", "a.jsonl", "--quantity", "energy,"], "quantity '', expected one of"),
        ([*TRAIN, "--quantity", "energy,memory"], "'energy,memory' is not one of 'latency', 'energy', 'memory'"),
    ],
)
def test_misuse_is_one_line(esm: Run, tmp_path: Path, arguments: list[object], message: str) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, FORTY)
    done = esm(*arguments, code=2)
    assert message in error_of(done)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "esm.db").exists()


@pytest.mark.skipif(Path("/sys/class/powercap").exists(), reason="this machine has a counter, or says why not")
def test_energy_without_a_counter_is_one_line_and_nothing_is_measured(esm: Run, tmp_path: Path) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, FORTY)
    command = ["profile", "--space", "tiny.toml", "--runtime", "ort-cpu", "--architectures", "a.jsonl"]
    assert error_of(esm(*command, "--quantity", "energy", code=2)) == (
        "error: no energy counter: /sys/class/powercap is absent (a virtual machine?): measure where RAPL is, "
        "or measure without --quantity energy"
    )
    with Store(tmp_path / "esm.db") as store:
        assert store.contents() == []
