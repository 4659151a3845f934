"""Whether this machine is fit for a long session, and what would make it fitter.

The advice is a table of rules. A rule gives None where the system tells nothing about its topic, an `ok` where all is
well, and otherwise what was found, with the command that mends it where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from esm_onnx.measurement.machine import Machine, PiThrottle, ProcessLoad, Share

# A twentieth of a core meets one run in twenty of a single thread, about as many as a trimmed statistic bears unmoved.
COMPETING_CORES = 0.05
# As much as the error aimed at (1 %): stolen time lands on some runs and spares others, so it shows up as noise.
STOLEN_SHARE = 0.01
# Below a tenth, the kernel takes back file pages and swaps while runs are being timed.
MEMORY_LEFT = 0.10
# A Raspberry Pi slows down from 80 °C on, laptops and servers not far above.
HOT_C = 80.0
# The governors that keep the frequency where it is; all others follow the load.
STEADY_GOVERNORS = frozenset({"performance", "userspace"})

POWER_BITS = PiThrottle.UNDER_VOLTAGE
HEAT_BITS = PiThrottle.FREQUENCY_CAPPED | PiThrottle.THROTTLED | PiThrottle.SOFT_TEMPERATURE_LIMIT
OCCURRED_SHIFT = 16

BETTER_COOLING = "Cool it better (a fan, a heat sink, free air), or pause between measurements."


@dataclass(frozen=True, slots=True)
class Advice:
    """One topic of the doctor's.

    Attributes:
        severity: `warning` spoils latencies, `note` is worth knowing, `ok` needs nothing.
        topic: one or two words.
        finding: what was seen.
        advice: what to do about it, with the command where there is one; empty for `ok`.
    """

    severity: Literal["ok", "note", "warning"]
    topic: str
    finding: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at; the arguments of `advise`."""

    machine: Machine
    share: Share | None
    busiest: Sequence[ProcessLoad]
    threads: int


def advise(machine: Machine, share: Share | None, busiest: Sequence[ProcessLoad], threads: int) -> list[Advice]:
    """Everything that the rules have to say, in their order.

    Args:
        share: how the usable cores spent a stretch of time in which this process slept; None where not known.
        busiest: the processes that used most in that stretch.
        threads: threads of one inference.
    """
    situation = Situation(machine, share, busiest, threads)
    return [advice for rule in RULES if (advice := rule(situation)) is not None]


def _threads(situation: Situation) -> Advice:
    cores, threads = situation.machine.physical_cores, situation.threads
    if threads <= cores:
        return Advice("ok", "threads", f"{_some(threads, 'thread')} on {_some(cores, 'physical core')}")
    return Advice(
        "warning",
        "threads",
        f"{threads} threads share {_some(cores, 'physical core')}",
        f"Use at most {cores}: `--threads {cores}`.",
    )


def _siblings(situation: Situation) -> Advice | None:
    machine = situation.machine
    if machine.threads_per_core is None:
        return None
    if machine.threads_per_core == 1:
        return Advice("ok", "hyperthreading", "no two logical cores share a physical one")
    firsts = ",".join(str(group[0]) for group in machine.siblings)
    pinned = len(machine.siblings) == len(machine.cores)
    return Advice(
        "note",
        "hyperthreading",
        f"{machine.threads_per_core} logical cores share each physical one: what runs on one slows the other",
        ("" if pinned else f"Use one of each: `taskset -c {firsts} esm-onnx …`. ")
        + "To keep others off too: `echo off | sudo tee /sys/devices/system/cpu/smt/control`.",
    )


def _quota(situation: Situation) -> Advice | None:
    quota, threads = situation.machine.quota_cores, situation.threads
    if quota is None:
        return None
    finding = f"the container may use {quota:g} cores' worth of time"
    if threads <= quota:
        return Advice("note", "quota", finding, "Runs are halted where other processes of the container use it up.")
    return Advice(
        "warning",
        "quota",
        f"{finding}, {_some(threads, 'thread')} want more and are halted for part of each period",
        f"Raise it to at least {threads} (`docker run --cpus {threads}`), or reserve cores: `--cpuset-cpus`.",
    )


def _frequency(situation: Situation) -> Advice | None:
    machine = situation.machine
    if machine.frequency_mhz is not None:
        span = "" if machine.max_mhz is None else f", at most {machine.max_mhz:.0f} MHz"
        return Advice("ok", "frequency", f"{machine.frequency_mhz:.0f} MHz now{span}")
    where = "inside a virtual machine" if machine.hypervisor else "on this system"
    return Advice(
        "note",
        "frequency",
        f"cannot be read {where}",
        "Paired timing follows the momentary speed without it.",
    )


def _governor(situation: Situation) -> Advice | None:
    machine = situation.machine
    if not machine.governors:
        return None
    finding = f"governor {', '.join(machine.governors)}"
    fixed = machine.min_mhz is not None and machine.min_mhz == machine.max_mhz
    if fixed or STEADY_GOVERNORS.issuperset(machine.governors):
        return Advice("ok", "governor", finding)
    return Advice(
        "warning",
        "governor",
        f"{finding}: the frequency follows the load",
        "Keep it up: `sudo cpupower frequency-set -g performance`.",
    )


