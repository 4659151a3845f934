"""A decision tree, and gradient-boosted trees (Friedman 2001), by scikit-learn; drawn by skl2onnx.

A tree jumps where a column passes a threshold, so Python and the graph must agree on the side. Both compare float32, as
scikit-learn does from the start; skl2onnx rounds its thresholds of float64 down, which changes no such comparison. The
graph computes the columns in float64 for it, see `jumps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Examples, Matrix, Nodes

try:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.tree import DecisionTreeRegressor
except ImportError as error:
    raise InputError(f"scikit-learn is needed to train ({error}): pip install 'esm-onnx[train]'") from error

OPSETS = {"": 17, "ai.onnx.ml": 3}
STEPS = 2**20
"""Into which a column's greatest number is divided for training: what differs by less differs by rounding alone."""
TREES = 1000
LEAF = 5
"""Least rows of a leaf: of 1, 2, 5 and 10, the last two were the best with 50 to 7,000 rows of a Tesla P40."""


@dataclass(frozen=True)
class Trees:
    """One tree or the weighted sum of many."""

    name: str
    estimator: DecisionTreeRegressor | GradientBoostingRegressor
    jumps: ClassVar[bool] = True

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """[n], in the unit of what it was fitted on."""
        if not len(x):
            return np.empty(0, np.float32)
        result: NDArray[np.float32] = self.estimator.predict(x.astype(np.float32)).astype(np.float32)
        return result

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes: [batch, 1]."""
        columns = FloatTensorType([None, self.estimator.n_features_in_])
        drawn = to_onnx(self.estimator, initial_types=[("x", columns)], target_opset=OPSETS)
        (node,) = drawn.graph.node
        node.name = f"{self.name}.latency"
        node.input[:], node.output[:] = [x], [node.name]
        graph.nodes.append(node)
        graph.domains.update({opset.domain: opset.version for opset in drawn.opset_import if opset.domain})
        return str(node.name)


def fit_tree(examples: Examples) -> Trees:
    """A decision tree."""
    tree = DecisionTreeRegressor(min_samples_leaf=LEAF, random_state=examples.seed)
    return Trees("tree", tree.fit(_stepped(examples.x), examples.y))


def fit_boosted(examples: Examples) -> Trees:
    """Gradient-boosted trees.

    Of depths 2 to 4 and rates 0.05 to 0.2, these had the least error over 50, 400 and 7,000 rows of a Tesla P40, on the
    encodings fcc, feature and cost. Each tree sees half of the rows (Friedman 2002, "Stochastic gradient boosting") and
    each of its splits a third of the columns.
    """
    boosted = GradientBoostingRegressor(
        n_estimators=TREES,
        max_depth=2,
        learning_rate=0.1,
        subsample=max(0.5, 1 / len(examples)),  # of one row, half would be none
        max_features=1 / 3,
        random_state=examples.seed,
    )
    return Trees("boosted", boosted.fit(_stepped(examples.x), examples.y))


def _stepped(x: Matrix) -> NDArray[np.float32]:
    """Columns whose numbers are multiples of a step, so that rounding errors alone are no difference to split on."""
    steps = np.abs(x).max(axis=0) / STEPS
    stepped: NDArray[np.float32] = (np.rint(x / np.where(steps > 0, steps, 1.0)) * steps).astype(np.float32)
    return stepped
