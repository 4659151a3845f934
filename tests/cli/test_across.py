"""Several runtimes at once, and `compare --across runtimes`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from cli.calls import Run, error_of, write_architectures

from esm_onnx.architectures import sample
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

SPACE = tiny_space()
TOGETHER = ["profile", "--space", "tiny.toml", "--architectures", "a.jsonl", "--references", 1]
ACROSS = ["compare", "--across", "runtimes"]


@pytest.fixture
def six(tmp_path: Path) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, sample(SPACE, 6, strategy="balanced", rng=Random(0)))


@pytest.mark.usefixtures("six")
def test_two_runtimes_take_turns_and_are_compared(esm: Run, tmp_path: Path) -> None:
    both = ["--runtime", "torch-cpu", "--runtime", "cpu", "--runtime", "ort-cpu", "--plain", "--runs", 10]
    outcomes = json.loads(esm(*TOGETHER, *both, "--tolerance", "1000%", "--json").stdout)
    assert [outcome["facts"]["runtime"] for outcome in outcomes] == ["torch-cpu", "ort-cpu"]
    assert [outcome["measured"] for outcome in outcomes] == [6, 6]
    with Store(tmp_path / "esm.db") as store:
        records = [
            (record.started_at, content.target.name.split()[0])
            for content in store.contents()
            for record in store.measurements(content.space, content.target, role=SUBJECT)
        ]
    assert [name for _, name in sorted(records)] == ["torch-cpu", "ort-cpu"] * 6
    found = json.loads(esm(*ACROSS, "--json", "--out", "all.csv").stdout)
    assert len(found["architectures"]) == 6
    assert sum(found["wins"].values()) == 6
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, found["architectures"], strict=True):
        assert json.loads(row["architecture"]) == line["architecture"]
        assert row["fastest"] == line["fastest"] == min(line["latency_ms"], key=line["latency_ms"].get)
    (pair,) = found["pairs"]
    ratios = [
        line["latency_ms"][pair["targets"][1]] / line["latency_ms"][pair["targets"][0]]
        for line in found["architectures"]
    ]
    assert pair["ratio"] == pytest.approx(np.median(ratios))
    told = esm(*ACROSS).stdout
    assert "fastest: " in told
    assert "Kendall" in told


@pytest.mark.usefixtures("six")
def test_what_cannot_be_compared(esm: Run) -> None:
    esm(*TOGETHER, "--runtime", "dry")
    assert "one target alone, expected two or more" in error_of(esm(*ACROSS, code=2))
    assert "--surrogate is not for --across" in error_of(esm(*ACROSS, "--surrogate", "mlp", code=2))
    assert "several --target are for --across" in error_of(esm("compare", "--target", "a", "--target", "b", code=2))
    esm(*TOGETHER, "--runtime", "dry", "--device", "cpu")
    assert "'dry cpu'" in str(json.loads(esm(*ACROSS, "--json").stdout)["pairs"])
    esm(*TOGETHER, "--runtime", "dry", "--device", "board", "--batch", 2)
    assert "targets of different batches" in error_of(esm(*ACROSS, code=2))
    assert "'dry cpu'" in str(json.loads(esm(*ACROSS, "--json", "--target", "dry cpu", "--target", "dry gpu").stdout))


@pytest.mark.usefixtures("six")
def test_a_runtime_that_fails_does_not_hide_what_the_other_measured(esm: Run) -> None:
    both = ["--runtime", "ort-cpu", "--runtime", "dry", "--device", "gpu", "--plain", "--runs", 10, "--tolerance", "9%"]
    done = esm(*TOGETHER, *both, code=2)
    assert "device 'gpu' on ort-cpu" in error_of(done)
    strict = ["--runtime", "dry", "--runtime", "ort-cpu", "--plain", "--runs", 10, "--tolerance", 1e-9, "--attempts", 1]
    done = esm(*TOGETHER, *strict, "--references", 2, "--json", code=3)
    assert json.loads(done.stdout or "[]") == []
    assert error_of(done).startswith("error: dry: 1 sessions in a row were rejected")
    assert "ort-cpu: 1 sessions in a row were rejected" in done.stderr


@pytest.mark.usefixtures("six")
def test_a_switch_is_for_those_that_have_it(esm: Run) -> None:
    both = ["--runtime", "ort-cpu", "--runtime", "dry", "--plain", "--runs", 10, "--tolerance", "1000%", "--json"]
    ours, dry = json.loads(esm(*TOGETHER, *both, "--no-spinning").stdout)
    assert ours["facts"]["spinning"] == "off"
    assert "spinning" not in dry["facts"]
    assert "switch 'flush' on ort-cpu" in error_of(esm(*TOGETHER, *both, "--flush", code=2))


@pytest.mark.usefixtures("six")
def test_one_runtime_that_cannot_be_used_is_told_before_anything_is_measured(esm: Run, tmp_path: Path) -> None:
    assert "no runtime 'abacus'" in error_of(esm(*TOGETHER, "--runtime", "dry", "--runtime", "abacus", code=2))
    with Store(tmp_path / "esm.db") as store:
        assert store.contents() == []
