"""`esm-onnx cost` as a user types it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cli.calls import Run, error_of, lines

from esm_onnx.architectures import find_space, read_architectures
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import cost_of

FIELDS = ["multiply_adds", "parameters", "traffic_bytes", "layers"]
RESNET_50 = {"space": "resnet", "units": [[{"kernel": 3, "expansion": 1}] * depth for depth in (3, 4, 6, 3)]}


def test_a_line_for_each_architecture(esm: Run, tmp_path: Path) -> None:
    esm("sample", "--space", "tiny.toml", "--count", 5, "--out", "a.jsonl")
    space = find_space(str(tmp_path / "tiny.toml"))
    expected = [
        asdict(cost_of(space, architecture)) for architecture in read_architectures(tmp_path / "a.jsonl", space)
    ]
    told = [json.loads(line) for line in esm("cost", "a.jsonl", "--space", "tiny.toml").stdout.splitlines()]
    assert told == expected
    assert all(list(line) == FIELDS for line in told)
    assert len({line["multiply_adds"] for line in told}) == 5
    assert esm("cost", "a.jsonl", "--space", "tiny.toml", "--out", "costs.jsonl").stdout == ""
    assert lines(tmp_path / "costs.jsonl") == expected
    typed = esm("cost", "-", "--space", "tiny.toml", stdin=(tmp_path / "a.jsonl").read_text()).stdout
    assert [json.loads(line) for line in typed.splitlines()] == expected
    both = esm("cost", "a.jsonl", "--space", "tiny.toml", "--table", "--out", "costs.jsonl", code=2)
    assert error_of(both) == "error: --out takes JSON Lines, expected no --table beside it"


def test_a_space_that_everyone_has_need_not_be_named(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RESNET_50))
    (line,) = [json.loads(line) for line in esm("cost", "a.jsonl").stdout.splitlines()]
    assert line["parameters"] == 25_557_032 - 26_560  # torchvision's, less a number for each channel of a batch norm
    assert round(line["multiply_adds"] / 1e9, 2) == 4.09
    assert json.loads(esm("cost", "a.jsonl", "--space", "resnet").stdout) == line


def test_a_table_to_be_read(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RESNET_50) + "\n" + json.dumps(RESNET_50))
    header, *rows = esm("cost", "a.jsonl", "--table").stdout.splitlines()
    assert header.split() == ["multiply", "adds", "parameters", "traffic", "bytes", "layers"]
    assert len(rows) == 2
    for row in rows:
        multiply_adds, parameters, _, layers = row.split()
        assert (parameters, layers) == ("25,530,472", "54")
        assert multiply_adds.startswith("4,0")


def test_a_batch_is_counted_whole(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RESNET_50))
    one, eight = (json.loads(esm("cost", "a.jsonl", "--batch", batch).stdout) for batch in (1, 8))
    space = find_space("resnet")
    (architecture,) = read_architectures(tmp_path / "a.jsonl", space)
    assert eight == asdict(cost_of(space, architecture, ExportSettings(batch=8)))
    assert eight["multiply_adds"] == 8 * one["multiply_adds"]
    assert eight["traffic_bytes"] - 4 * eight["parameters"] == 8 * (one["traffic_bytes"] - 4 * one["parameters"])
    assert (eight["parameters"], eight["layers"]) == (one["parameters"], one["layers"])


def test_nothing_is_counted_where_a_line_is_wrong(esm: Run, tmp_path: Path) -> None:
    good = json.dumps(RESNET_50)
    wrong = json.dumps({**RESNET_50, "units": [[{"kernel": 4, "expansion": 1}]] * 4})
    for content, arguments, message in (
        (f"{good}\n{wrong}\n", ["a.jsonl"], "a.jsonl:2: unit 1, block 1: kernel is 4, expected one of 3, 5, 7"),
        (good, ["-"], "standard input is read once: give its --space"),
        ('{"units": []}', ["a.jsonl"], "a.jsonl:1: space is None, expected one of resnet, mobilenetv3, densenet"),
        ("[1]", ["a.jsonl"], "a.jsonl:1: space is None, expected one of"),
        ('{"space": "tiny"}', ["a.jsonl"], "a.jsonl:1: space is 'tiny', expected one of"),
        ('{"space": "tiny"}', ["a.jsonl"], "give any other with --space"),
        ("", ["a.jsonl"], "a.jsonl:1: space is None, expected one of"),
        ("7 8", ["a.jsonl"], "a.jsonl:1: not JSON"),
        (good, ["absent.jsonl"], "absent.jsonl"),
        (good, ["a.jsonl", "--batch", 0], "0 is not in the range"),
        (good, ["a.jsonl", "--space", "mobilenetv3"], "'resnet', expected 'mobilenetv3'"),
    ):
        (tmp_path / "a.jsonl").write_text(content)
        done = esm("cost", *arguments, code=2)
        assert message in error_of(done)
        assert done.stdout == ""
    (tmp_path / "bare.toml").write_text((tmp_path / "tiny.toml").read_text().partition("[export]")[0])
    esm("sample", "--space", "tiny.toml", "--count", 2, "--out", "a.jsonl")
    assert "no [export]" in error_of(esm("cost", "a.jsonl", "--space", "bare.toml", code=2))
