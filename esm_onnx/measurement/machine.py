"""What the system tells about this machine that a latency depends on, and who else uses it.

Read from the Linux files below `/proc` and `/sys`; `root` is the folder that holds these two. What a system does not
tell, or tells in a form that is unknown here, is None or empty, never an error.

Sources: Linux documentation, `admin-guide/pm/cpufreq`, `admin-guide/cgroup-v2`, `filesystems/proc` and
`ABI/testing/sysfs-devices-system-cpu`; Raspberry Pi documentation of `vcgencmd get_throttled`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag
from math import isfinite
from pathlib import Path

SYSTEM = Path("/")
CPUS = Path("sys/devices/system/cpu")
CGROUPS = Path("sys/fs/cgroup")


class PiThrottle(IntFlag):
    """What a Raspberry Pi's firmware reports: the state now, and what has occurred since boot."""

    UNDER_VOLTAGE = 1 << 0
    FREQUENCY_CAPPED = 1 << 1
    THROTTLED = 1 << 2
    SOFT_TEMPERATURE_LIMIT = 1 << 3
    UNDER_VOLTAGE_OCCURRED = 1 << 16
    FREQUENCY_CAPPED_OCCURRED = 1 << 17
    THROTTLED_OCCURRED = 1 << 18
    SOFT_TEMPERATURE_LIMIT_OCCURRED = 1 << 19


@dataclass(frozen=True, slots=True)
class TurboSwitch:
    """A file that turns turbo on and off: its path below the root, and what stands in it for either state."""

    file: Path
    on: str
    off: str


