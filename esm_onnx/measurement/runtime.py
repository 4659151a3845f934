"""The contract of a runtime, and how runtimes are found.

A runtime executes; the core measures. It is a class of an entry point in the group `esm_onnx.runtimes`, here or in
anyone's package; an alias is a second entry point to the same class. One whose software cannot be imported is listed
with the reason.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from esm_onnx.errors import InputError
from esm_onnx.measurement.conditions import Counters, HostCounters
from esm_onnx.measurement.energy import EnergyCounter, find_counter
from esm_onnx.measurement.inputs import Arrays, random_inputs
from esm_onnx.measurement.nvml import find_gpu
from esm_onnx.measurement.processor import processor_state
from esm_onnx.measurement.target import Fact

GROUP = "esm_onnx.runtimes"
SWITCHES = {
    "spinning": "threads that wait for work keep their processor busy",
    "graph": "the kernels of an inference are started together, as one CUDA graph",
    "compile": "torch.compile makes kernels of its own",
    "flush": "the GPU's L2 cache is emptied before each run",
}
"""What switches of runtimes mean."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """What a user may set of a runtime; all of it is part of the target.

    Attributes:
        device: which device to use, in the runtime's own words; None takes its first.
        threads: threads of one inference.
        precision: number format of the arithmetic.
        seed: seed of the input values (and of the noise of `dry`); latencies do not depend on it.
        switches: those of the runtime's switches that are not to be as they usually are.
        folder: where a runtime may keep what it built, engines say, for the next time; None builds anew each time.
            Latencies do not depend on it.
    """

    device: str | None = None
    threads: int = 1
    precision: str = "fp32"
    seed: int = 0
    switches: Mapping[str, bool] = field(default_factory=dict, hash=False)
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"threads is {self.threads}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Inference:
    """A loaded subnet, for a runtime that can do more with it than run it.

    Attributes:
        run: performs one inference, as `Runtime.load` tells.
        outputs: the outputs of the last run, where `run` leaves them on the device and returns None.
        copy: brings the inputs to the device and the outputs back, where `run` does neither.
        layers: performs one inference and gives the time of each layer in ms, by the runtime's name of the layer.
        memory_bytes: the most memory that inference has taken on the device so far.
        settle: runs until the clocks of a device that was idle no longer rise; called right before runs are timed.
    """

    run: Callable[[], object]
    outputs: Callable[[], object] | None = None
    copy: Callable[[], object] | None = None
    layers: Callable[[], Mapping[str, float]] | None = None
    memory_bytes: Callable[[], int] | None = None
    settle: Callable[[], object] | None = None

    def __call__(self) -> object:
        return self.run()


def outputs_of(infer: Callable[[], object]) -> Any:
    """Performs one inference and gives its outputs; None where nothing is computed."""
    returned = infer()
    return infer.outputs() if isinstance(infer, Inference) and infer.outputs is not None else returned


class Runtime(ABC):
    """Software that executes ONNX on one device."""

    name: ClassVar[str]
    gpu_index: int | None = None
    """Number, in NVML's order, of the NVIDIA GPU that computes; None where none does, or NVML does not tell it."""
    on_cpu = True
    """Whether this machine's processors compute: only then are their energy and its memory those of an inference. No
    matter where `gpu_index` is set."""
    tells_memory: ClassVar[bool] = False
    """Whether what is loaded has `Inference.memory_bytes`; else memory can be measured on a CPU only."""
    converts: ClassVar[bool] = False
    """Whether `load` turns ONNX into another format, as is done once and elsewhere: not part of the peak memory."""
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    written: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """How subnets are written for a precision, one of `esm_onnx.export.settings.PRECISIONS`, where it is not as it is
    called: another number format of quantised activations, say."""
    most_images: ClassVar[int | None] = None
    """The greatest batch; None where there is no limit."""
    switches: ClassVar[Mapping[str, bool]] = MappingProxyType({})
    """Settings that are on or off, of `SWITCHES`, and how they usually are."""
    device_clock: ClassVar[bool] = False
    """Whether `clock` is the device's own: then how long the host waited for each run is kept beside it."""
    own_inputs = True
    """Whether subnets run on other values than `inputs`: then nothing is known of what the outputs should be."""
    _host: HostCounters | None = None

    def __init__(self, settings: RuntimeSettings) -> None:
        self.check_precision(settings.precision)
        for switch in settings.switches:
            if switch not in self.switches:
                known = ", ".join(self.switches) or "none: it has no switches"
                raise InputError(f"switch {switch!r} on {self.name}, expected one of {known}")
        self.settings = settings

    @classmethod
    def check_precision(cls, precision: str) -> None:
        """Refuses a precision that is none of this runtime's.

        Those that subnets are not written in, and that `written` does not name, are computed from fp32.

        Raises:
            InputError: it is none of `precisions`.
        """
        if precision not in cls.precisions:
            raise InputError(f"precision {precision!r} on {cls.name}, expected one of {', '.join(cls.precisions)}")

    def is_on(self, switch: str) -> bool:
        """How a switch of this runtime is set."""
        return self.settings.switches.get(switch, self.switches[switch])

    def inputs(self, subnet: Path) -> Arrays:
        """What the subnet is to run on, by name of the input.

        A runtime that takes its values from here is compared with ONNX Runtime's CPU provider on the same values.
        """
        self.own_inputs = False
        return random_inputs(subnet, self.settings.seed)

    @abstractmethod
    def facts(self) -> Mapping[str, Fact]:
        """Device, versions and settings that a latency depends on; `device` must be among them."""

    @abstractmethod
    def load(self, subnet: Path) -> AbstractContextManager[Callable[[], object]]:
        """Prepares a subnet: gives a callable that performs one inference and returns when the device has finished.

        The callable, an `Inference` where there is more to tell, returns the outputs as a sequence of numpy arrays, or
        None where nothing is computed. Two subnets may be loaded at the same time: the one that is measured and the
        calibration subnet.
        """

    def clock(self) -> int:
        """The time in ns that runs are measured with: the host's, or one that only inference on the device moves."""
        return time.perf_counter_ns()

    def counters(self) -> Counters:
        """What the system has counted so far: how the core knows a contaminated run.

        Those of this machine, and of the GPU that `gpu_index` names: the calling thread only waits where another device
        computes, so its CPU time means nothing.
        """
        if self._host is None:
            one_thread = self.on_cpu and self.gpu_index is None and self.settings.threads == 1
            self._host = HostCounters(one_thread=one_thread, gpu=find_gpu(self.gpu_index))
        return self._host()

    def state(self) -> dict[str, float]:
        """What the device tells of itself now, by the names of `GPU_STATE` or `HOST_STATE`: kept with what was timed.

        NVML's of the GPU that `gpu_index` names; this machine's where its processors compute.
        """
        if self.gpu_index is not None:
            gpu = find_gpu(self.gpu_index)
            return {} if gpu is None else gpu.state()
        return processor_state() if self.on_cpu else {}

    def energy_counter(self) -> EnergyCounter:
        """The counter of the energy that inference takes, asked for where energy is to be measured.

        NVML's of the GPU that `gpu_index` names; RAPL's of this machine's processors where they compute.

        Raises:
            InputError: there is none; the message says why.
        """
        return find_counter(self.gpu_index, on_cpu=self.on_cpu)


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """A runtime as `esm-onnx runtimes` lists it.

    Attributes:
        names: its name and its aliases.
        problem: why it cannot be used here; None where it can.
    """

    names: tuple[str, ...]
    problem: str | None


