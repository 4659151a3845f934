"""Energy, memory, copies and the host's waiting, from the worker into the store."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import onnx
import pytest
from measurement.machines import RASPBERRY_PI_5_IN_A_CONTAINER, plant
from onnx import TensorProto, helper, numpy_helper

from esm_onnx.architectures import Architecture, Space, sample
from esm_onnx.architectures.catalogue import find_space
from esm_onnx.errors import InputError
from esm_onnx.export import write_subnet
from esm_onnx.measurement import worker_process
from esm_onnx.measurement.memory import reset_peak
from esm_onnx.measurement.meter import Meter, copy_ms
from esm_onnx.measurement.processor import processor_state
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.quantities import ENERGY, LATENCY, MEMORY, Unmeasurable, find_quantity, quantity_of
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement, Pairing
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.session_report import report_sessions
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Worker

DRY: ModuleType = sys.modules[find_runtime("dry").__module__]
POWERCAP = Path("/sys/class/powercap")


def timed(worker: Worker, subnet: Path) -> Timing:
    reply = worker.time(subnet, runs=5, warmup=1, deadline_s=60)
    assert isinstance(reply, Timing), reply
    return reply


def a_convolution_and_a_gemm(path: Path) -> Path:
    """1×3×8×8 → convolution of 4 kernels 3×3, padded → mean → Gemm to 5."""
    rng = np.random.default_rng(0)
    weights = {"w": (4, 3, 3, 3), "v": (4, 5)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_the_energy_and_memory_of_dry_are_those_of_its_formula(tmp_path: Path, threads: int) -> None:
    subnet = a_convolution_and_a_gemm(tmp_path / "x.onnx")
    device = DRY.DEVICES["board"]
    with Worker("dry", RuntimeSettings(device="board", threads=threads), quantities=["energy", "memory"]) as worker:
        assert worker.energy_counter == "formula"
        found = timed(worker, subnet).quantities
        again = timed(worker, subnet).quantities
    macs = 8 * 8 * 4 * 3 * 3 * 3 + 4 * 5
    moved = 4 * ((3 * 64 + 108 + 4 * 64) + (4 * 64 + 4) + (4 + 4) + (4 + 20 + 5))
    latency_s = 4 * 4e-6 + 4 * (4 + 20 + 5) / 12e9  # each node waits for its start, 4 µs after the one before
    expected = 1e-9 * (macs * device.mac_pj + moved * device.byte_pj) + 1e3 * latency_s / threads * device.watts
    assert (found["energy_mj"], again["energy_mj"]) == pytest.approx((expected, expected), rel=1e-9)
    assert found["memory_mb"] == pytest.approx(4 * (108 + 20 + 3 * 64 + 4 * 64) / 1e6)


def test_nothing_is_measured_that_was_not_asked_for(tmp_path: Path) -> None:
    subnet = a_convolution_and_a_gemm(tmp_path / "x.onnx")
    for asked in ((), ("latency",)):
        with Worker("dry", RuntimeSettings(), quantities=asked) as worker:
            assert worker.energy_counter is None
            assert timed(worker, subnet).quantities == {}
    with Worker("dry", RuntimeSettings(), quantities=["memory"]) as worker:
        assert worker.energy_counter is None
        assert timed(worker, subnet).quantities.keys() == {"memory_mb"}


def test_energy_with_a_flush_that_takes_energy_itself_is_refused() -> None:
    class Flushed(find_runtime("dry")):  # type: ignore[misc]
        switches = {"flush": False}  # noqa: RUF012

    assert Meter(Flushed(RuntimeSettings()), ["energy"]).energy_counter
    flushed = Flushed(RuntimeSettings(switches={"flush": True}))
    assert Meter(flushed, ["memory"]).energy_counter is None
    with pytest.raises(InputError, match="--flush with --quantity energy"):
        Meter(flushed, ["energy"])


def test_what_the_machine_tells_is_kept_with_what_its_processors_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = partial(processor_state, plant(tmp_path / "board", RASPBERRY_PI_5_IN_A_CONTAINER))
    monkeypatch.setattr("esm_onnx.measurement.runtime.processor_state", board)
    for name, told in (("ort-cpu", {"temperature_c": 81.35, "pi_throttle": 0xE0008}), ("dry", {})):
        runtime = find_runtime(name)(RuntimeSettings())
        with runtime.load(a_convolution_and_a_gemm(tmp_path / "x.onnx")) as infer:
            assert Meter(runtime, ()).of_loaded(infer) == told
    runtime = find_runtime("ort-cpu")(RuntimeSettings())
    runtime.on_cpu = False
    assert runtime.state() == {}


def test_a_larger_subnet_takes_more_memory_on_a_real_cpu_and_the_same_one_as_much(tmp_path: Path) -> None:
    space = find_space("mobilenetv3")
    small, large = sorted(sample(space, 20, strategy="balanced", rng=Random(0)), key=lambda a: a.depth)[:: 20 - 1]
    paths = [write_subnet(space, a, tmp_path, name=f"{a.depth}.onnx").path for a in (small, large)]
    floats = [
        sum(math.prod(tensor.dims) for tensor in onnx.load(path, load_external_data=False).graph.initializer)
        for path in paths
    ]
    with Worker("ort-cpu", RuntimeSettings(), quantities=["memory"]) as worker:
        found = [timed(worker, paths[i]).quantities["memory_mb"] for i in (0, 1, 0)]
    assert found[0] == pytest.approx(found[2], rel=0.05)
    assert found[1] > 1.1 * found[0]
    assert all(mb > 4 * weights / 1e6 for mb, weights in zip(found, floats, strict=False))
    assert max(found) < 300


GROWTH = """
import sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from esm_onnx.measurement.memory import give_back_at_once, growth_bytes

