"""Finalists on the device: what a prediction was worth, and who wins once measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esm_onnx.architectures import Architecture, Space, from_genome
from esm_onnx.errors import WorkError
from esm_onnx.measurement.quantities import Quantity
from esm_onnx.measurement.record import Failure
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.assembly import assemble
from esm_onnx.search.estimates import Estimate, Numbers
from esm_onnx.search.evolution import BOUNDLESS, Candidates, front_of, ranked
from esm_onnx.search.variation import Genomes

Measure = Callable[[Sequence[Architecture]], Mapping[Architecture, float | Failure]]
"""What was measured of each architecture, or why it could not be."""


@dataclass(frozen=True, slots=True)
class Refit:
    """One factor on all predictions: the geometric mean of measured / predicted, which is least squares in logarithms.

    Attributes:
        standard_error: of the factor, as a share of it; None from one measurement alone.
    """

    factor: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Verification:
    """Finalists predicted and measured.

    Attributes:
        candidates: those that were measured, as they were ranked before.
        predicted, lower, upper, measured: [n] each, in the quantity's unit.
        refit: what makes the predictions right on average.
        order: places of those that measured within the budget, the best first; of a front, those that are on it still.
        failures: of the other finalists.
    """

    candidates: Candidates
    predicted: Numbers
    lower: Numbers
    upper: Numbers
    measured: Numbers
    refit: Refit
    order: tuple[int, ...]
    failures: tuple[Failure, ...]

    @property
    def errors(self) -> Numbers:
        """(predicted − measured) / measured of each, in %."""
        return 100 * (self.predicted / self.measured - 1)

    @property
    def refitted_errors(self) -> Numbers:
        """The same after the refit; with their own measurements in it, so that they flatter it a little."""
        return 100 * (self.refit.factor * self.predicted / self.measured - 1)

    @property
    def inside(self) -> np.ndarray:
        """Whether the bounds held for each."""
        return (self.lower <= self.measured) & (self.measured <= self.upper)


def verify(
    space: Space,
    finalists: Candidates,
    predict: Callable[[Genomes], tuple[np.ndarray, np.ndarray, np.ndarray]],
    measure: Measure,
    *,
    budget: float | None,
    front: bool,
) -> Verification:
    """Measures finalists and ranks them anew.

    Args:
        predict: the prediction and its bounds.
        budget: what the measurement must stay within; None without a limit.

    Raises:
        WorkError: none could be measured.
    """
    architectures = [from_genome(space, row) for row in finalists.genomes.tolist()]
    found = measure(architectures)
    values = [found[architecture] for architecture in architectures]
    failures = tuple(value for value in values if isinstance(value, Failure))
    if len(failures) == len(values):
        raise WorkError(f"no finalist could be measured: {failures[0].kind}: {failures[0].message}")
    candidates = finalists.select(np.array([not isinstance(value, Failure) for value in values]))
    measured = np.array([value for value in values if not isinstance(value, Failure)], np.float64)
    predicted, lower, upper = (bound.astype(np.float64) for bound in predict(candidates.genomes))
    fits = np.flatnonzero(measured <= (BOUNDLESS if budget is None else budget))
    order = fits[(front_of if front else ranked)(measured[fits], candidates.worth[fits])]
    correction = refit(predicted, measured)
    return Verification(candidates, predicted, lower, upper, measured, correction, tuple(order.tolist()), failures)


def refit(predicted: Numbers, measured: Numbers) -> Refit:
    """The factor that predictions lack, with its standard error."""
    ratios = np.log(measured / predicted)
    spread = float(ratios.std(ddof=1)) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
    return Refit(math.exp(ratios.mean()), spread)


def finalists_of(best: Candidates, count: int, *, front: bool) -> Candidates:
    """The `count` best, or so many spread evenly over a front, both its ends among them."""
    if not front or len(best) <= count:
        return best.select(np.arange(min(count, len(best))))
    return best.select(np.linspace(0, len(best) - 1, count).round().astype(np.int64))


def measured_by(profiler: Profiler, quantity: Quantity) -> Measure:
    """Measures on a device; what its store holds is not measured again."""

    def measure(architectures: Sequence[Architecture]) -> dict[Architecture, float | Failure]:
        outcome = profiler.profile(architectures)
        found: dict[Architecture, float | Failure] = {failure.architecture: failure for failure in outcome.failures}
        dataset = assemble(profiler.store, profiler.space, profiler.target, only=architectures, quantity=quantity)
        for genome, value in zip(dataset.genomes.tolist(), dataset.latency_ms.tolist(), strict=True):
            found[from_genome(profiler.space, genome)] = value
        return found

    return measure


def estimated_by(measure: Measure, space: Space) -> Estimate:
    """Measuring as an estimate; what cannot be measured is within no budget."""

    def estimate(genomes: Genomes) -> Numbers:
        architectures = [from_genome(space, row) for row in genomes.tolist()]
        found = measure(architectures)
        values = [found[architecture] for architecture in architectures]
        return np.array([math.inf if isinstance(value, Failure) else value for value in values])

    return estimate


def differing_facts(here: Target, there: Target) -> list[str]:
    """Names of the facts in which two targets differ, or that only one of them tells."""
    names = {**there.facts, **here.facts}
    return [name for name in names if here.facts.get(name) != there.facts.get(name)]
