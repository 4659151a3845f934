"""`compare` as a user types it: the table, the CSV file and the JSON say the same."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cli.calls import Run, error_of

from esm_onnx.architectures import sample, to_json
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.surrogates import SURROGATES
from esm_onnx.testing import tiny_space

ASKED = ["--surrogate", "linear", "--sizes", "12,9,50", "--seeds", 2, "--test", 20]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 60 subnets of the tiny space on an imaginary device."""
    folder, space = tmp_path_factory.mktemp("measured"), tiny_space()
    architectures = sample(space, 60, strategy="random", rng=Random(0))
    protocol = Protocol(runs=10, warmup=1, references=2)
    with Store(folder / "esm.db") as store:
        with Profiler(space, store, "dry", folder=folder, protocol=protocol) as profiler:
            assert profiler.profile(architectures).measured == 60
    return folder / "esm.db"


@pytest.fixture
def compare(esm: Run, measured: Path, tmp_path: Path) -> Run:
    """`esm-onnx compare` in a folder with a copy of that store."""
    shutil.copy(measured, tmp_path / "esm.db")
    return partial(esm, "compare")


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(("train_s", "predict_s"))}


def test_table_csv_and_json_say_the_same(compare: Run, tmp_path: Path) -> None:
    said = json.loads(compare(*ASKED, "--encoding", "fc", "--encoding", "cost", "--out", "t.csv", "--json").stdout)
    assert (said["space"], said["target"]) == ("tiny", "dry gpu")
    assert (said["available"], said["test"], said["seeds"]) == (40, 20, 2)
    with (tmp_path / "t.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(said["results"])
    for line, result in zip(written, said["results"], strict=True):
        assert list(line) == list(result)
        assert line == {name: "" if value is None else str(value) for name, value in result.items()}
    on_stdout = compare(*ASKED, "--encoding", "fc", "--encoding", "cost", "--out", "-").stdout
    for line, other in zip(written, csv.DictReader(io.StringIO(on_stdout)), strict=True):
        assert timeless(line) == timeless(other)

    table = compare(*ASKED, "--encoding", "fc", "--encoding", "cost").stdout
    for result in said["results"]:
        start = rf"(?m)^ *{result['rows']} +{result['surrogate']} +{re.escape(result['encoding'])} +"
        cells = [
            f"{result[name]:.2f} ± {result[name + '_std']:.2f}" for name in ("accuracy", "worst_bin") if result[name]
        ]
        assert re.search(start + (" +".join(cells) or "— "), table), (result, table)
    assert f"a perfect predictor would show {said['reachable_accuracy']:.2f} %" in table
    assert f"relative standard deviation of {said['noise_floor_percent']:.2f} %" in table


def test_baselines_stand_beside_the_best_and_the_impossible_tells_why(compare: Run) -> None:
    said = json.loads(compare("--surrogate", "hybrid", *ASKED[2:], "--json").stdout)
    reasons = {(r["surrogate"], r["rows"]): r["reason"] for r in said["results"]}
    assert set(reasons) == {(name, rows) for name in ("hybrid", "linear", "lut", "lut-bias") for rows in (9, 12, 50)}
    assert (said["measurements"], said["table_entries"], said["table_measuring_s"]) == (60, None, None)
    assert said["measuring_s"] > 0
    assert "profile --lookup-table" in reasons["lut", 9]
    assert "40 measurements" in reasons["hybrid", 50]
    means = {(r["surrogate"], r["rows"]): r["accuracy"] for r in said["results"]}
    for best in said["best"][:2]:
        both = {name: means[name, best["rows"]] for name in ("hybrid", "linear")}
        assert best["winner"]["accuracy"] == max(both.values()) == both[best["winner"]["surrogate"]]
        assert best["linear"]["accuracy"] == both["linear"]
        assert (best["lut"], best["lut-bias"]) == (None, None)
    assert said["best"][2] == {"rows": 50, "winner": None, "linear": None, "lut": None, "lut-bias": None}
    table = compare("--surrogate", "hybrid", *ASKED[2:]).stdout
    assert re.search(r"lut on \S+ .*profile --lookup-table", table)
    winner = said["best"][0]["winner"]
    cells = f"{winner['accuracy']:.2f} ± .* {said['best'][0]['linear']['accuracy']:.2f} ± "
    assert re.search(rf"(?m)^ *9 +{winner['surrogate']} on {re.escape(winner['encoding'])} +{cells}", table), table


def test_a_profiled_table_is_compared_with_and_its_measuring_time_told(compare: Run, esm: Run, measured: Path) -> None:
    with Store(measured) as store:
        (content,) = store.contents()
        spent = sum(record.elapsed_s for record in store.measurements(content.space, content.target))
    esm(
        "profile",
        "--blocks",
        "--space",
        "tiny.toml",
        "--runtime",
        "dry",
        "--runs",
        10,
        "--warmup",
        1,
        "--references",
        2,
    )
    asked = ["--surrogate", "lut-bias", *ASKED[2:]]
    said = json.loads(compare(*asked, "--json").stdout)
    for best in said["best"][:2]:
        assert best["lut-bias"]["encoding"] == best["lut"]["encoding"] == "entries"
        assert best["lut-bias"]["accuracy"] > best["lut"]["accuracy"] > 0
    assert said["table_entries"] == 2 + 2 * 2 * 4  # stem, head; of 2 units the first block and another, of 4 kinds
    assert said["measuring_s"] == pytest.approx(spent)
    assert 0 < said["table_measuring_s"] < said["measuring_s"]
    assert re.search(r"s for 60 architectures, \d+ s for the 18 entries of the lookup table", compare(*asked).stdout)


def test_intervals_are_told_where_they_are_asked_for_or_cost_little(
    compare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--surrogate", "linear", "--sizes", 12, "--seeds", 2, "--test", "50%"]
    for quick, options in ((False, ["--intervals"]), (True, [])):
        monkeypatch.setitem(SURROGATES, "linear", replace(SURROGATES["linear"], quick=quick))
        said = json.loads(compare(*asked, *options, "--json").stdout)
        assert said["test"] == 30
        linear = said["results"][0]
        assert 50 < linear["coverage"] <= 100
        assert 0 < linear["width_percent"] < 50
        assert f"{linear['coverage']:.1f} ± " in compare(*asked, *options).stdout
    monkeypatch.setitem(SURROGATES, "linear", replace(SURROGATES["linear"], quick=False))
    assert "enclosed" not in compare(*asked).stdout


def test_a_file_may_be_what_is_judged_on(compare: Run, tmp_path: Path) -> None:
    other = sample(tiny_space(), 12, strategy="random", rng=Random(1))
    lines = [json.dumps({"architecture": to_json(tiny_space(), a), "latency_ms": 0.1 + a.depth}) for a in other]
    (tmp_path / "other.jsonl").write_text("\n".join(lines))
    said = json.loads(compare(*ASKED[:6], "--test", "other.jsonl", "--json").stdout)
    there = set(other) & set(sample(tiny_space(), 60, strategy="random", rng=Random(0)))
    assert (said["test"], said["available"]) == (12, 60 - len(there))


WRONG = {
    "sizes too small": (["--sizes", "2,20"], "sizes are 2, 20"),
    "no sizes": (["--sizes", "20,x"], "'20,x'.*20,50,100"),
    "surrogate": (["--surrogate", "abacus"], "'abacus'.*linear"),
    "encoding": (["--encoding", "abacus"], "'abacus'.*fcc"),
    "nothing left": (["--test", "60"], "60 .*held out and 0 left"),
    "nothing held out": (["--test", "0"], "test is 0"),
    "too large a share": (["--test", "100%"], "60 .*held out and 0 left"),
    "absent file": (["--test", "absent.jsonl"], "absent.jsonl: "),
    "absent store": (["--store", "absent.db"], "absent.db: "),
    "space": (["--space", "abacus"], "'abacus'"),
    "target": (["--target", "abacus"], "'abacus'.*dry gpu"),
    "bins": (["--bins", "50"], "N_Bins is 50"),
    "seeds": (["--seeds", "0"], "0"),
    "processes": (["--processes", "0"], "0"),
    "folder": (["--out", "tiny.toml/t.csv"], "tiny.toml"),
    "a store": (["--out", "esm.db"], "is a store"),
    "two on one output": (["--json", "--out", "-"], "--json with --out -, expected one of them"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(compare: Run, case: str) -> None:
    arguments, message = WRONG[case]
    done = compare(*arguments, code=2)
    assert re.search(message, error_of(done)), done.stderr
    assert done.stdout == ""
