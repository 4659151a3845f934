"""The predictor of Syed and Srinivasan (2021), "Generalized Latency Performance Estimation for Once-For-All Neural
Architecture Search", trained as they do.

Zeros and ones (the encoding `ofa`), two hidden layers of 400 with ReLU, and one output in ms; SGD with momentum in
batches of 32 for 100 epochs. The loss is the root of a batch's mean square, whose gradient has the same size whatever
the errors are, so that the last digits wander by the learning rate; and as latencies are not standardised, in their
code (NAS_PerformanceEstimation) neither, this fits latencies of some tens of ms, and not those below one. That code has
a third hidden layer, which the paper has not. Columns beyond zeros and ones, of which theirs has none, are standardised
here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from esm_onnx.errors import InputError
from esm_onnx.prediction.mlp import Mlp, network_of, one_thread, standard, trained_mlp
from esm_onnx.prediction.surrogate import Matrix, Vector

try:
    import torch
    from torch import nn
except ImportError as error:
    raise InputError(f"torch is needed to train ({error}): pip install 'esm-onnx[train]'") from error

HIDDEN = (400, 400)
EPOCHS = 100
BATCH = 32
FROZEN = 2
"""Layers that fine-tuning leaves as they are."""
UNDER_THE_ROOT = 1e-6
"""Added to the mean square: at 0 a root has no gradient."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Of SGD; the defaults are what `tune` finds on the first 7,000 rows of the authors' Tesla P40 (they: 0.001, 0.001
    and 0.9)."""

    learning_rate: float = 0.001
    weight_decay: float = 0.0001
    momentum: float = 0.8


GRID = tuple(
    Hyperparameters(*values)
    for values in itertools.product((0.0001, 0.001, 0.01), (0.0001, 0.001, 0.01), (0.4, 0.6, 0.8, 0.9))
)
"""The authors' 36 combinations."""


class OfaTraining:
    """A network while it is trained, epoch by epoch; the same seed, the same network.

    Args:
        x: encoded architectures, [n, columns].
        y: latencies in ms, [n].
        start: the network that it begins with; None draws one.
        frozen: number of its layers, the first ones, that stay as they are.
    """

    def __init__(
        self,
        x: Matrix,
        y: Vector,
        hyperparameters: Hyperparameters,
        seed: int,
        hidden: tuple[int, ...] = HIDDEN,
        *,
        start: Mlp | None = None,
        frozen: int = 0,
    ) -> None:
        self._mean, self._scale = _beyond_one(x)
        if start is not None:
            self._mean, self._scale = start.mean.astype(np.float64), start.scale.astype(np.float64)
        self._inputs = self._scaled(x)
        self._targets = torch.tensor(y, dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._network = network_of(x.shape[1], hidden)
        layers = [layer for layer in self._network if isinstance(layer, nn.Linear)]
        for layer, (weight, bias) in zip(layers, start.layers if start else (), strict=bool(start)):
            layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        for layer in layers[:frozen]:
            layer.requires_grad_(False)
        self._order = torch.Generator().manual_seed(seed)
        self._optimiser = torch.optim.SGD(
            [parameter for parameter in self._network.parameters() if parameter.requires_grad],
            lr=hyperparameters.learning_rate,
            momentum=hyperparameters.momentum,
            weight_decay=hyperparameters.weight_decay,
            fused=True,
        )

    def epoch(self) -> None:
        """Goes through all rows once, in batches drawn anew."""
        with one_thread():
            for rows in torch.split(torch.randperm(len(self._targets), generator=self._order), BATCH):
                self._optimiser.zero_grad()
                square = nn.functional.mse_loss(self._network(self._inputs[rows])[:, 0], self._targets[rows])
                torch.sqrt(square + UNDER_THE_ROOT).backward()  # type: ignore[no-untyped-call]
                self._optimiser.step()

    def rmse_ms(self, x: Matrix, y: Vector) -> float:
        """Of rows that it is not trained on; infinite once it has diverged."""
        with torch.no_grad(), one_thread():
            predicted = self._network(self._scaled(x))[:, 0].double().numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            rmse = float(np.sqrt(np.mean((predicted - y) ** 2)))
        return rmse if math.isfinite(rmse) else math.inf

    def surrogate(self) -> Mlp:
        """The network as it is now."""
        layers = [
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in self._network
            if isinstance(layer, nn.Linear)
        ]
        return trained_mlp(layers, (self._mean, self._scale), (np.zeros(()), np.ones(())), "mlp-ofa")

    def _scaled(self, x: Matrix) -> torch.Tensor:
        return torch.tensor((x - self._mean) / self._scale, dtype=torch.float32)


def _beyond_one(x: Matrix) -> tuple[Vector, Vector]:
    """Mean and scale of columns that hold more than what lies between 0 and 1; 0 and 1 of the others."""
    mean, scale = standard(x)
    within = ((x >= 0) & (x <= 1)).all(axis=0)
    return np.where(within, 0.0, mean), np.where(within, 1.0, scale)


def fit_ofa(
    x: Matrix, y: Vector, seed: int, hyperparameters: Hyperparameters | None = None, epochs: int = EPOCHS
) -> Mlp:
    """Trains on encoded architectures [n, columns] and latencies in ms [n]."""
    training = OfaTraining(x, y, hyperparameters or Hyperparameters(), seed)
    for _ in range(epochs):
        training.epoch()
    return training.surrogate()


def fine_tune(
    base: Mlp, x: Matrix, y: Vector, seed: int, hyperparameters: Hyperparameters | None = None, epochs: int = EPOCHS
) -> Mlp:
    """Brings a network of another device to this one, as the paper does (its section on fine-tuning): the first two
    layers stay, the others are trained on encoded architectures [n, columns] and latencies in ms [n]."""
    hidden = tuple(len(bias) for _, bias in base.layers[:-1])
    training = OfaTraining(x, y, hyperparameters or Hyperparameters(), seed, hidden, start=base, frozen=FROZEN)
    for _ in range(epochs):
        training.epoch()
    return training.surrogate()
