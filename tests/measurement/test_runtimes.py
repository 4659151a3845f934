"""Every runtime that can be used here passes the suite; every other is listed with its reason."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement import runtime as runtime_module
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime, list_runtimes
from esm_onnx.measurement.session import written_for
from esm_onnx.measurement.timing import Instruments, Timing, time_runs
from esm_onnx.measurement.worker import Worker
from esm_onnx.testing import RuntimeSuite


@pytest.mark.parametrize("runtime_name", [entry.names[0] for entry in list_runtimes() if entry.problem is None])
class TestEveryRuntime(RuntimeSuite):
    @pytest.fixture(autouse=True)
    def choose(self, runtime_name: str) -> None:
        self.runtime_name = runtime_name


PRECISIONS = [
    (entry.names[0], precision)
    for entry in list_runtimes()
    if entry.problem is None
    for precision in find_runtime(entry.names[0]).precisions
]


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_every_precision_of_every_runtime_is_timed_and_close_to_fp32(
    name: str, precision: str, tiny: Space, eight: list[Architecture], tmp_path: Path
) -> None:
    export = written_for(name, RuntimeSettings(precision=precision), ExportSettings())
    subnet, fp32 = write_subnet(tiny, eight[1], tmp_path, export), write_subnet(tiny, eight[1], tmp_path)
    with Worker(name, RuntimeSettings(precision=precision, folder=str(tmp_path))) as worker:
        timing = worker.time(subnet.path, runs=5, warmup=1, deadline_s=300, fp32=fp32.path)
    assert isinstance(timing, Timing), timing


def test_int8_is_written_as_a_runtime_wants_it() -> None:
    int8, two = RuntimeSettings(precision="int8"), ExportSettings(batch=2)
    assert written_for("ort-cpu", int8, two) == ExportSettings(batch=2, precision="uint8")
    assert written_for("ort-cpu", RuntimeSettings(precision="fp16"), two) == ExportSettings(batch=2, precision="fp16")
    if any(entry.names[0] == "openvino" and entry.problem is None for entry in list_runtimes()):
        assert written_for("openvino", int8, two) == ExportSettings(batch=2, precision="int8")
    with pytest.raises(InputError, match="precision 'int8' on dry, expected one of fp32"):
        written_for("dry", int8, two)


def test_ours_are_listed_with_their_aliases() -> None:
    listed = {entry.names: entry.problem for entry in list_runtimes()}
    assert listed[("dry",)] is None
    assert listed[("ort-cpu", "cpu")] is None
    assert find_runtime("cpu") is find_runtime("ort-cpu")


def test_a_runtime_that_cannot_load_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(**select: str) -> list[EntryPoint]:
        broken = EntryPoint("broken", "no_such_package.at_all:Thing", runtime_module.GROUP)
        stranger = EntryPoint("stranger", "pathlib:Path", runtime_module.GROUP)
        return [entry for entry in (broken, stranger) if select.get("name") in (None, entry.name)]

    monkeypatch.setattr(runtime_module, "entry_points", entries)
    problems = {entry.names[0]: entry.problem or "" for entry in list_runtimes()}
    assert "no_such_package" in problems["broken"]
    assert "no subclass" in problems["stranger"]
    with pytest.raises(InputError, match=r"cannot be used here.*no_such_package"):
        find_runtime("broken")
    with pytest.raises(InputError, match="'abacus', expected one of broken, stranger"):
        find_runtime("abacus")


def test_no_second_copy_of_the_runtimes_can_be_imported() -> None:
    root = Path(runtime_module.__file__).parents[2]
    if not (root / "runtimes").is_dir():
        pytest.skip("not run from the source tree")
    done = subprocess.run([sys.executable, "-c", "import runtimes"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "esm_onnx.runtimes" in done.stderr


def conv(channels_in: int, channels_out: int, size: int, group: int = 1) -> onnx.ModelProto:
    weight = helper.make_tensor(
        "w",
        TensorProto.FLOAT,
        [channels_out, channels_in // group, 3, 3],
        bytes(4 * channels_out * (channels_in // group) * 9),
        raw=True,
    )
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=group)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels_in, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels_out, size, size])
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))


class TestDry:
    """The documented formula, against numbers worked out by hand."""

    @pytest.fixture
    def dry(self) -> type:
        return find_runtime("dry")

    def cost(self, dry: type, subnet: onnx.ModelProto, device: str) -> float:
        module = sys.modules[dry.__module__]
        return float(module.cost_ms(subnet, module.DEVICES[device]))

    def test_a_convolution_bound_by_arithmetic_rounds_up_to_whole_tiles(self, dry: type) -> None:
        # 17 channels fill two tiles of 16; 56 × 56 pixels at tile 1; 9 × 512 products each; 250e9 a second; 2 µs start
        expected = 1e3 * (2e-6 + 32 * 56 * 56 * 9 * 512 / 250e9)
        assert self.cost(dry, conv(512, 17, 56), "cpu") == pytest.approx(expected)

    def test_a_grouped_convolution_runs_at_the_lower_rate(self, dry: type) -> None:
        moved = 4 * (64 * 16 * 16 * 2 + 64 * 9)
        expected = 1e3 * (4e-6 + max(64 * 9 * 16 * 16 / (12e9 * 0.35), moved / 12e9))
        assert self.cost(dry, conv(64, 64, 16, group=64), "board") == pytest.approx(expected)

    def test_traffic_beyond_the_cache_is_slower_by_a_step(self, dry: type) -> None:
        for size in (100, 2000):  # 8 channels: 0.6 MB fit a 32 MiB cache, 256 MB do not
            moved = 4 * (2 * 8 * size * size + 8 * 9)
            bandwidth = 2500e9 if moved <= 32 << 20 else 700e9
            expected = 1e3 * (5e-6 + moved / bandwidth)
            assert self.cost(dry, conv(8, 8, size, group=8), "gpu") == pytest.approx(expected, rel=0.2)

    def test_a_seed_fixes_every_run_and_another_load_differs(
        self, dry: type, tiny: Space, eight: list[Architecture], tmp_path: Path
    ) -> None:
        subnet = write_subnet(tiny, eight[0], tmp_path).path

        def measure(seed: int, loads: int) -> list[int]:
            runtime = dry(RuntimeSettings(seed=seed))
            for _ in range(loads):
                with runtime.load(subnet) as infer:
                    instruments = Instruments(runtime.clock, runtime.counters)
                    durations = time_runs(infer, instruments, runs=5, warmup=0).runs_ns
            return durations

        assert measure(1, 1) == measure(1, 1)
        assert measure(1, 1) != measure(1, 2)
        assert measure(1, 1) != measure(2, 1)
