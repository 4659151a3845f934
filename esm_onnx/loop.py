"""Train, evaluate, extend: until the predictor is good enough (ESM, Section IV and Algorithm 1).

    measure N_I architectures
    repeat  train on them, evaluate by cross-validation
            every bin (or the whole) at Acc_TH: done
            measure N_Step more: bins below Acc_TH weigh w1, the others w2

Within a bin, the next architectures are those that the predictor's columns know least about, or any. With `evaluation`,
an evaluation set takes the place of cross-validation, as in the paper: drawn by itself, balanced over the bins,
measured in the same way and never trained on; it costs so many measurements, once, and they count in every budget and
report.

The loop keeps no state of its own. All that it draws follows from the seed and from what was measured, so a loop that
was interrupted goes through the same rounds again, finds its measurements in the store, and goes on where it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from esm_onnx.architectures import Architecture, Bins, Space, divide, extend, extension_quotas, sample
from esm_onnx.architectures.sampling import STRATEGIES, left_in_bins
from esm_onnx.errors import InputError
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encoding import Encoding
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.evaluation import Evaluation
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.surrogates import usual_encoding
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.prediction.uncertainty import columns_to_learn, most_uncertain

Measure = Callable[[Sequence[Architecture]], object]
"""Sees to it that architectures are measured, as far as they can be."""
Assemble = Callable[[Sequence[Architecture]], Dataset]
"""The dataset of those architectures that have a latency, in the order given."""


EXTENSIONS = ("uncertainty", "bins")
CANDIDATES = 20
"""Architectures drawn for each one that is measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the loop does, with the paper's symbols.

    Attributes:
        strategy: how the first N_I architectures are drawn: "balanced" or "random". "random" also extends at random,
            without regard to bins: the baseline that the paper compares with.
        extend: how further ones are drawn within their bins: "uncertainty" (see `prediction.uncertainty`) or "bins", at
            random, as the paper does.
        initial: N_I.
        step: N_Step.
        w_below, w_above: w1 and w2.
        bins: N_Bins; None divides the space in the usual way.
        threshold: Acc_TH as a share, 0 to 1.
        by_bin: every bin must reach the threshold; otherwise the accuracy over all.
        evaluation: size of the evaluation set; 0: cross-validation over what was measured.
        max_measurements: stop when so many architectures were asked for, evaluation set included; None: no such bound.
        max_minutes: start no further round after so many minutes; None: no such bound. `measure` sees to it that a
            round ends in time.
        train: how each round trains; its bins are the plan's.
        seed: draws all architectures.
    """

    strategy: str = "balanced"
    extend: str = "uncertainty"
    initial: int = 30
    step: int = 20
    w_below: float = 1.0
    w_above: float = 0.25
    bins: int | None = None
    threshold: float = 0.95
    by_bin: bool = True
    evaluation: int = 0
    max_measurements: int | None = 2000
    max_minutes: float | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy {self.strategy!r}, expected one of {', '.join(STRATEGIES)}")
        if self.extend not in EXTENSIONS:
            raise InputError(f"extend {self.extend!r}, expected one of {', '.join(EXTENSIONS)}")
        for name, least in (("initial", 1), ("step", 1), ("evaluation", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold is {self.threshold}, expected a share between 0 and 1, such as 0.95")
        if not self.w_below > 0:
            raise InputError(f"w_below is {self.w_below}, expected more than 0: bins below the threshold must grow")
        extension_quotas([], self.step, self.w_below, self.w_above)  # refuses weights before anything is measured
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise InputError(f"max_minutes is {self.max_minutes}, expected minutes above 0, or None")
        if self.max_measurements is not None and self.max_measurements < self.initial + self.evaluation:
            raise InputError(
                f"{self.max_measurements} measurements at most, but the first round alone takes {self.initial} and the "
                f"evaluation set {self.evaluation}"
            )


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of the loop.

    Attributes:
        number: from 1.
        rows: measurements trained on.
        measurements: architectures asked for so far, evaluation set included.
        below: for each bin, whether it is below the threshold, or nothing of it could be evaluated.
        judged: the measurements that it was evaluated on: the evaluation set, or those trained on.
        end: why the loop ends with this round: "threshold", "measurements", "minutes", "space"; None when it goes on.
    """

    number: int
    rows: int
    measurements: int
    predictor: Predictor
    evaluation: Evaluation
    below: tuple[bool, ...]
    end: str | None
    judged: Dataset

    @property
    def reached(self) -> bool:
        """Whether the threshold was reached."""
        return self.end == "threshold"

    def score(self, plan: Plan) -> float:
        """What the threshold is compared with, in %: accuracy in the worst bin, or over all."""
        worst = self.evaluation.worst_bin
        judged = worst.metrics if plan.by_bin and worst else None
        return (judged or self.evaluation.overall).accuracy


