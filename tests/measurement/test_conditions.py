"""What the system counts: on made-up /proc and /sys, and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from measurement.machines import RASPBERRY_PI_5_IN_A_CONTAINER, plant

from esm_onnx.measurement.conditions import (
    REFRESH_NS,
    REFRESH_SHARE,
    SLOWED_SHARE,
    Counters,
    HostCounters,
    Reason,
    fast_reasons,
    slow_reasons,
)
from esm_onnx.measurement.timing import Instruments, Stopwatch

linux = pytest.mark.skipif(sys.platform != "linux", reason="pins processes to cores")


class Host:
    """A made-up machine whose every core has the same state."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0
        self.cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
        self.set_stolen(100)
        for core in self.cores:
            self.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", "3000000")
            for name in ("core_throttle_count", "package_throttle_count"):
                self.write(f"sys/devices/system/cpu/cpu{core}/thermal_throttle/{name}", "5")
        self.set_bits("0")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def set_stolen(self, ticks: int, elsewhere: int = 0) -> None:
        mine = [f"cpu{core} 10 20 30 40 50 60 70 {ticks} 90 99" for core in self.cores]
        other = f"cpu{max(self.cores) + 1} 10 20 30 40 50 60 70 {elsewhere} 90 99"
        self.write("proc/stat", "\n".join([f"cpu  1 2 3 4 5 6 7 {ticks + elsewhere} 9 9", *mine, other, "intr 1 2 3"]))

    def set_bits(self, text: str) -> None:
        self.write("sys/devices/platform/soc/soc:firmware/get_throttled", text)

    def counters(self) -> HostCounters:
        return HostCounters(one_thread=True, root=self.root, clock=lambda: self.now)

    def change(self, counters: HostCounters) -> Reason:
        """What a slow reading finds, compared with the one before it."""
        before = counters()
        self.now += 100 * REFRESH_NS
        return slow_reasons(before, counters(), 3_000_000)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_everything_that_the_machine_offers_is_read(host: Host) -> None:
    found = host.counters()()
    cores = len(host.cores)
    assert (found.stolen, found.throttlings, found.throttled) == (100 * cores, 10 * cores, False)
    assert (found.frequency, found.reading) == (3_000_000, 1)


def test_nothing_changed_is_no_reason(host: Host) -> None:
    assert host.change(host.counters()) == Reason(0)


def test_ticks_stolen_from_our_cores_count_and_those_from_others_do_not(host: Host) -> None:
    counters = host.counters()
    counters()
    host.set_stolen(100, elsewhere=77)
    assert host.change(counters) == Reason(0)
    counters()
    before = counters()
    host.set_stolen(101, elsewhere=77)
    host.now += REFRESH_NS
    assert slow_reasons(before, counters(), None) == Reason.STOLEN


@pytest.mark.parametrize("name", ["core_throttle_count", "package_throttle_count"])
def test_a_new_event_of_throttling_counts(host: Host, name: str) -> None:
    counters = host.counters()
    before = counters()
    host.write(f"sys/devices/system/cpu/cpu{host.cores[0]}/thermal_throttle/{name}", "6")
    host.now += REFRESH_NS
    assert slow_reasons(before, counters(), None) == Reason.THROTTLED


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [("0", 0), ("0x1", 1), ("2", 1), ("4", 1), ("8", 1), ("50005", 1), ("50000", 0), ("f0000", 0), ("0x10", 0)],
)
def test_the_pis_bits_count_only_for_what_is_now(host: Host, bits: str, throttled: int) -> None:
    host.set_bits(bits)
    assert host.change(host.counters()) == (Reason.THROTTLED if throttled else Reason(0))


def test_a_raspberry_pi_5_tells_its_bits_elsewhere(tmp_path: Path) -> None:
    file = plant(tmp_path, RASPBERRY_PI_5_IN_A_CONTAINER) / "sys/devices/platform/soc@107c000000"
    assert HostCounters(one_thread=True, root=tmp_path, clock=lambda: 0)().throttled
    (file / "soc@107c000000:firmware/get_throttled").write_text("e0000\n")
    assert not HostCounters(one_thread=True, root=tmp_path, clock=lambda: 0)().throttled


def test_a_clock_well_below_the_fastest_is_slowed_and_one_a_step_below_is_not() -> None:
    for share, slowed in ((SLOWED_SHARE - 0.01, True), (SLOWED_SHARE + 0.01, False)):
        after = Counters(frequency=round(3_000_000 * share))
        assert (slow_reasons(Counters(), after, 3_000_000) == Reason.SLOWED) is slowed
    assert slow_reasons(Counters(), Counters(frequency=1), None) == Reason(0)
    assert slow_reasons(Counters(), Counters(), 3_000_000) == Reason(0)


def test_the_fastest_of_the_cores_is_the_clock(host: Host) -> None:
    for core in host.cores[1:]:
        host.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", "800000")
    assert host.counters()().frequency == 3_000_000


def test_a_machine_that_tells_nothing_is_read_without_complaint(tmp_path: Path) -> None:
    found = HostCounters(one_thread=True, root=tmp_path, clock=lambda: 0)()
    assert (found.stolen, found.throttlings, found.throttled, found.frequency) == (0, 0, False, None)


