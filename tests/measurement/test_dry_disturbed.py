"""Paired timing on the disturbed devices of `dry`: what it accepts, against the latency that the formula gives.

The disturbances are slow beside a block of a few runs only where the subnets take as long as real ones do, hence
`slower`: the same device, whose runs take so many times as long.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_onnx.architectures import sample
from esm_onnx.export import write_subnet
from esm_onnx.export.subnet import Subnet
from esm_onnx.measurement.calibration import CALIBRATION_RUNS, calibrate
from esm_onnx.measurement.conditions import Counters, Reason
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import SUBJECT, Measurement, Pairing
from esm_onnx.measurement.references import choose_calibration
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings, find_runtime
from esm_onnx.measurement.timing import Instruments, Timing, time_pairs
from esm_onnx.testing import tiny_space

DRY: ModuleType = sys.modules[find_runtime("dry").__module__]
USUAL = "cpu"


@dataclass(frozen=True)
class Bench:
    """Some subnets and the calibration subnet of their space, as files."""

    subnets: list[Subnet]
    calibration: Subnet

    def time(self, runtime: Runtime, subnet: Subnet, nominal_ms: float | None, runs: int = 150) -> Timing:
        with runtime.load(subnet.path) as infer, runtime.load(self.calibration.path) as calibration:
            return time_pairs(
                infer,
                calibration,
                Instruments(runtime.clock, runtime.counters),
                runs=runs,
                warmup=10,
                nominal_ns=None if nominal_ms is None else 1e6 * nominal_ms,
                target_error=None if nominal_ms is None else 0.02,
            )

    def measure(self, runtime: Runtime, subnet: Subnet, nominal_ms: float) -> Measurement:
        timing = self.time(runtime, subnet, nominal_ms)
        pairing = Pairing(tuple(ns / 1e6 for ns in timing.calibration_ns), nominal_ms)
        runs = tuple(ns / 1e6 for ns in timing.runs_ns)
        return Measurement(subnet.architecture, SUBJECT, runs, 0.0, tuple(timing.dropped), pairing)

    def errors(self, name: str, seeds: range) -> tuple[list[float], list[float]]:
        """Relative errors of what is accepted, and of the paper's statistic of everything."""
        nominal_ms = truth_ms(self.calibration, name)
        accepted, plain = [], []
        for seed in seeds:
            runtime = find_runtime("dry")(RuntimeSettings(device=name, seed=seed))
            for subnet in self.subnets:
                measurement = self.measure(runtime, subnet, nominal_ms)
                truth = truth_ms(subnet, name)
                plain.append(abs(measurement.trimmed_ms / truth - 1))
                if believed(measurement):
                    accepted.append(abs(measurement.latency_ms / truth - 1))
        return accepted, plain


def believed(measurement: Measurement) -> bool:
    """Whether a measurement between rounds at the usual speed would be believed: see `quality`."""
    return measurement.at_usual_speed and measurement.error <= Protocol().tolerance


def truth_ms(subnet: Subnet, device: str) -> float:
    latency_ms: float = DRY.cost_ms(onnx.load(subnet.path), DRY.DEVICES[device])
    return latency_ms


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    space, folder = tiny_space(), tmp_path_factory.mktemp("subnets")
    architectures = sample(space, 6, strategy="random", rng=Random(0))
    subnets = [write_subnet(space, architecture, folder) for architecture in architectures]
    return Bench(subnets, write_subnet(space, choose_calibration(space), folder))


@pytest.fixture(autouse=True)
def devices() -> Iterator[None]:
    """Devices that a test adds are gone after it."""
    before = dict(DRY.DEVICES)
    yield
    DRY.DEVICES.clear()
    DRY.DEVICES.update(before)


def slower(name: str, times: float, disturbance: object = None) -> str:
    """Adds the device whose runs take so many times as long; gives its name."""
    device = DRY.DEVICES[name]
    slow = replace(
        device,
        rate=device.rate / times,
        bandwidth=device.bandwidth / times,
        cache_bandwidth=device.cache_bandwidth / times,
        launch_us=device.launch_us * times,
        disturbance=disturbance or device.disturbance,
    )
    DRY.DEVICES["slow"] = slow
    return "slow"


def test_a_slower_device_takes_exactly_so_many_times_as_long(bench: Bench) -> None:
    subnet = bench.subnets[0]
    assert truth_ms(subnet, slower("cpu", 100)) == pytest.approx(100 * truth_ms(subnet, "cpu"))