def list_runtimes() -> list[RuntimeEntry]:
    """Every runtime that is installed, in the order of names, with the reason where one cannot be used."""
    groups: dict[str, list[str]] = {}
    problems: dict[str, str | None] = {}

    def by_module(entry: EntryPoint) -> tuple[bool, str]:  # what is called as its file comes before its aliases
        return entry.module.rpartition(".")[2] != entry.name.replace("-", "_"), entry.name

    for entry in sorted(entry_points(group=GROUP), key=by_module):
        groups.setdefault(entry.value, []).append(entry.name)
        if entry.value not in problems:
            loaded = _load(entry)
            problems[entry.value] = loaded if isinstance(loaded, str) else None
            if not isinstance(loaded, str):
                groups[entry.value].insert(0, loaded.name)
    listed = [RuntimeEntry(tuple(dict.fromkeys(names)), problems[value]) for value, names in groups.items()]
    return sorted(listed, key=lambda entry: entry.names)


def find_runtime(name: str) -> type[Runtime]:
    """The runtime of that name or alias.

    Raises:
        InputError: there is none, or its software cannot be used here; the message says why.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        names = ", ".join(sorted({entry.name for entry in entry_points(group=GROUP)}))
        raise InputError(f"no runtime {name!r}, expected one of {names}")
    loaded = _load(next(iter(found)))
    if isinstance(loaded, str):
        raise InputError(f"runtime {name!r} cannot be used here: {loaded}")
    return loaded


def _load(entry: EntryPoint) -> type[Runtime] | str:
    """The class, or the reason why it cannot be had."""
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # a stranger's module may do anything, and must not hide the others
        return " ".join(f"{type(error).__name__}: {error}".split())
    if not (isinstance(loaded, type) and issubclass(loaded, Runtime)):
        return f"{entry.value} is no subclass of esm_onnx.measurement.runtime.Runtime"
    if not isinstance(getattr(loaded, "name", None), str):
        return f"{entry.value} has no name"
    return loaded
