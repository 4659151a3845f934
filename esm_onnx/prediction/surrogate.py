"""What is fitted on encoded architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from esm_onnx.prediction.lookup_encoding import NO_TABLE, Lookup

GREATEST_WHOLE = 2.0**24
"""Up to here float32 holds every whole number."""

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
class LinearMap:
    """source · weights + bias: [batch, n] from [batch, m]."""

    source: str
    weights: Matrix
    bias: Vector

    def then(self, other: LinearMap) -> LinearMap:
        """Both as one, or the other alone where one would take more multiplications."""
        (inputs, between), outputs = self.weights.shape, other.weights.shape[1]
        if inputs * outputs > between * (inputs + outputs):
            return other
        return LinearMap(self.source, self.weights @ other.weights, self.bias @ other.weights + other.bias)


@dataclass(frozen=True)
class Nodes:
    """Nodes and constants of an ONNX graph under construction; each has a readable name of its own.

    Attributes:
        domains: operator sets beside `ai.onnx`, with their versions.
        kind: of its floats, as ONNX numbers it.
        maps: how the tensors were made that `linear` and `part` gave.
        joined: names and widths of the tensors of which those consist that `join` gave.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)
    kind: int = TensorProto.FLOAT
    maps: dict[str, LinearMap] = field(default_factory=dict)
    joined: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def singles(self) -> Nodes:
        """The same graph, for nodes and constants in float32."""
        return replace(self, kind=TensorProto.FLOAT)

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

    def linear(self, name: str, x: str, weights: ArrayLike, bias: ArrayLike = 0.0) -> str:
        """Adds x · weights + bias; gives its name.

        Where x came about like this itself, both maps become one, unless that makes more work. What was added for x
        stays, until `drop_unused`.
        """
        by = np.asarray(weights, np.float64)
        own = LinearMap(x, by, np.broadcast_to(np.asarray(bias, np.float64), by.shape[1]))
        made = self.maps[name] = self.maps[x].then(own) if x in self.maps else own
        inputs = [made.source, self.floats(f"{name}.weights", made.weights)]
        if made.bias.any():
            inputs.append(self.floats(f"{name}.bias", made.bias))
        return self.add("Gemm" if made.bias.any() else "MatMul", name, *inputs)

    def join(self, name: str, parts: Mapping[str, int]) -> str:
        """Adds tensors side by side, by their names and widths; gives its name."""
        self.joined[name] = dict(parts)
        return self.add("Concat", name, *parts, axis=1)

    def part(self, name: str, x: str, places: range) -> str:
        """Adds the neighbouring columns `places` of x, unless these were joined to x; gives their name."""
        start = 0
        for part, width in self.joined.get(x, {}).items():
            if range(start, start + width) == places:
                return part
            start += width
        if x in self.maps:
            whole, at = self.maps[x], slice(places.start, places.stop)
            self.maps[name] = LinearMap(whole.source, whole.weights[:, at], whole.bias[at])
        ends = (("from", places.start), ("to", places.stop), ("axis", 1))
        return self.add("Slice", name, x, *(self.constant(f"{name}.{end}", np.array([at])) for end, at in ends))

    def drop_unused(self, outputs: Iterable[str]) -> None:
        """Drops the nodes and constants from which nothing leads to these outputs."""
        used, kept = set(outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        self.nodes[:] = kept[::-1]
        self.constants[:] = [constant for constant in self.constants if constant.name in used]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a predictor of another device says of architectures that nobody needs to have measured.

    Attributes:
        name: of that device.
        predicted: in ms, [n].
        x: the same architectures encoded, [n, columns].
        error: relative root mean square error of its predictions on its own device; 0 where nobody knows.
    """

    name: str
    predicted: Vector
    x: Matrix
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Examples:
    """What a surrogate is fitted on.

    Attributes:
        x: encoded architectures, [n, columns].
        y: latencies in ms, [n].
        columns: a name for each column.
        seed: of everything that is drawn.
        lookup: the lookup table of the target, or why there is none.
        surveys: of the predictors of other devices, whose predictions in ms are the first columns of x, in this order.
    """

    x: Matrix
    y: Vector
    columns: tuple[str, ...]
    seed: int = 0
    lookup: Lookup | str = NO_TABLE
    surveys: tuple[Survey, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: NDArray[Any]) -> Examples:
        """Some of the rows: a mask or indices."""
        return replace(self, x=self.x[rows], y=self.y[rows])


def alike(values: Vector) -> Vector:
    """The one number that all of them are, if so: an operator takes it much faster than a row of them."""
    return values[:1].reshape(()) if np.ptp(values) == 0 else values


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
