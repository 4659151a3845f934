"""pymoo's genetic algorithms on genomes, a generation at a time.

For one budget its `GA` (greatest worth; what exceeds the budget less comes before what exceeds it more: Deb 2000, "An
efficient constraint handling method for genetic algorithms"); for a front `NSGA2` (Deb et al. 2002).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.infill import InfillCriterion
from pymoo.core.population import Population as Individuals
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.core.termination import NoTermination

from esm_onnx.search.variation import Genomes, Variation

MATINGS = 20
"""How often parents are paired anew for a generation of different genomes, before it is left smaller."""


class Population:
    """A population that is asked for genomes and told what they are worth.

    Args:
        front: seeks all that nothing beats in both figures, and not the one of the greatest worth.
    """

    def __init__(self, variation: Variation, length: int, population: int, *, front: bool, seed: int) -> None:
        self._front = front
        different = _Different()
        algorithm = NSGA2 if front else GA
        self._algorithm = algorithm(
            population,
            sampling=_Sampling(variation),
            mating=_Mating(variation, different),
            eliminate_duplicates=different,
        )
        self._algorithm.advance_after_initial_infill = True  # ranks the first generation too, for the tournaments
        problem = Problem(n_var=length, n_obj=1 + front, n_ieq_constr=1)
        self._algorithm.setup(problem, termination=NoTermination(), seed=seed)
        self._asked: Any = None

    def ask(self) -> Genomes | None:
        """Different genomes, none of which has survived; None where no further ones are found."""
        self._asked = self._algorithm.ask()
        return None if self._asked is None else np.array(self._asked.get("X"), np.int64)

    def tell(self, figures: NDArray[np.float64], budget: float) -> None:
        """What was asked for last is worth: [n, 2], what is limited and what is sought."""
        limited, worth = figures.T
        self._asked.set("F", np.stack([limited, -worth], axis=1) if self._front else -worth[:, None])
        self._asked.set("G", limited[:, None] - budget)
        self._asked.set("figures", figures)
        self._algorithm.tell(infills=self._asked)

    def survivors(self) -> tuple[Genomes, NDArray[np.float64]]:
        """The population, and its figures as they were told."""
        genomes, figures = self._algorithm.pop.get("X", "figures")
        return np.array(genomes, np.int64), np.array(figures, np.float64)


class _Different(DuplicateElimination):  # type: ignore[misc]
    """pymoo's own compares each with each: here a set does."""

    def _do(self, population: Any, other: Any, is_duplicate: NDArray[np.bool_]) -> NDArray[np.bool_]:
        seen = set() if other is None else {individual.X.tobytes() for individual in other}
        for i, individual in enumerate(population):
            key = individual.X.tobytes()
            is_duplicate[i] = key in seen
            seen.add(key)
        return is_duplicate


class _Sampling(Sampling):  # type: ignore[misc]
    def __init__(self, variation: Variation) -> None:
        super().__init__()
        self._variation = variation

    def _do(self, problem: Any, count: int, *_: Any, random_state: Any = None, **__: Any) -> Genomes:
        """Somewhat more than asked for, of which as many as asked for remain once equal ones are gone."""
        drawn = self._variation.draw(2 * count, random_state)
        first = np.unique(drawn, axis=0, return_index=True)[1]
        return drawn[np.sort(first)[:count]]


class _Mating(InfillCriterion):  # type: ignore[misc]
    """Tournaments of two, crossing and mutation on whole arrays; pymoo's own work individual by individual."""

    def __init__(self, variation: Variation, different: _Different) -> None:
        super().__init__(eliminate_duplicates=different, n_max_iterations=MATINGS)
        self._variation = variation

    def _do(self, problem: Any, population: Any, count: int, *_: Any, random_state: Any = None, **__: Any) -> Any:
        genomes, violation, rank, crowding = population.get("X", "CV", "rank", "crowding")
        order = np.lexsort((-crowding.astype(float), rank.astype(float), violation[:, 0]))
        rivals = random_state.integers(0, len(order), (2, (count + 1) // 2, 2))
        mothers, fathers = genomes[order[rivals.min(axis=2)]]  # of two the better one
        children = np.concatenate(self._variation.cross(mothers, fathers, random_state))
        return Individuals.new("X", self._variation.mutate(children, random_state))
