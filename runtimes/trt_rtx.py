"""TensorRT for RTX: the same engines for GeForce and RTX cards, whose kernels are compiled as an engine is loaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    import tensorrt_rtx

    from . import cuda
    from .trt_runtime import TensorRt
except ImportError as error:
    raise ImportError(f"TensorRT for RTX cannot be used ({error}): pip install 'esm-onnx[trt-rtx]'") from None
GPUS = cuda.usable_gpus()


class TrtRtx(TensorRt):
    """TensorRT for RTX. It makes its CUDA graph itself: its engines need not let a stream be captured."""

    name = "trt-rtx"
    library = tensorrt_rtx
    gpus = GPUS

    def adapted(self, options: Any) -> AbstractContextManager[object]:
        """For this GPU; otherwise the engine would be for any from Ampere on, and for no older one."""
        trt = self.library
        options.num_compute_capabilities = 1
        options.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
        return nullcontext(options)

    def new_context(self, engine: Any) -> Any:
        trt = self.library
        manner = engine.create_runtime_config()
        graph = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if self.is_on("graph") else trt.CudaGraphStrategy.DISABLED
        manner.cuda_graph_strategy = graph
        return engine.create_execution_context(manner)

    def captured(self, stream: cuda.Stream, enqueue: Callable[[], None]) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(enqueue)
