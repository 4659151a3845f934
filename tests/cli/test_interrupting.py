"""Ctrl-C in the middle of a command: one line, exit code 130, a clean terminal, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import pytest
from cli.calls import TINY_TOML, write_architectures
from cli.halting import PLAIN, go_on, halt_at, install_halting
from cli.terminal import terminal
from fleet.conftest import Site
from plugins import started_in

from esm_onnx.architectures import sample
from esm_onnx.testing import tiny_space

PROFILE = ["profile", "--space", "tiny.toml", "--architectures", "a.jsonl", *PLAIN, "--reference-every", 1000]
BUILD = ["build", "--space", "tiny.toml", *PLAIN, "--reference-every", 1000, "--surrogate", "linear", "--initial", 20]
BUILD += ["--step", 8, "--max-measurements", 28, "--threshold", "98.8%", "--out", "p.onnx"]
SEARCH = ["search", "--population", 6, "--generations", 2, "--budget", 1000, *PLAIN, "--reference-every", 1000]
SECOND_ROUND = 2 + 20 + 2 + 2 + 3
"""Loads until the third subject of a second round."""

KEPT = "error: interrupted; what was measured is kept in esm.db, and the same command goes on where it was"
NOTHING = "error: interrupted; no result was written"
NOT_AGAIN = f"{NOTHING}; what was measured is kept in esm.db, and the same command does not measure it again"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space, six architectures and a runtime that can be halted."""
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    space = tiny_space()
    write_architectures(tmp_path / "a.jsonl", space, sample(space, 6, strategy="random", rng=Random(0)))
    install_halting(tmp_path, monkeypatch)
    return tmp_path


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from esm_onnx.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit code, output and lines of errors after SIGINT."""
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, err.splitlines()


def wait_until_halted(folder: Path, process: subprocess.Popen[str]) -> None:
    while not (folder / "halted").exists():
        assert process.poll() is None, process.communicate()
    (folder / "halted").unlink()


def subjects(folder: Path) -> list[str]:
    """The genome of every subject that was measured."""
    with closing(sqlite3.connect(folder / "esm.db")) as db:
        rows = db.execute("SELECT genome FROM measurements WHERE role = 'subject'").fetchall()
    return [genome for (genome,) in rows]


def test_profile_says_where_the_measurements_are_and_goes_on(folder: Path) -> None:
    halt_at(folder, 2 + 3)
    process = started(folder, *PROFILE)
    wait_until_halted(folder, process)
    assert interrupted(process) == (130, "", [KEPT])
    assert started_in(folder) == []
    assert len(subjects(folder)) == 2
    go_on(folder)
    with started(folder, *PROFILE, "--json") as again:
        assert json.loads(again.communicate()[0])["measured"] == 6
    assert len(subjects(folder)) == len(set(subjects(folder))) == 6


@pytest.mark.parametrize("events", [False, True])
def test_several_runtimes_are_interrupted_as_one(folder: Path, events: bool) -> None:
    halt_at(folder, 2 + 3)
    flag = ["--json-lines"] if events else []
    process = started(folder, *PROFILE, "--runtime", "dry", *flag)
    wait_until_halted(folder, process)
    code, out, err = interrupted(process)
    assert (code, err) == (130, [KEPT])
    kinds = {json.loads(line)["event"] for line in out.splitlines()}
    assert kinds == ({"progress"} if events else set())
    assert started_in(folder) == []


def test_build_says_which_round_the_predictor_is_of(folder: Path) -> None:
    halt_at(folder, 2 + 3)
    process = started(folder, *BUILD)
    wait_until_halted(folder, process)
    assert interrupted(process) == (130, "", [KEPT])
    assert not (folder / "p.onnx").exists()

    halt_at(folder, SECOND_ROUND)  # two references more, and two subjects less
    process = started(folder, *BUILD)
    wait_until_halted(folder, process)
    code, out, err = interrupted(process)
    assert (code, out, err[-1]) == (130, "", f"{KEPT}; the predictor of round 1 is in p.onnx")
    assert [line.split(":")[0] for line in err[:-1]] == ["session 1 accepted", "round 1"]
    assert (folder / "p.onnx").exists()
    assert started_in(folder) == []


@pytest.mark.parametrize("columns", [80, 40])
def test_the_terminal_is_clean_after_ctrl_c(folder: Path, columns: int) -> None:
    halt_at(folder, SECOND_ROUND)
    with terminal(*BUILD, folder=folder, columns=columns) as session:
        session.wait_for(lambda screen: " 2/8 " in screen.words)
        assert not session.screen.cursor
        session.press_ctrl_c()
        assert session.end() == 130
        assert session.screen.cursor
        rows = session.screen.text.splitlines()
        starts = [i for i, row in enumerate(rows) if row.startswith(("session", "round", "error"))]
        assert starts[0] == 0
        first, second, third = (
            "".join(row.ljust(columns) for row in rows[start:end]).strip()
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
        )
        assert first.startswith("session 1 accepted")
        assert second.startswith("round 1: trained on 20")
        assert third == f"{KEPT}; the predictor of round 1 is in p.onnx"


def test_a_dumb_terminal_has_the_line_by_itself(folder: Path) -> None:
    halt_at(folder, 2 + 3)
    with terminal(*PROFILE, folder=folder, columns=200, environment={"TERM": "dumb"}) as session:
        session.wait_for(lambda _: (folder / "halted").exists())
        session.press_ctrl_c()
        assert session.end() == 130
        assert session.screen.text == KEPT


@pytest.mark.parametrize("how", ["measures", "verifies"])
def test_a_search_says_that_it_has_measured(folder: Path, how: str) -> None:
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    if how == "verifies":
        with started(folder, *BUILD) as process:
            process.communicate()
    halt_at(folder, 2 + 3)
    wanted = ["--measure", "--space", "tiny.toml"] if how == "measures" else ["--predictor", "p.onnx", "--verify", 6]
    process = started(folder, *SEARCH, *wanted, "--seed", 1, "--out", "best.jsonl")
    wait_until_halted(folder, process)
    code, out, err = interrupted(process)
    assert (code, out, err[-1]) == (130, "", NOT_AGAIN)
    assert len(err) == 2  # after the note on what is sought
    assert not (folder / "best.jsonl").exists()


def test_train_has_written_nothing(folder: Path) -> None:
    """It waits for a file that we do not write."""
    with started(folder, *PROFILE) as process:
        process.communicate()
    os.mkfifo(folder / "test.jsonl")
    process = started(folder, "train", "--test", "test.jsonl", "--surrogate", "linear", "--out", "p.onnx")
    with (folder / "test.jsonl").open("w"):  # once it reads
        assert interrupted(process) == (130, "", [NOTHING])
    assert not (folder / "p.onnx").exists()


def test_export_says_what_it_has_written(folder: Path) -> None:
    space = tiny_space()
    write_architectures(folder / "all.jsonl", space, sample(space, 300, strategy="random", rng=Random(0)))
    process = started(folder, "export", "--space", "tiny.toml", "--architectures", "all.jsonl", "--out", "subnets")
    while len(list(folder.glob("subnets/tiny-*.onnx"))) < 3:
        assert process.poll() is None, process.communicate()
    code, out, err = interrupted(process)
    left = "the subnets written so far are in subnets, and subnets/subnets.jsonl is not written"
    assert (code, out, err) == (130, "", [f"error: interrupted; {left}"])
    assert not (folder / "subnets" / "subnets.jsonl").exists()


@pytest.fixture
def site() -> Iterator[Site]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'esm-onnx[ray]'")
    folder = Path(mkdtemp(prefix="ei-", dir="/tmp"))  # Ray's sockets want a short name
    made = Site(folder)
    try:
        yield made
    finally:
        made.kill_all()
        shutil.rmtree(folder)


def test_a_fleet_is_interrupted_as_one(site: Site) -> None:
    devices: dict[str, str | None] = {"a": "a", "b": "b"}
    options = ["--runtime", "paced", "--plain", "--target-error", "none", "--runs", "5", "--references", "1"]
    with site.profile(devices, 200, *options) as head:
        site.await_subjects(6)
        site.hang("a")
        code, out, (*told, last) = interrupted(head)
    assert (code, out, last) == (130, "", KEPT)
    assert all("session" in line and "accepted" in line for line in told)
    site.wait_for(lambda: not site.measuring())