@pytest.mark.parametrize("name", ["cpu", "board", "gpu"])
def test_on_a_calm_device_everything_is_accepted_and_exact_after_two_blocks(bench: Bench, name: str) -> None:
    runtime = find_runtime("dry")(RuntimeSettings(device=name))
    nominal_ms = truth_ms(bench.calibration, name)
    for subnet in bench.subnets:
        measurement = bench.measure(runtime, subnet, nominal_ms)
        assert len(measurement.runs_ms) == 40
        assert not measurement.reasons
        assert measurement.latency_ms == pytest.approx(truth_ms(subnet, name), rel=0.015)


@pytest.mark.parametrize(
    ("name", "times", "share"),
    [
        ("shared", 1, 0.2),
        ("shared", 30, 0.3),
        ("shared", 100, 0.4),
        ("shared", 300, 0.4),
        ("hot", 1, 0.9),
        ("hot", 1000, 0.2),
    ],
)
def test_what_is_accepted_on_a_disturbed_device_is_right(bench: Bench, name: str, times: float, share: float) -> None:
    accepted, plain = bench.errors(slower(name, times), range(20))
    assert len(accepted) >= share * len(plain)
    assert statistics.median(accepted) <= 0.01
    assert max(accepted) <= 0.03


@pytest.mark.parametrize(("name", "times"), [("shared", 1), ("shared", 100), ("hot", 1000)])
def test_the_papers_statistic_is_far_off_on_the_same_devices(bench: Bench, name: str, times: float) -> None:
    accepted, plain = bench.errors(slower(name, times), range(20))
    assert statistics.median(plain) > 0.05
    assert statistics.median(plain) > 10 * statistics.median(accepted)


DISTURBANCES = st.builds(
    DRY.Disturbance,
    levels=st.floats(0, 1),
    level_s=st.floats(2, 60),
    ramp=st.floats(0, 0.5),
    ramp_s=st.floats(20, 1000),
    bursts=st.floats(0, 0.9),
    burst_s=st.floats(0.05, 2),
    spikes=st.floats(0, 0.08),
)
"""Those of a machine whose speed lasts longer than a block, which takes 0.2 to 0.4 s here."""


@settings(max_examples=40)
@given(DISTURBANCES, st.integers(0, 2**16))
def test_whatever_disturbs_the_device_what_is_accepted_is_right(bench: Bench, disturbance: object, seed: int) -> None:
    accepted, _ = bench.errors(slower(USUAL, 100, disturbance), range(seed, seed + 1))
    assert max(accepted, default=0) <= 0.03


def test_where_the_speed_changes_within_every_block_nothing_wrong_is_accepted(bench: Bench) -> None:
    accepted, plain = bench.errors(slower(USUAL, 100, DRY.Disturbance(levels=0.4, level_s=0.2)), range(20))
    assert statistics.median(plain) > 0.08
    assert max(accepted, default=0) <= 0.03


def test_bursts_that_cover_everything_leave_nothing_to_accept(bench: Bench) -> None:
    accepted, _ = bench.errors(slower(USUAL, 100, DRY.Disturbance(bursts=0.9999, burst_s=100)), range(5))
    assert accepted == []


