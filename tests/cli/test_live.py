"""What is told while `profile`, `build` and `search` work: in a terminal, in a log, to machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cli.calls import TINY_TOML, Run, error_of, write_architectures
from cli.halting import PLAIN, go_on, halt_at, install_halting
from cli.terminal import Screen, terminal
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import sample
from esm_onnx.cli.live import Standing, Tally
from esm_onnx.measurement.quality import Drift
from esm_onnx.measurement.session import Progress
from esm_onnx.testing import tiny_space

PROFILE = ["profile", "--space", "tiny.toml", "--architectures", "a.jsonl", *PLAIN, "--reference-every", 1]
BUILD = ["build", "--space", "tiny.toml", *PLAIN, "--reference-every", 1000, "--surrogate", "linear"]
BUILD += ["--initial", 20, "--step", 8, "--max-measurements", 28, "--threshold", "98.8%", "--out", "p.onnx"]
SECOND_ROUND = 2 + 20 + 2 + 2 + 3
"""Loads until the third subject of a second round."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space, four architectures and a runtime that can be halted."""
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    space = tiny_space()
    write_architectures(tmp_path / "a.jsonl", space, sample(space, 4, strategy="random", rng=Random(0)))
    install_halting(tmp_path, monkeypatch)
    return tmp_path


# The count of what is done, and the time that is left.


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def left_after(*steps: tuple[float, Progress]) -> float | None:
    """The seconds left after reports, each so many seconds after the one before."""
    clock = Clock()
    tally, standing = Tally(clock), Standing()
    for seconds, progress in steps:
        clock.now_s += seconds
        standing = tally.add(progress)
    return standing.left_s(clock.now_s)


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 100), st.floats(0.01, 100), st.floats(0, 1000))
def test_the_time_left_follows_the_pace_of_what_this_command_measures(
    already: int, measured: int, rest: int, pace_s: float, calibration_s: float
) -> None:
    total = already + measured + rest
    begun = [(0.0, Progress(total, already, 0)), (calibration_s, Progress(total, already, 0))]
    assert left_after(*begun) is None
    steps = [(pace_s, Progress(total, already + i, 0)) for i in range(1, measured + 1)]
    assert left_after(*begun, *steps) == pytest.approx(rest * pace_s)


def test_the_time_left_runs_down_between_two_reports_but_not_below_nothing() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.add(Progress(10, 4, 0))
    clock.now_s += 3
    standing = tally.add(Progress(10, 5, 0))
    assert [standing.left_s(clock.now_s + wait) for wait in (0, 5, 14, 16)] == [15, 10, 1, 0]


def test_references_and_rejected_sessions_take_time_too() -> None:
    one, two, rejected = Progress(4, 1, 0), Progress(4, 2, 0), Progress(4, 0, 0)
    begun = [(0.0, Progress(4, 0, 0)), (9.0, Progress(4, 0, 0)), (1.0, one)]
    assert left_after(*begun) == 3
    assert left_after(*begun, (2.0, one), (1.0, two)) == 2 * (1 + 2 + 1) / 2
    assert left_after(*begun, (1.0, two), (1.0, rejected)) == 4 * (1 + 1 + 1) / 2


def test_of_several_sources_the_gravest_drift_and_all_failures_count() -> None:
    tally = Tally(Clock())
    assert tally.add(Progress(8, 1, 0)).drift is None
    steady, drifting, alarm = Drift(0.001, 0.03), Drift(-0.02, 0.03), Drift(0.0, 0.03, "too few clean runs")
    assert tally.add(Progress(8, 1, 2, drift=steady, source="a")).drift == steady
    assert tally.add(Progress(8, 2, 1, drift=drifting, source="b")).drift == drifting
    standing = tally.add(Progress(8, 3, 3, drift=steady, source="a"))
    assert (standing.drift, standing.failed, standing.done) == (drifting, 4, 3)
    assert tally.add(Progress(8, 3, 3, drift=alarm, source="a")).drift == alarm
    told = tally.add(Progress(0, 0, 0, "a device has something to tell"))
    assert (told.drift, told.failed, told.done, told.total) == (alarm, 4, 3, 8)


