"""`esm-onnx search` as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from cli.calls import Run, error_of, lines
from prediction.made_up import checked, drawn, predictor_of, random_mlp, rows
from test_search_estimates import write_accuracy

from esm_onnx.architectures import divide, from_json, genome_length, read_architectures, sample, to_genome
from esm_onnx.export.cost import cost_of
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quantities import ENERGY, LATENCY
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

pytest.importorskip("pymoo", reason="pymoo is not installed")

SPACE = tiny_space()
QUICK = ["--population", 24, "--generations", 12]
ON_DRY = ["--runtime", "dry", "--device", "cpu", "--runs", 20, "--references", 2]
BUDGET_MS = 0.14


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with predictors of latency and of energy on an imaginary device."""
    folder = tmp_path_factory.mktemp("trained")
    protocol = Protocol(runs=20, references=2, quantities=("energy",))
    with Store(folder / "esm.db") as store:
        device = RuntimeSettings(device="cpu")
        with Profiler(SPACE, store, "dry", folder=folder, settings=device, protocol=protocol) as profiler:
            profiler.profile(sample(SPACE, 40, strategy="balanced", rng=Random(0)))
        for quantity in (LATENCY, ENERGY):
            content = choose(store, quantity=quantity)
            dataset = assemble(store, content.space, content.target, quantity=quantity)
            predictor, _ = train(dataset, TrainSettings(surrogate="linear"))
            write_predictor(predictor, folder / f"{quantity.name}.onnx", check=dataset)
    return folder


@pytest.fixture
def there(esm: Run, trained: Path, tmp_path: Path) -> Run:
    """`esm-onnx` in a folder with both."""
    for name in ("latency.onnx", "energy.onnx"):
        shutil.copy(trained / name, tmp_path)
    return esm


def told(there: Run, *arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(there("search", *arguments, *QUICK, "--json", code=code).stdout)
    return found


def test_the_best_within_a_budget_are_written_for_other_commands(there: Run, tmp_path: Path) -> None:
    found = told(there, "--predictor", "latency.onnx", "--budget-ms", BUDGET_MS, "--out", "best.jsonl")
    assert (found["quantity"], found["objective"], found["budget"]) == ("latency_ms", "multiply_adds", BUDGET_MS)
    assert found["evaluations"] == found["estimated"] + found["memo_hits"]
    assert found["seconds"]["all"] == pytest.approx(
        sum(found["seconds"][part] for part in ("limited", "sought", "rest"))
    )
    best = read_architectures(tmp_path / "best.jsonl", SPACE)
    assert best == [from_json(SPACE, row["architecture"]) for row in found["found"]]
    for row, architecture, predicted in zip(
        found["found"],
        best,
        map(json.loads, there("predict", "latency.onnx", "best.jsonl").stdout.splitlines()),
        strict=True,
    ):
        assert {name: row[name] for name in predicted} == pytest.approx(predicted)
        assert row["latency_ms"] <= BUDGET_MS
        assert row["multiply_adds"] == pytest.approx(cost_of(SPACE, architecture).multiply_adds)
    worths = [row["multiply_adds"] for row in found["found"]]
    assert worths == sorted(worths, reverse=True)
    assert len(set(best)) == len(best)


def test_an_upper_bound_is_stricter(there: Run) -> None:
    arguments = ["--predictor", "latency.onnx", "--budget"]
    least = told(there, *arguments, 1e-6, code=3)["least"]
    between = (least["latency_ms"] + least["upper_ms"]) / 2
    by_value = told(there, *arguments, between, "--bound", "value")["found"]
    assert max(row["latency_ms"] for row in by_value) <= between < min(row["upper_ms"] for row in by_value)
    assert told(there, *arguments, between, "--bound", "upper", code=3)["found"] == []
    just = least["upper_ms"] * (1 + 1e-9)
    by_upper = told(there, *arguments, just, "--bound", "upper")["found"]
    assert max(row["upper_ms"] for row in by_upper) <= just


def test_infinite_bounds_are_no_numbers_and_limit_nothing(esm: Run, tmp_path: Path) -> None:
    genomes = rows(SPACE, drawn(SPACE, 30))
    unbounded = Interval(0.9, divide(SPACE).ranges, (float("inf"),) * len(divide(SPACE)), 3)
    predictor = predictor_of(SPACE, "fc", random_mlp(SPACE, "fc", genomes), genomes, interval=unbounded)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, genomes))
    assert told(esm, "--predictor", "p.onnx", "--budget", 1000)["found"][0]["upper_ms"] is None
    esm("search", "--predictor", "p.onnx", "--budget", 1000, *QUICK)
    refused = esm("search", "--predictor", "p.onnx", "--budget", 1000, "--bound", "upper", code=2)
    assert error_of(refused).startswith("error: p.onnx: its upper_ms is infinite")


