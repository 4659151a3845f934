"""What is fitted on encoded architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from esm_onnx.prediction.lookup_encoding import NO_TABLE, Lookup

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

        Its last digit may be another than in Python, unless the regressor has an attribute `jumps` that is true.

        Returns:
            The name of the result, float32 [batch, 1].
        """


Surrogate = Regressor
"""A regressor fitted on latencies in ms."""


@dataclass(frozen=True)
class Nodes:
    """Nodes and constants of an ONNX graph under construction; each has a readable name of its own.

    Attributes:
        domains: operator sets beside `ai.onnx`, with their versions.
        kind: of its floats, as ONNX numbers it.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)
    kind: int = TensorProto.FLOAT

    @property
    def doubles(self) -> Nodes:
        """The same graph, for nodes and constants in float64."""
        return replace(self, kind=TensorProto.DOUBLE)

    def constant(self, name: str, value: NDArray[np.floating[Any] | np.int64 | np.bool_]) -> str:
        """Adds a constant; gives its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def floats(self, name: str, value: ArrayLike) -> str:
        """Adds a constant of floats; gives its name."""
        return self.constant(name, np.asarray(value, helper.tensor_dtype_to_np_dtype(self.kind)))

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
        lookup: the lookup table of the target, or why there is none.
    """

    x: Matrix
    y: Vector
    columns: tuple[str, ...]
    seed: int = 0
    lookup: Lookup | str = NO_TABLE

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
