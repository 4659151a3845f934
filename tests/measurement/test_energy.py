"""Energy from counters: on a made-up RAPL, on an NVML of our own making, and from one that only a formula moves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurement.made_up_nvml import make_nvml

from esm_onnx.errors import InputError
from esm_onnx.measurement.energy import (
    LOOK_NS,
    STUCK_NS,
    EnergyCounter,
    energy_per_inference_mj,
    find_counter,
    gpu_counter,
    rapl_counter,
)
from esm_onnx.measurement.nvml import Gpu
from esm_onnx.measurement.quantities import Unmeasurable

RANGE_UJ = 262_143_328_850


class Machine:
    """A made-up machine: two packages with a core part each, and the platform's own zone."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "sys/class/powercap"
        for zone, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "core"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ):
            (self.folder / zone).mkdir(parents=True)
            (self.folder / zone / "name").write_text(f"{name}\n")
            (self.folder / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.set(zone, 10**12)
        (self.folder / "intel-rapl").mkdir()
        self.set("intel-rapl:0", 1000)
        self.set("intel-rapl:1", 500_000)

    def set(self, zone: str, energy_uj: int) -> None:
        (self.folder / zone / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_packages_count_and_neither_their_parts_nor_the_platform(machine: Machine) -> None:
    counter = rapl_counter(machine.root)
    assert (counter.name, counter.read_mj()) == ("RAPL package-0 + package-1", 0)
    machine.set("intel-rapl:0", 4000)
    machine.set("intel-rapl:0:0", 10**12 + 999_999)
    machine.set("intel-rapl:2", 10**12 + 999_999)
    machine.set("intel-rapl-mmio:0", 10**12 + 999_999)
    assert counter.read_mj() == 3
    machine.set("intel-rapl:1", 507_000)
    assert counter.read_mj() == 10


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, RANGE_UJ - 1), min_size=1, max_size=20))
def test_what_a_counter_says_after_its_end_goes_on_from_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    counter, total = rapl_counter(machine.root), 0
    for step in steps:
        total += step
        machine.set("intel-rapl:0", (1000 + total) % RANGE_UJ)
        assert counter.read_mj() == pytest.approx(total / 1000)


def test_without_rapl_the_refusal_says_why_and_what_to_do(tmp_path: Path, machine: Machine) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(InputError) as caught:
        rapl_counter(nowhere)
    assert str(caught.value) == (
        f"no energy counter: {nowhere}/sys/class/powercap is absent (a virtual machine?): measure where RAPL is, "
        "or measure without --quantity energy"
    )
    for zone in machine.folder.glob("intel-rapl:*"):
        (zone / "name").write_text("dram\n")
    with pytest.raises(InputError, match=r"no package of RAPL in .*/sys/class/powercap"):
        rapl_counter(machine.root)


def test_a_counter_of_nonsense_is_refused(machine: Machine) -> None:
    (machine.folder / "intel-rapl:1/energy_uj").write_text("many\n")
    with pytest.raises(InputError, match=r"RAPL in .* cannot be used .*'many"):
        rapl_counter(machine.root)
    (machine.folder / "intel-rapl:1/energy_uj").unlink()
    with pytest.raises(InputError, match=r"RAPL in .* cannot be used .*energy_uj"):
        rapl_counter(machine.root)


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's rights, where this is root."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_counter_for_root_alone_says_how_to_open_it() -> None:
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # everything but the counter may be read
        machine = Machine(Path(folder))
        counter = machine.folder / "intel-rapl:0/energy_uj"
        counter.chmod(0o000)
        with nobody(), pytest.raises(InputError) as caught:
            rapl_counter(machine.root)
        assert str(caught.value) == (
            f"no energy counter: {counter} may not be read: run as root, `sudo chmod a+r {counter}`, "
            "or measure without --quantity energy"
        )


@pytest.fixture
def library(tmp_path: Path) -> str:
    return make_nvml(tmp_path)


def test_the_energy_of_a_gpu_comes_from_nvml_in_millijoules(library: str, tmp_path: Path) -> None:
    (tmp_path / "energy").write_text(f"{5_000_000_000_123:x}")  # more than 32 bits hold
    counter = gpu_counter(Gpu(0, library))
    assert (counter.name, counter.read_mj()) == ("NVML total energy", 5_000_000_000_123)
    (tmp_path / "energy").write_text("0")
    with pytest.raises(InputError, match="NVML does not tell this GPU's total energy"):
        counter.read_mj()
    with pytest.raises(InputError, match="without --quantity energy"):
        gpu_counter(Gpu(0, library))


def test_the_processors_energy_is_not_that_of_a_device_that_nvml_does_not_know() -> None:
    with pytest.raises(InputError) as caught:
        find_counter(None, on_cpu=False)
    assert str(caught.value) == (
        "no energy counter: the processors do not compute, and NVML does not know the device that does: measure on a "
        "CPU or where NVML knows the GPU, or measure without --quantity energy"
    )


class Device:
    """Inferences of so many ns and mJ on a device that idles at some power, and a counter that ticks now and then."""

    def __init__(self, run_ns: int, run_mj: float, tick_ns: int) -> None:
        self.run_ns, self.run_mj, self.tick_ns = run_ns, run_mj, tick_ns
        self.now, self.runs = 0, 0

    def infer(self) -> None:
        self.now += self.run_ns
        self.runs += 1

    def read_mj(self) -> float:
        """What stood on the counter at its last tick: energy grows evenly while inferences follow one another."""
        return self.run_mj * (self.now // self.tick_ns * self.tick_ns) / self.run_ns

    def measure(self, window_s: float) -> float:
        return energy_per_inference_mj(self.infer, EnergyCounter("c", self.read_mj, window_s), lambda: self.now)


@given(st.integers(300_000, 300_000_000), st.floats(1e-3, 1e5), st.sampled_from([1_000_000, 20_000_000, 100_000_000]))
def test_energy_is_right_within_a_tick_of_twenty_whatever_an_inference_takes(
    run_ns: int, run_mj: float, tick_ns: int
) -> None:
    device = Device(run_ns, run_mj, tick_ns)
    # Both ends are seen at most a look, or an inference, late; of a window of twenty ticks or a second
    late_ns = max(LOOK_NS, run_ns) + run_ns
    window_ns = max(20 * tick_ns, 10**9)
    assert device.measure(1.0) == pytest.approx(run_mj, rel=min(0.99, late_ns / window_ns) + 0.06)


@pytest.mark.parametrize(("run_ns", "tick_ns"), [(50_000, 1_000_000), (3_000_000, 100_000_000), (400_000, 20_000_000)])
def test_energy_of_short_inferences_is_right_within_two_per_cent(run_ns: int, tick_ns: int) -> None:
    device = Device(run_ns, 7.5, tick_ns)
    assert device.measure(1.0) == pytest.approx(7.5, rel=0.02)
    assert device.now >= max(10**9, 20 * tick_ns)


def test_inferences_go_on_for_the_window_and_for_twenty_ticks() -> None:
    long, short = Device(1_000_000, 1.0, 1_000_000), Device(1_000_000, 1.0, 1_000_000)
    long.measure(5.0)
    short.measure(0.0)
    assert 5e9 <= long.now < 5.1e9
    assert 20 * LOOK_NS <= short.now < 25 * LOOK_NS


def test_a_counter_that_stands_still_gives_no_energy() -> None:
    device = Device(2_000_000_000, 1.0, 10**18)
    with pytest.raises(Unmeasurable, match="c stood still for 10 s of inferences"):
        device.measure(1.0)
    assert STUCK_NS < device.now < 2 * STUCK_NS
