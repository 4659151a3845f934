"""`data import` of what people already have, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.calls import Run, error_of, lines

HERE = Path(__file__).parents[1] / "data"
OFA = ["--space", "ofa-mobilenetv3"]
NOTATION = {"ks": [3] * 20, "e": [4] * 20, "d": [2, 3, 4, 2, 3], "r": 176}


def listed(esm: Run) -> dict[str, tuple[int, list[str]]]:
    contents = json.loads(esm("data", "list", "--json").stdout)
    return {content["target"]: (content["measurements"], content["provenance"]) for content in contents}


def test_columns_of_one_file_become_targets_that_say_how_they_came_about(esm: Run, tmp_path: Path) -> None:
    file = HERE / "ofa_176.csv"
    done = esm("data", "import", file, *OFA, "--latency", "tesla_p40_ms")
    assert done.stdout == "20 measurements of ofa-mobilenetv3 on 'tesla_p40' imported into esm.db\n"
    again = esm("data", "import", file, *OFA, "--latency", "tesla_p40_ms").stdout
    assert "0 measurements" in again
    assert "imported before" in again
    (tmp_path / "renamed.csv").write_bytes(file.read_bytes())
    for other in ([HERE / "ofa_176.csv", "--provenance", "by hand"], [tmp_path / "renamed.csv"]):
        assert "imported before" in esm("data", "import", *other, *OFA, "--latency", "tesla_p40_ms").stdout
    summed = ["--latency", "note10_lut_ms", "--provenance", "sum of a table"]
    told = json.loads(esm("data", "import", file, *OFA, *summed, "--target", "note 10", "--json").stdout)
    assert told == {"imported": {"note 10": 20}, "left_out": 0, "store": "esm.db"}
    assert listed(esm) == {"tesla_p40": (20, ["measured"]), "note 10": (20, ["sum of a table"])}
    header, first, second = esm("data", "list").stdout.splitlines()
    assert header.split()[-1] == "provenance"
    assert (first.split()[-1], second.split("  ")[-1].strip()) == ("measured", "sum of a table")
    esm("data", "export", "--out", "out.jsonl", "--target", "note 10")
    assert [line["provenance"]["how"] for line in lines(tmp_path / "out.jsonl")] == ["sum of a table"] * 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "absent.csv: cannot be read"),
        ("semi.csv", "ks;e;d;r;latency_ms\n", "semi.csv:1: cells between semicolons, expected commas"),
        ("tabs.csv", "ks\te\td\tr\tlatency_ms\n", "tabs.csv:1: cells between tabs, expected commas"),
        ("bad.jsonl", "{}\n", "bad.jsonl:1: "),
    ],
)
def test_a_file_that_is_refused_leaves_no_store(
    esm: Run, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert message in error_of(esm("data", "import", name, *OFA, "--store", "new.db", code=2))
    assert not (tmp_path / "new.db").exists()


def test_a_folder_is_no_file(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "dir.jsonl").mkdir()
    assert "expected a file" in error_of(esm("data", "import", "dir.jsonl", *OFA, code=2))
    (tmp_path / "dir.db").mkdir()
    (tmp_path / "a.jsonl").write_text(json.dumps({"architecture": NOTATION, "latency_ms": 1.0}) + "\n")
    error = error_of(esm("data", "import", "a.jsonl", *OFA, "--target", "a", "--store", "dir.db", code=2))
    assert "dir.db: " in error
    assert "folder, expected a file" in error


def test_sums_of_a_lookup_table(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "archs.jsonl").write_text(f"{json.dumps(NOTATION)}\n{json.dumps({**NOTATION, 'd': [2] * 5})}\n")
    table = HERE / "ofa_lut_176.csv"
    esm("data", "import", table, *OFA, "--format", "ofa-lut", "--architectures", "archs.jsonl")
    assert listed(esm) == {"note10": (2, ["sum of a table"])}
    assert "--architectures" in error_of(esm("data", "import", table, *OFA, code=2))


def test_digits_into_a_space_of_ones_own(esm: Run) -> None:
    fbnet = ["--space", HERE / "fbnet.toml"]
    esm("data", "import", HERE / "fbnet.csv", *fbnet, "--latency", "raspi4_ms", "--target", "Raspberry Pi 4")
    assert listed(esm) == {"Raspberry Pi 4": (6, ["measured"])}


def test_a_table_of_ones_own_with_columns_of_other_names(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("op,t\nconv,1.5\nskip,0.25\n")
    (tmp_path / "one.toml").write_text('name = "one"\nunits = 1\ndepth = [1]\n[block]\nop = ["conv", "skip"]\n')
    esm("data", "import", "mine.csv", "--space", "one.toml", "--column", "u1b1.op=op", "--target", "x")
    exported = [json.loads(line) for line in esm("data", "export").stdout.splitlines()]
    assert [(line["architecture"]["units"], line["latency_ms"]) for line in exported] == [
        ([[{"op": "conv"}]], 1.5),
        ([[{"op": "skip"}]], 0.25),
    ]


def test_rows_without_a_latency_are_refused_or_left_out_aloud(esm: Run, tmp_path: Path) -> None:
    text = (HERE / "ofa_176.csv").read_text().replace(",50.829601", ",-1").replace(",37.979889", ",nan")
    (tmp_path / "bad.csv").write_text(text)
    importing = ["data", "import", "bad.csv", *OFA, "--latency", "tesla_p40_ms"]
    message = error_of(esm(*importing, code=2))
    assert message.startswith("error: bad.csv:2: latency_ms is -1.0, expected a positive number of ms")
    assert "--skip-invalid" in message
    done = esm(*importing, "--skip-invalid", "--json")
    assert done.stderr == "2 rows without a latency left out, the first in line 2\n"
    assert json.loads(done.stdout) == {"imported": {"tesla_p40": 18}, "left_out": 2, "store": "esm.db"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "3 columns may be the latency, expected one: name it with --latency; there are note10_lut_ms, rtx2080ti_ms",
        ),
        (["--latency", "abacus"], "no column 'abacus' of latencies"),
        (["--column", "ks"], "'ks' names no column, expected for example u1b1.kernel=k11"),
        (["--column", "ks=kernels", "--latency", "tesla_p40_ms"], "--column ks=NAME"),
        (["--format", "xml"], "'xml' is not one of 'jsonl', 'csv', 'ofa-lut'"),
        (["--format", "jsonl"], "ofa_176.csv:1: not JSON"),
        (["--architectures", "a.jsonl"], "--architectures means nothing for format 'csv', expected ofa-lut"),
        (["--provenance", "", "--latency", "tesla_p40_ms"], "provenance is ''"),
    ],
    ids=" ".join,
)
def test_misuse_is_one_line(esm: Run, options: list[str], message: str) -> None:
    done = esm("data", "import", HERE / "ofa_176.csv", *OFA, *options, code=2)
    assert message in error_of(done)
    assert len(done.stderr.splitlines()) == 1


def test_once_for_alls_notation_is_read_where_architectures_are(esm: Run, tmp_path: Path) -> None:
    (tmp_path / "archs.jsonl").write_text(json.dumps(NOTATION))
    (row,) = [json.loads(line) for line in esm("genome", *OFA, "archs.jsonl").stdout.splitlines()]
    places = [[0, 1] * 2 + [-1] * 4, [0, 1] * 3 + [-1] * 2, [0, 1] * 4, [0, 1] * 2 + [-1] * 4, [0, 1] * 3 + [-1] * 2]
    assert row == [(176 - 112) // 4, *(index for unit in places for index in unit)]
    measured = {"architecture": NOTATION, "latency_ms": 3.0}
    (tmp_path / "m.jsonl").write_text(json.dumps(measured))
    esm("data", "import", "m.jsonl", *OFA, "--target", "x")
    assert listed(esm) == {"x": (1, ["measured"])}


def exported(esm: Run, *options: object) -> list[dict[str, object]]:
    return [json.loads(line) for line in esm("data", "export", *options).stdout.splitlines()]


def test_stores_made_on_two_devices_stay_apart_in_one_though_both_call_theirs_the_same(esm: Run) -> None:
    esm("sample", "--space", "tiny.toml", "--count", 3, "--out", "archs.jsonl")
    there = {"one.db": ["--device", "board"], "two.db": ["--device", "board", "--threads", 2]}
    measured = {}
    for store, options in there.items():
        measuring = (
            "--space",
            "tiny.toml",
            "--runtime",
            "dry",
            "--target",
            "my board",
            "--architectures",
            "archs.jsonl",
        )
        esm("profile", *measuring, "--store", store, *options)
        measured[store] = exported(esm, "--store", store, "--runs")
        esm("data", "export", "--store", store, "--runs", "--out", f"{store}.jsonl")
        told = esm("data", "import", f"{store}.jsonl", "--space", "tiny.toml", "--store", "here.db").stdout
        assert told == "3 measurements of tiny on 'my board' imported into here.db\n"
    listed = json.loads(esm("data", "list", "--store", "here.db", "--json").stdout)
    assert [(each["target"], each["measurements"]) for each in listed] == [("my board", 3)] * 2
    assert [each["facts"] for each in listed] == [rows[0]["facts"] for rows in measured.values()]
    assert [each["facts"]["threads"] for each in listed] == [1, 2]
    for each, rows in zip(listed, measured.values(), strict=True):
        here = exported(esm, "--store", "here.db", "--target", each["digest"], "--runs")
        for name in ("architecture", "latency_ms", "runs_ms", "started_at", "facts"):
            assert [row[name] for row in here] == [row[name] for row in rows]
    assert "my board" in error_of(esm("train", "--store", "here.db", "--out", "predictor.onnx", code=2))
