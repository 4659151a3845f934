"""What is fitted on encoded architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Regressor(Protocol):
    """What is fitted on encoded architectures: it predicts in Python, and draws itself into the graph."""

    @property
    def name(self) -> str:
        """Its kind; what it draws is named after it."""

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """One number for each row of [n, columns], in the unit of what it was fitted on: [n]."""

    def draw(self, graph: Nodes, x: str) -> str:
        """Adds nodes that compute the same from the tensor `x`, float32 [batch, columns].

        Returns:
            The name of the result, float32 [batch, 1].
        """


Surrogate = Regressor
"""A regressor fitted on latencies in ms."""


class Nodes:
    """Nodes and constants of an ONNX graph under construction; each has a readable name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.domains: dict[str, int] = {}
        """Operator sets beside `ai.onnx`, with their versions."""

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


@dataclass(frozen=True, slots=True)
class Examples:
    """What a surrogate is fitted on.

    Attributes:
        x: encoded architectures, [n, columns].
        y: latencies in ms, [n].
        columns: a name for each column.
        seed: of everything that is drawn.
    """

    x: Matrix
    y: Vector
    columns: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: NDArray[Any]) -> Examples:
        """Some of the rows: a mask or indices."""
        return replace(self, x=self.x[rows], y=self.y[rows])


Fit = Callable[[Examples], Surrogate]
"""How a surrogate is fitted.

Raises:
    WorkError: it cannot be, with these rows.
"""


@dataclass(frozen=True)
class Fitted:
    """A surrogate, and what those of its kind say of rows that they have not seen.

    Attributes:
        out_of_fold: [n], in ms, each by a surrogate that was fitted without the row's fold.
    """

    surrogate: Surrogate
    out_of_fold: Vector


def fit_with_folds(fit: Fit, examples: Examples, folds: NDArray[np.int64]) -> Fitted:
    """Fits on all rows, and once without each fold (`folds`: the number of each row's fold)."""
    out_of_fold = np.empty(len(examples))
    for fold in np.unique(folds):
        outside = folds == fold
        out_of_fold[outside] = fit(examples.select(~outside)).predict(examples.x[outside])
    return Fitted(fit(examples), out_of_fold)