@pytest.mark.parametrize("text", ["", "nonsense", "\x00", "cpu0 1 2", "-", "1.5"])
def test_malformed_files_tell_nothing(host: Host, text: str) -> None:
    for path in [path for path in host.root.rglob("*") if path.is_file()]:
        path.write_text(text)
    found = host.counters()()
    assert (found.stolen, found.throttlings, found.throttled, found.frequency) == (0, 0, False, None)


def test_files_that_vanish_while_measuring_tell_nothing(host: Host) -> None:
    counters = host.counters()
    counters()
    for path in [path for path in host.root.rglob("*") if path.is_file()]:
        path.unlink()
    assert host.change(counters) == Reason(0)


def test_undecodable_bytes_tell_nothing(host: Host) -> None:
    for path in [path for path in host.root.rglob("*") if path.is_file()]:
        path.write_bytes(b"\xff\xfe\xfa")
    found = host.counters()()
    assert (found.stolen, found.throttlings, found.throttled, found.frequency) == (0, 0, False, None)


def test_slow_readings_are_not_taken_more_often_than_they_tell_something_new(host: Host) -> None:
    counters = host.counters()
    readings = []
    for host.now in range(0, 10 * REFRESH_NS, REFRESH_NS // 20):
        readings.append(counters().reading)
    assert readings == sorted(readings)
    assert readings[0] == 1
    assert readings[-1] == 10


def test_slow_readings_that_take_long_are_taken_rarely(host: Host) -> None:
    cost_ns = 5_000_000

    def clock() -> int:
        host.now += cost_ns // 2
        return host.now

    counters = HostCounters(one_thread=True, root=host.root, clock=clock)
    counters()
    first = host.now
    while counters().reading == 1:
        pass
    assert host.now - first >= 0.9 * (cost_ns / 2) / REFRESH_SHARE


@pytest.mark.parametrize("waited", [0.0, 0.01, 0.03, 0.9])
def test_time_without_a_processor_counts_beyond_a_page_faults(waited: float) -> None:
    wall = 10_000_000
    after = Counters(cpu_ns=round(wall * (1 - waited)))
    assert fast_reasons(Counters(cpu_ns=0), after, wall) == (Reason.WAITING if waited > 0.02 else Reason(0))
    assert fast_reasons(Counters(), after, wall) == Reason(0)


def test_an_involuntary_switch_is_a_reason() -> None:
    assert fast_reasons(Counters(switches=3), Counters(switches=4), 1) == Reason.PREEMPTED
    assert fast_reasons(Counters(switches=3), Counters(switches=3), 1) == Reason(0)


def test_reasons_have_words() -> None:
    assert [reason.words for reason in Reason][-3:] == ["unpaired", "other speed", "changing"]
    assert len({reason.words for reason in Reason}) == len(Reason) == 8


def compute(steps: int) -> None:
    """Computes, some 20 ns a step, and asks the system nothing: that would bring its counters up to date."""
    sum(range(steps))


def watched(infer: object, count: int) -> list[Reason]:
    watch = Stopwatch(Instruments(time.perf_counter_ns, HostCounters(one_thread=True)))
    watch.time(infer, count)  # type: ignore[arg-type]
    return [Reason(bits) for bits in watch.dropped]


@pytest.fixture
def one_core() -> Iterator[int]:
    """The core that this process may use for the moment, and nothing else."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    yield min(usual)
    os.sched_setaffinity(0, usual)


@linux
@pytest.mark.parametrize("steps", [30_000, 300_000])
def test_the_cpu_time_of_a_run_is_no_scheduler_tick_behind(steps: int) -> None:
    counters = HostCounters(one_thread=True)
    counters()
    for _ in range(20):
        start = time.thread_time_ns()
        before = counters().cpu_ns
        compute(steps)
        after = counters().cpu_ns
        spent = time.thread_time_ns() - start
        assert before is not None
        assert after is not None
        assert 0.3 * spent <= after - before <= spent


@linux
def test_a_run_that_only_computes_waits_for_nothing_but_where_it_is_preempted() -> None:
    found = watched(lambda: compute(50_000), 100)
    # The host of a virtual machine may take the processor too, hence not all.
    undisturbed = [reasons for reasons in found if not reasons & Reason.PREEMPTED]
    waiting = sum(bool(reasons & Reason.WAITING) for reasons in undisturbed)
    assert waiting <= len(undisturbed) / 2


@linux
def test_a_run_that_sleeps_is_waiting() -> None:
    assert all(reasons & Reason.WAITING for reasons in watched(lambda: time.sleep(0.003), 10))


@linux
def test_a_thread_that_shares_its_core_is_seen_to_be_preempted(one_core: int) -> None:
    busy = f"import os\nos.sched_setaffinity(0, [{one_core}])\nprint('busy', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as rival:
        try:
            assert rival.stdout is not None
            rival.stdout.readline()
            found = watched(lambda: compute(200_000), 60)
        finally:
            rival.kill()
    contaminated = [reasons for reasons in found if reasons & (Reason.PREEMPTED | Reason.WAITING)]
    assert len(contaminated) >= 10
    assert any(reasons & Reason.PREEMPTED for reasons in found)
    assert any(reasons & Reason.WAITING for reasons in found)


def test_the_counters_of_several_threads_leave_out_the_cpu_time(host: Host) -> None:
    counters = HostCounters(one_thread=False, root=host.root, clock=lambda: 0)
    assert counters().cpu_ns is None
