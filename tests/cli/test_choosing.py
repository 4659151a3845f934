"""`sample` and `genome` in Once-for-All's notation, and its spaces through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.calls import Run, error_of, lines

from esm_onnx.architectures import find_space, read_architectures, to_genome, to_json, to_ofa
from esm_onnx.prediction.loaded import LoadedPredictor

SMALL = {
    "ofa-resnet50": """
name = "small-resnets"
units = 4
depth = [[1, 2], [1, 2], [2, 3], [1]]
[block]
expansion = [0.25, 0.35]
[unit]
width = [0.65, 1]
[network]
resolution = [32, 48]
stem_block = [0, 1]
stem_middle = [0.65, 1]
stem_width = [0.65, 1]
[export]
writer = "ofa-resnet50"
widths = [32, 48, 64, 96]
stem = 32
classes = 10
""",
    "ofa-proxyless": """
name = "small-proxyless"
units = 3
depth = [[1, 2], [2, 3], [1]]
[block]
kernel = [3, 5]
expansion = [3, 6]
[network]
resolution = [32, 48]
[export]
writer = "proxyless"
stem = 16
first = 8
widths = [8, 16, 24]
strides = [2, 2, 1]
head = 48
classes = 10
""",
    "compofa-fixed": """
name = "small-compofa"
units = 2
depth = [2, 3, 4]
[coupled]
expansion = {2 = 3, 3 = 4, 4 = 6}
[network]
resolution = [32, 48]
[export]
writer = "mobilenetv3"
stem = 8
kernels = [3, 5]
widths = [8, 16]
head = [32, 32]
classes = 10
""",
}
"""Spaces with the writers and the features of those that are built in, but narrow and for small images."""


@pytest.mark.parametrize(
    "name", ["ofa-mobilenetv3", "ofa-resnet50", "ofa-proxyless", "compofa-fixed", "compofa-elastic"]
)
def test_what_is_drawn_in_either_notation_is_the_same(esm: Run, tmp_path: Path, name: str) -> None:
    drawing = ["sample", "--space", name, "--count", 20]
    esm(*drawing, "--out", "ours.jsonl")
    esm(*drawing, "--notation", "ofa", "--out", "theirs.jsonl")
    space = find_space(name)
    ours, theirs = (read_architectures(tmp_path / f"{file}.jsonl", space) for file in ("ours", "theirs"))
    assert ours == theirs
    assert lines(tmp_path / "theirs.jsonl") == [to_ofa(space, architecture) for architecture in ours]
    rows = [esm("genome", "--space", name, f"{file}.jsonl").stdout for file in ("ours", "theirs")]
    assert rows[0] == rows[1]
    for notation, write in (("esm", to_json), ("ofa", to_ofa)):
        decoded = esm("genome", "--space", name, "--decode", "--notation", notation, "-", stdin=rows[0]).stdout
        assert [json.loads(line) for line in decoded.splitlines()] == [write(space, each) for each in ours]


def test_a_space_without_the_notation_says_so(esm: Run, tmp_path: Path) -> None:
    expected = (
        "error: space 'densenet' has no notation of Once-for-All's, expected kernel, expansion and at most a reso"
    )
    asked = ["--space", "densenet", "--notation", "ofa"]
    assert error_of(esm("sample", *asked, "--count", 1, "--out", "a.jsonl", code=2)).startswith(expected)
    assert not (tmp_path / "a.jsonl").exists()
    esm("sample", "--space", "densenet", "--count", 1, "--out", "a.jsonl")
    row = esm("genome", "--space", "densenet", "a.jsonl").stdout
    assert error_of(esm("genome", *asked, "--decode", "-", stdin=row, code=2)).startswith(expected)


def test_genomes_have_no_notation(esm: Run) -> None:
    refused = esm("genome", "--space", "ofa-proxyless", "--notation", "ofa", "-", code=2)
    assert error_of(refused).startswith("error: --notation ofa is how --decode writes")
    assert "esm, ofa" in error_of(
        esm("sample", "--space", "resnet", "--count", 1, "--notation", "json", code=2)
    ).replace("'", "")


@pytest.mark.parametrize("name", SMALL)
def test_it_is_profiled_trained_and_predicted_from_dictionaries(esm: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "space.toml").write_text(SMALL[name])
    named = ["--space", "space.toml"]
    esm("sample", *named, "--count", 12, "--strategy", "random", "--notation", "ofa", "--out", "a.jsonl")
    assert "units" not in lines(tmp_path / "a.jsonl")[0]
    done = json.loads(esm("profile", *named, "--architectures", "a.jsonl", "--runtime", "dry", "--json").stdout)
    assert (done["measured"], done["failures"]) == (12, [])
    esm("train", *named, "--surrogate", "linear", "--encoding", "cost", "--out", "predictor.onnx")
    told = [json.loads(line) for line in esm("predict", "predictor.onnx", "a.jsonl").stdout.splitlines()]
    space = find_space(str(tmp_path / "space.toml"))
    genomes = np.array([to_genome(space, each) for each in read_architectures(tmp_path / "a.jsonl", space)])
    latency_ms, *_ = LoadedPredictor.open(tmp_path / "predictor.onnx").predict(genomes)
    assert [line["latency_ms"] for line in told] == pytest.approx(latency_ms.tolist(), rel=1e-4)
    costs = [json.loads(line) for line in esm("cost", *named, "a.jsonl").stdout.splitlines()]
    assert [cost["multiply_adds"] > 100_000 for cost in costs] == [True] * 12


@pytest.mark.parametrize("name", ["ofa-proxyless", "compofa-fixed"])
def test_its_blocks_are_a_lookup_table(esm: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "space.toml").write_text(SMALL[name])
    named = ["--space", "space.toml"]
    done = json.loads(esm("profile", *named, "--blocks", "--runtime", "dry", "--json").stdout)
    # two resolutions; stem and head; for each part of a unit, each combination
    entries = {"ofa-proxyless": 2 * (2 + 5 * 4), "compofa-fixed": 2 * (2 + 4 * 3)}[name]
    assert (done["measured"], done["failures"]) == (entries, [])
    esm("sample", *named, "--count", 10, "--strategy", "random", "--out", "a.jsonl")
    esm("profile", *named, "--architectures", "a.jsonl", "--runtime", "dry")
    esm("train", *named, "--surrogate", "lut-bias", "--out", "p.onnx")
    assert LoadedPredictor.open(tmp_path / "p.onnx").metadata["surrogate"] == "lut-bias"


def test_a_resnet_whose_stem_has_features_has_no_lookup_table(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SMALL["ofa-resnet50"])
    refused = esm("profile", "--space", "space.toml", "--blocks", "--runtime", "dry", code=2)
    expected = "the network of space 'small-resnets' has 4 features, expected at most one for a lookup table"
    assert expected in error_of(refused)
