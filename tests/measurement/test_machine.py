"""What a system tells about itself, on made-up trees and on this machine."""

from __future__ import annotations

import os
import platform
import struct
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurement.machines import (
    AMD_DESKTOP,
    CLOUD,
    CONTAINER,
    CPU,
    LAPTOP,
    PI_THROTTLED,
    RASPBERRY_PI_4,
    RASPBERRY_PI_5_IN_A_CONTAINER,
    TREES,
    Tree,
    plant,
)

from esm_onnx.measurement.machine import (
    Machine,
    PiThrottle,
    Processes,
    ProcessLoad,
    Share,
    Usage,
    busiest,
    read_machine,
    read_processes,
    read_usage,
)
from esm_onnx.measurement.processor import processor_facts, processor_state

HZ = os.sysconf("SC_CLK_TCK")
TOLD_BY_THE_CALLER = {"cores"}


def told(machine: Machine) -> dict[str, object]:
    """What the machine tells of itself, without what is None or empty."""
    values = {field.name: getattr(machine, field.name) for field in fields(machine)}
    return {name: x for name, x in values.items() if x is not None and x != () and name not in TOLD_BY_THE_CALLER}


def test_a_raspberry_pi_tells_its_board_frequencies_temperature_and_throttling(tmp_path: Path) -> None:
    assert told(read_machine(plant(tmp_path, RASPBERRY_PI_4), range(4))) == {
        "processor": "Raspberry Pi 4 Model B Rev 1.4",
        "siblings": ((0,), (1,), (2,), (3,)),
        "threads_per_core": 1,
        "governors": ("ondemand",),
        "frequency_mhz": 1500.0,
        "min_mhz": 600.0,
        "max_mhz": 1500.0,
        "pi_throttle": PiThrottle(0),
        "temperatures_c": (("cpu-thermal", 48.199),),
        "load_1min": 0.12,
        "memory_total": 3884360 * 1024,
        "memory_available": 3500000 * 1024,
    }


def test_a_laptop_tells_turbo_throttles_pressure_and_that_it_runs_on_battery(tmp_path: Path) -> None:
    machine = read_machine(plant(tmp_path, LAPTOP), range(4))
    assert machine.turbo is True
    assert machine.turbo_switch is not None
    assert machine.turbo_switch.file == Path(CPU, "intel_pstate/no_turbo")
    assert (machine.core_throttles, machine.package_throttles) == (12, 7)
    assert machine.cpu_pressure == pytest.approx(0.125)
    assert machine.temperatures_c == (("acpitz", 52.0), ("x86_pkg_temp", 61.5))
    assert machine.on_mains is False
    assert machine.hypervisor is False
    assert (machine.threads_per_core, machine.physical_cores) == (2, 2)


def test_a_cloud_machine_tells_that_it_is_virtual_and_nothing_of_its_frequency(tmp_path: Path) -> None:
    assert told(read_machine(plant(tmp_path, CLOUD), range(2))) == {
        "processor": "Intel(R) Xeon(R) Processor",
        "siblings": ((0,), (1,)),
        "threads_per_core": 1,
        "hypervisor": True,
        "load_1min": 0.0,
        "memory_total": 4_000_000 * 1024,
        "memory_available": 3_000_000 * 1024,
    }


@pytest.mark.parametrize(
    ("file", "content", "turbo"),
    [
        ("intel_pstate/no_turbo", "0\n", True),
        ("intel_pstate/no_turbo", "1\n", False),
        ("cpufreq/boost", "1\n", True),
        ("cpufreq/boost", "0\n", False),
        ("cpufreq/boost", "perhaps\n", None),
    ],
)
def test_turbo_is_read_from_either_driver(tmp_path: Path, file: str, content: str, turbo: bool | None) -> None:
    machine = read_machine(plant(tmp_path, {f"{CPU}/{file}": content}), range(2))
    assert machine.turbo is turbo
    assert (machine.turbo_switch is None) == (turbo is None)