def test_a_table_shows_the_best_and_what_is_sought(there: Run) -> None:
    done = there("search", "--predictor", "latency.onnx", "--budget", BUDGET_MS, *QUICK, "--out", "best.jsonl")
    (note,) = done.stderr.splitlines()
    assert note.startswith("no --accuracy: what is sought is capacity, the number of multiply-adds")
    header, first, *rest = done.stdout.splitlines()
    assert header.split() == ["multiply-adds,", "M", "latency_ms", "lower_ms", "upper_ms", "blocks"]
    assert first.split()[0] == "1"
    assert float(first.split()[2]) <= BUDGET_MS
    assert "288 evaluations in 12 generations" in rest[-2]
    assert rest[-1].endswith("architectures written to best.jsonl")


def test_lines_alone_go_to_standard_output(there: Run) -> None:
    done = there("search", "--predictor", "latency.onnx", "--budget", BUDGET_MS, *QUICK, "--out", "-")
    assert all(from_json(SPACE, json.loads(line)) for line in done.stdout.splitlines())


def test_a_front_of_energy_has_its_names(there: Run) -> None:
    front = told(there, "--predictor", "energy.onnx", "--front")["found"]
    assert len(front) > 3
    assert set(front[0]) == {"architecture", "multiply_adds", "energy_mj", "lower_mj", "upper_mj"}
    for name in ("energy_mj", "multiply_adds"):
        values = [row[name] for row in front]
        assert values == sorted(set(values))


