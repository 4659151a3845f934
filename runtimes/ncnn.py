"""ncnn on the CPU: subnets are converted by pnnx, which reads ONNX."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

try:
    import ncnn
except ModuleNotFoundError:
    raise ImportError("ncnn is not installed: pip install 'esm-onnx[ncnn]'") from None

from esm_onnx.errors import InputError, WorkError
from esm_onnx.measurement.processor import processor_facts
from esm_onnx.measurement.runtime import Runtime, RuntimeSettings
from esm_onnx.measurement.scratch import scratch
from esm_onnx.measurement.target import Fact

# Only its executable is needed: the package around it imports torch.
_PNNX = importlib.util.find_spec("pnnx")
if _PNNX is None or not _PNNX.submodule_search_locations:
    raise ImportError("pnnx is not installed: pip install --no-deps pnnx")

PNNX = Path(_PNNX.submodule_search_locations[0], "pnnx")
NOT_NEEDED = ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")
"""What pnnx writes besides: the weights twice again, and programs."""
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
BRAIN = ("use_bf16_packed", "use_bf16_storage")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHOWN = 300
"""Characters of pnnx's last words in an error."""


class Ncnn(Runtime):
    """ncnn's CPU layers; one image at a time, since its arrays have no axis for a batch.

    fp16 rounds the weights to fp16 and lets ncnn store and compute in it, which it does on Arm since v8.2; elsewhere it
    stores in fp16 and computes in fp32, as the fact `arithmetic` tells. Inputs and outputs are fp32. Layers are not
    timed: they lose the names of the ONNX nodes, and ncnn's Python package tells no times.
    """

    name = "ncnn"
    precisions = ("fp32", "fp16")
    most_images = 1
    converts = True

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        if settings.device not in (None, "cpu"):
            raise InputError(f"device {settings.device!r} on ncnn, expected cpu")
        self._half = settings.precision == "fp16"

    def facts(self) -> Mapping[str, Fact]:
        return {
            **processor_facts(),
            "ncnn": ncnn.__version__,
            "pnnx": importlib.metadata.version("pnnx"),
            "threads": self.settings.threads,
            "arithmetic": "f16" if self._half and ncnn.cpu_support_arm_asimdhp() else "f32",
        }

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        arrays = [image(name, value) for name, value in self.inputs(subnet).items()]
        net = self._net(subnet)
        outputs = sorted(net.output_names(), key=lambda name: int(name.removeprefix("out")))

        def infer() -> list[NDArray[np.generic]]:
            with net.create_extractor() as extractor:
                for number, array in enumerate(arrays):
                    extractor.input(f"in{number}", array)
                return [_extract(extractor, name) for name in outputs]

        yield infer
        net.clear()

    def _net(self, subnet: Path) -> ncnn.Net:
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self.settings.threads
        for option in (*HALF, *BRAIN):
            setattr(net.opt, option, self._half and option in HALF)
        with ExitStack() as kept:
            given = self.settings.folder
            folder = Path(given or kept.enter_context(tempfile.TemporaryDirectory(prefix="esm-onnx-")))
            word = kept.enter_context(scratch(folder))  # so that what a process that was killed leaves is deleted
            graph, weights = convert(subnet, folder, word, half=self._half)
            if net.load_param(str(graph)) or net.load_model(str(weights)):
                raise WorkError(f"ncnn cannot read what pnnx made of {subnet.name}")
        return net


def image(name: str, value: NDArray[np.generic]) -> ncnn.Mat:
    """An input without its first axis, as ncnn wants it.

    Raises:
        InputError: it has more than one image.
    """
    if value.ndim < 2 or len(value) != 1:
        raise InputError(f"input {name} has the shape {list(value.shape)}, ncnn takes one image at a time: batch 1")
    single = value[0].astype(np.float32) if value.dtype == np.float16 else value[0]
    # A clone, since a Mat neither keeps numpy's array alive nor survives a first layer that would work in place on it.
    return ncnn.Mat(single).clone()


def convert(subnet: Path, folder: Path, word: str, *, half: bool) -> tuple[Path, Path]:
    """The graph and the weights of a subnet, in ncnn's formats.

    Args:
        folder: where they are written, and pnnx what it needs meanwhile.
        word: behind the names of all these files, `scratch`.
        half: whether weights are rounded to fp16.

    Raises:
        WorkError: pnnx failed, or left operators that ncnn does not have.
    """
    source, graph, weights = (folder / f"ncnn-{word}.{ending}" for ending in ("onnx", "param", "bin"))
    onnx.save(in_fp32(onnx.load(subnet)), source)  # pnnx reads no external data
    not_needed = [f"{name}={os.devnull}" for name in NOT_NEEDED]
    # names without a folder: an "=" in one would mean something to pnnx
    command = [str(PNNX), source.name, f"ncnnparam={graph.name}", f"ncnnbin={weights.name}", *not_needed]
    done = subprocess.run(
        [*command, f"fp16={int(half)}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode or not (graph.exists() and weights.exists()):
        said = " ".join(COLOUR.sub("", done.stdout.decode(errors="replace")).split())[-SHOWN:]
        raise WorkError(f"pnnx cannot convert {subnet.name} (exit {done.returncode}): …{said}")
    operators = {line.split()[0] for line in graph.read_text().splitlines()[2:]}
    if unknown := sorted(operator for operator in operators if ncnn.layer_to_index(operator) < 0):
        raise WorkError(f"ncnn cannot run {subnet.name}: it has no {', '.join(unknown)}, which pnnx left as it was")
    return graph, weights


def in_fp32(subnet: onnx.ModelProto) -> onnx.ModelProto:
    """The same subnet with fp16 widened to fp32, for pnnx leaves operators in fp16 as they are."""
    graph = subnet.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return subnet


def _extract(extractor: ncnn.Extractor, name: str) -> NDArray[np.generic]:
    problem, output = extractor.extract(name)
    if problem:
        raise WorkError(f"ncnn cannot compute {name}: code {problem}")
    return np.array(output)[np.newaxis]
