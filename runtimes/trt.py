"""TensorRT, 10.14 and newer or 11, through its own Python package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import tensorrt

    from . import cuda
    from .trt_runtime import TensorRt
except ImportError as error:
    raise ImportError(f"TensorRT cannot be used ({error}): pip install 'esm-onnx[trt]'") from None
GPUS = cuda.usable_gpus()


class Trt(TensorRt):
    """TensorRT. Networks are strongly typed: fp16 is what the file is written in; TF32 is off unless asked for."""

    name = "trt"
    library = tensorrt
    gpus = GPUS

    @contextmanager
    def adapted(self, options: Any) -> Iterator[None]:
        """Kernels that were timed before on this device are not timed again, and so chosen alike."""
        key = f"timings-{self.facts_digest()}"
        timings = options.create_timing_cache(self.cache.get(key) or b"")
        options.set_timing_cache(timings, False)
        yield
        self.cache.put(key, bytes(timings.serialize()))
