"""The conformance suite of runtimes, ours or a stranger's: inherit it and say which runtime is meant.

    from esm_onnx.testing import RuntimeSuite

    class TestMine(RuntimeSuite):
        runtime_name = "mine"

It needs pytest, and the runtime installed as an entry point of the group `esm_onnx.runtimes`.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from esm_onnx.architectures import Space, sample
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.agreement import disagreement, expected_outputs
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings, find_runtime, outputs_of
from esm_onnx.measurement.timing import Instruments, time_pairs, time_runs

TINY_TABLE = {
    "name": "tiny",
    "units": 2,
    "depth": [1, 2, 3, 4],
    "block": {"kernel": [3, 5], "expansion": ["1/2", 1]},
    "export": {
        "writer": "mobilenetv3",
        "widths": [8, 16],
        "ratio": 4,
        "stem": 8,
        "head": [32, 32],
        "classes": 10,
        "resolution": 32,
    },
}


def tiny_space() -> Space:
    """A space whose subnets are written and timed in no time."""
    return space_from_table(TINY_TABLE)


class RuntimeSuite:
    """What the core relies on; see `esm_onnx.measurement.runtime.Runtime`."""

    runtime_name: str
    settings = RuntimeSettings()

    @pytest.fixture
    def runtime(self) -> Runtime:
        return find_runtime(self.runtime_name)(self.settings)

    @pytest.fixture
    def subnet(self, tmp_path: Path) -> Path:
        space = tiny_space()
        (architecture,) = sample(space, 1, strategy="random", rng=Random(0))
        return write_subnet(space, architecture, tmp_path, ExportSettings()).path

    def test_it_is_found_by_its_own_name(self, runtime: Runtime) -> None:
        assert find_runtime(runtime.name) is type(runtime)

    def test_facts_name_the_device_and_are_plain_and_stable(self, runtime: Runtime) -> None:
        facts = dict(runtime.facts())
        assert facts["device"]
        assert all(isinstance(value, str | int | float) for value in facts.values())
        assert json.loads(json.dumps(facts)) == facts == dict(runtime.facts())

    def test_every_run_takes_time_by_its_own_clock(self, runtime: Runtime, subnet: Path) -> None:
        with runtime.load(subnet) as infer:
            timing = time_runs(infer, Instruments(runtime.clock, runtime.counters), runs=20, warmup=2)
        assert len(timing.runs_ns) == len(timing.dropped) == 20
        assert all(isinstance(duration, int) and duration > 0 for duration in timing.runs_ns)

    def test_two_subnets_alternate(self, runtime: Runtime, subnet: Path) -> None:
        instruments = Instruments(runtime.clock, runtime.counters)
        with runtime.load(subnet) as infer, runtime.load(subnet) as calibrate:
            timing = time_pairs(infer, calibrate, instruments, runs=30, warmup=2)
        assert len(timing.runs_ns) == len(timing.calibration_ns) == 30
        assert min(timing.calibration_ns) > 0

    def test_the_counters_never_go_back(self, runtime: Runtime, subnet: Path) -> None:
        with runtime.load(subnet) as infer:
            before = runtime.counters()
            infer()
            after = runtime.counters()
        for name in ("switches", "stolen", "throttlings", "reading"):
            assert getattr(after, name) >= getattr(before, name)

    def test_outputs_are_arrays_or_nothing(self, runtime: Runtime, subnet: Path) -> None:
        with runtime.load(subnet) as infer:
            outputs = outputs_of(infer)
        assert outputs is None or all(isinstance(output, np.ndarray) for output in outputs)

    def test_it_computes_what_onnx_runtime_does(self, runtime: Runtime, subnet: Path) -> None:
        with runtime.load(subnet) as infer:
            outputs = outputs_of(infer)
        if runtime.own_inputs:
            pytest.skip(f"{runtime.name} does not run on the inputs of the core")
        expected = expected_outputs(subnet, runtime.inputs(subnet))
        assert disagreement(outputs, expected, runtime.settings.precision) is None

    def test_the_clock_never_goes_back(self, runtime: Runtime, subnet: Path) -> None:
        with runtime.load(subnet) as infer:
            times = [runtime.clock()]
            for _ in range(20):
                infer()
                times.append(runtime.clock())
        assert times == sorted(times)

    def test_a_subnet_can_be_loaded_again(self, runtime: Runtime, subnet: Path) -> None:
        for _ in range(2):
            with runtime.load(subnet) as infer:
                infer()

    def test_a_broken_file_raises_and_the_next_subnet_works(self, runtime: Runtime, subnet: Path) -> None:
        broken = subnet.with_name("broken.onnx")
        broken.write_bytes(b"no onnx at all")
        with pytest.raises(Exception), runtime.load(broken) as infer:  # noqa: B017, PT011
            infer()
        with runtime.load(subnet) as infer:
            infer()

    def test_an_unknown_precision_or_device_is_refused(self) -> None:
        with pytest.raises(InputError, match="fp0"):
            find_runtime(self.runtime_name)(RuntimeSettings(precision="fp0"))
        with pytest.raises(InputError, match="abacus"):
            find_runtime(self.runtime_name)(RuntimeSettings(device="abacus"))