# In a terminal.


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    ("device", "lamp"),
    [
        ("one", "● references steady: +0.0 % of ±3 %"),
        ("drifts", "▲ references drifting: +1.7 % of ±3 %"),
        ("moves", "■ references unreliable: reference 1 (depth"),
    ],
)
def test_the_screen_shows_counts_time_and_a_lamp_for_the_references(
    folder: Path, columns: int, device: str, lamp: str
) -> None:
    halt_at(folder, 8)  # two references, a subject, two references, a subject, and again: one more
    arguments = [*PROFILE, "--device", device, "--attempts", 1]
    with terminal(*arguments, folder=folder, columns=columns) as session:
        session.wait_for(lambda screen: lamp in screen.words and "2/4" in screen.words)
        assert re.search(r"measuring [━╸╺]+ 2/4 \d:\d\d:\d\d gone, about \d:\d\d:\d\d left", session.screen.words)
        assert not session.screen.cursor
        assert {"one": "32", "drifts": "33", "moves": "31"}[device] in session.screen.colours
        go_on(folder)
        assert session.end() == (3 if device == "moves" else 0)
        assert session.screen.cursor
        told, *rest = session.screen.text.replace("\n ", " ").splitlines()
        assert told.startswith("session 1 rejected" if device == "moves" else "session 1 accepted")
        assert not re.search("[━●▲■]", session.screen.text)
        assert device == "moves" or "4 measured on" in "".join(rest)


def bins_on(screen: Screen) -> dict[str, tuple[bool, float]]:
    """Of each bin on the screen whether it is below the threshold, and its accuracy."""
    found = re.findall(r"([▼✓]) (\d+(?:–\d+)?): (\d+\.\d\d) %", screen.words)
    return {name: (mark == "▼", float(accuracy)) for mark, name, accuracy in found}


@pytest.mark.parametrize("columns", [80, 40])
def test_the_screen_shows_the_accuracy_by_bin_after_each_round(folder: Path, columns: int) -> None:
    halt_at(folder, SECOND_ROUND)
    with terminal(*BUILD, folder=folder, columns=columns) as session:
        session.wait_for(lambda screen: " 2/8 " in screen.words and len(bins_on(screen)) == 5)
        words, bins = session.screen.words, bins_on(session.screen)
        go_on(folder)
        assert session.end() == 3
        assert not bins_on(session.screen)
    assert re.search(r"round 2: measuring [━╸╺]+ 2/8 \d:\d\d:\d\d gone, about \d:\d\d:\d\d left in this round", words)
    told = run(folder, *BUILD, "--json")
    first = json.loads(told.stdout)["rounds"][0]
    pairs = zip(first["bins"], first["below"], strict=True)
    assert bins == {part["depth"]: (below, round(part["accuracy"], 2)) for part, below in pairs}
    assert {below for below, _ in bins.values()} == {True, False}
    assert f"round 1: accuracy {first['overall']['accuracy']:.2f} % on 20; by depth, ▼ below 98.8 %:" in words


def test_without_colours_symbols_and_words_remain(folder: Path) -> None:
    halt_at(folder, 8)
    with terminal(*PROFILE, folder=folder, columns=80, environment={"NO_COLOR": "1"}) as session:
        session.wait_for(lambda screen: "● references steady" in screen.words and "2/4" in screen.words)
        go_on(folder)
        assert session.end() == 0
        assert session.screen.colours == set()


def test_a_dumb_terminal_is_told_what_a_log_is_told(folder: Path) -> None:
    with terminal(*PROFILE, folder=folder, columns=200, environment={"TERM": "dumb"}) as session:
        assert session.end() == 0
        first, second = session.screen.text.splitlines()
        assert first == "session 1 accepted: all 2 references within 3 %"
        assert second.startswith("4 measured on 'halting one'")
        assert session.screen.sequences == 0


# In a log.


