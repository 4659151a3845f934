"""`profile` with its ways of measuring, `doctor` and `data sessions`, as a user types them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from cli.calls import WITHOUT_EXPORT, Run, error_of

from esm_onnx.architectures import sample, to_json
from esm_onnx.measurement.estimate import relative_error, trimmed_mean
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

SPACE = ["--space", "tiny.toml"]
PROFILE = ["profile", *SPACE, "--architectures", "a.jsonl", "--runtime", "dry", "--device", "cpu", "--references", 2]
DOCTOR = ["doctor", *SPACE, "--seconds", 1]


@pytest.fixture(autouse=True)
def asked(tmp_path: Path) -> None:
    """Four architectures as a file."""
    space = tiny_space()
    four = sample(space, 4, strategy="random", rng=Random(0))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(to_json(space, each)) for each in four) + "\n")


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """What an SQL query gives, as those read the store who do not use this package."""
    with closing(sqlite3.connect(store)) as db:
        return db.execute(query).fetchall()


def numbers(blob: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.frombuffer(blob, "<f8")


def reports(esm: Run, store: str = "esm.db") -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(esm("data", "sessions", "--store", store, "--json").stdout)
    return told


def test_the_paper_s_preset_times_plainly_and_judges_the_whole_session(esm: Run, tmp_path: Path) -> None:
    store = tmp_path / "esm.db"
    assert json.loads(esm(*PROFILE, "--preset", "paper", "--json").stdout)["measured"] == 4
    found = rows(store, "SELECT latency_ms, trimmed_ms, error, nominal_ms, calibration_ms, runs_ms FROM measurements")
    assert len(found) == 4 + 2 * 2
    for latency_ms, trimmed_ms, error, nominal_ms, calibration_ms, runs_ms in found:
        assert (len(numbers(runs_ms)), nominal_ms, calibration_ms) == (150, None, None)
        assert latency_ms == trimmed_ms == pytest.approx(trimmed_mean(numbers(runs_ms)))
        assert error == pytest.approx(relative_error(numbers(runs_ms)))
    assert rows(store, "SELECT * FROM calibrations") == []

    strict = ["--preset", "paper", "--tolerance", "1e-7", "--attempts", 1, "--runs", 12, "--store", "strict.db"]
    assert "nothing stands" in error_of(esm(*PROFILE, *strict, code=3))  # an option beside a preset counts
    (report,) = reports(esm, "strict.db")
    assert (report["status"], report["standing"], report["runs"]) == ("rejected", 0, 8 * 12)
    assert not any(point["stands"] for point in report["references"])
    text = esm("data", "sessions", "--store", "strict.db").stdout
    assert "session 1, tiny on 'dry cpu', rejected: nothing stands: references beyond 1e-05 %" in text


def test_both_statistics_and_the_interval_stand_in_the_store(esm: Run, tmp_path: Path) -> None:
    esm(*PROFILE, "--target-error", "none", "--runs", 60)
    columns = "latency_ms, trimmed_ms, error, shift, nominal_ms, calibration_ms, runs_ms"
    found = rows(tmp_path / "esm.db", f"SELECT {columns} FROM measurements")
    assert len(found) == 4 + 2 * 2
    ((nominal,),) = rows(tmp_path / "esm.db", "SELECT nominal_ms FROM calibrations")
    for latency_ms, trimmed_ms, error, shift, nominal_ms, calibration_ms, runs_ms in found:
        runs, ratios = numbers(runs_ms), numbers(runs_ms) / numbers(calibration_ms)
        assert len(runs) == 60
        assert (shift, nominal_ms) == (1.0, nominal)
        assert latency_ms == pytest.approx(nominal_ms * trimmed_mean(ratios))
        assert trimmed_ms == pytest.approx(trimmed_mean(runs))
        assert error == pytest.approx(relative_error(ratios))


def test_a_smaller_target_error_takes_more_runs_and_none_takes_all(esm: Run) -> None:
    runs, capped = {}, {}
    for target_error in ("5%", "1%", "0.25%", "none"):
        store = f"{target_error}.db"
        esm(*PROFILE, "--target-error", target_error, "--store", store)
        (report,) = reports(esm, store)
        runs[target_error], capped[target_error] = report["runs"], report["capped"]
    assert runs["5%"] <= runs["1%"] < runs["0.25%"] < runs["none"] == 8 * 150
    assert (capped["5%"], capped["none"]) == (0, 0)

    esm(*PROFILE, "--target-error", "0.25%", "--runs", 40, "--store", "capped.db")
    (report,) = reports(esm, "capped.db")
    assert report["runs"] == 8 * 40
    assert report["capped"] > 0
    assert f"less exact than asked for {report['capped']};" in esm("data", "sessions", "--store", "capped.db").stdout


def test_measured_with_less_care_than_now_is_told(esm: Run) -> None:
    def weakly(*options: object) -> tuple[int, int, int]:
        outcome = json.loads(esm(*PROFILE, *options, "--json").stdout)
        return outcome["measured"], outcome["already_measured"], outcome["weakly_measured"]

    assert weakly("--plain", "--target-error", "5%") == (4, 0, 0)
    assert weakly("--plain", "--target-error", "5%") == (0, 4, 0)
    assert weakly("--plain", "--target-error", "1%") == (0, 4, 4)
    assert weakly("--paired", "--target-error", "5%") == (0, 4, 4)
    assert "4 of those were measured with less care than is asked for now" in esm(*PROFILE).stdout
    assert weakly("--paired", "--target-error", "1%", "--store", "paired.db") == (4, 0, 0)
    assert weakly("--plain", "--target-error", "5%", "--store", "paired.db") == (0, 4, 0)


def test_how_many_subnets_lie_between_rounds_is_asked_for(esm: Run) -> None:
    esm(*PROFILE, "--reference-every", 1)
    (report,) = reports(esm)
    assert len(report["references"]) == 2 * (4 + 1)


def test_sessions_are_told_in_text_and_as_json(esm: Run, tmp_path: Path) -> None:
    esm(*PROFILE)
    esm(*[part if part != "cpu" else "gpu" for part in PROFILE])
    told = reports(esm)
    assert [(each["space"], each["target"], each["number"], each["status"]) for each in told] == [
        ("tiny", "dry cpu", 1, "accepted"),
        ("tiny", "dry gpu", 2, "accepted"),
    ]
    assert all((each["subjects"], each["standing"], each["failures"]) == (4, 4, {}) for each in told)
    assert told[0]["runs"] == sum(
        len(numbers(r)) for (r,) in rows(tmp_path / "esm.db", "SELECT runs_ms FROM measurements WHERE session = 1")
    )
    text = esm("data", "sessions").stdout
    assert text.count("subjects measured 4, standing 4; less exact than asked for 0; failures none") == 2
    assert "session 1, tiny on 'dry cpu', accepted: all 2 references within 3 %" in text
    only = esm("data", "sessions", "--target", "dry gpu", "--space", "tiny.toml").stdout
    assert only.startswith("session 2, tiny on 'dry gpu'")
    nobody = esm("data", "sessions", "--target", "abacus")
    assert (nobody.stdout, nobody.stderr) == ("", "no sessions of that space and target in esm.db\n")


def test_a_store_without_sessions_has_none_to_report(esm: Run, tmp_path: Path) -> None:
    Store(tmp_path / "esm.db").__exit__(None, None, None)
    assert reports(esm) == []
    assert esm("data", "sessions").stdout == ""
    assert "absent.db" in error_of(esm("data", "sessions", "--store", "absent.db", code=2))


def test_imported_measurements_are_a_session_without_references(esm: Run, tmp_path: Path) -> None:
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    (tmp_path / "m.jsonl").write_text(json.dumps({"architecture": first, "latency_ms": 3.2}))
    esm("data", "import", "m.jsonl", *SPACE, "--target", "x")
    (report,) = reports(esm)
    assert (report["subjects"], report["runs"], report["references"], report["capped"]) == (1, 1, [], 0)
    assert esm("data", "sessions").stdout.startswith("session 1, tiny on 'x', accepted\n")


def test_a_damaged_store_is_rescued_and_left_as_it_is(esm: Run, tmp_path: Path) -> None:
    esm(*PROFILE)
    store = tmp_path / "esm.db"
    with closing(sqlite3.connect(store)) as db, db:  # a row that its seal does not fit
        db.execute("UPDATE measurements SET started_at = 7 WHERE role = 'subject' AND id % 2 = 1")
        (lost,) = db.execute("SELECT count(*) FROM measurements WHERE started_at = 7").fetchone()
    before = store.read_bytes()
    assert "--rescue" in error_of(esm("data", "export", code=2))
    done = esm("data", "export", "--rescue")
    assert len(done.stdout.splitlines()) == 4 - lost
    assert f"at least {lost} rows of measurements could not be read" in done.stderr
    assert store.read_bytes() == before


def test_no_command_writes_over_a_store(esm: Run, tmp_path: Path) -> None:
    esm(*PROFILE)
    for command in (
        ["data", "export", "--out", "esm.db"],
        ["data", "export", "--rescue", "--out", "esm.db"],
        ["sample", *SPACE, "--count", 1, "--out", "esm.db"],
    ):
        assert "esm.db is a store, expected a file that may be replaced" in error_of(esm(*command, code=2))
    store = tmp_path / "esm.db"
    store.write_bytes(bytes(16) + store.read_bytes()[16:])  # no longer to be told by its first bytes
    done = esm("data", "export", "--rescue", "--out", "esm.db", code=2)
    assert error_of(done).startswith("error: esm.db: is the store itself")
    assert store.stat().st_size > 4096


def test_the_doctor_tells_in_text(esm: Run) -> None:
    done = esm(*DOCTOR, "--runtime", "dry", "--device", "cpu")
    assert done.stderr.splitlines() == ["watching what else runs", "measuring references"]
    *table, noise, time = done.stdout.splitlines()
    assert table[0].split() == ["topic", "finding", "what", "to", "do"]
    assert {line.split()[0] for line in table[1:]} <= {"ok", "note", "warning"}
    assert noise.startswith("dry cpu: 2 rounds of references; plain timing scatters by ")
    assert time.startswith("1000 subnets will take about ")
    assert time.split()[-1] in ("seconds", "minutes", "hours")


def test_the_doctor_tells_as_json(esm: Run) -> None:
    told = json.loads(
        esm(*DOCTOR, "--runtime", "dry", "--device", "shared", "--runs", 3, "--count", 500, "--json").stdout
    )
    assert (told["target"], told["count"]) == ("dry shared", 500)
    assert told["noise"]["error"] is None  # of three runs
    assert told["hours"] > 500 * told["noise"]["seconds"] / 3600
    assert {"severity", "topic", "finding", "advice"} == set(told["advice"][0])
    assert told["advice"][-1]["topic"] in ("noise", "plain timing", "contaminated runs")


def test_the_doctor_looks_at_this_cpu(esm: Run) -> None:
    told = json.loads(esm("doctor", "--seconds", 1, "--json").stdout)  # the runtime and a space that everyone has
    assert told["target"].startswith("ort-cpu ")
    noise = told["noise"]
    assert noise["rounds"] >= 2
    assert noise["plain_spread"] >= 0
    assert 0 < noise["speeds"][0] <= noise["speeds"][1]
    assert noise["seconds"] > 0
    assert 0 <= noise["contaminated"] <= 1


WRONG = [
    ([*PROFILE, "--target-error", "0"], "'0' is no share, expected for example 0.03 or 3%"),
    ([*PROFILE, "--target-error", "200%"], "'200%' is too much, expected less than 100%, or none"),
    ([*PROFILE, "--target-error", "abc"], "'abc' is no share"),
    ([*PROFILE, "--memory", "0.1"], "'--memory': 0.1 is not in the range"),
    ([*PROFILE, "--preset", "abacus"], "'abacus' is not one of 'paper', 'ofa-paper'"),
    ([*PROFILE, "--reference-every", "0"], "0 is not in the range"),
    ([*DOCTOR, "--runtime", "abacus"], "no runtime 'abacus', expected one of "),
    (["doctor", "--space", "bare.toml", "--runtime", "dry"], "no [export]"),
    ([*DOCTOR, "--runtime", "dry", "--seconds", "0"], "0.0 is not in the range"),
    ([*DOCTOR, "--runtime", "dry", "--count", "0"], "0 is not in the range"),
    ([*DOCTOR, "--runtime", "dry", "--plain"], "No such option '--plain'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_misuse_is_one_line(esm: Run, tmp_path: Path, arguments: list[object], message: str) -> None:
    (tmp_path / "bare.toml").write_text(WITHOUT_EXPORT)
    done = esm(*arguments, code=2)
    assert message in error_of(done)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not list(tmp_path.glob("*.db"))
