"""A predictor of another device, as a part of this one's: its file is drawn into the new graph whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose

from esm_onnx.architectures import Space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Nodes, Vector

if TYPE_CHECKING:
    from esm_onnx.prediction.loaded import LoadedPredictor  # brings onnxruntime, which few who train need

NORMAL = (math.pi / 2) ** 0.5
"""Root mean square over mean absolute value of a normal distribution around 0."""
SURVEYED = 1000
"""Architectures that a base is asked for, to see what explains its predictions."""


@dataclass(frozen=True)
class Base:
    """A predictor read from its file.

    Attributes:
        loaded: what predicts.
        content: the file's graph.
    """

    loaded: LoadedPredictor
    content: onnx.ModelProto = field(repr=False)

    @staticmethod
    def open(path: Path | str) -> Base:
        """Reads and verifies a predictor.

        Raises:
            InputError: it is no predictor of esm-onnx, or not as it was written.
        """
        from esm_onnx.prediction.loaded import LoadedPredictor

        return Base(LoadedPredictor.open(path), onnx.load(path))

    @cached_property
    def name(self) -> str:
        """What it was measured on."""
        return self.loaded.target.name

    @cached_property
    def error(self) -> float:
        """Relative root mean square error on its own device, as normal errors of its accuracy have it: a few wild
        measurements do not count; 0 where nobody knows."""
        accuracy = self.loaded.metadata["accuracy"]
        return 0.0 if accuracy is None else NORMAL * (1 - accuracy["overall"]["accuracy"] / 100)

    def predict(self, genomes: NDArray[np.int64]) -> Vector:
        """In the unit of its quantity, [n], of valid genomes [n, genome length]."""
        predicted, _, _ = self.loaded.predict(genomes)
        return predicted.astype(np.float64)

    def draw(self, graph: Nodes, genome: str, prefix: str) -> str:
        """Its nodes with a prefix, from `genome`, int64 [batch, length]; gives the prediction, [batch, 1].

        Raises:
            InputError: it stands on other versions of the operator sets.
        """
        inner = compose.add_prefix(self.content, prefix).graph
        ours = {f"{prefix}{self.content.graph.input[0].name}": genome}
        for node in inner.node:
            node.input[:] = [ours.get(name, name) for name in node.input]
            graph.nodes.append(node)
        graph.constants.extend(inner.initializer)
        for opset in self.content.opset_import:
            if opset.domain and graph.domains.setdefault(opset.domain, opset.version) != opset.version:
                expected = graph.domains[opset.domain]
                raise InputError(
                    f"it stands on {opset.domain} {opset.version}, expected {expected}: train it anew",
                    file=self.loaded.path,
                )
        axis = graph.constant(f"{prefix}axis", np.array([1]))
        return graph.add("Unsqueeze", f"{prefix}column", prefix + self.loaded.quantity.outputs[0], axis)


def check_bases(bases: Sequence[Base], space: Space, quantity: str) -> None:
    """Makes sure that bases are for this space and quantity (by its field: "latency_ms").

    Raises:
        InputError: one is for another.
    """
    for base in bases:
        base.loaded.check_space(space)
        if base.loaded.quantity.field != quantity:
            raise InputError(
                f"it predicts {base.loaded.quantity.field}, expected a predictor of {quantity}", file=base.loaded.path
            )


def surveyed_genomes(space: Space, seed: int) -> NDArray[np.int64]:
    """Genomes [n, length] of architectures drawn at random."""
    drawn = sample(space, min(SURVEYED, space.size), strategy="random", rng=Random(seed))
    return np.array([to_genome(space, architecture) for architecture in drawn], np.int64)