def test_an_accuracy_file_says_what_is_sought(there: Run, tmp_path: Path) -> None:
    """The sum of the numbers of a genome, in which an absent block counts −2."""
    write_accuracy(tmp_path / "a.onnx", takes=("genome", 7, ["batch", genome_length(SPACE)]), divide_by=2.0)
    done = there(
        "search", "--predictor", "latency.onnx", "--budget", BUDGET_MS, "--accuracy", "a.onnx", *QUICK, "--json"
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["objective"] == "accuracy"
    for row in found["found"]:
        assert row["accuracy"] == sum(to_genome(SPACE, from_json(SPACE, row["architecture"]))) / 2


def test_a_seed_decides_what_is_found(there: Run) -> None:
    arguments = ["--predictor", "latency.onnx", "--budget", BUDGET_MS, "--generations", 2]
    first, again, other = (told(there, *arguments, "--seed", seed)["least"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_budget_that_nothing_meets_ends_with_3_and_the_least_found(there: Run, tmp_path: Path) -> None:
    done = there(
        "search", "--predictor", "energy.onnx", "--budget", 0.0001, *QUICK, "--json", "--out", "b.jsonl", code=3
    )
    found = json.loads(done.stdout)
    assert found["found"] == []
    least = found["least"]["energy_mj"]
    assert f"architectures is within 0.0001 mJ: the least that was found takes {least:.4g} mJ" in error_of(done)
    assert not (tmp_path / "b.jsonl").exists()
    shown = there("search", "--predictor", "energy.onnx", "--budget", 0.0001, *QUICK, code=3).stdout
    assert f"{least:.4g}" in shown.splitlines()[1].split()


def test_finalists_are_measured_and_ranked_anew(there: Run, tmp_path: Path) -> None:
    arguments = ["--predictor", "latency.onnx", "--budget", BUDGET_MS, "--verify", 4, *ON_DRY]
    done = there("search", *arguments, *QUICK, "--json", "--out", "best.jsonl")
    assert "warning" not in done.stderr
    verified = json.loads(done.stdout)["verification"]
    measured = [row["measured_latency_ms"] for row in verified["finalists"]]
    with Store(tmp_path / "esm.db") as store:
        records = {record.architecture: record.latency_ms for record in store.measurements(SPACE)}
    for row, value in zip(verified["finalists"], measured, strict=True):
        assert value == records[from_json(SPACE, row["architecture"])]
        assert row["error_percent"] == pytest.approx(100 * (row["latency_ms"] / value - 1), abs=1e-4)
        assert row["inside"] == (row["lower_ms"] <= value <= row["upper_ms"])
    ratios = [value / row["latency_ms"] for row, value in zip(verified["finalists"], measured, strict=True)]
    assert verified["factor"] == pytest.approx(np.prod(ratios) ** 0.25)
    assert verified["answer"]
    assert all(measured[place] <= BUDGET_MS for place in verified["answer"])
    answers = [verified["finalists"][place]["architecture"] for place in verified["answer"]]
    assert lines(tmp_path / "best.jsonl") == answers
    table = there("search", *arguments, *QUICK).stdout
    assert "once predictions are multiplied by" in table
    assert f"the best that measured within the budget: finalist {verified['answer'][0] + 1}," in table


def test_finalists_on_another_device_miss_the_budget_and_the_warning_says_why(there: Run) -> None:
    arguments = ["--predictor", "latency.onnx", "--budget", BUDGET_MS, "--verify", 3, *ON_DRY]
    arguments[arguments.index("--device") + 1] = "board"
    done = there("search", *arguments, *QUICK, "--json", code=3)
    verified = json.loads(done.stdout)["verification"]
    assert (verified["answer"], len(verified["finalists"])) == ([], 3)
    assert verified["refitted_error_percent"] < verified["error_percent"]
    assert "warning: measured on 'dry board', predicted for 'dry cpu': they differ in device" in done.stderr
    hint = f"search again with --budget {BUDGET_MS / verified['factor']:.4g}"
    assert f"no finalist measured within {BUDGET_MS} ms" in error_of(done)
    assert hint in error_of(done)


def test_a_front_is_verified_from_end_to_end_of_it(there: Run) -> None:
    found = told(there, "--predictor", "energy.onnx", "--front", "--verify", 3, *ON_DRY)
    finalists, front = found["verification"]["finalists"], found["found"]
    assert [finalists[0]["architecture"], finalists[-1]["architecture"]] == [
        front[0]["architecture"],
        front[-1]["architecture"],
    ]
    assert "measured_energy_mj" in finalists[0]


def test_measuring_takes_the_predictors_place(there: Run, tmp_path: Path) -> None:
    arguments = ["--measure", "--space", "tiny.toml", *ON_DRY, "--budget", BUDGET_MS]
    sizes = ["--population", 6, "--generations", 3, "--json"]
    found = json.loads(there("search", *arguments, *sizes).stdout)
    with Store(tmp_path / "esm.db") as store:
        records = {record.architecture: record.latency_ms for record in store.measurements(SPACE)}
    for row in (*found["found"], found["least"]):
        assert row["latency_ms"] == records[from_json(SPACE, row["architecture"])]
    assert found["found"]
    assert max(row["latency_ms"] for row in found["found"]) <= BUDGET_MS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", 1], "Expected either --predictor or --measure"),
        (["--predictor", "latency.onnx", "--measure", "--budget", 1], "Expected either --predictor or --measure"),
        (["--predictor", "latency.onnx"], "Expected --budget, or --front"),
        (["--predictor", "latency.onnx", "--budget", "-1"], "budget is -1.0, expected a number above 0"),
        (["--predictor", "latency.onnx", "--budget", "nan"], "budget is nan, expected a number above 0"),
        (["--predictor", "latency.onnx", "--budget", 1, "--verify", 3], "Expected --runtime"),
        (["--predictor", "latency.onnx", "--budget", 1, "--population", 1], "1 is not in the range"),
        (["--predictor", "latency.onnx", "--budget", 1, "--space", "resnet"], "a predictor for space 'tiny'"),
        (["--predictor", "tiny.toml", "--budget", 1], "tiny.toml: not an ONNX file"),
        (["--predictor", "latency.onnx", "--budget", 1, "--accuracy", "latency.onnx"], "expected an output 'accuracy'"),
        (["--predictor", "latency.onnx", "--budget", 1, "--bound", "lower"], "'lower' is not one of"),
        (["--measure", "--runtime", "dry", "--budget", 1], "Expected --space beside --measure"),
        (["--measure", "--space", "tiny.toml", "--budget", 1], "Expected --runtime"),
        (["--measure", "--space", "tiny.toml", "--budget", 1, "--verify", 1], "expected --verify with --predictor"),
        (["--measure", "--space", "tiny.toml", *ON_DRY, "--budget", 1, "--bound", "upper"], "expected --bound with"),
        (["--predictor", "latency.onnx", "--budget", 1, *ON_DRY], "nothing is measured on --runtime"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(there: Run, arguments: list[object], message: str) -> None:
    done = there("search", *arguments, code=2)
    assert message in error_of(done)


def started(folder: Path, before: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"{before}from esm_onnx.cli import main; main()", "search", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_without_pymoo_one_line_says_what_to_install(trained: Path) -> None:
    absent = "import sys; sys.modules['pymoo'] = None; "
    process = started(trained, absent, "--predictor", "latency.onnx", "--budget", 1)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.rstrip() == (
        "error: search needs pymoo, and pymoo.algorithms cannot be imported: pip install 'esm-onnx[search]'"
    )


def test_an_interruption_is_one_line(trained: Path) -> None:
    process = started(trained, "", "--predictor", "latency.onnx", "--budget", BUDGET_MS, "--generations", 10**6)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("no --accuracy")
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    (line,) = filter(None, err.splitlines())
    assert (process.returncode, out) == (130, "")
    assert line.startswith("error: interrupted")


def test_what_was_found_is_told_though_it_cannot_be_measured(there: Run, tmp_path: Path) -> None:
    """No subnet is timed within a microsecond."""
    arguments = ["--predictor", "latency.onnx", "--budget", BUDGET_MS, "--verify", 2, *ON_DRY, "--deadline", "1e-6"]
    done = there("search", *arguments, *QUICK, "--json", "--out", "best.jsonl", code=1)
    told = json.loads(done.stdout)
    assert told["found"]
    assert "verification" not in told
    assert "(deadline): not finished after 1e-06 s" in error_of(done)
    assert not (tmp_path / "best.jsonl").exists()
