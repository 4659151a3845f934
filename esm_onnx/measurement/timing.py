"""Timing the runs of one subnet."""

from __future__ import annotations

from collections.abc import Callable


def time_runs(infer: Callable[[], object], clock: Callable[[], int], *, runs: int, warmup: int) -> list[int]:
    """Performs `warmup` inferences untimed, then `runs` timed ones.

    Returns:
        The duration of each timed run, in ns, in the order of running.
    """
    for _ in range(warmup):
        infer()
    durations = []
    for _ in range(runs):
        start = clock()
        infer()
        durations.append(clock() - start)
    return durations
