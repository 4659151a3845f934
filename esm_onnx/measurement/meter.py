"""What a worker measures of a subnet beside its latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median

from esm_onnx.errors import InputError
from esm_onnx.measurement.energy import energy_per_inference_mj
from esm_onnx.measurement.memory import peak_memory_bytes
from esm_onnx.measurement.quantities import COPY, ENERGY, MEMORY, Unmeasurable, find_quantity
from esm_onnx.measurement.runtime import Inference, Runtime

COPIES = 20


class Meter:
    """Measures what is asked for, the copies where a runtime does them apart, and the state of the device.

    Args:
        asked: names of `QUANTITIES`; latency is none of its business.

    Raises:
        InputError: an unknown quantity, or one that this device cannot tell.
    """

    def __init__(self, runtime: Runtime, asked: Collection[str]) -> None:
        quantities = {find_quantity(name) for name in asked}
        self._runtime = runtime
        self._clock = time.perf_counter_ns if runtime.device_clock else runtime.clock
        self._counter = runtime.energy_counter() if ENERGY in quantities else None
        if self._counter is not None and runtime.settings.switches.get("flush"):
            raise InputError("--flush with --quantity energy: it takes energy itself; measure without one of them")
        self._memory = MEMORY in quantities
        self._on_cpu = runtime.on_cpu and runtime.gpu_index is None
        if self._memory and not (self._on_cpu or runtime.tells_memory):
            raise self._no_memory()

    @property
    def energy_counter(self) -> str | None:
        """What the energy comes from; None where none is measured. No fact of the target: no latency depends on it."""
        return None if self._counter is None else self._counter.name

    def of_loaded(self, infer: Callable[[], object]) -> dict[str, float]:
        """What a loaded subnet tells, by name with unit.

        Raises:
            Unmeasurable: the energy counter stands still.
        """
        found = self._runtime.state()
        if isinstance(infer, Inference) and infer.copy is not None:
            found[COPY] = copy_ms(infer.copy, self._clock)
        if self._counter is not None:
            found[ENERGY.field] = energy_per_inference_mj(infer, self._counter, self._clock)
        if self._memory and isinstance(infer, Inference) and infer.memory_bytes is not None:
            found[MEMORY.field] = infer.memory_bytes() / 1e6
        return found

    def of_loading(self, subnet: Path, known: Collection[str]) -> dict[str, float]:
        """What shows only where a subnet is loaded once more: the memory, where a runtime on a CPU does not tell it.

        Args:
            known: what `of_loaded` told.

        Raises:
            Unmeasurable: neither the runtime nor the system tells the memory.
        """
        if not self._memory or MEMORY.field in known:
            return {}
        if not self._on_cpu:
            raise self._no_memory()
        return {MEMORY.field: peak_memory_bytes(self._runtime, subnet) / 1e6}

    def _no_memory(self) -> Unmeasurable:
        return Unmeasurable(
            f"no peak memory: {self._runtime.name} does not tell what inference takes on the device: take another "
            "runtime, or measure without --quantity memory"
        )


def copy_ms(copy: Callable[[], object], clock: Callable[[], int]) -> float:
    """Median duration of the copies in both directions, in ms."""
    copy()
    durations_ns = []
    for _ in range(COPIES):
        start = clock()
        copy()
        durations_ns.append(clock() - start)
    return median(durations_ns) / 1e6
