"""PyTorch on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

try:
    import torch
except ImportError:
    raise ImportError("torch is not installed: pip install 'esm-onnx[torch]'") from None

from esm_onnx.errors import InputError
from esm_onnx.measurement.processor import processor_facts
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

from .torch_graph import LayerTimer, compiled, drop_weights, read_graph


class TorchCpu(Runtime):
    """PyTorch, operator by operator as Python calls them ("eager"), or compiled by torch.compile."""

    name = "torch-cpu"
    converts = True
    switches = MappingProxyType({"compile": False})

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        if settings.device not in (None, "cpu"):
            raise InputError(f"device {settings.device!r} on torch-cpu, expected cpu")

    def facts(self) -> Mapping[str, Fact]:
        return {
            **processor_facts(),
            "torch": str(torch.__version__),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": self.settings.threads,
            **({"compile": "on"} if self.is_on("compile") else {}),
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        inputs = [torch.from_numpy(value) for value in self.inputs(subnet).values()]
        module = read_graph(subnet)

        @torch.inference_mode()
        def run() -> list[object]:
            return [output.numpy() for output in launch(*inputs)]

        @torch.inference_mode()
        def layers() -> dict[str, float]:
            timer = LayerTimer(module, time.perf_counter_ns)
            timer.run(*inputs)
            return timer.sums(lambda before, after: 1e-6 * (after - before))

        with use_threads(self.settings.threads):
            launch = compiled(module, inputs) if self.is_on("compile") else module
            try:
                yield Inference(run, layers=None if self.is_on("compile") else layers)
            finally:
                drop_weights(module)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """So many threads of PyTorch for one operator, and the former number again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