def test_only_the_usable_cores_count(tmp_path: Path) -> None:
    other = {f"{CPU}/cpu{core}/cpufreq/scaling_governor": "powersave\n" for core in (0, 1)}
    slow = {f"{CPU}/cpu3/cpufreq/scaling_cur_freq": "1600000\n"}
    machine = read_machine(plant(tmp_path, AMD_DESKTOP, other, slow), {3, 2})
    assert machine.cores == (2, 3)
    assert machine.governors == ("performance",)
    assert machine.siblings == ((2, 3),)
    assert machine.frequency_mhz == pytest.approx(2600)


def test_a_core_whose_sibling_belongs_to_others_still_shares(tmp_path: Path) -> None:
    machine = read_machine(plant(tmp_path, AMD_DESKTOP), {0, 2})
    assert (machine.threads_per_core, machine.physical_cores, machine.siblings) == (2, 2, ((0,), (2,)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "max\n"}, None),
        ({"cpu.max": "100000 0\n"}, None),
        ({"a.slice/cpu.max": "300000 100000\n", "a.slice/b/cpu.max": "max 100000\n"}, 3.0),
        ({"a.slice/cpu.max": "50000 100000\n", "a.slice/b/cpu.max": "200000 100000\n"}, 0.5),
        ({"other/cpu.max": "50000 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, None),
        ({"cpu/job/cpu.cfs_quota_us": "20000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 0.2),
    ],
)
def test_the_tightest_quota_of_the_control_groups_holds(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    groups = {"proc/self/cgroup": "4:cpu,cpuacct:/job\n2:name=systemd:/x\n0::/a.slice/b\n"}
    plant(tmp_path, groups, {f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    assert read_machine(tmp_path, range(2)).quota_cores == cores


def test_a_container_has_its_quota_at_the_top(tmp_path: Path) -> None:
    assert read_machine(plant(tmp_path, CONTAINER), range(2)).quota_cores == 1.5


@pytest.mark.parametrize(
    ("content", "bits"),
    [
        ("0\n", PiThrottle(0)),
        ("50005\n", PiThrottle(0x50005)),
        ("0x80008\n", PiThrottle.SOFT_TEMPERATURE_LIMIT | PiThrottle.SOFT_TEMPERATURE_LIMIT_OCCURRED),
        ("throttled\n", None),
        ("-1\n", None),
        ("\n", None),
    ],
)
def test_the_throttled_bits_are_hexadecimal(tmp_path: Path, content: str, bits: PiThrottle | None) -> None:
    assert read_machine(plant(tmp_path, {PI_THROTTLED: content}), range(4)).pi_throttle == bits


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (RASPBERRY_PI_4, {"device": "Raspberry Pi 4 Model B Rev 1.4", "governor": "ondemand"}),
        (RASPBERRY_PI_5_IN_A_CONTAINER, {"device": "Raspberry Pi 5 Model B Rev 1.0", "governor": "performance"}),
        (CLOUD, {"device": "Intel(R) Xeon(R) Processor"}),
        ({**LAPTOP, f"{CPU}/cpu3/cpufreq/scaling_governor": "schedutil\n"}, {"governor": "powersave, schedutil"}),
    ],
)
def test_the_facts_of_a_target_are_board_userland_and_governor(tmp_path: Path, tree: Tree, told: Tree) -> None:
    facts = processor_facts(plant(tmp_path, tree), range(4))
    assert {**facts, **told} == facts
    assert ("governor" in facts) == ("governor" in told)
    assert facts["userland_bits"] == 8 * struct.calcsize("P")
    assert facts["machine"] == platform.machine()


def test_the_model_in_a_container_is_the_one_that_the_board_has_outside(tmp_path: Path) -> None:
    kernel = {"proc/cpuinfo": "processor\t: 0\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"}
    outside = plant(tmp_path / "outside", RASPBERRY_PI_4, kernel)
    hidden = {file: text for file, text in RASPBERRY_PI_4.items() if file != "proc/device-tree/model"}
    inside = plant(tmp_path / "inside", hidden, kernel)
    assert processor_facts(inside, range(4)) == processor_facts(outside, range(4))


def test_what_belongs_to_the_moment_is_no_fact(tmp_path: Path) -> None:
    facts = processor_facts(plant(tmp_path, RASPBERRY_PI_4), range(4))
    hot = {"sys/class/thermal/thermal_zone0/temp": "84000\n", PI_THROTTLED: "60006\n"}
    slow = {f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "600000\n"}
    assert processor_facts(plant(tmp_path, hot, slow), range(4)) == facts


@pytest.mark.parametrize(
    ("tree", "state"),
    [
        (RASPBERRY_PI_4, {"temperature_c": 48.199, "pi_throttle": 0}),
        (RASPBERRY_PI_5_IN_A_CONTAINER, {"temperature_c": 81.35, "pi_throttle": 0xE0008}),
        (LAPTOP, {"temperature_c": 61.5}),
        ({"sys/class/thermal/thermal_zone0/temp": "-5000\n", PI_THROTTLED: "nonsense\n"}, {"temperature_c": 0}),
        (CLOUD, {}),
    ],
)
def test_the_state_is_the_hottest_place_and_the_throttle_bits(tmp_path: Path, tree: Tree, state: object) -> None:
    assert processor_state(plant(tmp_path, tree)) == state


@pytest.mark.parametrize(
    ("states", "on_mains"),
    [
        ([("Mains", "1")], True),
        ([("Mains", "0"), ("USB", "1")], False),
        ([("Mains", "0"), ("Mains", "1")], True),
        ([("Battery", "1")], None),
        ([("Mains", "?")], None),
    ],
)
def test_any_mains_adapter_will_do(tmp_path: Path, states: list[tuple[str, str]], on_mains: bool | None) -> None:
    for number, (kind, online) in enumerate(states):
        folder = f"sys/class/power_supply/s{number}"
        plant(tmp_path, {f"{folder}/type": f"{kind}\n", f"{folder}/online": f"{online}\n"})
    assert read_machine(tmp_path, range(1)).on_mains is on_mains


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, {0, 1})
    assert told(machine) == {}
    assert machine.physical_cores == 2
    assert read_usage(tmp_path, {0, 1}) is None
    assert read_processes(tmp_path) is None


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe\0\0", b"none\n", b"nan\n", b"1.5e999 x\n", b": : :\n"])
def test_malformed_files_tell_nothing(tmp_path: Path, name: str, rubbish: bytes) -> None:
    tree, cores = TREES[name]
    free_text = {"governors", "processor"}  # any text may be a name
    for file in tree:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rubbish)
    assert set(told(read_machine(tmp_path, range(cores)))) <= free_text


def test_folders_in_the_place_of_files_tell_nothing(tmp_path: Path) -> None:
    for file in RASPBERRY_PI_4:
        (tmp_path / file).mkdir(parents=True)
    assert told(read_machine(tmp_path, range(4))) == {}


def stat(*cores: tuple[int, ...]) -> dict[str, str]:
    lines = [f"cpu{number} {' '.join(map(str, jiffies))}" for number, jiffies in enumerate(cores)]
    return {"proc/stat": "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5 0", "ctxt 7"]) + "\n"}


