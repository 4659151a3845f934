"""What is fitted on encoded architectures."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Surrogate(Protocol):
    """A fitted surrogate: it predicts in Python, and draws itself into the graph of predictor.onnx."""

    @property
    def name(self) -> str:
        """What the table of surrogates calls it."""

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n], of encoded architectures, [n, columns]."""

    def draw(self, graph: Nodes, x: str) -> str:
        """Adds nodes that compute the same from the tensor `x`, float32 [batch, columns].

        Returns:
            The name of the result, float32 [batch, 1].
        """


class Nodes:
    """Nodes and constants of an ONNX graph under construction; each has a readable name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int64] | NDArray[np.bool_]) -> str:
        """Adds a constant; gives its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def floats(self, name: str, value: ArrayLike) -> str:
        """Adds a constant of float32; gives its name."""
        return self.constant(name, np.asarray(value, np.float32))

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; gives the name of its output."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name
