"""NVML through a library of our own making."""

from __future__ import annotations

from pathlib import Path

import pytest
from measurement.made_up_nvml import make_nvml

from esm_onnx.measurement.conditions import HostCounters, Reason, slow_reasons
from esm_onnx.measurement.nvml import Gpu, find_gpu


@pytest.fixture
def library(tmp_path: Path) -> str:
    return make_nvml(tmp_path)


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [(0x0, False), (0x1, False), (0x2, False), (0x4, False), (0x8, True), (0x20, True), (0x40, True), (0x81, True)],
)
def test_a_gpu_is_throttled_where_it_protects_itself(
    library: str, tmp_path: Path, reasons: int, throttled: bool
) -> None:
    (tmp_path / "reasons").write_text(f"{reasons:x}")
    assert Gpu(0, library).is_throttled() == throttled


def test_its_clock_is_read_where_it_tells_it(library: str, tmp_path: Path) -> None:
    gpu = Gpu(1, library)
    assert gpu.clock_mhz() == 1980
    (tmp_path / "clock").write_text("0")
    assert gpu.clock_mhz() is None


def test_its_energy_is_read_where_it_tells_it(library: str, tmp_path: Path) -> None:
    gpu = Gpu(0, library)
    assert gpu.energy_mj() is None
    (tmp_path / "energy").write_text("48c27395000")
    assert gpu.energy_mj() == 5_000_000_000_000


def test_its_state_is_told_as_far_as_it_is_known(library: str, tmp_path: Path) -> None:
    gpu = Gpu(0, library)
    told = {"gpu_clock_mhz": 1980.0, "gpu_power_state": 2.0, "gpu_throttle_reasons": 0.0, "gpu_processes": 1.0}
    assert gpu.state() == told
    (tmp_path / "state").write_text("20")
    (tmp_path / "clock").write_text("0")
    (tmp_path / "processes").write_text("0")
    (tmp_path / "reasons").write_text("44")
    assert gpu.state() == {"gpu_throttle_reasons": 68.0, "gpu_processes": 0.0}


def test_its_hardware_numbers_are_those_of_its_data_sheet(library: str, tmp_path: Path) -> None:
    """A GeForce RTX 2080 Ti: 4,352 cores, 11 GB on 352 bits at 14 Gbit/s, 616 GB/s."""
    gpu = Gpu(0, library)
    assert (gpu.name(), gpu.cores(), gpu.memory_bytes()) == ("NVIDIA GeForce RTX 2080 Ti", 4352, 11 * 2**30)
    assert gpu.bandwidth_gbs() == pytest.approx(616)
    (tmp_path / "cores").write_text("0")
    assert gpu.cores() is None


def test_a_gpu_or_library_that_is_not_there_is_told(library: str) -> None:
    with pytest.raises(OSError, match="status 6"):
        Gpu(2, library)
    with pytest.raises(OSError, match="no-such"):
        Gpu(0, "libno-such.so.1")
    assert find_gpu(None) is None


def test_the_counters_of_a_gpu_take_the_place_of_the_processors(library: str, tmp_path: Path) -> None:
    now = 0

    def clock() -> int:
        return now

    counters = HostCounters(one_thread=False, gpu=Gpu(0, library), clock=clock)
    calm = counters()
    (tmp_path / "reasons").write_text("40")
    (tmp_path / "clock").write_text("320")
    now = 10**9
    hot = counters()
    assert (calm.frequency, calm.throttled, hot.frequency, hot.throttled) == (1980, False, 800, True)
    assert calm.cpu_ns is None
    assert slow_reasons(calm, hot, 1980) == Reason.THROTTLED | Reason.SLOWED
