"""The bindings of CUDA's runtime: memory, streams, events, graphs.

What takes something of the device is a context manager that gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from .gpus import CudaGpu, driver_version, list_gpus


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed."""


def demand(returned: tuple[Any, ...]) -> Any:
    """What a call of CUDA's runtime gave beside its status: nothing, a value, or several.

    Raises:
        CudaError: the status is an error.
    """
    status, *values = returned
    if status != cudart.cudaError_t.cudaSuccess:
        raise CudaError(_told(status))
    return values[0] if len(values) == 1 else values or None


def usable_gpus() -> list[CudaGpu]:
    """The GPUs that CUDA's runtime may use; at least one.

    Raises:
        ImportError: there is none, or no driver, or one that is too old; one line for the list of runtimes.
    """
    gpus = list_gpus()
    status, _ = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess:
        known = demand(cudart.cudaDriverGetVersion())
        raise ImportError(
            f"the driver {driver_version()} knows CUDA {_dotted(known)} and cuda-bindings has {runtime_version()} "
            f"({_told(status)}): update the driver, or pip install 'cuda-bindings=={known // 1000}.*'"
        )
    return gpus


def _told(status: Any) -> str:
    name, text = (demand(tell(status)).decode() for tell in (cudart.cudaGetErrorName, cudart.cudaGetErrorString))
    return f"{name}: {text}"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def runtime_version() -> str:
    """Of CUDA's runtime, "13.0" say."""
    return _dotted(demand(cudart.cudaRuntimeGetVersion()))


def use(gpu: CudaGpu) -> str:
    """Makes a GPU the one of this thread, and gives its compute capability, "8.9" say."""
    demand(cudart.cudaSetDevice(gpu.number))
    about = demand(cudart.cudaGetDeviceProperties(gpu.number))
    return f"{about.major}.{about.minor}"


@contextmanager
def allocated(size: int) -> Iterator[int]:
    """The address of `size` bytes on the device."""
    address = int(demand(cudart.cudaMalloc(max(size, 1))))
    try:
        yield address
    finally:
        cudart.cudaFree(address)


class Stream:
    """Work for the device, one after the other, timed by the device; `opened` makes one."""

    def __init__(self, handle: Any, start: Any, end: Any) -> None:
        self.handle, self._start, self._end = int(handle), start, end

    def time_ns(self, start_work: Callable[[], object]) -> int:
        """Starts work, waits until the device has done it, and gives the ns between two events around it, at least 1.

        The device's clock ticks about every half microsecond. An idle device begins as soon as the first piece of work
        reaches it, so waiting for the host in between counts.
        """
        demand(cudart.cudaEventRecord(self._start, self.handle))
        start_work()
        demand(cudart.cudaEventRecord(self._end, self.handle))
        demand(cudart.cudaEventSynchronize(self._end))
        elapsed_ms: float = demand(cudart.cudaEventElapsedTime(self._start, self._end))
        return max(1, round(1e6 * elapsed_ms))

    def wait(self) -> None:
        """Until all its work is done."""
        demand(cudart.cudaStreamSynchronize(self.handle))

    def clear(self, address: int, size: int) -> None:
        """Starts to set bytes of the device to zero."""
        demand(cudart.cudaMemsetAsync(address, 0, size, self.handle))

    def bring(self, array: NDArray[Any], address: int) -> None:
        """Starts to copy an array, whose elements lie in order, to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def fetch(self, address: int, array: NDArray[Any]) -> None:
        """Starts to fill such an array from the device."""
        self._copy(array.ctypes.data, address, array.nbytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        demand(cudart.cudaMemcpyAsync(to, source, size, kind, self.handle))

    @contextmanager
    def captured(self, start_work: Callable[[], object]) -> Iterator[Callable[[], None]]:
        """Work as one CUDA graph: gives what starts all of it at once.

        Args:
            start_work: what was run on this stream before, so that nothing is made ready for the first time.
        """
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        demand(cudart.cudaStreamBeginCapture(self.handle, mode))
        try:
            start_work()
        except BaseException:
            cudart.cudaStreamEndCapture(self.handle)
            raise
        graph = demand(cudart.cudaStreamEndCapture(self.handle))
        try:
            ready = demand(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            cudart.cudaGraphDestroy(graph)
        try:
            yield lambda: demand(cudart.cudaGraphLaunch(ready, self.handle))
        finally:
            cudart.cudaGraphExecDestroy(ready)


@contextmanager
def opened() -> Iterator[Stream]:
    """A stream that waits for no other one."""
    handle = demand(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
    start, end = demand(cudart.cudaEventCreate()), demand(cudart.cudaEventCreate())
    try:
        yield Stream(handle, start, end)
    finally:
        cudart.cudaEventDestroy(start)
        cudart.cudaEventDestroy(end)
        cudart.cudaStreamDestroy(handle)
