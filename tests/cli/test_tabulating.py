"""`lookup-table`: a file's table, and a store's, as predictors that every other command takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.calls import Run, error_of

DATA = Path(__file__).parents[1] / "data"
TABLE, SUMS = DATA / "ofa_lut_176.csv", DATA / "ofa_176.csv"
OFA = ["--space", "ofa-mobilenetv3"]


def test_once_for_alls_table_becomes_a_predictor_that_other_commands_take(esm: Run) -> None:
    done = esm("lookup-table", TABLE, *OFA, "--out", "p.onnx")
    assert done.stderr == "note: the table, and so the predictor, has resolution 176 alone\n"
    assert done.stdout == "92 entries for ofa-mobilenetv3 on 'note10' written to p.onnx\n"
    checked = json.loads(esm("check", "p.onnx", "--json").stdout)
    assert (checked["accuracy"], checked["surrogate"], checked["target"]["name"]) == (None, "lut", "note10")
    assert "0 trained on, 0 for the interval" in esm("check", "p.onnx").stdout
    esm("data", "import", SUMS, *OFA, "--latency", "note10_lut_ms", "--store", "sums.db")
    lines = esm("data", "export", "--store", "sums.db").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    Path("a.jsonl").write_text("".join(json.dumps(row["architecture"]) + "\n" for row in rows))
    predicted = [json.loads(line) for line in esm("predict", "p.onnx", "a.jsonl").stdout.splitlines()]
    assert [row["latency_ms"] for row in predicted] == pytest.approx([row["latency_ms"] for row in rows], rel=1e-6)
    assert {(row["lower_ms"], row["upper_ms"]) for row in predicted} == {(0.0, None)}


def test_a_tables_predictor_is_evaluated_as_others_are(esm: Run, tmp_path: Path) -> None:
    """Against measurements of its own space, which it has from its table."""
    (tmp_path / "narrow.toml").write_text(NARROW)
    esm("lookup-table", TABLE, "--space", "narrow.toml", "--out", "p.onnx")
    text = SUMS.read_text()
    (tmp_path / "sums.csv").write_text(text)
    esm("data", "import", "sums.csv", "--space", "narrow.toml", "--latency", "note10_lut_ms")
    evaluated = json.loads(esm("evaluate", "p.onnx", "--json").stdout)
    assert (evaluated["measurements"], evaluated["trained_on"]) == (20, 0)
    assert evaluated["overall"]["accuracy"] == pytest.approx(100, abs=1e-4)
    assert evaluated["coverage"] == {"stated": 90.0, "measured": 100.0}


def test_the_table_that_profile_measured_becomes_a_predictor(esm: Run) -> None:
    esm("profile", "--lookup-table", "--space", "tiny.toml", "--runtime", "dry")
    told = json.loads(
        esm("lookup-table", "--store", "esm.db", "--target", "dry gpu", "--out", "p.onnx", "--json").stdout
    )
    assert told == {"predictor": "p.onnx", "space": "tiny", "target": "dry gpu", "entries": 18}
    assert json.loads(esm("check", "p.onnx", "--json").stdout)["target"]["facts"]["runtime"] == "dry"
    esm("sample", "--space", "tiny.toml", "--count", 5, "--out", "a.jsonl")
    assert len(esm("predict", "p.onnx", "a.jsonl", "--space", "tiny.toml").stdout.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TABLE], "which space is the table for? Expected --space"),
        ([TABLE, "--space", "densenet"], "ofa_lut_176.csv: "),
        (["t.yaml", *OFA], "t.yaml: does not say its device, expected its name: --target"),
        ([], "no store there"),
    ],
)
def test_misuse_is_one_line(esm: Run, tmp_path: Path, arguments: list[object], message: str) -> None:
    if "t.yaml" in arguments:
        pytest.importorskip("yaml")
        (tmp_path / "t.yaml").write_text("Conv-input:8x8x3-output:4x4x8: {mean: 1}\n")
    done = esm("lookup-table", *arguments, "--out", "p.onnx", code=2)
    assert message in error_of(done)
    assert not (tmp_path / "p.onnx").exists()


NARROW = """
name = "ofa-176"
units = 5
depth = [2, 3, 4]
[block]
kernel = [3, 5, 7]
expansion = [3, 4, 6]
[network]
resolution = [176]
[export]
writer = "mobilenetv3"
stem = 24
first = 24
widths = [32, 48, 96, 136, 192]
strides = [2, 2, 2, 1, 2]
se = [0, 1, 0, 1, 1]
hswish = [0, 0, 1, 1, 1]
head = [1152, 1536]
"""