def test_usage_is_summed_over_the_usable_cores(tmp_path: Path) -> None:
    plant(tmp_path, stat((1, 2, 4, 8, 16, 32, 64, 128, 1, 1), (1000,) * 10, (3, 0, 0, 5, 0, 0, 0, 7, 0, 0)))
    assert read_usage(tmp_path, {0, 2}) == Usage(busy=1 + 2 + 4 + 32 + 64 + 3, idle=8 + 16 + 5, steal=128 + 7)
    assert read_usage(tmp_path, {5}) is None


@pytest.mark.parametrize("line", ["cpu0", "cpu0 1 2 3", "cpu0 1 2 3 4 5 6 x 8 9 10"])
def test_malformed_counters_are_no_usage(tmp_path: Path, line: str) -> None:
    assert read_usage(plant(tmp_path, {"proc/stat": f"{line}\n"}), {0}) is None


def test_shares_are_of_the_time_between_two_readings() -> None:
    assert Usage(150, 340, 30).since(Usage(100, 300, 20)) == Share(busy=0.5, stolen=0.1)


COUNTERS = st.builds(Usage, *[st.integers(0, 10**9)] * 3)


@given(COUNTERS, COUNTERS)
def test_shares_stay_between_none_and_all(earlier: Usage, later: Usage) -> None:
    share = later.since(earlier)
    assert share.busy >= 0
    assert share.stolen >= 0
    assert share.busy + share.stolen <= 1 + 1e-12
    assert earlier.since(earlier) == Share(0.0, 0.0)


