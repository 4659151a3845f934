"""Peak memory of a subnet on a CPU: `python -m esm_onnx.measurement.memory FD RUNTIME SETTINGS SUBNET` (Linux).

In a process that loaded other subnets before, what they freed would be taken again without its being seen. So each
subnet is loaded in a process of its own, whose allocator gives back at once what is freed: with glibc's usual habits
the peak of a ResNet varied by 6 % from one process to the next, like this by 0.1 %.

Loading counts, since a device that reads ONNX must have room for it. Where a runtime first turns ONNX into another
format (`Runtime.converts`), which whoever deploys a subnet has done beforehand, it does not: then the peak is that of
what is loaded and of running it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from esm_onnx.measurement.containment import die_with_parent
from esm_onnx.measurement.quantities import Unmeasurable
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings, find_runtime

PROCESS = "esm_onnx.measurement.memory"
THIS_PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""What sets the peak resident set back to the present one when it is written to `clear_refs` (proc(5))."""
SETTLING = 3
"""Inferences before the peak is read: a runtime may plan its memory by the first."""
GIVE_BACK = {"M_TRIM_THRESHOLD": (-1, 0), "M_TOP_PAD": (-2, 0), "M_MMAP_THRESHOLD": (-3, 1 << 16)}
"""glibc's mallopt(3): number and value of each setting."""


def peak_memory_bytes(runtime: Runtime, subnet: Path) -> int:
    """By how much the resident set of a process grows at most while it loads a subnet and runs it, in bytes.

    Where the runtime converts, only from the moment on when it has loaded the subnet.

    The runtime's own code and tables are in it, as far as this subnet is the first to use them.

    Raises:
        Unmeasurable: the system does not tell it.
        RuntimeError: the process failed; with the last line that it printed.
    """
    reset_peak(THIS_PROCESS)  # which that process could not explain
    reading, writing = os.pipe()
    with open(reading, "rb") as told:
        try:
            command = [sys.executable, "-P", "-m", PROCESS, str(writing), runtime.name]
            done = subprocess.run(
                [*command, json.dumps(asdict(runtime.settings)), str(subnet)],
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(writing)
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
            raise RuntimeError(f"while its memory was measured: {last}")
        return int(told.read())


def growth_bytes(
    load: Callable[[], AbstractContextManager[Callable[[], object]]], process: Path, *, converts: bool = False
) -> int:
    """By how much the resident set of this process grows at most while it loads something and runs it.

    Args:
        load: as `Runtime.load`.
        process: its folder in /proc.
        converts: what loading takes for a while does not count.
    """
    before = reset_peak(process)
    with load() as infer:
        if converts:
            gc.collect()
            reset_peak(process)
        for _ in range(SETTLING):
            infer()
        return max(0, _peak_bytes(process) - before)


def give_back_at_once() -> None:
    """From now on, what this process frees goes back to the system, where its allocator is glibc's."""
    with suppress(OSError, AttributeError):
        for number, value in GIVE_BACK.values():
            ctypes.CDLL(None).mallopt(number, value)


def reset_peak(process: Path) -> int:
    """Makes the present resident set the peak; gives it in bytes.

    Raises:
        Unmeasurable: the system cannot do that.
    """
    try:
        (process / "clear_refs").write_text(RESET_PEAK)
        return _peak_bytes(process)
    except OSError as error:
        raise Unmeasurable(
            f"no peak memory: {process / 'clear_refs'} cannot be written ({error.strerror}): measure on a Linux that "
            "has it, or without --quantity memory"
        ) from None


def _peak_bytes(process: Path) -> int:
    lines = (process / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Measures the subnet that the command line names, and writes the number of bytes."""
    die_with_parent()
    give_back_at_once()
    runtime = find_runtime(sys.argv[2])(RuntimeSettings(**json.loads(sys.argv[3])))
    grown = growth_bytes(partial(runtime.load, Path(sys.argv[4])), THIS_PROCESS, converts=runtime.converts)
    os.write(int(sys.argv[1]), str(grown).encode())


if __name__ == "__main__":
    main()
