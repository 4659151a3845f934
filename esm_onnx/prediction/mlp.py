"""The multi-layer perceptron of the paper (ESM, Section III): three hidden layers of 64, MSE, Adam.

Inputs and target are standardised on the rows trained on. The paper leaves epochs and batch open; ours are in
`MlpSettings`, with what they were chosen by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.prediction.surrogate import Matrix, Nodes, Vector

try:
    import torch
    from torch import nn
except ImportError as error:
    raise InputError(f"torch is needed to train ({error}): pip install 'esm-onnx[train]'") from error

LEAST_SPREAD = 1e-6
"""A column that varies by less, as a share of its values, is constant: float32 keeps no more digits."""

MOST_MEAN = 100.0
"""A column whose mean is more times its scale loses digits if it is not centred first."""

DUST = 1e-12
"""Weights below are taken for 0: inputs are standardised, so they change nothing."""


@dataclass(frozen=True, slots=True)
class MlpSettings:
    """How the MLP is trained.

    Batch and steps were chosen once, among 64, 128 and 256 rows and 2,000, 6,000 and 12,000 steps, on public data (a
    Tesla P40) and on `dry` ResNets at 100 to 6,000 rows: 6,000 steps of 256 rows are within half a percent of accuracy
    of the best everywhere, and take seconds: 90.1 % from 100 rows and 98.3 % from 2,000 on the Tesla P40 (FCC, mean of
    three seeds, 1,500 held-out rows; the best were 90.1 % and 98.7 %). The learning rate stays constant, as in the
    paper.

    Attributes:
        hidden: width of each hidden layer (the paper's).
        learning_rate, weight_decay: of Adam (the paper's).
        batch: rows of one step.
        steps: steps in all, whatever the number of rows: small sets are gone through more often.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    batch: int = 256
    steps: int = 6000


@dataclass(frozen=True)
class Mlp:
    """A trained MLP: standardise, then layers with ReLU between them, then back to ms."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    target_mean: np.float32
    target_scale: np.float32
    name: str = field(default="mlp")

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n], computed by torch."""
        with torch.no_grad(), one_thread():
            values = torch.from_numpy((x.astype(np.float32) - self.mean) / self.scale)
            for i, (weight, bias) in enumerate(self.layers):
                values = torch.nn.functional.linear(values, torch.from_numpy(weight), torch.from_numpy(bias))
                if i + 1 < len(self.layers):
                    values = torch.relu(values)
        result: NDArray[np.float32] = values[:, 0].numpy() * self.target_scale + self.target_mean
        return result

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes; the first and the last layer take the scales in."""
        mean, scale = self.mean.astype(np.float64), self.scale.astype(np.float64)
        if (np.abs(mean) > MOST_MEAN * scale).any():
            x = graph.add("Sub", f"{self.name}.centred", x, graph.floats(f"{self.name}.mean", mean))
            mean = np.zeros_like(mean)
        layers = [(weight.T.astype(np.float64), bias.astype(np.float64)) for weight, bias in self.layers]
        weight, bias = layers[0]
        layers[0] = weight / scale[:, None], bias - (mean / scale) @ weight
        weight, bias = layers[-1]
        layers[-1] = weight * self.target_scale, bias * self.target_scale + self.target_mean
        for i, (weight, bias) in enumerate(layers, 1):
            x = graph.linear(f"{self.name}.layer{i}", x, weight, bias)
            if i < len(layers):
                x = graph.add("Relu", f"{self.name}.relu{i}", x)
        return x


def fit_mlp(x: Matrix, y: Vector, settings: MlpSettings, seed: int) -> Mlp:
    """Trains an MLP on encoded architectures [n, columns] and latencies in ms [n]; the same seed, the same MLP."""
    (mean, scale), (target_mean, target_scale) = standard(x), standard(y)
    inputs = torch.tensor((x - mean) / scale, dtype=torch.float32)
    targets = torch.tensor((y - target_mean) / target_scale, dtype=torch.float32)[:, None]
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which the fork restores
        network = network_of(x.shape[1], settings.hidden)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for rows in _batches(len(y), settings):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(network(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in network
        if isinstance(layer, nn.Linear)
    ]
    return trained_mlp(layers, (mean, scale), (target_mean, target_scale))


def trained_mlp(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    inputs: tuple[Vector, Vector],
    target: tuple[Vector, Vector],
    name: str = "mlp",
) -> Mlp:
    """An MLP of its own from trained layers, and from the means and scales that inputs and target had."""
    return Mlp(
        tuple((without_dust(weight), without_dust(bias)) for weight, bias in layers),
        inputs[0].astype(np.float32),
        np.asarray(inputs[1], np.float32),
        np.float32(target[0]),
        np.float32(target[1]),
        name=name,
    )


def without_dust(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy with 0 for what weight decay has all but erased: denormal numbers take ten times as long."""
    return np.where(np.abs(values) < DUST, np.float32(0), values)


def network_of(columns: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them, from so many columns to one number."""
    widths = [columns, *hidden]
    parts: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], 1))


def _batches(rows: int, settings: MlpSettings) -> Iterator[torch.Tensor]:
    """Indices of the rows of each step: the rows are shuffled, gone through in batches, and shuffled again."""
    batch = min(settings.batch, rows)
    order, at = torch.randperm(rows), 0
    for _ in range(settings.steps):
        if at + batch > rows:
            order, at = torch.randperm(rows), 0
        yield order[at : at + batch]
        at += batch


def standard(values: Matrix | Vector) -> tuple[Vector, Vector]:
    """Mean and standard deviation of each column; a constant column has a scale of 1, whatever its rounding errors.

    The mean of three 0.1 is 0.10000000000000002: a column that varies by such differences alone is constant too.
    """
    varies = np.ptp(values, axis=0) > LEAST_SPREAD * np.abs(values).max(axis=0)
    return values.mean(axis=0), np.where(varies, values.std(axis=0), 1.0)


@contextmanager
def one_thread() -> Iterator[None]:
    """These products are so small that a second thread only slows them down, and sums would depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
