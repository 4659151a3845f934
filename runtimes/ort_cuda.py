"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from esm_onnx.measurement.target import Fact

from .ort_gpu import OrtGpu, open_provider

PROVIDER = "CUDAExecutionProvider"
EXTRA = "cuda"
CUDNN = "libcudnn.so.9"
GPUS = open_provider(PROVIDER, "libonnxruntime_providers_cuda.so", EXTRA, CUDNN)
SEARCH = "EXHAUSTIVE"
"""cuDNN's algorithms are timed when a convolution first runs: ONNX Runtime's own default."""


class OrtCuda(OrtGpu):
    """ONNX Runtime's CUDA provider: kernels of cuDNN and cuBLAS, node by node.

    They are started one by one unless `graph` is on, as by ONNX Runtime itself and as PyTorch does.
    """

    name = "ort-cuda"
    provider = PROVIDER
    extra = EXTRA
    gpus = GPUS
    switches = MappingProxyType({"graph": False})

    def facts(self) -> Mapping[str, Fact]:
        return {**super().facts(), "cudnn_conv_algo_search": SEARCH}

    def options(self, subnet: Path) -> Mapping[str, str]:
        return {
            "use_tf32": str(int(self.settings.precision == "tf32")),
            "enable_cuda_graph": str(int(self.is_on("graph"))),
            "cudnn_conv_algo_search": SEARCH,
        }
