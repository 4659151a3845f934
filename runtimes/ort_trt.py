"""ONNX Runtime on an NVIDIA GPU, through its TensorRT provider."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from esm_onnx.measurement.target import Fact

from .ort_gpu import WHOLE_BIASES, OrtGpu, environment, kept_folder, open_provider, version_of
from .trt_cache import engine_key

PROVIDER = "TensorrtExecutionProvider"
TENSORRT = "libnvinfer.so.10"
"""ONNX Runtime 1.20 to 1.31 are built for TensorRT 10."""
TF32 = "NVIDIA_TF32_OVERRIDE"
"""Environment variable of NVIDIA's libraries, read when an engine is built: the provider has no option for it."""
EXTRA = "ort-trt"
with suppress(ImportError, OSError):
    importlib.import_module("tensorrt")  # so that the libraries inside this package are found
GPUS = open_provider(PROVIDER, "libonnxruntime_providers_tensorrt.so", EXTRA)


class OrtTrt(OrtGpu):
    """ONNX Runtime's TensorRT provider, for whole subnets: what TensorRT does not take is refused, not run elsewhere.

    An inference is one CUDA graph unless `graph` is off, as on `trt`. The precision is the file's: no builder flag,
    since with one the network would not be strongly typed.
    """

    name = "ort-trt"
    provider = PROVIDER
    extra = EXTRA
    gpus = GPUS
    precisions = ("fp32", "tf32", "fp16", "int8")
    switches = MappingProxyType({"graph": True})
    disabled_optimizers = WHOLE_BIASES

    def facts(self) -> Mapping[str, Fact]:
        return {**super().facts(), "tensorrt": version_of(TENSORRT, "getInferLibVersion")}

    def options(self, subnet: Path) -> Mapping[str, str]:
        options = {"trt_cuda_graph_enable": str(self.is_on("graph"))}
        if self.settings.folder is None:
            return options
        folder, facts = Path(self.settings.folder, "ort-trt"), self.facts()
        timings = folder / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        timings.mkdir(parents=True, exist_ok=True)
        # Each engine apart: the provider tells them by the names of their nodes, which many subnets share.
        return {
            **options,
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(kept_folder(folder / "engines", engine_key(subnet, facts))),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(timings),
        }

    def _session(self, subnet: Path) -> onnxruntime.InferenceSession:
        # All sides have sizes, so the engine is built as the session is made; NVIDIA advises against it while one runs.
        with environment(TF32, None if self.settings.precision == "tf32" else "0"):
            return super()._session(subnet)