def process(pid: int, name: str, user_s: float, system_s: float, start: int = 7) -> dict[str, str]:
    words = ["S", *"0" * 10, str(round(user_s * HZ)), str(round(system_s * HZ)), *"0" * 5, "0", str(start), "0"]
    return {f"proc/{pid}/stat": f"{pid} ({name}) {' '.join(words)}\n"}


def readings(tmp_path: Path, earlier: list[dict[str, str]], later: list[dict[str, str]]) -> tuple[Processes, Processes]:
    """Two readings, two seconds apart."""
    first = read_processes(plant(tmp_path / "1", {"proc/uptime": "100.00 50.00\n"}, *earlier))
    second = read_processes(plant(tmp_path / "2", {"proc/uptime": "102.00 51.00\n"}, *later))
    assert first is not None
    assert second is not None
    return first, second


def test_the_busiest_processes_come_first_with_their_share_of_one_core(tmp_path: Path) -> None:
    pair = readings(
        tmp_path,
        [process(1, "init", 9, 9), process(20, "a) (b", 1, 1), process(30, "me", 0, 0), process(40, "light", 0, 0)],
        [process(1, "init", 9, 9), process(20, "a) (b", 4, 2), process(30, "me", 2, 0), process(40, "light", 0.5, 0)],
    )
    assert busiest(*pair, ignore={30}) == [ProcessLoad(20, "a) (b", 2.0), ProcessLoad(40, "light", 0.25)]
    assert busiest(*pair, count=1) == [ProcessLoad(20, "a) (b", 2.0)]
    assert busiest(pair[1], pair[0]) == busiest(pair[0], pair[0]) == []


def test_a_process_that_renames_itself_is_still_the_same(tmp_path: Path) -> None:
    pair = readings(tmp_path, [process(5, "kworker/0:1", 600, 0)], [process(5, "kworker/0:1-events", 601, 0)])
    assert busiest(*pair) == [ProcessLoad(5, "kworker/0:1-events", 0.5)]


def test_a_process_id_used_again_is_another_process(tmp_path: Path) -> None:
    pair = readings(tmp_path, [process(5, "old", 600, 0, start=7)], [process(5, "new", 1, 0, start=10_100)])
    assert busiest(*pair) == [ProcessLoad(5, "new", 0.5)]


def test_malformed_processes_are_left_out(tmp_path: Path) -> None:
    wrong = {"proc/6/stat": "6 (half", "proc/7/stat": "", "proc/8x/stat": "8 (x) S", "proc/9/stat": "9 (y) S 1 2"}
    wrong["proc/10/stat"] = "10 (no start) S" + " 1" * 15
    _, later = readings(tmp_path, [], [wrong, process(5, "good", 1, 0)])
    assert list(later.used.values()) == [("good", 1.0)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_tells_what_python_knows_of_it() -> None:
    machine = read_machine()
    assert set(machine.cores) == os.sched_getaffinity(0)
    assert machine.memory_total is not None
    assert machine.memory_available is not None
    assert 0 < machine.memory_available <= machine.memory_total
    assert machine.load_1min is not None
    assert 1 <= machine.physical_cores <= len(machine.cores)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_on_this_machine_a_busy_process_is_seen() -> None:
    usage, processes = read_usage(), read_processes()
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    usage_after, processes_after = read_usage(), read_processes()
    assert usage is not None
    assert usage_after is not None
    assert processes is not None
    assert processes_after is not None
    assert usage_after.since(usage).busy > 0
    seen = busiest(processes, processes_after, count=1000)
    assert os.getpid() in [load.pid for load in seen]
    assert os.getpid() not in [load.pid for load in busiest(processes, processes_after, ignore={os.getpid()})]
