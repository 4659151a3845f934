"""Several MLPs trained at once: their layers are stacked, so that a step costs little more than one network's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.prediction.mlp import Mlp, one_thread, standard, trained_mlp
from esm_onnx.prediction.surrogate import Matrix, Vector

try:
    import torch
except ImportError as error:
    raise InputError(f"torch is needed to train ({error}): pip install 'esm-onnx[train]'") from error


@dataclass(frozen=True, slots=True)
class EnsembleSettings:
    """How the networks are trained: Adam with a one-cycle learning rate (Smith and Topin 2018).

    Attributes:
        hidden: width of each hidden layer.
        rate: greatest learning rate.
        decay: weight decay.
        batch: rows of one step.
        epochs, least_epochs, greatest_epochs: times that each row is seen, `epochs` over the number of rows, within
            these limits.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    rate: float = 0.01
    decay: float = 1e-3
    batch: int = 64
    epochs: int = 160_000
    least_epochs: int = 20
    greatest_epochs: int = 400

    def steps(self, rows: int) -> int:
        epochs = min(max(self.epochs // rows, self.least_epochs), self.greatest_epochs)
        return epochs * max(1, rows // self.batch)


def fit_mlps(x: Matrix, y: Vector, members: NDArray[np.float64], settings: EnsembleSettings, seed: int) -> list[Mlp]:
    """Trains one MLP for each row of `members` [networks, n]: the weight of each row of `x` in it, 0 for none."""
    (mean, scale), (target_mean, target_scale) = standard(x), standard(y)
    inputs = torch.tensor((x - mean) / scale, dtype=torch.float32)
    targets = torch.tensor((y - target_mean) / target_scale, dtype=torch.float32)
    weights = torch.tensor(members, dtype=torch.float32)
    rows = [torch.tensor(np.flatnonzero(member)) for member in members]
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which the fork restores
        layers = _layers(len(members), [x.shape[1], *settings.hidden, 1])
        steps = settings.steps(max(map(len, rows)))
        optimiser = torch.optim.Adam(
            [part for layer in layers for part in layer], lr=settings.rate, weight_decay=settings.decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=steps)
        batch = min(settings.batch, *map(len, rows))
        network = torch.arange(len(members))[:, None]
        for _ in range(steps):
            chosen = torch.stack([own[torch.randint(len(own), (batch,))] for own in rows])
            values = inputs[chosen]
            for i, (weight, bias) in enumerate(layers):
                values = torch.baddbmm(bias, values, weight)
                if i + 1 < len(layers):
                    values = torch.relu(values)
            loss = (weights[network, chosen] * (values[:, :, 0] - targets[chosen]) ** 2).mean(dim=1).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    stacked = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers]
    return [
        trained_mlp(
            [(weight[i].T, bias[i, 0]) for weight, bias in stacked],
            (mean, scale),
            (target_mean, target_scale),
            name=f"mlp{i + 1}",
        )
        for i in range(len(members))
    ]


def _layers(networks: int, widths: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights [networks, inputs, outputs] and biases [networks, 1, outputs], as torch's own linear layers begin."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        bound = inputs**-0.5
        weight = torch.empty(networks, inputs, outputs).uniform_(-bound, bound).requires_grad_()
        bias = torch.empty(networks, 1, outputs).uniform_(-bound, bound).requires_grad_()
        layers.append((weight, bias))
    return layers
