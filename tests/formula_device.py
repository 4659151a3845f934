"""A device that is a formula, and what the tests of the loop ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from esm_onnx.architectures import Architecture, Bins, Feature, Space, find_space, genome_length, to_genome
from esm_onnx.loop import Plan, Round, rounds
from esm_onnx.prediction.dataset import Dataset

RESNET = find_space("resnet")
SMALL = Space("small", ((1, 2, 3),) * 2, (Feature("kernel", (3, 5)),))
"""(2 + 4 + 8)² = 196 architectures."""

REACHABLE, UNREACHABLE = 0.85, 0.9999


class Device:
    """Latencies by a formula, for those architectures that it was asked to measure.

    Attributes:
        asked: each call of `measure`.
        assembled: each call of `assemble`.
        minutes: how late it is; every call of `measure` takes one.
    """

    def __init__(
        self,
        space: Space = RESNET,
        *,
        noisy: Callable[[Architecture], bool] = lambda _: False,
        broken: Callable[[Architecture], bool] = lambda _: False,
    ) -> None:
        self.space, self.noisy, self.broken = space, noisy, broken
        self.asked: list[list[Architecture]] = []
        self.assembled: list[list[Architecture]] = []
        self.minutes = 1000.0

    def measure(self, architectures: Sequence[Architecture]) -> None:
        self.asked.append(list(architectures))
        self.minutes += 1

    def assemble(self, architectures: Sequence[Architecture]) -> Dataset:
        assert set(architectures) <= {a for call in self.asked for a in call}, "a latency that was never measured"
        self.assembled.append(list(architectures))
        known = [a for a in architectures if not self.broken(a)]
        genomes = np.array([to_genome(self.space, a) for a in known], np.int64)
        latencies = np.array([self.latency_ms(a) for a in known], np.float64)
        return Dataset(
            self.space,
            genomes.reshape(len(known), genome_length(self.space)),
            latencies,
            {"name": "formula", "facts": {}},
        )

    def latency_ms(self, architecture: Architecture) -> float:
        exact = 1 + sum(0.1 * u + 0.05 * float(b["kernel"]) for u, unit in enumerate(architecture.units) for b in unit)
        if not self.noisy(architecture):
            return exact
        return exact * Random(repr(architecture)).choice([0.7, 1.3])  # nothing about it can be learnt

    def run(self, plan: Plan) -> list[Round]:
        return list(rounds(self.space, plan, self.measure, self.assemble, clock=lambda: 60 * self.minutes))


def everything(_: Architecture) -> bool:
    return True


def per_bin(architectures: Sequence[Architecture], bins: Bins) -> list[int]:
    counts = Counter(bins.index(a.depth) for a in architectures)
    return [counts[i] for i in range(len(bins))]


def story(turns: Sequence[Round]) -> list[tuple[object, ...]]:
    """All that a round says of itself, but the end, which depends on the budget."""
    return [(t.number, t.rows, t.measurements, t.evaluation, t.below, t.predictor.dataset) for t in turns]
