"""What keeps a subnet within bounds: a limit on memory, and an end of every process that it started."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

TOKEN = "ESM_ONNX_WORKER"
"""Environment variable by which the descendants of one measuring process are told from all others."""

MEMORY_SHARE = 0.8
PR_SET_PDEATHSIG = 1
PATIENCE_S = 5.0
"""How long processes that were killed may take to go: one that the kernel holds in a driver never does."""

_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|MemoryError|out[ _]?of[ _]?memory|(cannot|could not|failed to|unable to) (be )?allocate|"
    r"alloc(at\w+)?[ _]failed|smaller than requested bytes",
    re.I,
)


def usual_memory_bytes() -> int:
    """What a measuring process may take unless told otherwise: 80 % of the memory of the machine or the container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # absent, or "max"
            limits.append(int(Path(name).read_text()))
    return int(MEMORY_SHARE * min(limits))


def limit_this_process(memory_bytes: int) -> None:
    """Limits what this process, and each that it starts, may allocate; whatever maps a file does not count.

    Should memory run out all the same, Linux takes this process and not its parent. No core is dumped.
    """
    import resource  # not on Windows

    # RLIMIT_AS would count what drivers and mapped weights reserve, which is no memory.
    for which, limit in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(which)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def die_with_parent() -> None:
    """Has Linux end this process when its parent dies, even while an inference hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def is_out_of_memory(text: str) -> bool:
    """Whether an error message, or what a process printed before it died, tells of memory that could not be had."""
    return _OUT_OF_MEMORY.search(text) is not None


def end_processes(group: int, token: str) -> None:
    """Kills a process group, and all processes of any group or session that were born with the token."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    until = time.monotonic() + PATIENCE_S
    while (left := processes_with(token)) and time.monotonic() < until:
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.005)


def processes_with(token: str) -> list[int]:
    """The processes of this user that carry the token in their environment; none where there is no /proc."""
    entry = f"{TOKEN}={token}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if entry in path.read_bytes():
                found.append(int(path.parent.name))
    return found
