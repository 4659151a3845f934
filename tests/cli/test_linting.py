"""`data lint` as a user types it: of CSV files, of a store, and of what is neither."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from cli.calls import Run, error_of

from esm_onnx.architectures import Architecture, find_space, sample, to_json
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement
from esm_onnx.measurement.store import ACCEPTED, REJECTED, Store
from esm_onnx.measurement.target import Target


def write(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    """A CSV file, gzipped where its name says so."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def ofa_rows(count: int, seed: int = 0, noise: float = 0.01) -> list[list[object]]:
    """Rows as Once-for-All writes them: digits also where no block is, and a latency that depends on real blocks."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        kernels, expansions = rng.choice([3, 5, 7], 20), rng.choice([3, 4, 6], 20)
        depths, resolution = rng.integers(2, 5, 5), int(rng.choice([160, 192, 224]))
        there = np.arange(20) % 4 < np.repeat(depths, 4)
        latency = float((expansions * (10 + kernels))[there].sum()) * resolution**2 / 1e6
        digits = ["".join(map(str, part)) for part in (kernels, expansions, depths)]
        rows.append([*digits, resolution, latency * math.exp(noise * rng.standard_normal())])
    return rows


OFA = ["ks", "e", "d", "r", "gpu_ms"]


def findings(stdout: str) -> dict[str, dict[str, object]]:
    return {finding["kind"]: finding for finding in json.loads(stdout)["findings"]}


def test_a_clean_file_gives_no_finding(esm: Run, tmp_path: Path) -> None:
    write(tmp_path / "clean.csv.gz", OFA, ofa_rows(300))
    done = esm("data", "lint", "clean.csv.gz", "--strict")
    assert done.stdout == "300 rows, features ks, e, d, r: no finding\n"
    assert json.loads(esm("data", "lint", "clean.csv.gz", "--json").stdout) == {
        "rows": 300,
        "features": ["ks", "e", "d", "r"],
        "findings": [],
    }


def test_findings_are_a_table_and_end_with_3_only_when_asked(esm: Run, tmp_path: Path) -> None:
    rows = ofa_rows(300)
    for row in rows[10:20]:
        row[-1] = -1
    write(tmp_path / "failed.csv", OFA, rows)
    done = esm("data", "lint", "failed.csv")
    assert "error  sentinels  10 of 300 values are no latencies: -1 (10×)" in done.stdout
    assert "row 11, row 12, row 13, row 14, row 15" in done.stdout
    assert done.stdout.endswith("300 rows, features ks, e, d, r: 1 error\n")
    strict = esm("data", "lint", "failed.csv", "--strict", "--json", code=3)
    assert findings(strict.stdout)["sentinels"]["rows"] == 10
    assert "1 finding that is more than a note, expected none" in error_of(strict)


def test_a_note_is_no_reason_to_fail(esm: Run, tmp_path: Path) -> None:
    write(tmp_path / "sorted.csv", OFA, sorted(ofa_rows(100), key=lambda row: float(str(row[-1]))))
    done = esm("data", "lint", "sorted.csv", "--strict", "--json")
    assert findings(done.stdout)["order"]["severity"] == "note"


def test_digits_of_blocks_that_are_absent_do_not_make_another_architecture(esm: Run, tmp_path: Path) -> None:
    rows = ofa_rows(200)
    twins = [[*row] for row in rows[:50]]
    for twin in twins:
        absent = [i for i in range(20) if i % 4 >= int(str(twin[2])[i // 4])]
        digits = list(str(twin[0]))
        for i in absent:
            digits[i] = {"3": "5", "5": "7", "7": "3"}[digits[i]]
        twin[0] = "".join(digits)
    write(tmp_path / "twins.csv", OFA, [*rows, *twins])
    duplicates = findings(esm("data", "lint", "twins.csv", "--json").stdout)["duplicates"]
    assert duplicates["message"].startswith(
        "of 200 architectures in 250 rows 50 are there more than once: 50 with the same"
    )


def test_each_file_is_a_session(esm: Run, tmp_path: Path) -> None:
    write(tmp_path / "monday.csv", OFA, ofa_rows(200, 0))
    write(tmp_path / "friday.csv", OFA, [[*row[:-1], 1.2 * float(str(row[-1]))] for row in ofa_rows(200, 1)])
    sessions = findings(esm("data", "lint", "monday.csv", "friday.csv", "--json").stdout)["sessions"]
    assert "friday.csv is +" in str(sessions["message"])
    assert sessions["severity"] == "warning"
    difference = re.search(r"is \+([0-9.]+) % against monday.csv", str(sessions["message"]))
    assert difference is not None
    assert float(difference[1]) == pytest.approx(20, abs=1)


def test_columns_of_any_layout_are_features_but_not_what_tells_rows_apart(esm: Run, tmp_path: Path) -> None:
    """Numbers, names and digits; neither other latencies, nor a number of the row, nor a hash."""
    rng = np.random.default_rng(0)
    columns = ["id", "hash", "ops", "width", "kind", "latency_ms", "other_ms", "lat"]
    rows = [
        [
            i,
            f"x{i:04x}",
            "".join(map(str, rng.integers(0, 9, 22))),
            rng.integers(8, 99),
            "ab"[i % 2],
            1 + rng.random(),
            1,
            1,
        ]
        for i in range(100)
    ]
    write(tmp_path / "any.csv", columns, rows)
    found = json.loads(esm("data", "lint", "any.csv", "--latency", "latency_ms", "--json").stdout)
    assert found["features"] == ["ops", "width", "kind"]
    chosen = json.loads(esm("data", "lint", "any.csv", "--latency", "lat", "--features", "id, kind", "--json").stdout)
    assert chosen["features"] == ["id", "kind"]
    assert "repeated value" in {finding["kind"] for finding in chosen["findings"]}


WRONG = {
    "missing.csv": "cannot be read: No such file",
    "empty.csv": "no row",
    "header.csv": "no row",
    "damaged.csv.gz": "damaged.csv.gz: cannot be read: Compressed file ended",
    "binary.csv.gz": "is not UTF-8",
    "two.csv": "2 columns that are called like latencies, expected one: choose with --latency among a_ms, b_ms",
    "lines.jsonl": "lines.jsonl: JSON Lines, expected CSV: `esm-onnx data import` it, and lint the store",
    "good.csv --latency c_ms": "no column 'c_ms', expected one of r, a_ms",
    "good.csv --features r,q": "no column 'q', expected one of r, a_ms",
    "good.csv --latency r --features a_ms empty.csv": "empty.csv: no row",
    "hole.csv": "hole.csv:3: r is '', expected a number as elsewhere",
    "words.csv": "words.csv:2: column 'a_ms' holds 'fast', expected latencies in ms",
    "lonely.csv": "no column but latencies",
    "good.csv two.csv": "two.csv: no column 'r', expected one of a_ms, b_ms",
    "good.csv --target t": "--space and --target choose from a store, expected no FILES with them",
    "good.csv --space resnet": "--space and --target choose from a store, expected no FILES with them",
    "--latency a_ms": "--latency and --features choose columns of a file, expected FILES with them",
    "--store nothing.db": "nothing.db: no store there",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_input_is_one_line(esm: Run, tmp_path: Path, arguments: str) -> None:
    write(tmp_path / "good.csv", ["r", "a_ms"], [[1, 2], [2, 3]])
    write(tmp_path / "two.csv", ["a_ms", "b_ms"], [[1, 2]])
    write(tmp_path / "header.csv", ["r", "a_ms"], [])
    write(tmp_path / "hole.csv", ["r", "a_ms"], [[1, 2], ["", 3], [2, 2]])
    write(tmp_path / "words.csv", ["r", "a_ms"], [[1, "fast"], [2, "slow"]])
    write(tmp_path / "lonely.csv", ["a_ms"], [[1]])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "lines.jsonl").write_text("{}\n")
    (tmp_path / "damaged.csv.gz").write_bytes(gzip.compress(b"r,a_ms\n1,2\n")[:-9])
    (tmp_path / "binary.csv.gz").write_bytes(bytes(range(256)))
    done = esm("data", "lint", *arguments.split(), code=2)
    assert WRONG[arguments] in error_of(done)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def latency_of(architecture: Architecture) -> float:
    return 5.0 + sum(
        float(block["expansion"]) * float(block["kernel"]) for unit in architecture.units for block in unit
    )


def test_a_store_is_linted_in_its_order_with_sessions_and_provenance(esm: Run, tmp_path: Path) -> None:
    space, target = find_space("mobilenetv3"), Target("somewhere", {"device": "abacus"})
    chosen = sample(space, 320, strategy="random", rng=Random(0))
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(chosen)))
    latencies = [latency_of(architecture) * factor for architecture, factor in zip(chosen, noise, strict=True)]
    sessions = [(0, 150, 1.0, ACCEPTED, {}), (150, 300, 1.3, ACCEPTED, {}), (0, 150, 9.0, REJECTED, {})]
    with Store(tmp_path / "esm.db") as store:
        for number, (start, end, level, status, provenance) in enumerate(sessions):
            session = store.open_session(space, target, {"of": number, **provenance})
            for architecture, latency in zip(chosen[start:end], latencies[start:end], strict=True):
                store.append(session, space, Measurement(architecture, SUBJECT, (level * latency,), 0.0))
            store.append(session, space, Measurement(chosen[0], REFERENCE, (0.001,), 0.0))
            store.close_session(session, status=status, verdict="")
        summed = [Measurement(a, SUBJECT, (latency_of(a),), 0.0) for a in chosen[300:]]
        store.add(space, target, {"how": "sum of a table"}, summed)
    found = findings(esm("data", "lint", "--store", "esm.db", "--target", "somewhere", "--json").stdout)
    assert set(found) == {"sessions", "provenance"}
    assert "session 2 is +" in str(found["sessions"]["message"])
    assert "session 3" not in str(found["sessions"]["message"])
    assert found["sessions"]["first"] == [f"session 2 row {i}" for i in range(1, 6)]
    assert found["provenance"]["first"] == [f"session 4 row {i}" for i in range(1, 6)]
    assert "20 of 320 latencies are no measurements but sum of a table" in str(found["provenance"]["message"])


def test_help_tells_how_it_ends(esm: Run) -> None:
    assert "Exits with 0 whatever it finds" in " ".join(esm("data", "lint", "--help").stdout.split())


def test_latencies_that_a_cache_repeated_are_judged_by_blocks_alone(esm: Run, tmp_path: Path) -> None:
    """As in the measured columns of CompOFA-fixed, which Syed and Srinivasan published."""
    space = find_space("compofa-fixed")
    lines = []
    different = {each.units: each for each in sample(space, 60, strategy="random", rng=Random(0))}.values()
    for i, whole in enumerate(different):
        for resolution in (160, 192, 224):
            architecture = {**to_json(space, whole), "resolution": resolution}
            lines.append(
                json.dumps({"architecture": architecture, "latency_ms": 10 + whole.depth + math.sin(i)}) + "\n"
            )
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    esm("data", "import", "rows.jsonl", "--space", space.name, "--target", "t")
    for command in (["train", "--out", "p.onnx"], ["tune", "--out", "p.onnx"], ["compare"]):
        assert f"{len(lines)} rows hold {len(different)} measurements" in (refused := error_of(esm(*command, code=2)))
        assert "take --split blocks" in refused
    by_blocks = ["--split", "blocks", "--surrogate", "linear", "--json"]
    assert json.loads(esm("train", "--out", "p.onnx", *by_blocks).stdout)["overall"]["count"] == len(lines)
    compared = json.loads(esm("compare", *by_blocks, "--seeds", 1, "--sizes", 100).stdout)
    assert compared["results"][0]["seeds"] == 1
