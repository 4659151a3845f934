"""Building engines of TensorRT, and of TensorRT for RTX, whose Python packages share these names.

`trt` is the vendor's package, `tensorrt` (10.14 and newer, 11 too) or `tensorrt_rtx`. Nothing here needs CUDA: TensorRT
does, to time kernels on the device; TensorRT for RTX builds without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from esm_onnx.errors import WorkError

OPTIMIZATION_LEVEL = 3
"""How long to look for fast kernels, 0 to 5. TensorRT's default, set all the same: it is a fact of the target."""


def build_engine(
    trt: Any,
    subnet: Path,
    *,
    tf32: bool = False,
    adapted: Callable[[Any], AbstractContextManager[object]] = nullcontext,
) -> bytes:
    """A serialized engine, in the number formats that the ONNX file has.

    Args:
        subnet: its weights may lie in files beside it.
        tf32: fp32 arithmetic may round to TF32, which TensorRT itself would allow.
        adapted: is given the builder's settings, and lasts while the engine is built.

    Raises:
        WorkError: TensorRT cannot read or build it; the message holds what it logged.
    """
    log = listener(trt)
    log.errors.clear()
    with starting(trt):
        builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(subnet)):
        raise failed(trt, f"read {subnet.name}")
    options = builder.create_builder_config()
    options.builder_optimization_level = OPTIMIZATION_LEVEL
    if tf32:
        options.set_flag(trt.BuilderFlag.TF32)
    else:
        options.clear_flag(trt.BuilderFlag.TF32)
    with adapted(options):
        plan = builder.build_serialized_network(network, options)
        if plan is None:
            raise failed(trt, f"build an engine for {subnet.name}")
    return bytes(plan)


def failed(trt: Any, action: str) -> WorkError:
    """The error to raise where TensorRT only returned that it could not do something."""
    log = listener(trt)
    reasons = " ".join(" ".join(log.errors).split()) or "it gives no reason"
    log.errors.clear()
    return WorkError(f"{trt.__name__} cannot {action}: {reasons}")


@contextmanager
def starting(trt: Any) -> Iterator[None]:
    """While a builder or a runtime of TensorRT is made.

    Raises:
        WorkError: there is none to be had: no device, or a driver that is too old.
    """
    try:
        yield
    except TypeError:  # how its bindings say that they got none
        raise failed(trt, "start") from None


@cache
def listener(trt: Any) -> Any:
    """A logger that prints nothing and keeps error messages in `errors`. One for all: a process cannot have two."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)

    return Listener()


def stopwatch(trt: Any) -> Any:
    """A profiler that keeps the times of layers, in ms by name, in `layers`; those of one name are added up."""

    class Stopwatch(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers[layer_name] = self.layers.get(layer_name, 0.0) + ms

    return Stopwatch()


def tensors(trt: Any, engine: Any) -> Mapping[str, tuple[bool, tuple[int, ...], Any]]:
    """By name whether it is an input, shape and numpy type of each input and output, in the order of the file."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    return {
        name: (
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            tuple(engine.get_tensor_shape(name)),
            trt.nptype(engine.get_tensor_dtype(name)),
        )
        for name in names
    }