TURBO_SWITCHES = (
    TurboSwitch(CPUS / "intel_pstate/no_turbo", on="0", off="1"),
    TurboSwitch(CPUS / "cpufreq/boost", on="1", off="0"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The state of a machine at one moment.

    Attributes:
        processor: what the board, or else the processor, calls itself.
        cores: numbers of the logical cores that this process may use.
        quota_cores: how many cores' worth of time the control groups of this process allow; None without a limit.
        siblings: the usable cores, grouped by the physical core that they share; empty where not told.
        threads_per_core: greatest number of logical cores on one physical core, usable or not.
        hypervisor: whether the processor says that it is a virtual one; only x86 processors say.
        governors: names of the frequency governors of the usable cores, each once.
        turbo: whether frequencies above the nominal one are allowed.
        turbo_switch: where that was read.
        frequency_mhz: frequency now, mean over the usable cores.
        min_mhz: least frequency that any usable core may take.
        max_mhz: greatest frequency that any usable core may take.
        core_throttles: thermal events since boot, summed over the usable cores (x86).
        package_throttles: thermal events of the whole processor since boot (x86).
        pi_throttle: what a Raspberry Pi's firmware reports.
        temperatures_c: name and temperature in degrees Celsius of each thermal zone.
        load_1min: load average of the last minute: how many tasks ran or wanted to.
        cpu_pressure: share of the last 10 s in which some task waited for a core.
        memory_total: bytes.
        memory_available: bytes that could be had without swapping.
        on_mains: whether a mains adapter feeds the machine; None where it has none that tells.
    """

    processor: str | None
    cores: tuple[int, ...]
    quota_cores: float | None
    siblings: tuple[tuple[int, ...], ...]
    threads_per_core: int | None
    hypervisor: bool | None
    governors: tuple[str, ...]
    turbo: bool | None
    turbo_switch: TurboSwitch | None
    frequency_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    core_throttles: int | None
    package_throttles: int | None
    pi_throttle: PiThrottle | None
    temperatures_c: tuple[tuple[str, float], ...]
    load_1min: float | None
    cpu_pressure: float | None
    memory_total: int | None
    memory_available: int | None
    on_mains: bool | None

    @property
    def physical_cores(self) -> int:
        """Number of usable physical cores; where the system does not tell, each logical one counts."""
        return len(self.siblings) or len(self.cores)


def usable_cores() -> frozenset[int]:
    """Numbers of the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def read_machine(root: Path = SYSTEM, cores: Collection[int] | None = None) -> Machine:
    """The machine as it is now.

    Args:
        root: the folder that holds `proc` and `sys`.
        cores: the usable logical cores; None asks the system.
    """
    numbers = sorted(usable_cores() if cores is None else cores)
    folders = [root / CPUS / f"cpu{number}" for number in numbers]
    siblings = [group for folder in folders if (group := _list(folder / "topology/thread_siblings_list"))]
    turbo, turbo_switch = _turbo(root)
    frequencies = _numbers(folders, "cpufreq/scaling_cur_freq")
    memory = _fields(root / "proc/meminfo", ":")
    return Machine(
        processor=_processor(root),
        cores=tuple(numbers),
        quota_cores=_quota_cores(root),
        siblings=tuple(sorted({usable for group in siblings if (usable := tuple(sorted(group & set(numbers))))})),
        threads_per_core=max(map(len, siblings), default=None),
        hypervisor=_hypervisor(root),
        governors=tuple(sorted({g for folder in folders if (g := _text(folder / "cpufreq/scaling_governor"))})),
        turbo=turbo,
        turbo_switch=turbo_switch,
        frequency_mhz=sum(frequencies) / len(frequencies) / 1000 if frequencies else None,
        min_mhz=_mhz(min, _numbers(folders, "cpufreq/scaling_min_freq")),
        max_mhz=_mhz(max, _numbers(folders, "cpufreq/scaling_max_freq")),
        core_throttles=_count(sum, _numbers(folders, "thermal_throttle/core_throttle_count")),
        package_throttles=_count(max, _numbers(folders, "thermal_throttle/package_throttle_count")),
        pi_throttle=_pi_throttle(root),
        temperatures_c=tuple(_temperatures(root)),
        load_1min=_number(_word(_text(root / "proc/loadavg"), 0)),
        cpu_pressure=_cpu_pressure(root),
        memory_total=_bytes(memory.get("MemTotal")),
        memory_available=_bytes(memory.get("MemAvailable")),
        on_mains=_on_mains(root),
    )


@dataclass(frozen=True, slots=True)
class Share:
    """Shares, 0 to 1, of the time of all usable cores: spent on any process, and given by a hypervisor to others."""

    busy: float
    stolen: float


@dataclass(frozen=True, slots=True)
class Usage:
    """How the usable cores spent their time since boot, in jiffies summed over them; only differences say something."""

    busy: int
    idle: int
    steal: int

    def since(self, earlier: Usage) -> Share:
        """What happened between two readings; both shares are 0 when no time has passed.

        `busy` holds this process too: to see what others use, sleep between the readings.
        """
        busy, idle, steal = (
            max(0, now - then)  # the kernel's idle counters may step back a little
            for now, then in ((self.busy, earlier.busy), (self.idle, earlier.idle), (self.steal, earlier.steal))
        )
        passed = busy + idle + steal
        return Share(busy / passed, steal / passed) if passed else Share(0.0, 0.0)


def read_usage(root: Path = SYSTEM, cores: Collection[int] | None = None) -> Usage | None:
    """The counters of the usable cores (`/proc/stat`); None where the system has none. Cheap: one small file."""
    lines = _fields(root / "proc/stat", " ")
    totals = []
    for number in usable_cores() if cores is None else cores:
        jiffies = [_integer(word) for word in lines.get(f"cpu{number}", "").split()]
        counts = [count for count in jiffies if count is not None]
        if len(counts) == len(jiffies) >= 8:
            user, nice, system, idle, iowait, irq, softirq, steal = counts[:8]  # guests are in user and nice already
            totals.append((user + nice + system + irq + softirq, idle + iowait, steal))
    return Usage(*map(sum, zip(*totals, strict=True))) if totals else None


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """What one process used: `share` of one core, so that 2.0 means two cores."""

    pid: int
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Processes:
    """Processor time of every process that can be seen.

    Attributes:
        uptime_s: when, in seconds since boot.
        used: name and seconds used, by process id and start: a process id may be used again.
    """

    uptime_s: float
    used: Mapping[tuple[int, int], tuple[str, float]]


def read_processes(root: Path = SYSTEM) -> Processes | None:
    """Processor times (`/proc/*/stat`); None where the system has none."""
    uptime_s = _number(_word(_text(root / "proc/uptime"), 0))
    if uptime_s is None:
        return None
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    used = {}
    for file in (root / "proc").glob("[0-9]*/stat"):
        head, _, tail = (_text(file) or "").rpartition(")")  # the name may hold spaces and parentheses itself
        pid = _integer(file.parent.name)
        user, system, start = (_integer(_word(tail, index)) for index in (11, 12, 19))
        if pid is not None and user is not None and system is not None and start is not None:
            used[pid, start] = head.partition("(")[2], (user + system) / ticks_per_s
    return Processes(uptime_s, used)


def busiest(earlier: Processes, later: Processes, *, ignore: Collection[int] = (), count: int = 3) -> list[ProcessLoad]:
    """The processes that used most between two readings, the greatest share first; idle ones are left out.

    Args:
        ignore: process ids that do not count, such as one's own.
        count: how many at most.
    """
    seconds = later.uptime_s - earlier.uptime_s
    if seconds <= 0:
        return []
    loads = [
        ProcessLoad(pid, name, (used_s - earlier.used.get((pid, start), (name, 0.0))[1]) / seconds)
        for (pid, start), (name, used_s) in later.used.items()
        if pid not in ignore
    ]
    return sorted((load for load in loads if load.share > 0), key=lambda load: (-load.share, load.pid))[:count]


def _processor(root: Path) -> str | None:
    info = _fields(root / "proc/cpuinfo", ":")
    # Inside a container the device tree is hidden, and a Raspberry Pi's kernel repeats the model below its cores.
    return _text(root / "proc/device-tree/model") or info.get("Model") or info.get("model name") or None


def _hypervisor(root: Path) -> bool | None:
    flags = _fields(root / "proc/cpuinfo", ":").get("flags")
    return None if flags is None else "hypervisor" in flags.split()


def _turbo(root: Path) -> tuple[bool, TurboSwitch] | tuple[None, None]:
    for switch in TURBO_SWITCHES:
        state = _text(root / switch.file)
        if state in (switch.on, switch.off):
            return state == switch.on, switch
    return None, None


def _quota_cores(root: Path) -> float | None:
    quotas = [_quota(folder) for folder in _control_groups(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups of this process and of those above them, of version 1 and 2.

    Inside a container the paths may be the host's; then only the topmost folder exists, and it is the container's.
    """
    for line in (_text(root / "proc/self/cgroup") or "0::/").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        group = Path(*(part for part in path.split("/") if part not in ("", "..")))
        hierarchy = root / CGROUPS / ("cpu" if "cpu" in controllers.split(",") else "")
        yield from (hierarchy / folder for folder in (group, *group.parents))


def _quota(group: Path) -> float | None:
    old = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    words = (_text(group / "cpu.max") or "").split() or old
    numbers = [number for word in words if (number := _integer(word)) is not None and number > 0]
    return numbers[0] / numbers[1] if len(words) == len(numbers) == 2 else None


def pi_throttle_files(root: Path) -> list[Path]:
    """Where a Raspberry Pi's firmware reports its throttling; empty on other machines."""
    return sorted((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled"))


def _pi_throttle(root: Path) -> PiThrottle | None:
    for file in pi_throttle_files(root):
        text = _text(file) or ""
        if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
            return PiThrottle(int(text, 16))
    return None


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _integer(_text(zone / "temp"))
        if millidegrees is not None:
            yield _text(zone / "type") or zone.name, millidegrees / 1000


def _cpu_pressure(root: Path) -> float | None:
    found = re.search(r"^some avg10=(\S+)", _text(root / "proc/pressure/cpu") or "", re.MULTILINE)
    percent = _number(found.group(1)) if found else None
    return None if percent is None else percent / 100


def _on_mains(root: Path) -> bool | None:
    supplies = (root / "sys/class/power_supply").glob("*")
    states = [_text(supply / "online") for supply in supplies if _text(supply / "type") == "Mains"]
    known = [state == "1" for state in states if state in ("0", "1")]
    return any(known) if known else None


def _text(file: Path) -> str | None:
    """The content without the blanks and zero bytes around it; None where it cannot be read."""
    try:
        return file.read_bytes().decode(errors="replace").strip("\0 \t\n")
    except OSError:  # absent, forbidden, or a driver that has no value just now
        return None


def _fields(file: Path, separator: str) -> dict[str, str]:
    """The lines `name<separator>value` of a file; of a name that comes twice, the first."""
    fields: dict[str, str] = {}
    for line in (_text(file) or "").splitlines():
        name, _, value = line.partition(separator)
        fields.setdefault(name.strip(), value.strip())
    return fields


def _word(text: str | None, index: int) -> str | None:
    words = (text or "").split()
    return words[index] if index < len(words) else None


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,20}", text) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None


def _numbers(folders: list[Path], name: str) -> list[int]:
    return [value for folder in folders if (value := _integer(_text(folder / name))) is not None]


def _count(combine: Callable[[list[int]], int], counts: list[int]) -> int | None:
    return combine(counts) if counts else None


def _mhz(combine: Callable[[list[int]], int], frequencies_khz: list[int]) -> float | None:
    return combine(frequencies_khz) / 1000 if frequencies_khz else None


def _bytes(text: str | None) -> int | None:
    """`/proc/meminfo`'s `947312 kB` as bytes."""
    kibibytes = _integer((text or "").removesuffix(" kB"))
    return None if kibibytes is None else kibibytes * 1024


def _list(file: Path) -> frozenset[int]:
    """The kernel's lists of cores: `0,4` or `0-1,8`; empty where absent or malformed."""
    text = _text(file) or ""
    if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", text):
        return frozenset()
    ranges = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return frozenset(number for ends in ranges for number in range(ends[0], ends[-1] + 1))
