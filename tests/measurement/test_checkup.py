"""The doctor's measurements: rounds, what they show, and what is said of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings
from esm_onnx.measurement.checkup import IDLE_S, Checkup, Noise, check_up, judge_noise, summarise
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import REFERENCE, Measurement, Pairing
from esm_onnx.measurement.runtime import RuntimeSettings

TWO = Protocol(references=2)
QUIET = Noise(3, 0.01, 0.005, 0.01, (0.98, 1.0), 0.0, {}, 0, 1.0)


def looked_at(space: Space, folder: Path, device: str, **more: Any) -> tuple[Checkup, list[str], list[float]]:
    """A check-up whose clock goes on by a second each time it is read, what it told, and how long it slept."""
    ticks: Iterator[float] = (float(tick) for tick in itertools.count())
    told: list[str] = []
    slept: list[float] = []
    asked: dict[str, Any] = {"seconds": 1.0, "protocol": TWO, "export": ExportSettings(batch=64), "report": told.append}
    settings = RuntimeSettings(device=device)
    clock, sleep = ticks.__next__, slept.append
    checkup = check_up(space, "dry", folder=folder, settings=settings, clock=clock, sleep=sleep, **asked | more)
    return checkup, told, slept


def test_a_quiet_device_is_quiet(tiny: Space, tmp_path: Path) -> None:
    checkup, told, slept = looked_at(tiny, tmp_path, "cpu", seconds=100.0)
    noise = checkup.noise
    assert checkup.target == "dry cpu"
    assert noise.rounds > 5
    assert noise.plain_spread is not None
    assert noise.paired_spread is not None
    assert noise.error is not None
    assert 0 < noise.plain_spread < 0.01
    assert 0 < noise.paired_spread < 0.01
    assert 0 < noise.error <= 0.02
    assert 0.95 < noise.speeds[0] <= noise.speeds[1] < 1.05
    assert (noise.contaminated, noise.dropped, noise.unknown) == (0.0, {}, 0)
    assert slept == [IDLE_S]
    assert told == ["watching what else runs", "measuring references"]
    assert [(a.severity, a.topic) for a in checkup.advice][-1] == ("ok", "noise")
    assert {"threads", "other load"} <= {advice.topic for advice in checkup.advice}


def test_on_a_shared_device_the_disturbances_are_seen(tiny: Space, tmp_path: Path) -> None:
    noise = looked_at(tiny, tmp_path, "shared", seconds=150.0)[0].noise
    assert noise.plain_spread is not None
    assert noise.paired_spread is not None
    assert noise.plain_spread > 0.03 > noise.paired_spread
    assert noise.speeds[1] > 1.05 * noise.speeds[0]
    assert 0 < noise.contaminated < 1
    assert noise.dropped["preempted"] > 0
    assert max(noise.dropped.values()) <= noise.contaminated <= sum(noise.dropped.values())


def test_each_reference_is_measured_twice_even_when_the_time_is_over(tiny: Space, tmp_path: Path) -> None:
    assert looked_at(tiny, tmp_path, "cpu", seconds=0.001)[0].noise.rounds == 2


def test_the_time_for_so_many_subnets_holds_their_rounds_of_references(tiny: Space, tmp_path: Path) -> None:
    checkup, _, _ = looked_at(tiny, tmp_path, "cpu")
    assert checkup.noise.seconds == 1.0  # one reading of the clock before and one after each measurement
    protocol = replace(TWO, session_size=50, reference_every=10)
    # 120 subjects in three sessions: 6 rounds at the ends, 12 in between, two references each
    assert checkup.hours(120, protocol) == pytest.approx((120 + 2 * 18) / 3600)


def test_a_space_that_cannot_be_written_is_told_before_anything_is_started(tiny: Space, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match=r"no \[export\]"):
        looked_at(replace(tiny, export=None), tmp_path, "cpu", report=told.append)
    assert told == []


def paired(
    architecture: Architecture, ratio: float, calibration_ms: float = 1.0, dropped: tuple[int, ...] = (0,) * 40
) -> Measurement:
    """Forty runs in two blocks beside a calibration subnet of nominally 1 ms."""
    return Measurement(
        architecture,
        REFERENCE,
        (ratio * calibration_ms,) * 40,
        0.0,
        dropped,
        Pairing((calibration_ms,) * 20 + (calibration_ms * 1.001,) * 20, 1.0),
        elapsed_s=2.0,
    )


def test_a_summary_counts_and_compares(eight: list[Architecture]) -> None:
    half = (int(Reason.PREEMPTED | Reason.WAITING), 0) * 20
    first = [paired(eight[0], 3.0), paired(eight[0], 3.0, 1.1)]  # the device slowed down: only plain timing sees it
    second = [paired(eight[1], 5.0, dropped=half), paired(eight[1], 5.0)]
    noise = summarise([first[0], second[0], first[1], second[1]])
    assert noise.rounds == 2
    assert noise.paired_spread == pytest.approx(0, abs=1e-3)
    # two values 1 and 1.1, two equal ones, two degrees of freedom: by hand
    assert noise.plain_spread == pytest.approx(((2 * (0.05 / 1.05) ** 2) / 2) ** 0.5, rel=1e-3)
    assert noise.speeds == (pytest.approx(1 / 1.1, rel=1e-3), pytest.approx(1.0, rel=1e-3))
    assert noise.contaminated == pytest.approx(20 / 160)
    assert noise.dropped == {"preempted": pytest.approx(20 / 160), "waiting": pytest.approx(20 / 160)}
    assert (noise.unknown, noise.seconds) == (0, 2.0)


def test_a_summary_leaves_out_what_is_not_known(eight: list[Architecture]) -> None:
    dirty = (int(Reason.STOLEN),) * 40
    noise = summarise([paired(eight[0], 3.0), paired(eight[0], 9.0, dropped=dirty), paired(eight[0], 3.0)])
    assert noise.unknown == 1
    assert noise.paired_spread == pytest.approx(0, abs=1e-3)
    nothing = summarise([paired(eight[0], ratio, dropped=dirty) for ratio in (3.0, 9.0)])
    assert (nothing.unknown, nothing.paired_spread, nothing.contaminated) == (2, None, 1.0)


def test_three_runs_have_no_interval(eight: list[Architecture]) -> None:
    few = Measurement(eight[0], REFERENCE, (1.0, 1.1, 1.0), 0.0, (0, 0, 0), Pairing((1.0,) * 3, 1.0))
    assert summarise([few, few]).error is None


@pytest.mark.parametrize(
    ("change", "severity", "topic", "words"),
    [
        ({}, "ok", "noise", "agree within 0.5 %"),
        ({"paired_spread": 0.0149}, "ok", "noise", "agree within 1.5 %"),
        ({"paired_spread": 0.016}, "warning", "noise", "scatter by 1.6 %, tolerated is 3 % for the mean of 2"),
        ({"paired_spread": None}, "warning", "noise", "no reference had enough clean runs twice"),
        ({"plain_spread": 0.031}, "note", "plain timing", "scatters by 3.1 %, tolerated is 3 %"),
        (
            {"contaminated": 0.21, "dropped": {"stolen": 0.21, "waiting": 0.1}},
            "note",
            "contaminated runs",
            "stolen 21 %",
        ),
        ({"error": 0.0201}, "note", "exactness", "not known within 2 % after"),
    ],
)
def test_each_advice_fires_where_it_should(change: dict[str, Any], severity: str, topic: str, words: str) -> None:
    (found,) = [advice for advice in judge_noise(replace(QUIET, **change), TWO) if advice.topic == topic]
    assert found.severity == severity
    assert words in found.finding
    assert bool(found.advice) == (severity != "ok")


@pytest.mark.parametrize(
    "change",
    [
        {"error": 0.0199},
        {"error": None},
        {"plain_spread": 0.029},
        {"plain_spread": None},
        {"contaminated": 0.19, "dropped": {"preempted": 0.19, "waiting": 0.19}},  # the same runs twice
    ],
)
def test_nothing_is_said_of_what_does_no_harm(change: dict[str, Any]) -> None:
    assert [advice.topic for advice in judge_noise(replace(QUIET, **change), TWO)] == ["noise"]


def test_a_greater_tolerance_is_content_with_more_noise() -> None:
    noisy = replace(QUIET, paired_spread=0.04, plain_spread=0.08)
    assert [advice.severity for advice in judge_noise(noisy, TWO)] == ["warning", "note"]
    assert [advice.severity for advice in judge_noise(noisy, replace(TWO, tolerance=0.09))] == ["ok"]