def _turbo(situation: Situation) -> Advice | None:
    switch = situation.machine.turbo_switch
    if switch is None:
        return None
    if not situation.machine.turbo:
        return Advice("ok", "turbo", "off")
    return Advice(
        "note",
        "turbo",
        "on: the frequency falls, and latencies grow, once the processor is hot",
        f"For latencies that repeat: `echo {switch.off} | sudo tee /{switch.file}`.",
    )


def _voltage(situation: Situation) -> Advice | None:
    bits = situation.machine.pi_throttle
    if bits is None:
        return None
    advice = "Use a better power supply and a short, thick cable."
    if bits & POWER_BITS:
        return Advice("warning", "power supply", "under-voltage now: the board slows itself down", advice)
    if bits >> OCCURRED_SHIFT & POWER_BITS:
        return Advice("note", "power supply", "under-voltage has occurred since boot", advice)
    return Advice("ok", "power supply", "no under-voltage since boot")


def _throttling(situation: Situation) -> Advice | None:
    """Of a Raspberry Pi, whose firmware tells the state now."""
    bits = situation.machine.pi_throttle
    if bits is None:
        return None
    now, occurred = HEAT_BITS & bits, HEAT_BITS & (bits >> OCCURRED_SHIFT)
    advice = f"{BETTER_COOLING} Under-voltage does the same: mend that first."
    if now:
        return Advice("warning", "throttling", f"{_names(now)} now", advice)
    if occurred:
        return Advice("note", "throttling", f"{_names(occurred)} since boot", advice)
    return Advice("ok", "throttling", "none since boot")


def _thermal_events(situation: Situation) -> Advice | None:
    """Of an x86 processor, which counts since boot."""
    machine = situation.machine
    counts = [count for count in (machine.core_throttles, machine.package_throttles) if count is not None]
    if not counts:
        return None
    if not any(counts):
        return Advice("ok", "throttling", "none since boot")
    return Advice("note", "throttling", f"slowed down for heat {max(counts)} times since boot", BETTER_COOLING)


def _temperature(situation: Situation) -> Advice | None:
    zones = situation.machine.temperatures_c
    if not zones:
        return None
    name, hottest_c = max(zones, key=lambda zone: zone[1])
    finding = f"{hottest_c:.0f} °C at the hottest place ({name})"
    if hottest_c < HOT_C:
        return Advice("ok", "temperature", finding)
    return Advice("warning", "temperature", f"{finding}: near the point where processors slow down", BETTER_COOLING)


def _mains(situation: Situation) -> Advice | None:
    if situation.machine.on_mains is None:
        return None
    if situation.machine.on_mains:
        return Advice("ok", "mains", "plugged in")
    return Advice("warning", "mains", "on battery: the system saves power", "Plug it in.")


def _competitors(situation: Situation) -> Advice | None:
    if situation.share is None:
        return None
    used = situation.share.busy * len(situation.machine.cores)
    loud = [process for process in situation.busiest if process.share > COMPETING_CORES]
    if used <= COMPETING_CORES and not loud:
        return Advice("ok", "other load", f"{100 * used:.0f} % of a core")
    names = ", ".join(f"{process.name} (pid {process.pid}) {100 * process.share:.0f} %" for process in loud)
    return Advice(
        "warning",
        "other load",
        f"{100 * used:.0f} % of a core on the usable cores: {names or 'no single process that can be seen here'}",
        "Stop what is not needed, or measure when it is done.",
    )


def _steal(situation: Situation) -> Advice | None:
    if situation.share is None:
        return None
    stolen = situation.share.stolen
    finding = f"{100 * stolen:.1f} % of the time went to neighbours on the host"
    if stolen <= STOLEN_SHARE:
        return Advice("ok", "stolen time", finding)
    return Advice(
        "warning",
        "stolen time",
        finding,
        "Paired timing helps; so does another hour, and a dedicated host most.",
    )


def _memory(situation: Situation) -> Advice | None:
    total, available = situation.machine.memory_total, situation.machine.memory_available
    if not total or available is None:
        return None
    finding = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available"
    if available >= MEMORY_LEFT * total:
        return Advice("ok", "memory", finding)
    return Advice("warning", "memory", f"{finding}: nearly full", "Stop what needs much: swapping spoils latencies.")


RULES: tuple[Callable[[Situation], Advice | None], ...] = (
    _threads,
    _siblings,
    _quota,
    _frequency,
    _governor,
    _turbo,
    _voltage,
    _throttling,
    _thermal_events,
    _temperature,
    _mains,
    _competitors,
    _steal,
    _memory,
)


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _names(bits: PiThrottle) -> str:
    return ", ".join(bit.name.lower().replace("_", " ") for bit in bits if bit.name)
