"""OpenVINO, on the CPU or on another device that it finds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esm_onnx.errors import InputError
from esm_onnx.measurement.inputs import Arrays
from esm_onnx.measurement.processor import processor_facts
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

_TELEMETRY = "openvino_telemetry"
try:
    # Where this package is found, `import openvino` alone reports to a server; openvino does as well without it.
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    import openvino
    from openvino.frontend import FrontEndManager
except ModuleNotFoundError:
    raise ImportError("openvino is not installed: pip install 'esm-onnx[openvino]'") from None
finally:
    if sys.modules[_TELEMETRY] is None:
        del sys.modules[_TELEMETRY]

CPU = "CPU"
DRIVER = "_DRIVER_VERSION"
"""End of the name of a property that GPUs and NPUs have."""
PROFILED_RUNS = 10


class OpenVino(Runtime):
    """OpenVINO: reads the ONNX file, runs one inference at a time, keeps nothing that it compiled.

    fp32 is fp32: left to itself the CPU plug-in computes in bf16 where the processor can. fp16 is computed in fp16 on
    a processor that can (AVX-512 FP16, Arm), elsewhere in fp32 from the weights of the fp16 file; the fact
    `arithmetic` tells which; in int8 it is that of what stands between the quantised operators. The calling thread is
    not bound to a core, as OpenVINO would: on a machine that others use too, that core may be taken while another is
    free, and no other runtime here binds its threads.
    """

    name = "openvino"
    precisions = ("fp32", "fp16", "int8")

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self._core = openvino.Core()
        self._device = settings.device or CPU
        if self._device not in self._core.available_devices:
            known = ", ".join(self._core.available_devices)
            raise InputError(f"device {settings.device!r} on openvino, expected one of {known}")
        self.on_cpu = self._device == CPU
        # On a processor without fp16 the hint f16 would be taken for leave to compute in bf16.
        half = settings.precision == "fp16" and "FP16" in self._property("OPTIMIZATION_CAPABILITIES")
        wanted = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
            "ENABLE_CPU_PINNING": False,
        }
        known_here = self._property("SUPPORTED_PROPERTIES")
        self._core.set_property(self._device, {name: value for name, value in wanted.items() if name in known_here})

    def facts(self) -> Mapping[str, Fact]:
        driver = next((name for name in self._property("SUPPORTED_PROPERTIES") if name.endswith(DRIVER)), None)
        return {
            **processor_facts(),  # a CPU has the name that other runtimes give it
            **({} if self._device == CPU else {"device": self._property("FULL_DEVICE_NAME")}),
            "openvino": openvino.__version__,
            "threads": self.settings.threads,
            "arithmetic": self._property("INFERENCE_PRECISION_HINT").to_string(),
            "pinning": "off",
            **({} if driver is None else {"driver": str(self._property(driver))}),
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        inputs = self.inputs(subnet)
        request = self._request(subnet, inputs)

        def run() -> None:
            request.infer(share_outputs=True)

        def layers() -> dict[str, float]:
            return layer_times(self._request(subnet, inputs, {"PERF_COUNT": True}))

        yield Inference(
            run,
            outputs=lambda: [tensor.data for tensor in request.output_tensors],
            layers=layers if self._device == CPU else None,
        )

    def _request(self, subnet: Path, inputs: Arrays, properties: Mapping[str, object] | None = None) -> Any:
        """The compiled subnet, with its inputs where they are, uncopied.

        Raises:
            InputError: fewer threads compute than the settings say.
        """
        # by name of the format: else every other reader tries a broken file as well, and prints what it thinks of it
        reader = FrontEndManager().load_by_framework("onnx")
        graph = reader.convert(reader.load(str(subnet)))
        compiled = self._core.compile_model(graph, self._device, dict(properties or {}))
        threads = compiled.get_property("INFERENCE_NUM_THREADS") if self._device == CPU else self.settings.threads
        if threads != self.settings.threads:
            raise InputError(f"threads is {self.settings.threads}, openvino takes {threads} here; ask for at most that")
        request = compiled.create_infer_request()
        for name, value in inputs.items():
            request.set_tensor(name, openvino.Tensor(value, shared_memory=True))
        return request

    def _property(self, name: str) -> Any:
        return self._core.get_property(self._device, name)


def layer_times(request: Any) -> dict[str, float]:
    """The mean time in ms of each layer over `PROFILED_RUNS` inferences, in the order of execution.

    Names are the ONNX nodes' own, a convolution's with `/WithoutBiases` behind; a node that was fused into the one
    before it is there with 0 ms.

    Args:
        request: of a subnet that was compiled to count times, and never run.
    """
    first_ms = _means_ms(request)  # OpenVINO tells the mean since then, in whole µs; the first takes a multiple
    for _ in range(PROFILED_RUNS - 1):
        request.infer(share_outputs=True)
    means_ms = _means_ms(request)
    runs = PROFILED_RUNS
    return {name: max(0.0, ((runs + 1) * means_ms[name] - first_ms[name]) / runs) for name in means_ms}


def _means_ms(request: Any) -> dict[str, float]:
    """After one more inference."""
    request.infer(share_outputs=True)
    times_ms: dict[str, float] = {}
    for layer in request.profiling_info:
        times_ms[layer.node_name] = times_ms.get(layer.node_name, 0.0) + 1e3 * layer.real_time.total_seconds()
    return times_ms
