"""The search: the best architectures within a budget, or the front of worth against what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space, genome_length
from esm_onnx.errors import InputError
from esm_onnx.search.estimates import Estimate, Memo, Numbers, Timed, side_by_side
from esm_onnx.search.variation import Genomes, Variation

Places = NDArray[np.int64]

BOUNDLESS = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What is searched for, and how long.

    Attributes:
        population: number of genomes of a generation.
        generations: the first, which is drawn at random, counts.
        budget: the most that the limited quantity may be; None without a limit.
        front: all architectures that no other one beats in both figures, in place of those of the greatest worth.
        memo: genomes that were estimated before are not estimated again.
    """

    population: int = 100
    generations: int = 500
    budget: float | None = None
    front: bool = False
    memo: bool = True

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 1:
            raise InputError(
                f"{self.generations} generations of {self.population}, expected at least 1 generation of at least 2"
            )
        if self.budget is None and not self.front:
            raise InputError("no budget, expected one where no front is asked for")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise InputError(f"budget is {self.budget}, expected a number above 0")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Different architectures and their figures.

    Attributes:
        genomes: [n, genome length].
        limited: [n], what the budget limits.
        worth: [n], what is sought.
    """

    genomes: Genomes
    limited: Numbers
    worth: Numbers

    def __len__(self) -> int:
        return len(self.genomes)

    def select(self, rows: Places | NDArray[np.bool_]) -> Candidates:
        """Some of them: a mask, or indices."""
        return Candidates(self.genomes[rows], self.limited[rows], self.worth[rows])


@dataclass(frozen=True, slots=True)
class Generation:
    """Where a search stands after one of its generations.

    Attributes:
        number: from 1.
        evaluations, best, least: as `Found` has them in the end.
    """

    number: int
    evaluations: int
    best: Candidates
    least: Candidates


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search.

    Attributes:
        best: what the last population holds within the budget, the best first; of a front the least first.
        least: one row: of all that were ever estimated, that of which the limited quantity is least.
        generations: how many there were; fewer than asked for where no different genomes were left.
        evaluations: genomes that figures were asked for.
        estimated: those for which they were not in the memo.
        seconds: in all; `limited_s` and `worth_s` of them went into the two estimates.
    """

    best: Candidates
    least: Candidates
    generations: int
    evaluations: int
    estimated: int
    seconds: float
    limited_s: float
    worth_s: float


def search(
    space: Space,
    limited: Estimate,
    worth: Estimate,
    settings: SearchSettings,
    rng: np.random.Generator,
    *,
    report: Callable[[Generation], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Found:
    """Searches a space; the same generator of random numbers finds the same.

    Args:
        limited: what must stay within the budget, or is to be small on a front.
        worth: what is to be great.
        report: told after each generation.
        clock: seconds; only differences count.

    Raises:
        InputError: pymoo is not installed.
    """
    demand_pymoo()
    from esm_onnx.search.algorithms import Population

    start = clock()
    parts = Timed(limited, clock), Timed(worth, clock)
    figures_of = Memo(*parts) if settings.memo else partial(_beside, parts)
    budget = BOUNDLESS if settings.budget is None else settings.budget
    seed = int(rng.integers(2**31))
    population = Population(
        Variation(space), genome_length(space), settings.population, front=settings.front, seed=seed
    )

    def best() -> Candidates:
        return _best(*population.survivors(), budget, front=settings.front)

    least: Candidates | None = None
    evaluations = generation = 0
    while generation < settings.generations and (genomes := population.ask()) is not None:
        figures = figures_of(genomes)
        population.tell(figures, budget)
        least = _least(least, genomes, figures)
        evaluations += len(genomes)
        generation += 1
        if report is not None:
            report(Generation(generation, evaluations, best(), least))
    assert least is not None  # the first generation has at least one genome
    found, seconds = best(), clock() - start
    return Found(found, least, generation, evaluations, parts[0].rows, seconds, *(part.seconds for part in parts))


def demand_pymoo() -> None:
    """Makes sure that a search can begin.

    Raises:
        InputError: pymoo is not installed.
    """
    try:
        import esm_onnx.search.algorithms  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"search needs pymoo, and {error.name} cannot be imported: pip install 'esm-onnx[search]'"
        ) from None


def ranked(limited: Numbers, worth: Numbers) -> Places:
    """The order: the greatest worth first, and of equal ones what needs less."""
    return np.lexsort((limited, -worth))


def front_of(limited: Numbers, worth: Numbers) -> Places:
    """Which are on the front, the least first: of all that need no more, each has the greatest worth."""
    order = np.lexsort((-worth, limited))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], worth[order]]))[:-1]
    return order[worth[order] > before]


def _best(genomes: Genomes, figures: Numbers, budget: float, *, front: bool) -> Candidates:
    survivors = Candidates(genomes, figures[:, 0], figures[:, 1])
    within = survivors.select(survivors.limited <= budget)
    return within.select((front_of if front else ranked)(within.limited, within.worth))


def _beside(estimates: tuple[Estimate, ...], genomes: Genomes) -> Numbers:
    return side_by_side(genomes, *estimates)


def _least(known: Candidates | None, genomes: Genomes, figures: Numbers) -> Candidates:
    i = [int(np.argmin(figures[:, 0]))]
    found = Candidates(genomes[i], figures[i, 0], figures[i, 1])
    return found if known is None or found.limited[0] < known.limited[0] else known
