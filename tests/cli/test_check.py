"""`check`, and what `predict` and `evaluate` verify: as a user types it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from cli.calls import Run, error_of

QUICK = ["--runs", "10", "--warmup", "1", "--references", "2"]


@pytest.fixture
def trained(esm: Run) -> Run:
    """`esm-onnx` in a folder with p.onnx, predictor of an imaginary device, and some more architectures."""
    esm("sample", "--space", "tiny.toml", "--strategy", "balanced", "--count", 30, "--out", "a.jsonl")
    esm("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl", *QUICK)
    esm("train", "--surrogate", "linear", "--held-out", "20%", "--out", "p.onnx")
    return esm


def test_check_tells_what_it_verified(trained: Run, tmp_path: Path) -> None:
    told = json.loads(trained("check", "p.onnx", "--json").stdout)
    assert (told["space"]["name"], told["quantity"], told["surrogate"]) == ("tiny", "latency_ms", "linear")
    assert told["target"]["facts"]["runtime"] == "dry"
    assert sum(told["measurements"].values()) == 30
    zeros = (tmp_path / "p.onnx").read_bytes().replace(told["sha256"].encode(), b"0" * 64)
    assert told["sha256"] == hashlib.sha256(zeros).hexdigest()
    assert told["selftest"]["rows"] > 8
    assert 0 <= told["selftest"]["deviation"] <= 1e-5 < told["selftest"]["tolerance"]
    assert (told["speed"]["threads"], told["speed"]["batch"]) == (1, 1024)
    assert told["speed"]["call_ms"] > 0
    assert told["speed"]["per_second"] > 0


def test_check_prints_it_for_people(trained: Run) -> None:
    printed = " ".join(trained("check", "p.onnx").stdout.split())
    sha256 = json.loads(trained("check", "p.onnx", "--json").stdout)["sha256"]
    for expected in (
        r"space tiny \([0-9a-f]{16}\)",
        r"target dry.*\(.*runtime dry.*\)",
        r"predicts latency_ms, by linear on fcc",
        r"measurements \d+ trained on, \d+ for the interval",
        rf"SHA-256 {sha256}, as written",
        r"self-test \d+ test genomes, greatest deviation .* %",
        r"one call [\d.]+ µs in one thread",
        r"batches of 1,024 [\d,]+ predictions/s in one thread",
    ):
        assert re.search(expected, printed), (expected, printed)


def test_a_changed_predictor_is_refused_by_each_command_unless_told_otherwise(trained: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    expected = trained("predict", "p.onnx", "a.jsonl").stdout
    path.write_bytes(path.read_bytes().replace(b"trained_on", b"trained_0n", 1))
    commands = (["check", "p.onnx"], ["predict", "p.onnx", "a.jsonl"], ["evaluate", "p.onnx"])
    for command in commands:
        done = trained(*command, code=2)
        assert re.search(r"^error: p.onnx: its SHA-256 is \w+…, expected \w+…: it was changed", error_of(done))
        assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    path.write_bytes(path.read_bytes().replace(b"trained_0n", b"trained_on", 1).replace(b"esm-onnx 0", b"esm-onnx 9"))
    trained("predict", "p.onnx", "a.jsonl", code=2)
    assert trained("predict", "p.onnx", "a.jsonl", "--no-verify").stdout == expected
    trained("evaluate", "p.onnx", "--no-verify")


def test_what_is_no_predictor_is_told_in_one_line(esm: Run) -> None:
    assert "tiny.toml: not an ONNX file" in error_of(esm("check", "tiny.toml", code=2))
    assert "absent.onnx" in error_of(esm("check", "absent.onnx", code=2))
