"""What TensorRT and TensorRT for RTX have in common when they run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import WorkError
from esm_onnx.measurement.inputs import Arrays
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

from . import cuda
from .gpus import CudaGpu, choose_gpu, driver_version, settle
from .trt_cache import Cache, engine_key
from .trt_engine import OPTIMIZATION_LEVEL, build_engine, failed, listener, starting, stopwatch, tensors

FLUSHED = 4
"""How many times its size is written to empty the L2 cache."""


class TensorRt(Runtime):
    """Engines that are built as a subnet is loaded, or were kept from another time, and run on one stream.

    The latency is the time between two events on that stream; inputs and outputs stay on the device.
    """

    library: ClassVar[Any]
    """The vendor's package."""
    gpus: ClassVar[Sequence[CudaGpu]]
    precisions = ("fp32", "tf32", "fp16", "int8")
    switches = MappingProxyType({"graph": True, "flush": False})
    device_clock = True
    on_cpu = False
    tells_memory = True

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self.gpu = choose_gpu(settings.device, self.gpus, self.name)
        self.gpu_index = self.gpu.nvml_index
        self._capability = cuda.use(self.gpu)
        self.cache = Cache(None if settings.folder is None else Path(settings.folder, "engines"))
        with starting(self.library):
            self._loader = self.library.Runtime(listener(self.library))
        self._now_ns = 0

    def facts(self) -> Mapping[str, Fact]:
        switches = {switch: "on" if self.is_on(switch) else "off" for switch in self.switches}
        return {**self.engine_facts(), **switches}

    def engine_facts(self) -> Mapping[str, Fact]:
        """Those that an engine depends on."""
        return {
            "device": self.gpu.name,
            "compute_capability": self._capability,
            "driver": driver_version(),
            "cuda": cuda.runtime_version(),
            self.library.__name__: self.library.__version__,
            "optimization_level": OPTIMIZATION_LEVEL,
            "tf32": "on" if self.settings.precision == "tf32" else "off",
        }

    def facts_digest(self) -> str:
        """Of `engine_facts`, for what is kept and belongs to no subnet."""
        return hashlib.sha256(json.dumps(dict(self.engine_facts()), sort_keys=True).encode()).hexdigest()

    def clock(self) -> int:
        return self._now_ns

    def adapted(self, options: Any) -> AbstractContextManager[object]:
        """What only this library sets before it builds, or does after it."""
        return nullcontext(options)

    def new_context(self, engine: Any) -> Any:
        """An execution context as runs are timed with; None where there is none to be had."""
        return engine.create_execution_context()

    def captured(self, stream: cuda.Stream, enqueue: Callable[[], None]) -> AbstractContextManager[Callable[[], None]]:
        """What starts an inference, as the switch `graph` has it."""
        return stream.captured(enqueue) if self.is_on("graph") else nullcontext(enqueue)

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        engine = self._engine(subnet)
        with ExitStack() as kept:
            stream = kept.enter_context(cuda.opened())
            bound = Bound(self.library, engine, self.inputs(subnet), stream, kept)
            context = self.new_context(engine)
            enqueue = bound.enqueue(context)
            enqueue()  # what comes first is made ready only then, and must not be part of the graph
            stream.wait()
            start = kept.enter_context(self.captured(stream, enqueue))
            flush_bytes = FLUSHED * self.gpu.l2_bytes if self.is_on("flush") else 0
            flushing = kept.enter_context(cuda.allocated(flush_bytes))

            def run() -> None:
                if flush_bytes:
                    stream.clear(flushing, flush_bytes)
                    stream.wait()  # else the inference would be started while it goes on, and no launch be waited for
                self._now_ns += stream.time_ns(start)

            settled = partial(settle, run, self.clock)
            yield Inference(run, bound.outputs, bound.copy, bound.layers, bound.memory_bytes, settled)

    def _engine(self, subnet: Path) -> Any:
        """The engine of a subnet, kept or built."""
        listener(self.library).errors.clear()
        key = engine_key(subnet, self.engine_facts())
        kept = self.cache.get(key)
        engine = None if kept is None else self._loader.deserialize_cuda_engine(kept)
        if engine is None:
            tf32 = self.settings.precision == "tf32"
            built = build_engine(self.library, subnet, tf32=tf32, adapted=self.adapted)
            self.cache.put(key, built)
            engine = self._loader.deserialize_cuda_engine(built)
        if engine is None:
            raise failed(self.library, f"load the engine of {subnet.name}")
        return engine


class Bound:
    """An engine with memory for its inputs and outputs, on the device and on the host.

    Args:
        trt: the vendor's package.
        feed: the inputs by name.
        kept: gives back what was taken of the device.
    """

    def __init__(self, trt: Any, engine: Any, feed: Arrays, stream: cuda.Stream, kept: ExitStack) -> None:
        self._trt, self._engine, self._stream = trt, engine, stream
        self._arrays: dict[str, NDArray[Any]] = {}
        self._outputs: list[str] = []
        for name, (given, shape, kind) in tensors(trt, engine).items():
            array = np.ascontiguousarray(feed[name]) if given else np.empty(shape, kind)
            if array.dtype != kind or array.shape != shape:
                raise WorkError(f"input {name} is {array.dtype}{array.shape}, the engine wants {kind}{shape}")
            self._arrays[name] = array
            if not given:
                self._outputs.append(name)
        self._addresses = {
            name: kept.enter_context(cuda.allocated(array.nbytes)) for name, array in self._arrays.items()
        }
        self._bring()

    def enqueue(self, context: Any) -> Callable[[], None]:
        """What starts one inference of an execution context on the stream."""
        if context is None:
            raise failed(self._trt, "make an execution context")
        for name, address in self._addresses.items():
            if not context.set_tensor_address(name, address):
                raise failed(self._trt, f"take memory for {name}")

        def start() -> None:
            if not context.execute_async_v3(self._stream.handle):
                raise failed(self._trt, "start an inference")

        return start

    def outputs(self) -> list[NDArray[Any]]:
        """Those of the last inference."""
        for name in self._outputs:
            self._stream.fetch(self._addresses[name], self._arrays[name])
        self._stream.wait()
        return [self._arrays[name].copy() for name in self._outputs]

    def copy(self) -> None:
        """Inputs to the device, outputs from it, to and from ordinary memory of the host."""
        self._bring()
        for name in self._outputs:
            self._stream.fetch(self._addresses[name], self._arrays[name])
        self._stream.wait()

    def layers(self) -> Mapping[str, float]:
        """Times of TensorRT's layers in ms; it names those that it fused "a + b"."""
        watch = stopwatch(self._trt)
        context = self._engine.create_execution_context()
        start = self.enqueue(context)
        start()
        self._stream.wait()
        context.profiler = watch
        start()
        self._stream.wait()
        return dict(watch.layers)

    def memory_bytes(self) -> int:
        """Weights, what lies between layers, inputs and outputs; not the kernels, which engines share."""
        between = int(self._engine.device_memory_size_v2)
        weights = int(self._engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return between + weights + sum(array.nbytes for array in self._arrays.values())

    def _bring(self) -> None:
        for name, array in self._arrays.items():
            if name not in self._outputs:
                self._stream.bring(array, self._addresses[name])
        self._stream.wait()
