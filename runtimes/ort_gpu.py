"""What ONNX Runtime's two providers for NVIDIA GPUs share.

The wheel lists its providers also where they cannot run, and then computes on the CPU without a word. So a provider is
refused before it is used where its libraries cannot be loaded, and a session where it is not the provider's.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import re
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.measurement.inputs import Arrays
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

from .gpus import CudaGpu, choose_gpu, driver_version, list_gpus, settle
from .ort_cpu import ERRORS_ONLY

FIRST_RUNS = 3
"""The first ones choose algorithms and make the CUDA graph: compared is what is timed."""
NEEDED = re.compile(rb"lib(?:nv|cu)[A-Za-z]+\.so\.\d+")
KEPT = 40
"""Engines: one is as large as its weights. The calibration subnet and the references come again and again."""
WHOLE_BIASES = ("WeightBiasQuantization",)
"""The optimiser to leave out for biases to stay in fp32: TensorRT takes no others, ONNX Runtime would make int32."""
FIRST_BYTES = 1 << 22
"""A library names what it needs near its beginning."""


def install_line(extra: str) -> str:
    """How to install what a provider needs.

    Args:
        extra: the name of its extra.
    """
    return (
        f"pip install 'esm-onnx[{extra}]', then pip uninstall onnxruntime and pip install --force-reinstall --no-deps "
        "onnxruntime-gpu, which takes its folder"
    )


class OrtGpu(Runtime):
    """A provider of ONNX Runtime: inputs and outputs lie on the device.

    ONNX Runtime gives no events, so the host's clock times a run from its start until the device has finished it.
    """

    provider: ClassVar[str]
    extra: ClassVar[str]
    """That installs what it needs."""
    gpus: ClassVar[list[CudaGpu]]
    disabled_optimizers: ClassVar[Sequence[str]] = ()
    on_cpu = False
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "fp16")

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self.gpu = choose_gpu(settings.device, self.gpus, self.name)
        self.gpu_index = self.gpu.nvml_index

    @abstractmethod
    def options(self, subnet: Path) -> Mapping[str, str]:
        """What the provider is told."""

    def facts(self) -> Mapping[str, Fact]:
        return {
            "device": self.gpu.name,
            "driver": driver_version(),
            "onnxruntime": onnxruntime.__version__,
            "cuda": str(getattr(onnxruntime, "cuda_version", "unknown")),
            "cudnn": version_of("libcudnn.so.9", "cudnnGetVersion"),
            "tf32": "on" if self.settings.precision == "tf32" else "off",
            **{
                name: "on" if self.is_on(name) else "off"
                for name, usual in self.switches.items()
                if self.is_on(name) != usual
            },
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        feed = self.inputs(subnet)
        session = self._session(subnet)
        bound = Bound(session, feed, output_shapes(subnet), ("cuda", self.gpu.number))
        for _ in range(FIRST_RUNS):
            bound.run()
        yield Inference(bound.run, bound.outputs, bound.copy, settle=partial(settle, bound.run, time.perf_counter_ns))

    def _session(self, subnet: Path) -> onnxruntime.InferenceSession:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(self.provider, {"device_id": str(self.gpu.number), **self.options(subnet)})]
        session = onnxruntime.InferenceSession(
            str(subnet),
            settings,
            providers=providers,
            disabled_optimizers=self.disabled_optimizers,
            enable_fallback=0,
        )
        if session.get_providers()[0] != self.provider:
            took, install = session.get_providers()[0], install_line(self.extra)
            raise InputError(f"ONNX Runtime took {took}, expected {self.provider}: {install}")
        return session


class Bound:
    """A session with memory for its inputs and outputs on the device, the same for every run.

    Args:
        outputs: shape and type of each.
        device: its kind and number, as ONNX Runtime calls them.
    """

    def __init__(
        self,
        session: Any,
        feed: Arrays,
        outputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
        device: tuple[str, int],
    ) -> None:
        make = onnxruntime.OrtValue
        self._session, self._feed = session, feed
        self._inputs = {name: make.ortvalue_from_numpy(array, *device) for name, array in feed.items()}
        self._outputs = [make.ortvalue_from_shape_and_type(shape, kind, *device) for shape, kind in outputs.values()]
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._binding.synchronize_inputs()

    def run(self) -> None:
        """One inference, until the device has finished it."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def outputs(self) -> list[NDArray[Any]]:
        """Those of the last inference."""
        return [value.numpy() for value in self._outputs]

    def copy(self) -> None:
        """Inputs to the device, outputs from it."""
        for name, value in self._inputs.items():
            value.update_inplace(self._feed[name])
        self.outputs()


def output_shapes(subnet: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each output by name.

    Raises:
        InputError: a side that is not fixed.
    """
    shapes = {}
    for value in onnx.load(subnet, load_external_data=False).graph.output:
        tensor = value.type.tensor_type
        if not all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            raise InputError(f"output {value.name} has sides without a size, expected fixed ones", file=subnet)
        sides = tuple(axis.dim_value for axis in tensor.shape.dim)
        shapes[value.name] = sides, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return shapes


def open_provider(provider: str, file: str, extra: str, *others: str) -> list[CudaGpu]:
    """The GPUs that a provider may use, once all libraries that it needs are loaded.

    Args:
        file: the library of the provider, in ONNX Runtime's folder.
        extra: that installs what it needs.
        others: libraries that it opens by itself, later and only where they are.

    Raises:
        ImportError: why it cannot be used, one line.
    """
    version, install = onnxruntime.__version__, install_line(extra)
    if provider not in onnxruntime.get_available_providers():
        raise ImportError(f"onnxruntime {version} here is the one without {provider}: {install}")
    gpus = list_gpus()
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it did not find; that is told below
            onnxruntime.preload_dlls()
    for library in (*needed_by(Path(onnxruntime.__file__).parent / "capi" / file), *others):
        try:
            ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ImportError(f"{provider} of onnxruntime {version} needs {error}: {install}") from None
    return gpus


def needed_by(library: Path) -> list[str]:
    """The libraries of NVIDIA that a library names."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sorted({found.decode() for found in NEEDED.findall(content[:FIRST_BYTES])})


def version_of(library: str, function: str) -> Fact:
    """What a library of NVIDIA answers when asked for its version, a whole number."""
    with suppress(OSError, AttributeError):
        return int(getattr(ctypes.CDLL(library), function)())
    return "unknown"


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """A variable of this process's environment has a value, or none, for a while: other runtimes share it."""
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def kept_folder(folder: Path, key: str, most: int = KEPT) -> Path:
    """A folder for what belongs to a key, made where it is absent; beyond so many, those longest unused go."""
    mine = folder / key
    mine.mkdir(parents=True, exist_ok=True)
    os.utime(mine)
    for path in sorted(folder.iterdir(), key=_last_used_ns, reverse=True)[most:]:
        shutil.rmtree(path, ignore_errors=True)
    return mine


def _last_used_ns(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0  # another process was faster
