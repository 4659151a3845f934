"""The command line as a user types it: the calls of the README, and wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cli.calls import TINY_TOML, Run, error_of, lines

from esm_onnx.architectures import find_space
from esm_onnx.measurement.store import Store
from esm_onnx.testing import TINY_TABLE

QUICK = ["--runs", "10", "--warmup", "1", "--references", "2"]
BUILD = ["build", "--space", "tiny.toml", "--runtime", "dry", "--device", "cpu", *QUICK]


def test_the_toml_of_these_tests_is_the_tiny_space(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    assert find_space(str(tmp_path / "tiny.toml")).table(export=True)["export"] == TINY_TABLE["export"]


def test_the_line_from_sampling_to_prediction(esm: Run, tmp_path: Path) -> None:
    esm("sample", "--space", "tiny.toml", "--strategy", "balanced", "--count", 60, "--seed", 0, "--out", "a.jsonl")
    architectures = lines(tmp_path / "a.jsonl")
    assert len(architectures) == 60

    genomes = [json.loads(line) for line in esm("genome", "--space", "tiny.toml", "a.jsonl").stdout.splitlines()]
    decoded = esm("genome", "--space", "tiny.toml", "--decode", "-", stdin="\n".join(map(str, genomes))).stdout
    assert [json.loads(line) for line in decoded.splitlines()] == architectures

    esm("export", "--space", "tiny.toml", "--architectures", "a.jsonl", "--out", "subnets/")
    index = lines(tmp_path / "subnets" / "subnets.jsonl")
    assert [line["architecture"] for line in index] == architectures
    assert all((tmp_path / "subnets" / str(line["file"])).is_file() for line in index)

    measuring = ["--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl", "--store", "esm.db", *QUICK]
    outcome = json.loads(esm("profile", *measuring, "--json").stdout)
    assert (outcome["measured"], outcome["already_measured"], outcome["failures"]) == (60, 0, [])
    assert json.loads(esm("profile", *measuring, "--json").stdout)["already_measured"] == 60

    trained = json.loads(esm("train", "--store", "esm.db", "--held-out", "20%", "--out", "p.onnx", "--json").stdout)
    assert trained["measurements"] == 60
    assert trained["overall"]["accuracy"] > 80
    evaluated = json.loads(esm("evaluate", "p.onnx", "--store", "esm.db", "--json").stdout)
    assert evaluated["trained_on"] + evaluated["measurements"] == 60
    assert evaluated["overall"] == pytest.approx(
        trained["overall"], rel=1e-3
    )  # on the rows that `train` held out, and no others
    assert evaluated["coverage"]["measured"] is None  # those rows set the interval
    drawing = ["--space", "tiny.toml", "--strategy", "random", "--count", 30, "--exclude", "a.jsonl"]
    esm("sample", *drawing, "--out", "more.jsonl")
    esm("profile", *[part.replace("a.jsonl", "more.jsonl") for part in measuring])
    more = json.loads(esm("evaluate", "p.onnx", "--store", "esm.db", "--json").stdout)
    assert (more["trained_on"], more["measurements"]) == (evaluated["trained_on"], evaluated["measurements"] + 30)
    assert 50 < more["coverage"]["measured"] <= 100
    assert "accuracy" in esm("evaluate", "p.onnx", "--store", "esm.db").stdout
    esm("evaluate", "p.onnx", "--store", "esm.db", "--threshold", "99.999%", code=3)

    predicted = [json.loads(line) for line in esm("predict", "p.onnx", "a.jsonl").stdout.splitlines()]
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    names = ["latency_ms", "lower_ms", "upper_ms"]
    columns = session.run(names, {"genome": np.array(genomes, np.int64)})
    for name, column in zip(names, columns, strict=True):
        np.testing.assert_allclose([row[name] for row in predicted], column, rtol=1e-5)


def test_profile_really_runs_on_this_cpu(esm: Run, tmp_path: Path) -> None:
    esm("sample", "--space", "tiny.toml", "--count", 3, "--out", "a.jsonl")
    asked = ["--space", "tiny.toml", "--architectures", "a.jsonl", "--plain", "--tolerance", "900%", *QUICK]
    outcome = json.loads(esm("profile", "--runtime", "cpu", "--json", *asked).stdout)
    assert outcome["measured"] == 3
    assert outcome["facts"]["onnxruntime"] == onnxruntime.__version__
    with Store(tmp_path / "esm.db") as store:
        (content,) = store.contents()
        assert all(m.latency_ms > 0 for m in store.measurements(content.space, content.target))


def test_data_goes_out_and_comes_in(esm: Run, tmp_path: Path) -> None:
    drawn = esm("sample", "--space", "mobilenetv3", "--count", 40).stdout.splitlines()
    rows = [{"architecture": json.loads(a), "latency_ms": 1 + 0.1 * i} for i, a in enumerate(drawn)]
    (tmp_path / "measured.jsonl").write_text("\n".join(map(json.dumps, rows)))
    esm("data", "import", "measured.jsonl", "--space", "mobilenetv3", "--target", "a100", "--store", "esm.db")
    esm("data", "export", "--store", "esm.db", "--out", "out.jsonl")
    exported = lines(tmp_path / "out.jsonl")
    assert [{k: line[k] for k in ("architecture", "latency_ms")} for line in exported] == rows
    assert {line["target"] for line in exported} == {"a100"}
    (listed,) = json.loads(esm("data", "list", "--store", "esm.db", "--json").stdout)
    assert (listed["space"], listed["target"], listed["measurements"]) == ("mobilenetv3", "a100", 40)
    esm("train", "--store", "esm.db", "--out", "p.onnx")


def test_lists(esm_process: Run) -> None:
    assert {space["name"] for space in json.loads(esm_process("spaces", "--json").stdout)} == {
        "resnet",
        "mobilenetv3",
        "densenet",
        "ofa-mobilenetv3",
        "ofa-resnet50",
        "ofa-proxyless",
        "compofa-fixed",
        "compofa-elastic",
    }
    table = esm_process("spaces").stdout
    assert "8.38e+26" in table
    assert "expansion {2: 3, 3: 4, 4: 6}" in table
    assert {"name": "ort-cpu", "aliases": ["cpu"], "problem": None} in json.loads(
        esm_process("runtimes", "--json").stdout
    )
    assert "ort-cpu" in esm_process("runtimes").stdout


def test_misuse_is_one_line_and_told_before_any_work(esm: Run, tmp_path: Path) -> None:
    esm("sample", "--space", "tiny.toml", "--count", 3, "--out", "a.jsonl")
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        (["sample", "--space", "tiny.toml", "--count", 0], "0 is not in the range"),
        (["sample", "--space", "tiny.toml", "--count", 1, "--out", "folder"], "folder is a folder, expected a file"),
        (["export", "--space", "tiny.toml", "--architectures", "a.jsonl", "--out", "a.jsonl"], "expected a folder"),
        ([*BUILD, "--out", "folder"], "folder is a folder"),
        ([*BUILD, "--out", "a.jsonl/p.onnx"], "a.jsonl is no folder to write in"),
        ([*BUILD, "--out", "p.onnx", "--seed", 10**20], "is not in the range"),
        ([*BUILD, "--out", "p.onnx", "--deadline", "inf"], "is not in the range"),
        ([*BUILD, "--out", "p.onnx", "--tolerance", "3"], "'3' is no share"),
        (["abacus"], "No such command 'abacus'"),
    ):
        done = esm(*arguments, code=2)
        assert message in error_of(done)
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "esm.db").exists()


GOOD_ARCHITECTURE = '{"space": "tiny", "units": [[{"kernel": 3, "expansion": 1}], [{"kernel": 3, "expansion": 1}]]}'
BAD_ARCHITECTURES = {
    "torn": ('{"space": "tiny", "uni', "a.jsonl:2: not JSON"),
    "another space": ('{"space": "resnet", "units": []}', "a.jsonl:2: .*'resnet', expected 'tiny'"),
    "no space": ('{"units": []}', "a.jsonl:2: .*'space'"),
    "no units": ('{"space": "tiny"}', "a.jsonl:2: .*'units'"),
    "too few units": ('{"space": "tiny", "units": [[{"kernel": 3, "expansion": 1}]]}', "a.jsonl:2: .*1 units?"),
    "unknown option": (
        '{"space": "tiny", "units": [[{"kernel": 4, "expansion": 1}], [{"kernel": 3, "expansion": 1}]]}',
        "a.jsonl:2: .*kernel.*4.*3, 5",
    ),
    "missing feature": (
        '{"space": "tiny", "units": [[{"kernel": 3}], [{"kernel": 3, "expansion": 1}]]}',
        "a.jsonl:2: .*expansion",
    ),
    "no object": ("7", "a.jsonl:2: "),
}


@pytest.mark.parametrize("case", BAD_ARCHITECTURES)
@pytest.mark.parametrize("command", ["genome", "export", "profile"])
def test_bad_architectures_are_named(esm: Run, tmp_path: Path, command: str, case: str) -> None:
    bad, message = BAD_ARCHITECTURES[case]
    (tmp_path / "a.jsonl").write_text(f"{GOOD_ARCHITECTURE}\n{bad}\n")
    arguments = {
        "genome": ["genome", "--space", "tiny.toml", "a.jsonl"],
        "export": ["export", "--space", "tiny.toml", "--architectures", "a.jsonl", "--out", "subnets"],
        "profile": ["profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl"],
    }[command]
    done = esm(*arguments, code=2)
    assert re.search(message, error_of(done)), done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "subnets").exists()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (TINY_TOML.replace("[1, 2, 3, 4]", "[0, 2]"), r"bad.toml:4: depth.*0"),
        (TINY_TOML.replace("[1, 2, 3, 4]", "[[1], [2], [3]]"), r"bad.toml:4: depth.*3.*2"),
        (TINY_TOML.replace("[3, 5]", "[3, 3]"), r"bad.toml:6: kernel"),
        (TINY_TOML.replace("units = 2", "units = two"), r"bad.toml:3: not TOML"),
    ],
)
def test_a_bad_toml_space_is_named(esm: Run, tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(toml)
    assert re.search(message, error_of(esm("sample", "--space", "bad.toml", "--count", 1, code=2)))


def test_wrong_stores_predictors_and_names_are_one_line_each(esm: Run, tmp_path: Path) -> None:
    esm("sample", "--space", "resnet", "--count", 2, "--out", "resnet.jsonl")
    esm("sample", "--space", "tiny.toml", "--count", 30, "--out", "a.jsonl")
    esm("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl", *QUICK)
    esm("train", "--out", "p.onnx")

    wrong_space = error_of(esm("predict", "p.onnx", "a.jsonl", "--space", "resnet", code=2))
    assert re.search(r"p.onnx: a predictor for space 'tiny'.*expected one for 'resnet'", wrong_space)
    resnets = [json.loads(line) for line in (tmp_path / "resnet.jsonl").read_text().splitlines()]
    rows = [json.dumps({"architecture": a, "latency_ms": 1.0}) for a in resnets]
    (tmp_path / "measured.jsonl").write_text("\n".join(rows))
    esm("data", "import", "measured.jsonl", "--space", "resnet", "--target", "x", "--store", "other.db")
    wrong_store = error_of(esm("evaluate", "p.onnx", "--store", "other.db", code=2))
    assert re.search(r"p.onnx: a predictor for space 'tiny'.*expected one for 'resnet'", wrong_store)
    assert "resnet.jsonl:1: " in error_of(esm("predict", "p.onnx", "resnet.jsonl", code=2))
    assert "a.jsonl" in error_of(esm("predict", "a.jsonl", "a.jsonl", code=2))
    assert "absent.onnx" in error_of(esm("predict", "absent.onnx", "a.jsonl", code=2))
    assert "absent.jsonl" in error_of(esm("predict", "p.onnx", "absent.jsonl", code=2))
    done = esm("train", "--store", "a.jsonl", "--out", "q.onnx", code=2)
    assert "a.jsonl: cannot be used as a store" in error_of(done)
    assert "absent.db" in error_of(esm("train", "--store", "absent.db", "--out", "q.onnx", code=2))
    assert "'abacus'" in error_of(esm("sample", "--space", "abacus", "--count", 1, code=2))
    arguments = ["--space", "tiny.toml", "--architectures", "a.jsonl"]
    assert "'abacus'" in error_of(esm("profile", *arguments, "--runtime", "abacus", code=2))
    assert "'abacus'" in error_of(esm("train", "--target", "abacus", "--out", "q.onnx", code=2))
    assert re.search(r"tiny.*left.*asked", error_of(esm("sample", "--space", "tiny.toml", "--count", 10**6, code=2)))
    assert not (tmp_path / "q.onnx").exists()