def filled(megabytes):
    return np.ones(megabytes * 10**6, np.uint8)

@contextmanager
def load():
    loaded = filled(20)
    converting = filled(60)
    del converting
    yield lambda: (filled(20), loaded)

give_back_at_once()
print(growth_bytes(load, Path("/proc/self"), converts=sys.argv[1] == "converts"))
"""


@pytest.mark.parametrize(("converts", "expected"), [("loads", 80e6), ("converts", 40e6)])
def test_memory_grows_by_what_is_held_at_its_peak_but_for_converting(converts: str, expected: float) -> None:
    command = [sys.executable, "-c", GROWTH, converts]  # this process has freed memory to take again
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(expected, rel=0.05)


def test_a_system_that_does_not_tell_its_peak_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable) as caught:
        reset_peak(tmp_path / "absent")
    assert str(caught.value) == (
        f"no peak memory: {tmp_path}/absent/clear_refs cannot be written (No such file or directory): measure on a "
        "Linux that has it, or without --quantity memory"
    )


@pytest.mark.skipif(POWERCAP.exists(), reason="this machine has a counter, or says otherwise why not")
def test_without_a_counter_energy_is_refused_before_anything_is_measured(store: Store, tiny: Space) -> None:
    protocol = Protocol(quantities=("energy",))
    with pytest.raises(InputError, match=r"no energy counter: /sys/class/powercap is absent \(a virtual machine\?\)"):
        Profiler(tiny, store, "ort-cpu", folder=store.path.parent, protocol=protocol)
    assert store.contents() == []


def test_an_unknown_quantity_is_refused() -> None:
    for ask in (lambda: Protocol(quantities=("noise",)), lambda: find_quantity("noise")):
        with pytest.raises(InputError, match="quantity 'noise', expected one of latency, energy, memory"):
            ask()
    with pytest.raises(InputError, match="quantity 'noise'"):
        Worker("dry", RuntimeSettings(), quantities=["noise"])
    for field in ("energy", None, ["energy_mj"]):
        with pytest.raises(InputError, match="expected one of latency_ms, energy_mj, memory_mb"):
            quantity_of(field)


def test_a_protocol_has_its_quantities_in_one_order_and_through_json() -> None:
    protocol = Protocol(quantities=("memory", "latency", "energy", "memory"))
    assert protocol.quantities == ("energy", "memory")
    assert protocol.fields == ("energy_mj", "memory_mb")
    assert protocol.as_json()["quantities"] == ["energy", "memory"]
    assert Protocol.from_json(protocol.as_json()) == protocol
    before = {name: value for name, value in Protocol().as_json().items() if name != "quantities"}
    assert Protocol.from_json(before) == Protocol()


def test_names_of_outputs_and_figures_follow_the_quantity() -> None:
    assert LATENCY.outputs == ("latency_ms", "lower_ms", "upper_ms")
    assert ENERGY.outputs == ("energy_mj", "lower_mj", "upper_mj")
    assert MEMORY.outputs == ("memory_mb", "lower_mb", "upper_mb")
    figures = {"overall": {"rmse_ms": 1, "rmse_percent": 2}, "bins": [{"rmse_ms": None, "rmse_ms_std": "rmse_ms"}]}
    assert LATENCY.named(figures) == figures
    assert ENERGY.named(figures) == {
        "overall": {"rmse_mj": 1, "rmse_percent": 2},
        "bins": [{"rmse_mj": None, "rmse_mj_std": "rmse_ms"}],
    }


def test_copies_take_their_median() -> None:
    now, durations = 0, iter([999, *[100, 300, 200] * 6, 200, 200])

    def copy() -> None:
        nonlocal now
        now += next(durations)

    assert copy_ms(copy, lambda: now) == 200 / 1e6


EVENTS = """
import os
import time
from contextlib import contextmanager
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.energy import EnergyCounter
from esm_onnx.measurement.runtime import Inference, Runtime

