"""From GPUs that were measured to one that was not, by hardware numbers alone.

    log latency(x) = Σ_b ω_b · (log p_b(x) + Σ_k α_k · (log h_k − log h_kb))

p_b is what the predictor of GPU b says, h_k are the new GPU's numbers and h_kb those of b: cores, memory and bandwidth,
as Syed and Srinivasan have them ("Generalized Latency Performance Estimation for Once-For-All Neural Architecture
Search"), but as factors. The exponents α are least squares over the pairs of measured GPUs, with a normal prior: with
two or three GPUs there is little to learn them from. They end at −1 and 0: twice the cores can at best halve a latency,
and make none longer. ω falls with the distance of the numbers' logarithms, so that like GPUs count more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esm_onnx.errors import InputError, shown
from esm_onnx.prediction.surrogate import Matrix, Vector


@dataclass(frozen=True, slots=True)
class Gpu:
    """What its maker says of a GPU.

    Attributes:
        cores: CUDA cores.
        memory_gb: in GB.
        bandwidth_gbs: of the memory, in GB/s.
    """

    cores: int
    memory_gb: float
    bandwidth_gbs: float

    @property
    def numbers(self) -> Vector:
        """[3]: cores, memory, bandwidth."""
        return np.array([self.cores, self.memory_gb, self.bandwidth_gbs], float)


GPUS: Mapping[str, Gpu] = {
    "GTX 1080 Ti": Gpu(3584, 11, 484),
    "TITAN X (Pascal)": Gpu(3584, 12, 480),
    "TITAN Xp": Gpu(3840, 12, 548),
    "TITAN RTX": Gpu(4608, 24, 672),
    "Tesla P4": Gpu(2560, 8, 192),
    "Tesla P40": Gpu(3840, 24, 346),
    "Tesla P100": Gpu(3584, 16, 732),
    "Tesla T4": Gpu(2560, 16, 320),
    "Tesla V100": Gpu(5120, 16, 900),
    "Tesla V100 32GB": Gpu(5120, 32, 900),
    "RTX 2070": Gpu(2304, 8, 448),
    "RTX 2080": Gpu(2944, 8, 448),
    "RTX 2080 Ti": Gpu(4352, 11, 616),
    "RTX 3060": Gpu(3584, 12, 360),
    "RTX 3080": Gpu(8704, 10, 760),
    "RTX 3090": Gpu(10496, 24, 936),
    "RTX 4070": Gpu(5888, 12, 504),
    "RTX 4090": Gpu(16384, 24, 1008),
    "RTX A6000": Gpu(10752, 48, 768),
    "A100": Gpu(6912, 40, 1555),
    "A100 80GB": Gpu(6912, 80, 2039),
    "L4": Gpu(7424, 24, 300),
    "H100": Gpu(16896, 80, 3350),
    "H100 PCIe": Gpu(14592, 80, 2039),
    "H200": Gpu(16896, 141, 4800),
}
"""NVIDIA's data sheets; unless the name says more, of several memories the smaller, and of several forms the one for
sockets of its own (SXM)."""
VARIANTS = frozenset({"ti", "super", "d", "laptop", "mobile", "max", "ada", "nvl", "mig"})
"""Words that make another GPU of a known name."""

EXPONENTS = np.array([-0.5, 0.0, -0.5])
"""What is expected of α: as much bound by cores as by bandwidth; the size of a memory makes nothing faster."""
EXPECTED_WITHIN = 0.25
"""Standard deviation of α around them."""
UNTOLD = 0.3
"""Standard deviation, in logarithms, of what the numbers do not tell of a pair of GPUs: generation, software."""


def find_gpu(name: str) -> Gpu:
    """A GPU by the name that its driver gives, `NVIDIA GeForce RTX 2080 Ti`, or a shorter one.

    Raises:
        InputError: it is not in the table.
    """
    words = _words(name)
    fitting = [
        known
        for known, gpu in GPUS.items()
        if _words(known) <= words and not _tells_of_another(words - _words(known), gpu)
    ]
    if not fitting:
        raise InputError(f"GPU {shown(name)}, expected one of {', '.join(GPUS)}")
    return GPUS[max(fitting, key=len)]


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", " ").replace(",", " ").split())


def _tells_of_another(beside: set[str], gpu: Gpu) -> bool:
    """Whether words beside a known name are of a variant, or of a memory of another size."""
    sizes = {word for word in beside if word.endswith("gb") and word[:-2].isdigit()}
    return bool(beside & VARIANTS) or not sizes <= {f"{gpu.memory_gb:g}gb"}


@dataclass(frozen=True)
class Generalised:
    """How measured GPUs speak of a new one: log latency = Σ shares · (log p + shifts).

    Attributes:
        shares: ω, [GPUs], 1 in sum.
        shifts: [GPUs], in logarithms.
        exponents: α, [3].
    """

    shares: Vector
    shifts: Vector
    exponents: Vector

    def predict(self, predicted: Matrix) -> Vector:
        """In ms, [n], from what the measured GPUs' predictors say, [n, GPUs]."""
        latency: Vector = np.exp((np.log(predicted) + self.shifts) @ self.shares)
        return latency


def generalise(measured: list[Gpu], predicted: Matrix, new: Gpu) -> Generalised:
    """From GPUs to a new one.

    Args:
        predicted: by the predictor of each GPU of the same architectures, [n, GPUs], in ms.

    Raises:
        InputError: no GPU.
    """
    if not measured:
        raise InputError("no GPU was measured, expected at least one")
    numbers = np.log([gpu.numbers for gpu in measured])
    levels = np.log(predicted).mean(axis=0)
    pairs = [(i, j) for i in range(len(measured)) for j in range(i)]
    apart = np.array([numbers[i] - numbers[j] for i, j in pairs]).reshape(-1, 3)
    slower = np.array([levels[i] - levels[j] for i, j in pairs]) - apart @ EXPONENTS
    ridge = (UNTOLD / EXPECTED_WITHIN) ** 2 * np.eye(3)
    exponents = np.clip(EXPONENTS + np.linalg.solve(apart.T @ apart + ridge, apart.T @ slower), -1.0, 0.0)
    away = np.log(new.numbers) - numbers
    nearness = 1 / (UNTOLD**2 + (away**2).sum(axis=1))
    return Generalised(nearness / nearness.sum(), away @ exponents, exponents)
