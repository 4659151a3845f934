"""Each rule fires where it should and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from measurement.machines import AMD_DESKTOP, CPU, PI_THROTTLED, RASPBERRY_PI_4, TREES, plant

from esm_onnx.measurement.doctor import (
    COMPETING_CORES,
    HOT_C,
    MEMORY_LEFT,
    RULES,
    STOLEN_SHARE,
    Advice,
    advise,
)
from esm_onnx.measurement.machine import Machine, ProcessLoad, Share, read_machine

QUIET = Share(busy=0.0, stolen=0.0)
ALWAYS = {"threads": "ok", "other load": "ok", "stolen time": "ok", "memory": "ok"}


@pytest.fixture
def silent(tmp_path: Path) -> Machine:
    """A machine that tells nothing."""
    return read_machine(tmp_path / "nothing", range(4))


def severities(advice: list[Advice]) -> dict[str, str]:
    assert len({entry.topic for entry in advice}) == len(advice)
    return {entry.topic: entry.severity for entry in advice}


def about(topic: str, advice: list[Advice]) -> Advice:
    return next(entry for entry in advice if entry.topic == topic)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Raspberry Pi 4",
            {"hyperthreading": "ok", "frequency": "ok", "governor": "warning", "power supply": "ok"}
            | {"throttling": "ok", "temperature": "ok"},
        ),
        (
            "laptop",
            {"hyperthreading": "note", "frequency": "ok", "governor": "warning", "turbo": "note"}
            | {"throttling": "note", "temperature": "ok", "mains": "warning"},
        ),
        ("cloud", {"hyperthreading": "ok", "frequency": "note"}),
        ("AMD desktop", {"hyperthreading": "note", "frequency": "ok", "governor": "ok", "turbo": "ok"}),
        ("container", {"hyperthreading": "ok", "frequency": "note", "quota": "note"}),
    ],
)
def test_each_machine_hears_what_concerns_it_and_nothing_else(
    tmp_path: Path, name: str, expected: dict[str, str]
) -> None:
    tree, cores = TREES[name]
    machine = read_machine(plant(tmp_path, tree), range(cores))
    assert severities(advise(machine, QUIET, [], 1)) == ALWAYS | expected


def test_where_nothing_is_known_little_is_said(silent: Machine) -> None:
    assert severities(advise(silent, None, [], 1)) == {"threads": "ok", "frequency": "note"}


@pytest.mark.parametrize("name", TREES)
def test_what_is_not_ok_comes_with_advice(tmp_path: Path, name: str) -> None:
    tree, cores = TREES[name]
    machine = read_machine(plant(tmp_path, tree), range(cores))
    for entry in advise(machine, Share(0.5, 0.5), [ProcessLoad(1, "other", 1.0)], 64):
        assert bool(entry.advice) == (entry.severity != "ok"), entry
        assert entry.finding


def test_every_rule_says_something_about_some_machine(tmp_path: Path) -> None:
    topics = []
    for name, (tree, cores) in TREES.items():
        machine = read_machine(plant(tmp_path / name, tree), range(cores))
        topics.append(set(severities(advise(machine, QUIET, [], 1))))
    throttling_by_board_and_by_processor = 1
    assert len(set.union(*topics)) == len(RULES) - throttling_by_board_and_by_processor


@pytest.mark.parametrize(("threads", "severity"), [(1, "ok"), (2, "ok"), (3, "warning"), (4, "warning")])
def test_more_threads_than_physical_cores_are_too_many(tmp_path: Path, threads: int, severity: str) -> None:
    machine = read_machine(plant(tmp_path, AMD_DESKTOP), range(4))
    entry = about("threads", advise(machine, QUIET, [], threads))
    assert entry.severity == severity
    assert ("--threads 2" in entry.advice) == (severity == "warning")


def test_siblings_are_told_apart_by_a_command(tmp_path: Path) -> None:
    plant(tmp_path, AMD_DESKTOP)
    assert "taskset -c 0,2 " in about("hyperthreading", advise(read_machine(tmp_path, range(4)), None, [], 1)).advice
    assert "taskset" not in about("hyperthreading", advise(read_machine(tmp_path, {0, 2}), None, [], 1)).advice


@pytest.mark.parametrize(("quota", "threads", "severity"), [(1.5, 1, "note"), (2.0, 2, "note"), (1.5, 2, "warning")])
def test_a_quota_below_the_threads_is_a_warning(silent: Machine, quota: float, threads: int, severity: str) -> None:
    entry = about("quota", advise(replace(silent, quota_cores=quota), QUIET, [], threads))
    assert entry.severity == severity
    assert f"{quota:g}" in entry.finding


@pytest.mark.parametrize(
    ("governors", "least", "severity"),
    [
        (("performance",), 600.0, "ok"),
        (("userspace",), 600.0, "ok"),
        (("powersave",), 600.0, "warning"),
        (("performance", "schedutil"), 600.0, "warning"),
        (("powersave",), 1500.0, "ok"),
    ],
)
def test_a_governor_that_follows_the_load_is_a_warning(
    silent: Machine, governors: tuple[str, ...], least: float, severity: str
) -> None:
    machine = replace(silent, governors=governors, min_mhz=least, max_mhz=1500.0)
    entry = about("governor", advise(machine, QUIET, [], 1))
    assert entry.severity == severity
    assert ("sudo cpupower frequency-set -g performance" in entry.advice) == (severity == "warning")


@pytest.mark.parametrize(
    ("file", "on", "command"),
    [
        ("intel_pstate/no_turbo", "0", "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"),
        ("cpufreq/boost", "1", "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"),
    ],
)
def test_the_command_that_turns_turbo_off_suits_the_driver(tmp_path: Path, file: str, on: str, command: str) -> None:
    machine = read_machine(plant(tmp_path, {f"{CPU}/{file}": on}), range(2))
    assert command in about("turbo", advise(machine, QUIET, [], 1)).advice


@pytest.mark.parametrize(
    ("bits", "supply", "throttling", "words"),
    [
        ("0", "ok", "ok", ""),
        ("1", "warning", "ok", ""),
        ("10000", "note", "ok", ""),
        ("2", "ok", "warning", "frequency capped now"),
        ("c", "ok", "warning", "throttled, soft temperature limit now"),
        ("e0000", "ok", "note", "frequency capped, throttled, soft temperature limit since boot"),
        ("50005", "warning", "warning", "throttled now"),
        ("f00000", "ok", "ok", ""),
    ],
)
def test_each_bit_of_a_pi_is_put_into_words(
    tmp_path: Path, bits: str, supply: str, throttling: str, words: str
) -> None:
    machine = read_machine(plant(tmp_path, RASPBERRY_PI_4, {PI_THROTTLED: bits}), range(4))
    advice = advise(machine, QUIET, [], 1)
    assert (about("power supply", advice).severity, about("throttling", advice).severity) == (supply, throttling)
    assert words in about("throttling", advice).finding


@pytest.mark.parametrize(("cores", "package", "severity"), [(0, 0, "ok"), (0, 4, "note"), (9, None, "note")])
def test_thermal_events_since_boot_are_worth_a_note(
    silent: Machine, cores: int, package: int | None, severity: str
) -> None:
    machine = replace(silent, core_throttles=cores, package_throttles=package)
    entry = about("throttling", advise(machine, QUIET, [], 1))
    assert entry.severity == severity
    assert str(max(cores, package or 0)) in entry.finding or severity == "ok"


@pytest.mark.parametrize(("hottest_c", "severity"), [(HOT_C - 1, "ok"), (HOT_C, "warning")])
def test_the_hottest_zone_counts(silent: Machine, hottest_c: float, severity: str) -> None:
    machine = replace(silent, temperatures_c=(("cpu", hottest_c), ("battery", 30.0)))
    entry = about("temperature", advise(machine, QUIET, [], 1))
    assert entry.severity == severity
    assert "cpu" in entry.finding


@pytest.mark.parametrize(("on_mains", "severity"), [(True, "ok"), (False, "warning")])
def test_a_battery_is_a_warning(silent: Machine, on_mains: bool, severity: str) -> None:
    assert about("mains", advise(replace(silent, on_mains=on_mains), QUIET, [], 1)).severity == severity


def test_the_competing_process_is_named(silent: Machine) -> None:
    loads = [ProcessLoad(41, "backup", 0.6), ProcessLoad(42, "clock", COMPETING_CORES)]
    entry = about("other load", advise(silent, Share(busy=0.15, stolen=0.0), loads, 1))
    assert entry.severity == "warning"
    assert "60 % of a core" in entry.finding
    assert "backup (pid 41) 60 %" in entry.finding
    assert "clock" not in entry.finding


@pytest.mark.parametrize(
    ("busy_cores", "share", "severity"),
    [
        (COMPETING_CORES, COMPETING_CORES, "ok"),
        (2 * COMPETING_CORES, 0.0, "warning"),  # hidden from this container
        (0.0, 2 * COMPETING_CORES, "warning"),  # on cores that are not ours, but on the same memory
    ],
)
def test_load_counts_in_parts_of_one_core(silent: Machine, busy_cores: float, share: float, severity: str) -> None:
    usage = Share(busy_cores / len(silent.cores), 0.0)
    entry = about("other load", advise(silent, usage, [ProcessLoad(5, "other", share)], 1))
    assert entry.severity == severity


@pytest.mark.parametrize(("stolen", "severity"), [(STOLEN_SHARE, "ok"), (2 * STOLEN_SHARE, "warning")])
def test_stolen_time_is_a_warning(silent: Machine, stolen: float, severity: str) -> None:
    assert about("stolen time", advise(silent, Share(0.0, stolen), [], 1)).severity == severity


@pytest.mark.parametrize(("left", "severity"), [(MEMORY_LEFT, "ok"), (MEMORY_LEFT / 2, "warning")])
def test_a_nearly_full_memory_is_a_warning(silent: Machine, left: float, severity: str) -> None:
    machine = replace(silent, memory_total=10**9, memory_available=round(left * 10**9))
    assert about("memory", advise(machine, QUIET, [], 1)).severity == severity


def test_half_of_what_memory_needs_says_nothing(silent: Machine) -> None:
    assert "memory" not in severities(advise(replace(silent, memory_total=10**9), QUIET, [], 1))
    assert "memory" not in severities(advise(replace(silent, memory_available=10**9), QUIET, [], 1))


def test_one_is_not_many(silent: Machine) -> None:
    assert about("threads", advise(silent, QUIET, [], 1)).finding == "1 thread on 4 physical cores"
