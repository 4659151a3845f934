"""`report` and `plot` on what the other commands wrote, and on what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.calls import Run, error_of

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'esm-onnx[report]'")


def test_all_that_the_commands_write_becomes_one_page(esm: Run, tmp_path: Path) -> None:
    pytest.importorskip("pymoo", reason="pymoo is not installed: pip install 'esm-onnx[search]'")
    measuring = ("--runtime", "dry", "--store", "esm.db")
    loop = ("--initial", 30, "--step", 10, "--max-measurements", 50, "--threshold", "99.9%", "--surrogate", "linear")
    esm("build", "--space", "tiny.toml", *measuring, *loop, "--out", "p.onnx", code=3)
    esm("profile", "--space", "tiny.toml", *measuring, "--device", "cpu", "--architectures", some(esm, tmp_path))
    esm("compare", "--target", "dry gpu", "--surrogate", "tree", "--sizes", "10,20", "--seeds", 2, "--out", "c.csv")
    found = esm("search", "--predictor", "p.onnx", "--front", "--verify", 3, *measuring, "--generations", 3, "--json")
    Path("s.json").write_text(found.stdout)
    given = ("--store", "esm.db", "--predictor", "p.onnx", "--comparison", "c.csv", "--search", "s.json")
    told = json.loads(esm("report", *given, "--out", "r.html", "--json").stdout)
    text = Path("r.html").read_text()
    assert told == {"report": "r.html", "charts": text.count("<figure"), "bytes": len(text.encode())}
    for title in (
        "Where the time went",
        "Rounds of the loop",
        "Found by search",
        "Learning curve",
        "Interval coverage",
    ):
        assert text.count(f">{title}</h3>") == 1 + (title == "Where the time went"), title
    assert "esm.db, p.onnx, c.csv, s.json" in text
    drawn = esm("plot", "rounds", *given, "--out", "rounds.svg")
    assert "written to rounds.svg, its numbers to rounds.csv" in drawn.stdout
    rounds = json.loads(esm("check", "p.onnx", "--json").stdout)
    assert rounds  # the predictor is still whole with its rounds inside
    assert len(Path("rounds.csv").read_text().splitlines()) == 4  # 30, 40 and 50 measurements
    assert "<svg" in Path("rounds.svg").read_text()


def some(esm: Run, folder: Path) -> Path:
    esm("sample", "--space", "tiny.toml", "--strategy", "random", "--count", 8, "--out", "a.jsonl")
    return folder / "a.jsonl"


def test_what_is_wrong_is_told_in_one_line(esm: Run, tmp_path: Path) -> None:
    asked = some(esm, tmp_path)
    for device in ("gpu", "cpu"):
        esm("profile", "--space", "tiny.toml", "--runtime", "dry", "--device", device, "--architectures", asked)
    gpu = ("--store", "esm.db", "--target", "dry gpu")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("bad.csv").write_text("surrogate,encoding,rows,accuracy,accuracy_std\nmlp,fcc,20,much,\n")
    Path("bad.json").write_text('{"quantity": "latency_ms"}')
    Path("nan.json").write_text(
        '{"quantity": "latency_ms", "objective": "accuracy", "found": [{"accuracy": NaN, "latency_ms": 1}]}'
    )
    for arguments, words in (
        (("report",), "of what? Expected --store"),
        (("report", "--store", "none.db"), "none.db: no store there"),
        (("report", "--store", "esm.db", "--target", "abacus"), "nothing measured of that space and target"),
        (("report", "--comparison", "other.csv"), "other.csv: no column 'surrogate'"),
        (("report", "--comparison", "bad.csv"), "bad.csv:2: accuracy is 'much', expected a number"),
        (("report", "--search", "bad.json"), "bad.json: lacks 'found'"),
        (("report", "--search", "nan.json"), "nan.json: a figure of an architecture is no number"),
        (("report", "--predictor", "other.csv"), "other.csv: not an ONNX file"),
        (("plot", "rounds", "--store", "esm.db", "--out", "x.svg"), "no data for the chart 'rounds': it needs"),
        (("plot", "depths", *gpu[:2], "--out", "x.svg"), "2 charts 'depths', expected one: choose with --space"),
        (("plot", "depths", *gpu, "--out", "x.gif"), "ends in .svg, .png, .pdf"),
        (("plot", "pie", "--store", "esm.db", "--out", "x.svg"), "'pie' is not one of"),
    ):
        assert words in error_of(esm(*arguments, code=2)), arguments
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob("x.*"))


def test_pictures_are_only_loaded_where_they_are_drawn(esm_process: Run, tmp_path: Path) -> None:
    esm_process("sample", "--space", "tiny.toml", "--strategy", "random", "--count", 3, "--out", "a.jsonl")
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('No module', name='matplotlib')\n")
    esm_process("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl")
    done = esm_process("report", "--store", "esm.db", code=2)
    assert "pip install 'esm-onnx[report]'" in error_of(done)
