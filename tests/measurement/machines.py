"""Small made-up trees of `/proc` and `/sys`, as such machines show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPU = "sys/devices/system/cpu"
PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"

Tree = Mapping[str, str]


def plant(root: Path, *trees: Tree) -> Path:
    """Writes the files of the trees below the root; of a path that comes twice, the last."""
    for tree in trees:
        for name, content in tree.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    return root


def per_core(count: int, files: Tree) -> dict[str, str]:
    """The same files for each of the cores 0 to count − 1."""
    return {f"{CPU}/cpu{core}/{name}": content for core in range(count) for name, content in files.items()}


def cpufreq(governor: str, now: int, least: int, most: int) -> dict[str, str]:
    """Frequencies in kHz."""
    return {
        "cpufreq/scaling_governor": f"{governor}\n",
        "cpufreq/scaling_cur_freq": f"{now}\n",
        "cpufreq/scaling_min_freq": f"{least}\n",
        "cpufreq/scaling_max_freq": f"{most}\n",
    }


def siblings(groups: list[str]) -> dict[str, str]:
    """One list a core, in the order of cores."""
    return {f"{CPU}/cpu{core}/topology/thread_siblings_list": f"{group}\n" for core, group in enumerate(groups)}


def meminfo(total_kib: int, available_kib: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal: {total_kib:>15} kB\nMemFree: 12 kB\nMemAvailable: {available_kib:>8} kB\n"}


def cpuinfo(name: str, flags: str) -> dict[str, str]:
    block = f"model name\t: {name}\nflags\t\t: {flags}\n"
    return {"proc/cpuinfo": "".join(f"processor\t: {core}\n{block}\n" for core in range(2))}


RASPBERRY_PI_4: Tree = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 4 Model B\n",
    "proc/loadavg": "0.12 0.08 0.03 1/170 1234\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48199\n",
    PI_THROTTLED: "0\n",
    **meminfo(3884360, 3500000),
    **per_core(4, cpufreq("ondemand", 1_500_000, 600_000, 1_500_000)),
    **siblings(["0", "1", "2", "3"]),
}

LAPTOP: Tree = {
    f"{CPU}/intel_pstate/no_turbo": "0\n",
    "proc/loadavg": "1.50 1.20 0.90 3/900 4321\n",
    "proc/pressure/cpu": "some avg10=12.50 avg60=3.00 avg300=1.00 total=1\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "52000\n",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone1/temp": "61500\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    **cpuinfo("Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz", "fpu vme sse2"),
    **meminfo(8_000_000, 4_000_000),
    **per_core(4, cpufreq("powersave", 900_000, 400_000, 3_400_000)),
    **per_core(4, {"thermal_throttle/core_throttle_count": "3\n", "thermal_throttle/package_throttle_count": "7\n"}),
    **siblings(["0,2", "1,3", "0,2", "1,3"]),
}

CLOUD: Tree = {
    "proc/loadavg": "0.00 0.00 0.00 1/85 99\n",
    **cpuinfo("Intel(R) Xeon(R) Processor", "fpu sse2 hypervisor avx512f"),
    **meminfo(4_000_000, 3_000_000),
    **siblings(["0", "1"]),
}

AMD_DESKTOP: Tree = {
    f"{CPU}/cpufreq/boost": "0\n",
    **cpuinfo("AMD Ryzen 5 3600 6-Core Processor", "fpu sse2 svm"),
    **meminfo(16_000_000, 15_000_000),
    **per_core(4, cpufreq("performance", 3_600_000, 2_200_000, 3_600_000)),
    **siblings(["0-1", "0-1", "2-3", "2-3"]),
}

CONTAINER: Tree = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    **CLOUD,
}

RASPBERRY_PI_5_IN_A_CONTAINER: Tree = {
    # the device tree is hidden; the firmware has another address than on the boards before
    "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd0b\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "81350\n",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "e0008\n",
    **per_core(4, cpufreq("performance", 2_400_000, 1_500_000, 2_400_000)),
}

TREES: dict[str, tuple[Tree, int]] = {
    "Raspberry Pi 4": (RASPBERRY_PI_4, 4),
    "Raspberry Pi 5 in a container": (RASPBERRY_PI_5_IN_A_CONTAINER, 4),
    "laptop": (LAPTOP, 4),
    "cloud": (CLOUD, 2),
    "AMD desktop": (AMD_DESKTOP, 4),
    "container": (CONTAINER, 2),
}