def rounds(
    space: Space, plan: Plan, measure: Measure, assemble: Assemble, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Round]:
    """The rounds of the loop, each as it is done; the last one has an `end`.

    Args:
        measure: has architectures measured.
        assemble: gives their dataset.
        clock: seconds; only differences count.

    Raises:
        SpaceExhausted: the space is too small for N_I and the evaluation set.
        InputError: fewer architectures to evaluate on than bins, or too few could be measured to train and evaluate.
    """
    bins, rng, started = divide(space, plan.bins), Random(plan.seed), clock()
    if 0 < plan.evaluation < len(bins):
        raise InputError(f"evaluation is {plan.evaluation}, expected at least one for each of the {len(bins)} bins")
    settings = replace(plan.train, bins=plan.bins)
    encoding = find_encoding(settings.encoding or usual_encoding(settings.surrogate, space))
    encoding.table(space)  # refuses a space too large for it before anything is measured
    held_out = sample(space, plan.evaluation, strategy="balanced", rng=rng, bins=bins) if plan.evaluation else []
    asked = _first(space, plan, bins, rng, encoding, held_out)
    first = [*held_out, *asked]
    Random(plan.seed).shuffle(first)  # so that a budget of minutes that ends within leaves some of both
    known = set(held_out)
    asked = [architecture for architecture in first if architecture not in known]  # in the order of measuring
    measure(first)
    number = 0
    while True:
        number += 1
        dataset, test = assemble(asked), assemble(held_out) if held_out else None
        predictor, evaluation = train(dataset, settings, held_out=test)
        accuracies = [part.accuracy for part in evaluation.bins]
        below = tuple(accuracy is None or accuracy < 100 * plan.threshold for accuracy in accuracies)
        spent = len(held_out) + len(asked)
        drawn: list[Architecture] = []
        if not _reached(plan, evaluation, below):
            drawn = _draw(space, plan, bins, rng, below, encoding, asked, held_out)
        end = _end(plan, evaluation, below, spent, drawn, (clock() - started) / 60)
        yield Round(number, len(dataset), spent, predictor, evaluation, below, end, dataset if test is None else test)
        if end:
            return
        measure(drawn)
        asked += drawn


def _first(
    space: Space, plan: Plan, bins: Bins, rng: Random, encoding: Encoding, held_out: Sequence[Architecture]
) -> list[Architecture]:
    """The architectures of the first round."""
    asked = sample(space, plan.initial, strategy=plan.strategy, rng=rng, bins=bins, exclude=held_out)
    if plan.strategy == "random" or plan.extend == "bins":
        return asked
    quotas = Counter(bins.index(architecture.depth) for architecture in asked)
    left = left_in_bins(space, bins, [*held_out, *asked])
    more = [min((CANDIDATES - 1) * quotas[i], there) for i, there in enumerate(left)]
    pool = [*asked, *extend(space, more, bins=bins, rng=rng, exclude=[*held_out, *asked])]
    columns = columns_to_learn(space, encoding, 0)
    return most_uncertain(space, columns, pool, [quotas[i] for i in range(len(bins))], bins=bins, known=[])


def _reached(plan: Plan, evaluation: Evaluation, below: Sequence[bool]) -> bool:
    return not any(below) if plan.by_bin else evaluation.overall.accuracy >= 100 * plan.threshold


def _draw(
    space: Space,
    plan: Plan,
    bins: Bins,
    rng: Random,
    below: Sequence[bool],
    encoding: Encoding,
    asked: Sequence[Architecture],
    held_out: Sequence[Architecture],
) -> list[Architecture]:
    """The architectures of the next round, as many of them as the space and the budget have left."""
    taken = [*held_out, *asked]
    room = None if plan.max_measurements is None else max(0, plan.max_measurements - len(taken))
    left = left_in_bins(space, bins, taken)
    if plan.strategy == "random":
        count = min(plan.step, sum(left), plan.step if room is None else room)
        return sample(space, count, strategy="random", rng=rng, exclude=taken) if count > 0 else []
    quotas = [
        min(pair) for pair in zip(extension_quotas(below, plan.step, plan.w_below, plan.w_above), left, strict=True)
    ]
    if plan.extend == "bins":
        return extend(space, quotas, bins=bins, rng=rng, exclude=taken)[:room]
    pool = [min(CANDIDATES * quota, there) for quota, there in zip(quotas, left, strict=True)]
    candidates = extend(space, pool, bins=bins, rng=rng, exclude=taken)
    columns = columns_to_learn(space, encoding, len(asked))
    return most_uncertain(space, columns, candidates, quotas, bins=bins, known=asked)[:room]


def _end(
    plan: Plan,
    evaluation: Evaluation,
    below: Sequence[bool],
    spent: int,
    drawn: Sequence[Architecture],
    minutes: float,
) -> str | None:
    if _reached(plan, evaluation, below):
        return "threshold"
    if plan.max_measurements is not None and spent >= plan.max_measurements:
        return "measurements"
    if plan.max_minutes is not None and minutes >= plan.max_minutes:
        return "minutes"
    return None if drawn else "space"
