"""One space on several targets: which is fastest for each architecture, and how well their rankings agree."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Architecture, Space, from_genome, to_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.runtime import SWITCHES
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.evaluation import kendall, spearman

SETTINGS = ("precision", "threads", "batch", *SWITCHES, "device", "runtime")
"""Facts by which people tell targets apart, the first ones first."""


@dataclass(frozen=True)
class Across:
    """Architectures that were measured on each of several targets.

    Attributes:
        targets: their names.
        architectures: those that all targets have.
        latency_ms: [architectures, targets].
    """

    space: Space
    targets: tuple[str, ...]
    architectures: tuple[Architecture, ...]
    latency_ms: NDArray[np.float64]

    @property
    def fastest(self) -> list[str]:
        """For each architecture the target that is fastest."""
        return [self.targets[i] for i in self.latency_ms.argmin(axis=1)]

    def wins(self) -> dict[str, int]:
        """For each target the number of architectures that it is fastest for."""
        counts = Counter(self.fastest)
        return {target: counts[target] for target in self.targets}

    def pairs(self) -> list[Agreement]:
        """Each two targets, in their order."""
        return [
            agreement((self.targets[i], self.targets[j]), self.latency_ms[:, i], self.latency_ms[:, j])
            for i, j in itertools.combinations(range(len(self.targets)), 2)
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        rows = zip(self.architectures, self.latency_ms.tolist(), self.fastest, strict=True)
        return {
            "space": self.space.name,
            "wins": self.wins(),
            "pairs": [pair.as_json() for pair in self.pairs()],
            "architectures": [
                {
                    "architecture": to_json(self.space, architecture),
                    "latency_ms": dict(zip(self.targets, latencies, strict=True)),
                    "fastest": fastest,
                }
                for architecture, latencies, fastest in rows
            ],
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two targets agree.

    Attributes:
        targets: their names.
        spearman, kendall: rank correlations of their latencies; None where one side is constant.
        ratio: median of the second's latency over the first's.
        least_ratio, greatest_ratio: between these are 90 % of the ratios.
    """

    targets: tuple[str, str]
    spearman: float | None
    kendall: float | None
    ratio: float
    least_ratio: float
    greatest_ratio: float

    def as_json(self) -> dict[str, Any]:
        """The agreement as JSON data."""
        names = ("spearman", "kendall", "ratio", "least_ratio", "greatest_ratio")
        return {"targets": list(self.targets), **{name: getattr(self, name) for name in names}}


def agreement(targets: tuple[str, str], first: NDArray[np.float64], second: NDArray[np.float64]) -> Agreement:
    """How the latencies of the same architectures on two targets agree."""
    least, median, greatest = np.quantile(second / first, (0.05, 0.5, 0.95)).tolist()
    return Agreement(targets, spearman(first, second), kendall(first, second), median, least, greatest)


def put_together(datasets: Sequence[Dataset]) -> Across:
    """The architectures that all datasets of a space have.

    Raises:
        InputError: fewer than two targets, or fewer than two architectures that all of them have.
    """
    if len(datasets) < 2:
        raise InputError("one target alone, expected two or more of the same space: profile it on another runtime")
    space, names = datasets[0].space, _names(datasets)
    rows = [{tuple(g): float(ms) for g, ms in zip(d.genomes.tolist(), d.latency_ms, strict=True)} for d in datasets]
    shared = [genome for genome in rows[0] if all(genome in row for row in rows)]
    if len(shared) < 2:
        raise InputError(
            f"{len(shared)} architectures were measured on all of {', '.join(names)}, expected two or more: "
            "`esm-onnx profile` with several --runtime measures the same ones on each"
        )
    latency_ms = np.array([[row[genome] for row in rows] for genome in shared])
    return Across(space, names, tuple(from_genome(space, genome) for genome in shared), latency_ms)


def _names(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """The targets' names; those of one name are told apart by as few facts as will do, settings before versions."""
    names = [str(dataset.target["name"]) for dataset in datasets]
    facts = [dict(dataset.target["facts"]) for dataset in datasets]
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, fact in zip(names, facts, strict=True):
        groups.setdefault(name, []).append(fact)
    telling = {name: _telling(group) for name, group in groups.items()}
    return tuple(
        f"{name} ({_told(fact, telling[name])})" if telling[name] else name
        for name, fact in zip(names, facts, strict=True)
    )


def _told(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {facts[name]}" if name in facts else f"no {name}" for name in names)


def _telling(targets: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fewest facts by which targets differ from each other; none for one alone."""
    differing = {name for name in set().union(*targets) if len({str(facts.get(name)) for facts in targets}) > 1}
    longest = {name: max(len(str(facts.get(name))) for facts in targets) for name in differing}
    known = {name: place for place, name in enumerate(SETTINGS)}
    best_first = sorted(differing, key=lambda name: (known.get(name, len(known)), longest[name], name))
    for count in range(len(best_first) + 1):
        for chosen in itertools.combinations(best_first, count):
            if len({tuple(str(facts.get(name)) for name in chosen) for facts in targets}) == len(targets):
                return chosen
    return tuple(best_first)