SEEN = [name for name in ("NVIDIA_TF32_OVERRIDE", "ONEDNN_VERBOSE", "HOME") if name in os.environ]

class Events(Runtime):
    name = "events"
    device_clock = True
    now = reading = 0
    cold = True

    def __init__(self, settings):
        super().__init__(settings)
        self.gpu_index = 0 if settings.device == "gpu" else None
        self.on_cpu = settings.device != "npu"

    def facts(self):
        return {"device": self.settings.device or "x", "seen": " ".join(SEEN)}

    @contextmanager
    def load(self, subnet):
        self.cold = True
        def run():
            self.now += 3_000_000 if self.cold else 1_000_000  # the device's own time, whatever the host waits
            self.reading += 5
            time.sleep(0.002)
        def settle():
            self.cold = False
        yield Inference(run, copy=lambda: time.sleep(0.001), settle=settle)

    def clock(self):
        return self.now

    def counters(self):
        return Counters()

    def energy_counter(self):
        return EnergyCounter("steady", lambda: 0 if self.settings.device == "still" else self.reading, window_s=0.0)
"""


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's runtime with a clock and a copy of its own."""
    folder = tmp_path / "plugin"
    info = folder / "events-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "events.py").write_text(textwrap.dedent(EVENTS))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: events\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[esm_onnx.runtimes]\nevents = events:Events\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


QUICK = Protocol(runs=10, warmup=1, references=1, target_error=None)


@pytest.mark.usefixtures("events")
def test_the_hosts_waiting_and_the_copies_are_stored_beside_the_devices_time(
    store: Store, tiny: Space, eight: list[Architecture]
) -> None:
    protocol = replace(QUICK, quantities=("energy",))
    with Profiler(tiny, store, "events", folder=store.path.parent / "s", protocol=protocol) as profiler:
        assert profiler.worker.energy_counter == "steady"
        profiler.profile(eight[:2])
        records = list(store.measurements(tiny, profiler.target))
    assert len(records) == 4
    for record in records:
        assert set(record.runs_ms) == {1.0}
        assert len(record.host_ms) == len(record.runs_ms)
        assert min(record.host_ms) >= 2.0
        assert record.quantities["copy_ms"] >= 1.0
        assert record.quantities["energy_mj"] == pytest.approx(5.0)


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_a_device_whose_memory_nobody_tells_is_refused_before_anything_is_measured(
    store: Store, tiny: Space, device: str
) -> None:
    """A GPU that NVML knows, and a device that it does not: neither has the memory of this process."""
    settings, protocol = RuntimeSettings(device=device), replace(QUICK, quantities=("memory",))
    with pytest.raises(InputError, match="no peak memory: events does not tell what inference takes on the device"):
        Profiler(tiny, store, "events", folder=store.path.parent / "s", settings=settings, protocol=protocol)
    assert store.contents() == []


