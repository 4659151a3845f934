"""Under what conditions a run was timed: what the system counts, and the reasons for which a run is left out.

Per run: involuntary context switches, and where one thread computes its CPU time. (By the thread's own clock: what
getrusage tells of it may be a scheduler tick of some milliseconds old.)
Every 10 ms or more, because reading them costs more: time stolen by a hypervisor, throttling, and clock frequency.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntFlag
from pathlib import Path

from esm_onnx.measurement.machine import pi_throttle_files
from esm_onnx.measurement.nvml import Gpu

REFRESH_NS = 10_000_000
"""How old the slow readings may be: steal is counted in ticks of 10 ms, so more often tells no more."""
REFRESH_SHARE = 0.02
"""Share of the time that slow readings may cost: a server of 128 cores needs a millisecond for one."""
WAITING_SHARE = 0.02
"""Share of a run without a processor that makes it contaminated: a page fault costs less, a time slice more."""
WAITING_NS = 20_000
"""Time without a processor that is never contamination: an interrupt takes as long."""
SLOWED_SHARE = 0.9
"""A clock below this share of the fastest seen counts as slowed; steps of turbo are smaller."""
PI_THROTTLED_NOW = 0b1111
"""Of the Raspberry Pi's get_throttled: under-voltage, capped, throttled, soft temperature limit, each of now."""


class Reason(IntFlag):
    """Why a run is left out."""

    PREEMPTED = 1
    """The scheduler gave the processor to another thread during the run."""
    WAITING = 2
    """The thread was without a processor for a part of the run, for whatever reason."""
    STOLEN = 4
    """The hypervisor gave the processor to another machine."""
    THROTTLED = 8
    """The device protected itself: heat, power, voltage."""
    SLOWED = 16
    """The clock frequency was well below the fastest seen."""
    UNPAIRED = 32
    """The calibration runs before or after its block were contaminated themselves."""
    OTHER_SPEED = 64
    """The calibration runs beside it were far from their nominal latency: the device was in another regime."""
    CHANGING = 128
    """The calibration runs before and after its block disagree: the device changed its speed meanwhile."""

    @property
    def words(self) -> str:
        """The name as reports show it."""
        return (self.name or "").lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Counters:
    """What the system has counted so far; only differences count, but for what is of now.

    Attributes:
        switches: involuntary context switches.
        cpu_ns: CPU time of the measuring thread; None where a run does not compute in it alone.
        stolen: ticks that a hypervisor took.
        throttlings: events of throttling.
        throttled: whether the device throttles now.
        frequency: clock of the device now, in any unit; None where it cannot be read.
        reading: number of the slow reading that the last four come from.
    """

    switches: int = 0
    cpu_ns: int | None = None
    stolen: int = 0
    throttlings: int = 0
    throttled: bool = False
    frequency: int | None = None
    reading: int = 0


def fast_reasons(before: Counters, after: Counters, wall_ns: int) -> Reason:
    """What the counters of every run tell of the run between them."""
    found = Reason(0)
    if after.switches > before.switches:
        found |= Reason.PREEMPTED
    if before.cpu_ns is None or after.cpu_ns is None:
        return found
    waited_ns = wall_ns - (after.cpu_ns - before.cpu_ns)
    return found | Reason.WAITING if waited_ns > max(WAITING_NS, WAITING_SHARE * wall_ns) else found


def slow_reasons(before: Counters, after: Counters, fastest: int | None) -> Reason:
    """What two slow readings tell of every run between them; `fastest` is the highest frequency seen."""
    found = Reason(0)
    if after.stolen > before.stolen:
        found |= Reason.STOLEN
    if after.throttled or after.throttlings > before.throttlings:
        found |= Reason.THROTTLED
    if fastest and after.frequency and after.frequency < SLOWED_SHARE * fastest:
        found |= Reason.SLOWED
    return found


class HostCounters:
    """The counters of this machine, as far as it has them (Linux).

    Args:
        one_thread: the calling thread alone computes, so that its CPU time tells whether it had the processor.
        root: folder that holds `proc` and `sys`.
        gpu: the GPU that computes, if one does: then its clock and throttling count in place of the processor's.
        clock: gives ns.
    """

    def __init__(
        self,
        *,
        one_thread: bool,
        root: Path = Path("/"),
        gpu: Gpu | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF) if one_thread else resource.RUSAGE_SELF
        self._one_thread, self._clock = one_thread, clock
        self._root, self._gpu = root, gpu
        cores = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
        self._names = {f"cpu{core}" for core in cores}
        cpu = root / "sys/devices/system/cpu"
        self._frequencies = [p for c in sorted(cores) if (p := cpu / f"cpu{c}/cpufreq/scaling_cur_freq").exists()]
        counts = ("core_throttle_count", "package_throttle_count")
        self._throttlings = [
            p for c in sorted(cores) for name in counts if (p := cpu / f"cpu{c}/thermal_throttle/{name}").exists()
        ]
        self._throttled = next(iter(pi_throttle_files(root)), None)
        self._slow = Counters()
        self._next_ns = 0

    def __call__(self) -> Counters:
        if self._clock() >= self._next_ns:
            self._refresh()
        usage = resource.getrusage(self._who)
        cpu_ns = time.thread_time_ns() if self._one_thread else None
        return replace(self._slow, switches=usage.ru_nivcsw, cpu_ns=cpu_ns)

    def _refresh(self) -> None:
        start = self._clock()
        stolen, reading = _stolen(self._root / "proc/stat", self._names), self._slow.reading + 1
        if self._gpu is not None:
            throttled, frequency = self._gpu.is_throttled(), self._gpu.clock_mhz()
            self._slow = Counters(stolen=stolen, throttled=throttled, frequency=frequency, reading=reading)
        else:
            frequencies = [value for path in self._frequencies if (value := _number(path)) is not None]
            self._slow = Counters(
                stolen=stolen,
                throttlings=sum(_number(path) or 0 for path in self._throttlings),
                throttled=bool((_number(self._throttled, 16) or 0) & PI_THROTTLED_NOW),
                frequency=max(frequencies, default=None),
                reading=reading,
            )
        end = self._clock()
        self._next_ns = end + max(REFRESH_NS, round((end - start) / REFRESH_SHARE))


def _number(path: Path | None, base: int = 10) -> int | None:
    try:
        return None if path is None else int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None


def _stolen(stat: Path, names: set[str]) -> int:
    """Ticks stolen from the named processors."""
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
        return sum(int(fields[8]) for fields in lines if fields[0] in names and len(fields) > 8)
    except (OSError, ValueError):
        return 0
