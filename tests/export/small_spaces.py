"""The families with narrow layers, and ways to look into an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime

from esm_onnx.architectures import Architecture, Options, Space, find_space, sample
from esm_onnx.architectures.space import choices

NARROW = {
    "resnet": {"widths": [32, 48, 64, 96], "stem": 16, "classes": 10, "resolution": 64},
    "mobilenetv3": {
        "widths": [8, 16, 24, 40],
        "strides": [1, 2, 2, 1],
        "stem": 8,
        "head": [48, 40],
        "classes": 10,
        "resolution": 64,
    },
    "densenet": {"growth": 8, "bottleneck": 24, "stem": 12, "classes": 10, "resolution": 96},
    "ofa-resnet50": {"widths": [32, 48, 64, 96], "stem": 32, "classes": 10},
    "ofa-proxyless": {"widths": [8, 16, 24, 32, 40, 48], "stem": 16, "first": 8, "head": 56, "classes": 10},
}
FAMILIES = ("resnet", "mobilenetv3", "densenet")
ELASTIC = ("ofa-resnet50", "ofa-proxyless")
"""Supernets of Once-for-All's with a writer of their own; they choose their resolution."""


def narrow(family: str, **settings: object) -> Space:
    """The family's space, every feature and depth of it, with narrow layers and small images."""
    return with_settings(find_space(family), **{**NARROW[family], **settings})


def with_settings(space: Space, **settings: object) -> Space:
    return replace(space, export=replace(space.export, settings={**space.export.settings, **settings}))


def with_writer(space: Space, writer: str, **settings: object) -> Space:
    return replace(space, export=replace(space.export, writer=writer, settings=settings))


def uniform(space: Space, depth: int, choice: int = -1) -> Architecture:
    """Units of `depth` blocks, or as near as they can be, all of the same combination (of the last options, unless told
    otherwise)."""
    network = Options({feature.name: feature.options[choice] for feature in space.network})
    depths = [min(max(depth, allowed[0]), allowed[-1]) for allowed in space.depths]
    return Architecture(space.name, tuple((space.combinations[choice],) * each for each in depths), network)


def smallest(space: Space) -> Architecture:
    return uniform(space, 1, 0)


def largest(space: Space) -> Architecture:
    return uniform(space, max(space.slots), -1)


def several(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    assert choices(space.features) > 1
    return sample(space, count, strategy="random", rng=Random(seed))


def run(path: Path, image: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    """Outputs by ONNX Runtime on the CPU, one thread, so that the machine is left to others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"input": image})


def image_for(path: Path, seed: int = 0) -> np.ndarray:
    (shape,) = [shape_of(value) for value in onnx.load(path, load_external_data=False).graph.input]
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def references(path: Path) -> list[dict[str, str]]:
    """The external data of each initializer: location, offset, length."""
    graph = onnx.load(path, load_external_data=False).graph
    return [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]


HALF = Fraction(1, 2)
