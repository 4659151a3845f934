"""Timing on a made-up device: its clock moves only while it runs, and its counters say what the test scripted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.measurement.conditions import Counters, Reason
from esm_onnx.measurement.timing import (
    BLOCK,
    CALIBRATIONS,
    SETTLING,
    SPEED_RANGE,
    Instruments,
    Stopwatch,
    Timing,
    time_pairs,
    time_runs,
)

MS = 1_000_000


@dataclass
class Device:
    """A subject of 5 ms ("s") and a calibration subnet of 1 ms ("c"); `run` may change the state before each of them.

    Attributes:
        ran: what ran, in order.
        state: what the counters show.
        read: whether the slow readings are of now: where not, they stay as they were read last.
    """

    before_run: Callable[[Device, str, int], float] = lambda _device, _name, _number: 1.0
    refresh: Callable[[Device], bool] = lambda _device: True
    now: int = 0
    ran: list[str] = field(default_factory=list)
    state: Counters = field(default_factory=Counters)
    seen: Counters = field(default_factory=Counters)
    calls: int = 0

    def infer(self, name: str) -> Callable[[], None]:
        def run() -> None:
            factor = self.before_run(self, name, self.ran.count(name))
            self.ran.append(name)
            self.now += round((5 if name == "s" else 1) * MS * factor)

        return run

    def counters(self) -> Counters:
        self.calls += 1
        if self.refresh(self):
            self.seen = replace(self.state, reading=self.seen.reading + 1)
        return replace(self.seen, switches=self.state.switches)

    def pairs(self, runs: int, *, nominal_ms: float | None = 1.0, target_error: float | None = None) -> Timing:
        nominal_ns = None if nominal_ms is None else nominal_ms * MS
        instruments = Instruments(lambda: self.now, self.counters)
        return time_pairs(
            self.infer("s"),
            self.infer("c"),
            instruments,
            runs=runs,
            warmup=7,
            nominal_ns=nominal_ns,
            target_error=target_error,
        )

    def plain(self, runs: int, target_error: float | None = None) -> Timing:
        instruments = Instruments(lambda: self.now, self.counters)
        return time_runs(self.infer("s"), instruments, runs=runs, warmup=7, target_error=target_error)


def noisy(_device: Device, name: str, number: int) -> float:
    return Random(f"{name}{number}").uniform(0.8, 1.2)


def test_forty_five_runs_come_in_three_blocks_between_four_of_the_calibration_subnet() -> None:
    device = Device()
    timing = device.pairs(45)
    calibrations = "c" * (4 + 8)
    expected = [calibrations, "s" * (7 + 20), calibrations, "s" * (4 + 20), calibrations, "s" * (4 + 5), calibrations]
    assert "".join(device.ran) == "".join(expected)
    assert timing == Timing([5 * MS] * 45, [0] * 45, [float(MS)] * 45, 48 * MS)
    assert (SETTLING, BLOCK, CALIBRATIONS) == (4, 20, 8)


def test_plain_timing_runs_the_subject_alone() -> None:
    device = Device()
    assert device.plain(45) == Timing([5 * MS] * 45, [0] * 45, [])
    assert "".join(device.ran) == "s" * (7 + 45)


def test_the_calibration_beside_a_block_is_the_one_before_and_the_one_after() -> None:
    speeds = [1.0, 1.1, 1.2, 1.3]  # one for each block of the calibration subnet
    device = Device(lambda _device, name, number: speeds[number // 12] if name == "c" else 1.0)
    timing = device.pairs(60, nominal_ms=None)
    assert timing.calibration_ns == pytest.approx([1.05 * MS] * 20 + [1.15 * MS] * 20 + [1.25 * MS] * 20, rel=0.01)


def test_untimed_runs_leave_no_trace_in_the_statistic() -> None:
    def slow_at_first(device: Device, name: str, _number: int) -> float:
        return 9.0 if len(device.ran) < 4 or device.ran[-4:] != [name] * 4 else 1.0

    timing = Device(slow_at_first).pairs(45)
    assert timing.runs_ns == [5 * MS] * 45
    assert timing.calibration_ns == [float(MS)] * 45
    assert timing.calibrating_ns == 4 * (4 * 9 + 8) * MS


def watched(device: Device, count: int) -> list[Reason]:
    watch = Stopwatch(Instruments(lambda: device.now, device.counters))
    watch.time(device.infer("s"), count)
    return [Reason(bits) for bits in watch.dropped]


def test_a_switch_marks_its_run_and_no_other() -> None:
    def switch(device: Device, _name: str, number: int) -> float:
        device.state = replace(device.state, switches=device.state.switches + (number == 3))
        return 1.0

    assert watched(Device(switch), 6) == [0, 0, 0, Reason.PREEMPTED, 0, 0]


def steal_in(run: int) -> Callable[[Device, str, int], float]:
    def before_run(device: Device, name: str, number: int) -> float:
        if name == "s" and number == run:
            device.state = replace(device.state, stolen=device.state.stolen + 1)
        return 1.0

    return before_run


def test_what_a_slow_reading_finds_holds_for_every_run_since_the_one_before() -> None:
    # Two calls a run, the even ones after it: a reading after every third run.
    found = watched(Device(steal_in(4), lambda device: device.calls == 1 or device.calls % 6 == 0), 12)
    assert found == [0, 0, 0, *[Reason.STOLEN] * 3, *[0] * 6]


def test_a_slow_reading_taken_between_two_runs_is_not_lost() -> None:
    found = watched(Device(steal_in(4), lambda device: device.calls % 6 == 1), 12)
    assert found == [0, 0, 0, *[Reason.STOLEN] * 3, *[0] * 6]


def test_a_slow_reading_after_a_block_holds_for_its_last_runs() -> None:
    def refresh(device: Device) -> bool:
        return "s" not in device.ran[-1:] or device.ran.count("s") == 20

    timing = Device(steal_in(7 + 15), refresh).pairs(20)
    assert [bool(bits & Reason.STOLEN) for bits in timing.dropped] == [False] * 13 + [True] * 7


def test_the_clock_is_compared_with_the_fastest_seen() -> None:
    def slow_down(device: Device, _name: str, number: int) -> float:
        device.state = replace(device.state, frequency=3_000 if number < 3 else 2_000)
        return 1.0

    device = Device(slow_down)
    device.state = Counters(frequency=3_000)
    assert watched(device, 6) == [0, 0, 0, *[Reason.SLOWED] * 3]


@pytest.mark.parametrize("every", [1, 3, 17])
def test_another_clock_under_the_subnet_beside_is_no_slowing_down(every: int) -> None:
    """A GPU at its power cap has a lower one for more work."""

    def at_the_cap(device: Device, name: str, _number: int) -> float:
        device.state = replace(device.state, frequency=1_500 if name == "s" else 1_980)
        return 1.0

    assert Device(at_the_cap, lambda device: device.calls % every == 0).pairs(60).dropped == [0] * 60


def test_a_clock_that_falls_within_a_block_is_slowed_from_there_on() -> None:
    def fall(device: Device, name: str, number: int) -> float:
        device.state = replace(device.state, frequency=1_200 if name == "s" and number >= 7 + 10 else 1_500)
        return 1.0

    assert Device(fall).pairs(40).dropped == [0] * 10 + [Reason.SLOWED] * 30


def test_throttling_marks_the_runs_while_it_lasts() -> None:
    def throttle(device: Device, _name: str, number: int) -> float:
        device.state = replace(device.state, throttled=2 <= number < 4)
        return 1.0

    assert watched(Device(throttle), 6) == [0, 0, Reason.THROTTLED, Reason.THROTTLED, 0, 0]


@pytest.mark.parametrize(("contaminated", "unpaired"), [(4, False), (6, False), (7, True), (8, True)])
def test_a_block_whose_calibrations_are_contaminated_has_no_pair(contaminated: int, unpaired: bool) -> None:
    """Of the eight timed runs of each calibration block, so many are preempted and take ten times as long."""

    def disturb(device: Device, name: str, number: int) -> float:
        disturbed = name == "c" and number % 12 >= 12 - contaminated
        device.state = replace(device.state, switches=device.state.switches + disturbed)
        return 10.0 if disturbed else 1.0

    timing = Device(disturb).pairs(40)
    assert timing.dropped == [Reason.UNPAIRED if unpaired else 0] * 40
    if not unpaired:
        assert timing.calibration_ns == [float(MS)] * 40


@pytest.mark.parametrize("factor", [SPEED_RANGE, 1 / SPEED_RANGE])
@pytest.mark.parametrize("beyond", [False, True])
def test_a_device_off_its_usual_speed_by_fifteen_per_cent_is_in_another_regime(factor: float, beyond: bool) -> None:
    step = 1.001 if (factor > 1) == beyond else 0.999
    timing = Device(lambda *_: factor * step).pairs(40)
    assert timing.dropped == [Reason.OTHER_SPEED if beyond else 0] * 40
    assert set(Device(lambda *_: factor * step).pairs(40, nominal_ms=None).dropped) == {0}


def test_pairs_end_at_the_target_error() -> None:
    assert len(Device(noisy).pairs(150, target_error=None).runs_ns) == 150
    assert len(Device(noisy).pairs(150, target_error=0.001).runs_ns) == 150
    assert 40 < len(Device(noisy).pairs(150, target_error=0.05).runs_ns) < 150
    assert len(Device(noisy).pairs(45, target_error=0.001).runs_ns) == 45


def test_plain_timing_ends_at_the_target_error() -> None:
    assert len(Device(noisy).plain(150).runs_ns) == 150
    assert len(Device(noisy).plain(150, 0.001).runs_ns) == 150
    assert 40 < len(Device(noisy).plain(150, 0.05).runs_ns) < 150
    assert len(Device().plain(150, 0.5).runs_ns) == 40


@given(st.integers(1, 100), st.booleans())
def test_nothing_is_known_before_two_blocks_and_the_cap_holds(runs: int, paired: bool) -> None:
    device = Device()
    timing = device.pairs(runs, target_error=0.5) if paired else device.plain(runs, 0.5)
    assert len(timing.runs_ns) == len(timing.dropped) == min(runs, 2 * BLOCK)
    assert len(timing.calibration_ns) == (len(timing.runs_ns) if paired else 0)


def test_a_subject_whose_runs_are_all_contaminated_is_never_known_well_enough() -> None:
    def switch(device: Device, name: str, _number: int) -> float:
        device.state = replace(device.state, switches=device.state.switches + (name == "s"))
        return 1.0

    timing = Device(switch).pairs(70, target_error=0.5)
    assert timing.dropped == [Reason.PREEMPTED] * 70


def test_two_blocks_of_which_one_is_contaminated_are_not_enough() -> None:
    def change(_device: Device, name: str, number: int) -> float:
        return 1.4 if name == "c" and number >= 24 else 1.0  # from the third block of the calibration subnet on

    timing = Device(change).pairs(100, target_error=0.02)
    assert [bool(bits) for bits in timing.dropped[:40]] == [False] * 20 + [True] * 20
    assert len(timing.runs_ns) > 40
