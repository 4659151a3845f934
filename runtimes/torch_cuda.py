"""PyTorch on an NVIDIA GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

try:
    import torch
except ImportError:
    raise ImportError("torch is not installed: pip install 'esm-onnx[torch]'") from None

from torch import Tensor, fx

from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

from .gpus import choose_gpu, driver_version, list_gpus, settle
from .torch_graph import LayerTimer, bytes_of, compiled, drop_weights, read_graph

if torch.version.cuda is None:
    raise ImportError(
        f"torch {torch.__version__} is built without CUDA: install the one that https://pytorch.org names"
    )
GPUS = list_gpus()
if not torch.cuda.is_available():
    raise ImportError(
        f"torch {torch.__version__} cannot use {GPUS[0].name}: its CUDA {torch.version.cuda} needs a newer driver"
    )

RUNS_BEFORE_CAPTURE = 3
"""cuDNN and cuBLAS set up their workspaces in the first ones, which cannot be captured."""
FLUSHED = 4
"""How many times its size is written to empty the L2 cache."""


class TorchCuda(Runtime):
    """PyTorch on a GPU, timed by events on its stream: what the GPU takes, launches included where it waits for them.

    As Python calls the operators ("eager", as the papers measured), or as one CUDA graph, or compiled by torch.compile.
    cuDNN chooses its algorithms by its own rules, not by timing them: the same ones every time.
    """

    name = "torch-cuda"
    precisions = ("fp32", "tf32", "fp16")
    switches = MappingProxyType({"graph": False, "compile": False, "flush": False})
    device_clock = True
    on_cpu = False
    tells_memory = True

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self._gpu = choose_gpu(settings.device, GPUS, self.name)
        self.gpu_index = self._gpu.nvml_index
        self._now_ns = 0
        torch.cuda.set_device(self._gpu.number)
        tf32 = settings.precision == "tf32"
        # Not the newer fp32_precision: torch.compile still reads these, which then raise.
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = False

    def facts(self) -> Mapping[str, Fact]:
        return {
            "device": self._gpu.name,
            "driver": driver_version(),
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
            "cudnn": torch.backends.cudnn.version() or "none",  # type: ignore[no-untyped-call]
            "cudnn_benchmark": "off",
            "tf32": "on" if self.settings.precision == "tf32" else "off",
            **{switch: "on" for switch in self.switches if self.is_on(switch)},
        }

    def clock(self) -> int:
        return self._now_ns

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        arrays = list(self.inputs(subnet).values())
        inputs = [torch.from_numpy(array).cuda() for array in arrays]
        module = read_graph(subnet, "cuda")
        loaded = self._loaded(module, inputs)
        flush_bytes = FLUSHED * self._gpu.l2_bytes if self.is_on("flush") else 0
        flushed = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")

        def run() -> None:
            if flush_bytes:
                flushed.zero_()
                torch.cuda.synchronize()  # else kernels would be started while it goes on, and no launch be waited for
            self._now_ns += loaded.run()

        def copy() -> None:
            for value, array in zip(inputs, arrays, strict=True):
                value.copy_(torch.from_numpy(array))
            loaded.fetch()

        layers = None if self.is_on("compile") else lambda: time_layers(module, inputs)
        try:
            yield Inference(run, loaded.fetch, copy, layers, loaded.memory_bytes, partial(settle, run, self.clock))
        finally:
            loaded.close()
            drop_weights(module)

    def _loaded(self, module: fx.GraphModule, inputs: Sequence[Tensor]) -> Loaded:
        call = compiled(module, inputs) if self.is_on("compile") else module
        launch: Callable[[], Sequence[Tensor]] = lambda: call(*inputs)  # noqa: E731
        if not self.is_on("graph"):
            return Loaded(launch, bytes_of(module, inputs))
        replay, graph_bytes = captured(launch)
        return Loaded(replay, bytes_of(module, inputs) + graph_bytes)


class Loaded:
    """A subnet on the GPU, with the outputs of its last run.

    Args:
        launch: starts an inference and gives its outputs.
        own_bytes: what its weights and inputs, and the memory of its CUDA graph, take as long as it is loaded.
    """

    def __init__(self, launch: Callable[[], Sequence[Tensor]], own_bytes: int) -> None:
        self._launch, self._own_bytes = launch, own_bytes
        self._outputs: Sequence[Tensor] = ()
        self._start, self._end = timing_event(), timing_event()

    def run(self) -> int:
        """One inference: the ns between the events before and after it, of at least 1."""
        with torch.inference_mode():
            self._start.record()
            self._outputs = self._launch()
            self._end.record()
        self._end.synchronize()
        elapsed_ms: float = self._start.elapsed_time(self._end)
        return max(1, round(1e6 * elapsed_ms))

    def fetch(self) -> list[object]:
        """The outputs, brought to the host."""
        return [output.cpu().numpy() for output in self._outputs]

    def memory_bytes(self) -> int:
        """What one more inference takes at its peak, whatever else is loaded."""
        self._outputs = ()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.run()
        return int(torch.cuda.max_memory_allocated()) - before + self._own_bytes

    def close(self) -> None:
        """Lets go of outputs and of the memory of a CUDA graph, whoever still holds this."""
        self._launch, self._outputs = tuple, ()


def timing_event() -> Any:
    """A mark in a stream that tells when the GPU reached it."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def captured(launch: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], Sequence[Tensor]], int]:
    """The same kernels as one CUDA graph, and the bytes that lie between its layers: it keeps them, and takes no more.

    PyTorch gives what is freed meanwhile to the next kernels of the graph, so that is the peak of capturing it.
    """
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        with torch.cuda.stream(aside):
            for _ in range(RUNS_BEFORE_CAPTURE):
                launch()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        gc.collect()  # what capturing might free of others must not be taken off
        clear_workspaces()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.cuda.graph(graph):
            outputs = launch()
        graph_bytes = torch.cuda.max_memory_allocated() - before
        clear_workspaces()

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return outputs

    return replay, graph_bytes


def clear_workspaces() -> None:
    """Has PyTorch let go of cuBLAS's workspaces: it keeps one of up to 32 MiB for each stream that it ever used.

    So each graph has one of its own, whatever was captured before; and none stays behind for the stream beside.
    """
    torch._C._cuda_clearCublasWorkspaces()  # as torch.compile's own graphs do; there is no public way


@torch.inference_mode()
def time_layers(module: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, float]:
    """The time in ms between events before and after each layer; one that is shorter than its launch takes that."""

    def mark() -> Any:
        event = timing_event()
        event.record()
        return event

    timer = LayerTimer(module, mark)
    timer.run(*inputs)
    torch.cuda.synchronize()
    return timer.sums(lambda before, after: before.elapsed_time(after))