@pytest.mark.parametrize("name", ["shared", "hot"])
def test_the_same_seed_brings_the_same_disturbance_and_another_another(bench: Bench, name: str) -> None:
    slow = slower(name, 100)
    first, again, other = (
        bench.time(find_runtime("dry")(RuntimeSettings(device=slow, seed=seed)), bench.subnets[0], None)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(("name", "times"), [("cpu", 100), ("shared", 100), ("hot", 1000)])
def test_a_calibration_is_the_latency_of_a_device_that_little_slows_down(bench: Bench, name: str, times: float) -> None:
    slow = slower(name, times)
    truth = truth_ms(bench.calibration, slow)
    for seed in range(10):
        runtime = find_runtime("dry")(RuntimeSettings(device=slow, seed=seed))
        timing = bench.time(runtime, bench.subnets[0], None, CALIBRATION_RUNS)
        found = calibrate(bench.calibration.architecture, [timing], 0.0)
        assert found is not None
        disturbance = DRY.DEVICES[slow].disturbance
        slowest = (1 + disturbance.levels) * (1 + disturbance.ramp)
        assert 0.98 * truth <= found.nominal_ms <= 1.02 * slowest * truth
        assert found.spread <= 0.15
        if disturbance == DRY.CALM:
            assert found.nominal_ms == pytest.approx(truth, rel=0.01)
            assert found.spread < 0.01


def test_latencies_share_the_error_of_the_nominal_latency_and_have_no_other(bench: Bench) -> None:
    slow = slower("shared", 100)
    runtime = find_runtime("dry")(RuntimeSettings(device=slow, seed=3))
    timing = bench.time(runtime, bench.subnets[0], None, CALIBRATION_RUNS)
    found = calibrate(bench.calibration.architecture, [timing], 0.0)
    assert found is not None
    measured = [(subnet, bench.measure(runtime, subnet, found.nominal_ms)) for subnet in bench.subnets * 4]
    ratios = [m.latency_ms / truth_ms(s, slow) for s, m in measured if believed(m)]
    assert len(ratios) >= 5
    off = found.nominal_ms / truth_ms(bench.calibration, slow)
    assert all(ratio == pytest.approx(off, rel=0.03) for ratio in ratios)


def lengthened(disturbance: object, seconds: float, count: int) -> list[float]:
    """By what factor each of so many runs, one after the other, takes longer."""
    surroundings = DRY.Surroundings(disturbance, np.random.default_rng(0))
    now, factors = 0.0, []
    for _ in range(count):
        run = surroundings.lengthen(seconds, now)
        now += run
        factors.append(run / seconds)
    return factors


def test_calm_surroundings_change_nothing_and_draw_nothing() -> None:
    rng = np.random.default_rng(0)
    assert DRY.Surroundings(DRY.CALM, rng).lengthen(0.1, 5.0) == 0.1
    assert rng.random() == np.random.default_rng(0).random()


def test_levels_last_as_long_and_reach_as_far_as_they_say() -> None:
    factors = lengthened(DRY.Disturbance(levels=0.4, level_s=4), 0.01, 100_000)
    changes = [i for i in range(1, len(factors)) if abs(factors[i] - factors[i - 1]) > 1e-6]
    assert 1 <= min(factors) < 1.03
    assert 1.37 < max(factors) <= 1.4
    assert sum(factors) * 0.01 / len(changes) == pytest.approx(4, rel=0.15)


def test_heat_rises_and_falls_once_in_its_time() -> None:
    disturbance = DRY.Disturbance(ramp=0.5, ramp_s=300)
    surroundings = DRY.Surroundings(disturbance, np.random.default_rng(0))
    at = {second: surroundings.lengthen(1.0, second) for second in (0, 75, 150, 225, 300, 450)}
    assert at == pytest.approx({0: 1.0, 75: 1.25, 150: 1.5, 225: 1.25, 300: 1.0, 450: 1.5})


@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_bursts_cover_their_share_of_the_time_and_each_run_in_one_is_preempted(share: float) -> None:
    surroundings = DRY.Surroundings(DRY.Disturbance(bursts=share, burst_s=0.8), np.random.default_rng(0))
    now, bursting, preempted = 0.0, 0.0, 0
    for _ in range(100_000):
        before = surroundings.switches
        run = surroundings.lengthen(0.01, now)
        now += run
        assert (surroundings.switches > before) == (run > 0.01)
        if run > 0.01:
            assert run >= 0.01 + DRY.SLICE_S
            preempted += 1
            bursting += run
    assert bursting / now == pytest.approx(share, rel=0.2)
    assert surroundings.switches == preempted


def test_spikes_are_as_many_as_they_say_and_nothing_counts_them() -> None:
    factors = lengthened(DRY.Disturbance(spikes=0.02), 0.01, 50_000)
    spikes = [factor for factor in factors if factor != pytest.approx(1)]
    assert len(spikes) / len(factors) == pytest.approx(0.02, rel=0.1)
    assert 4.5 < max(spikes) <= 5


def test_the_counters_of_a_disturbed_device_show_its_bursts_alone(bench: Bench) -> None:
    runtime = find_runtime("dry")(RuntimeSettings(device=slower("shared", 1000)))
    timing = bench.time(runtime, bench.subnets[0], None)
    assert runtime.counters().switches > 0
    assert replace(runtime.counters(), switches=0) == Counters()
    own = {Reason(bits) & ~(Reason.UNPAIRED | Reason.CHANGING) for bits in timing.dropped}
    assert own == {Reason(0), Reason.PREEMPTED}