@pytest.mark.usefixtures("events")
def test_what_would_change_the_arithmetic_unseen_is_not_in_the_environment_of_a_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NVIDIA_TF32_OVERRIDE", "ONEDNN_VERBOSE", "HOME"):
        monkeypatch.setenv(name, "1")
    with Worker("events", RuntimeSettings()) as worker:
        assert worker.facts["seen"] == "HOME"


def test_the_calling_threads_time_tells_nothing_where_another_device_computes() -> None:
    runtime = find_runtime("ort-cpu")(RuntimeSettings())
    assert runtime.counters().cpu_ns is not None
    other = find_runtime("ort-cpu")(RuntimeSettings())
    other.on_cpu = False
    assert other.counters().cpu_ns is None


def test_right_outputs_are_worked_out_once_for_each_content_of_a_file(tmp_path: Path) -> None:
    runtime, path = find_runtime("ort-cpu")(RuntimeSettings()), a_convolution_and_a_gemm(tmp_path / "x.onnx")

    def right() -> object:
        return worker_process._expected(runtime, worker_process.Content(path), worker_process.Content(path))

    first = right()
    assert right() is first
    subnet = onnx.load(path)
    subnet.graph.node[-1].attribute.append(helper.make_attribute("alpha", 2.0))
    onnx.save(subnet, path)
    (before,), (after,) = first, right()  # type: ignore[misc, attr-defined]
    assert np.allclose(2 * before, after)


def test_what_was_measured_without_a_quantity_is_measured_again_for_it(
    store: Store, tiny: Space, eight: list[Architecture]
) -> None:
    def profile(*quantities: str, count: int = 8) -> tuple[int, int]:
        protocol = replace(QUICK, quantities=quantities)
        with Profiler(tiny, store, "dry", folder=store.path.parent / "s", protocol=protocol) as profiler:
            outcome = profiler.profile(eight[:count])
        return outcome.measured, outcome.already_measured

    assert profile(count=3) == (3, 0)
    assert profile("memory") == (8, 0)
    assert profile("memory") == (0, 8)
    assert profile() == (0, 8)
    assert profile("energy", "memory", count=2) == (2, 0)
    assert profile() == (0, 8)
    (content,) = store.contents()  # a latency does not depend on the counter of energy
    assert content.measurements == 3 + 8 + 2
    assert [content.measurements for content in store.contents(["energy_mj"])] == [2]


def test_quantities_are_reported_by_their_own_spread(store: Store, tiny: Space, eight: list[Architecture]) -> None:
    pairing = Pairing((1.0, 2.0), 3.0)
    records = [
        Measurement(eight[0], REFERENCE, (1.0, 2.0), 0.0, (0, 0), pairing, 1.5, quantities={"energy_mj": energy})
        for energy in (9.0, 10.0, 11.0)
    ]
    records += [Measurement(eight[1], SUBJECT, (1.0,), 0.0, quantities={"memory_mb": 5.0})]
    energies = [found for record in records if (found := record.of("energy_mj")) is not None]
    assert [found.latency_ms for found in energies] == [9.0, 10.0, 11.0]
    assert noise_floor(energies) == pytest.approx(0.1)
    assert [record.of("latency_ms") for record in records] == records
    session = store.open_session(tiny, Target("t", {"device": "d"}), {})
    for record in records:
        store.append(session, tiny, record)
    store.close_session(session, status=ACCEPTED, verdict="")
    (report,) = report_sessions(store, tiny, Target("t", {"device": "d"}))
    assert report.noise_floors == {"energy_mj": pytest.approx(0.1)}