def started(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from esm_onnx.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    with started(folder, *arguments, **environment) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_a_log_has_only_what_must_be_told_whatever_colours_are_forced(folder: Path) -> None:
    told = run(folder, *BUILD, FORCE_COLOR="1").stderr
    patterns = [
        "session 1 accepted: all 2 references within 3 %",
        r"round 1: trained on 20, accuracy \d+\.\d\d %, worst bin .* bins below the threshold",
        "session 2 accepted: all 2 references within 3 %",
        r"round 2: trained on 28, .*",
        "error: round 2: .*",
    ]
    assert len(told.splitlines()) == len(patterns)
    for line, pattern in zip(told.splitlines(), patterns, strict=True):
        assert re.fullmatch(pattern, line)


# To machines.


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def test_events_of_profile_come_as_it_goes_and_end_with_the_result(folder: Path) -> None:
    halt_at(folder, 8)
    with started(folder, *PROFILE, "--json-lines") as process:
        assert process.stdout is not None
        first = list(until_done(process.stdout, 2))  # though the third is not measured until we say so
        go_on(folder)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    events = [*first, *events_of(out)]
    *before, result = events
    value = json.loads(run(folder, *PROFILE, "--store", "b.db", "--json").stdout)
    assert result == {"event": "result", "result": value}
    assert {event["event"] for event in before} == {"progress", "message"}
    assert [message["text"] for message in of(events, "message")] == ["session 1 accepted: all 2 references within 3 %"]
    progress = of(events, "progress")
    assert set(progress[0]) == {"event", "what", "done", "total", "failed", "seconds", "left_seconds", "drift"}
    assert [(each["what"], each["done"], each["total"], each["left_seconds"]) for each in progress[:3]] == [
        ("starting", 0, 0, None),
        ("measuring", 0, 0, None),
        ("measuring", 0, 4, None),
    ]
    done = [each["done"] for each in progress]
    assert done == sorted(done)
    assert set(done) == {0, 1, 2, 3, 4}
    assert {each["total"] for each in progress[2:]} == {4}
    assert progress[-1]["drift"] == {"share": 0.0, "tolerance": 0.03, "state": "steady"}
    assert progress[-1]["left_seconds"] == 0


def until_done(lines: Iterator[str], count: int) -> Iterator[dict[str, Any]]:
    """The events until so many are done."""
    for line in lines:
        event = json.loads(line)
        yield event
        if event["event"] == "progress" and event["done"] == count:
            return


def test_events_of_several_runtimes_count_all_and_their_result_is_a_list(folder: Path) -> None:
    both = [*PROFILE, "--runtime", "dry", "--tolerance", "50%", "--json-lines"]
    events = events_of(run(folder, *both).stdout)
    assert of(events, "progress")[-1]["done"] == of(events, "progress")[-1]["total"] == 2 * 4
    assert [message["text"].split(":")[0] for message in of(events, "message")] == ["halting", "dry"]
    assert [outcome["measured"] for outcome in events[-1]["result"]] == [4, 4]
    again = events_of(run(folder, *both).stdout)
    assert [each["done"] for each in of(again, "progress")] == [0, 0, 4, 8]  # nothing is left to measure


def test_events_of_build_tell_each_round(folder: Path) -> None:
    done = run(folder, *BUILD, "--json-lines")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1  # the threshold that was not met
    events = events_of(done.stdout)
    result, rounds = events[-1]["result"], of(events, "round")
    assert [event["end"] for event in rounds] == [None, "measurements"]
    assert {event["threshold"] for event in rounds} == {0.988}
    pairs = zip(rounds, result["rounds"], strict=True)
    assert [{key: event[key] for key in told} for event, told in pairs] == result["rounds"]
    stretches = list(dict.fromkeys(event["what"] for event in of(events, "progress")))
    assert stretches == [
        "starting",
        "round 1: measuring",
        "round 1: training",
        "round 2: measuring",
        "round 2: training",
    ]
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == ["message", "round", "message", "round", "result"]


def test_events_of_search_tell_each_generation(folder: Path) -> None:
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    run(folder, *BUILD)
    search = ["search", "--predictor", "p.onnx", "--population", 12, "--generations", 6]
    events = events_of(run(folder, *search, "--budget", 1000, "--json-lines").stdout)
    (note,) = of(events, "message")
    assert note["text"].startswith("no --accuracy: what is sought is capacity")
    generations, found = of(events, "generation"), events[-1]["result"]
    assert [each["generation"] for each in generations] == list(range(1, found["generations"] + 1))
    assert generations[-1]["evaluations"] == found["evaluations"]
    best = {name: found["found"][0][name] for name in ("multiply_adds", "latency_ms")}
    assert generations[-1]["best"] == pytest.approx(best)
    assert generations[-1]["within"] == len(found["found"])
    worths = [each["best"]["multiply_adds"] for each in generations]
    assert worths == sorted(worths)
    nothing = run(folder, *search, "--budget", "1e-9", "--json-lines")
    assert nothing.returncode == 3
    last = of(events_of(nothing.stdout), "generation")[-1]
    assert (last["best"], last["within"]) == (None, 0)
    assert last["least"]["latency_ms"] > 0


def test_a_search_that_measures_shows_its_references(folder: Path) -> None:
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    search = ["search", "--measure", "--space", "tiny.toml", *PLAIN, "--reference-every", 1, "--budget", 1000]
    events = events_of(run(folder, *search, "--population", 4, "--generations", 2, "--json-lines").stdout)
    progress = of(events, "progress")
    assert {each["total"] for each in progress} == {0, 2}
    assert [each["done"] for each in progress][-1] == 2
    assert {each["what"] for each in progress} >= {"searching", "measuring 1/4", "measuring 4/4"}
    assert progress[-1]["drift"]["state"] == "steady"


@pytest.mark.parametrize("flags", [["--json", "--json-lines"], ["--json-lines", "--json"]])
def test_one_value_and_events_do_not_go_together(esm: Run, flags: list[str]) -> None:
    for command in (PROFILE, BUILD, ["search"]):
        assert "--json and --json-lines, expected one of them" in error_of(esm(*command, *flags, code=2))
