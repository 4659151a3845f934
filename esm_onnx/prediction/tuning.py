"""Hyper-parameters of the predictor of Syed and Srinivasan, by asynchronous successive halving.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), in the form that stops combinations
rather than to pause them, as Ray Tune has it: whoever comes to a rung goes on if it is among the best 1/η of those that
came there before, and nobody waits. The rungs are after `grace` epochs, `grace · η`, `grace · η²`, ….

`search` needs nothing but this package; `tuning_ray.search_with_ray` asks Ray Tune. Both give the same table.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait

import numpy as np

from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.evaluation import Evaluation
from esm_onnx.prediction.ofa_paper import EPOCHS, GRID, Hyperparameters, OfaTraining, fit_ofa
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.splits import together
from esm_onnx.prediction.surrogate import Examples, Surrogate
from esm_onnx.prediction.surrogates import usual_encoding
from esm_onnx.prediction.training import TrainSettings, examples_of, train

RUNNING, FINISHED, STOPPED, DIVERGED = "running", "finished", "stopped", "diverged"
SURROGATE = "mlp-ofa"
TRAINED, VALIDATED = 0.7, 0.15
"""Shares of the rows; the rest are those that the outcome is tested on."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How the search is made.

    Attributes:
        epochs: that a combination is trained for at most.
        grace: epochs that each is given before it can be stopped.
        eta: η, one in so many goes on at a rung.
        seed: of all networks, and of their batches.
        combinations: what is tried, in this order.
    """

    epochs: int = EPOCHS
    grace: int = 4
    eta: int = 4
    seed: int = 0
    combinations: tuple[Hyperparameters, ...] = GRID

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 1 <= self.grace <= self.epochs:
            raise InputError(f"grace is {self.grace} of {self.epochs} epochs, expected at least 1 and no more than all")
        if self.eta < 2:
            raise InputError(f"eta is {self.eta}, expected at least 2: one in so many goes on")

    @property
    def milestones(self) -> list[int]:
        """Epochs after which a combination is judged: the rungs, and the end."""
        rungs = [self.grace]
        while rungs[-1] * self.eta < self.epochs:
            rungs.append(rungs[-1] * self.eta)
        return [*(rung for rung in rungs if rung < self.epochs), self.epochs]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a combination.

    Attributes:
        epochs: that it was trained for.
        rmse_ms: on the rows for validation, after the last of them; infinite where it diverged.
        state: running, finished, stopped (others were better) or diverged.
    """

    hyperparameters: Hyperparameters
    epochs: int
    rmse_ms: float
    state: str = RUNNING


class Rungs:
    """Who came to each rung, and with what."""

    def __init__(self, settings: TuneSettings) -> None:
        self._settings = settings
        self._reached: defaultdict[int, list[float]] = defaultdict(list)

    def judge(self, outcome: Outcome) -> Outcome:
        """What becomes of a combination that has come to a milestone."""
        return replace(outcome, state=self._state(outcome.epochs, outcome.rmse_ms))

    def _state(self, epochs: int, rmse_ms: float) -> str:
        if not math.isfinite(rmse_ms):
            return DIVERGED
        if epochs >= self._settings.epochs:
            return FINISHED
        before = self._reached[epochs]
        good = not before or rmse_ms <= np.percentile(before, 100 / self._settings.eta)
        before.append(rmse_ms)
        return RUNNING if good else STOPPED


class Trainee:
    """A combination while it is trained, from milestone to milestone."""

    def __init__(
        self, train: Examples, validation: Examples, settings: TuneSettings, hyperparameters: Hyperparameters
    ) -> None:
        self.hyperparameters = hyperparameters
        self._training = OfaTraining(train.x, train.y, hyperparameters, settings.seed)
        self._validation = validation
        self._milestones = iter(settings.milestones)
        self._epochs = 0

    def advance(self) -> Outcome:
        """Trains up to the next milestone."""
        milestone = next(self._milestones)
        for _ in range(milestone - self._epochs):
            self._training.epoch()
        self._epochs = milestone
        rmse_ms = self._training.rmse_ms(self._validation.x, self._validation.y)
        return Outcome(self.hyperparameters, milestone, rmse_ms)


Report = Callable[[Outcome], None]
"""Told of each combination once its outcome is known."""


def search(
    train: Examples, validation: Examples, settings: TuneSettings, *, processes: int = 1, report: Report | None = None
) -> list[Outcome]:
    """What becomes of each combination, in their order; with one process always the same.

    Raises:
        WorkError: a process has died.
    """
    rungs, tell = Rungs(settings), report or (lambda _: None)
    trainee_of = partial(Trainee, train, validation, settings)
    if processes == 1:
        return [_alone(trainee_of(chosen), rungs, tell) for chosen in settings.combinations]
    outcomes: dict[Hyperparameters, Outcome] = {}
    waiting = iter(settings.combinations)
    with _workers(min(processes, len(settings.combinations)), trainee_of) as pipes:
        for pipe in pipes:
            pipe.send(next(waiting))
        while len(outcomes) < len(settings.combinations):
            ready = wait(pipes)
            for pipe in (pipe for pipe in pipes if pipe in ready):
                outcome = rungs.judge(_received(pipe))
                if outcome.state == RUNNING:
                    pipe.send(outcome.hyperparameters)
                    continue
                outcomes[outcome.hyperparameters] = outcome
                tell(outcome)
                if (chosen := next(waiting, None)) is not None:
                    pipe.send(chosen)
    return [outcomes[chosen] for chosen in settings.combinations]


def _alone(trainee: Trainee, rungs: Rungs, tell: Report) -> Outcome:
    outcome = rungs.judge(trainee.advance())
    while outcome.state == RUNNING:
        outcome = rungs.judge(trainee.advance())
    tell(outcome)
    return outcome


@contextmanager
def _workers(count: int, trainee_of: Callable[[Hyperparameters], Trainee]) -> Iterator[list[Connection]]:
    """Pipes to processes that train the combination which they are sent up to its next milestone."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, trainee_of), daemon=True)
            process.start()
            theirs.close()  # so that we notice when the process, which alone has it then, ends
            pipes.append(ours)
            processes.append(process)
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(pipe: Connection, trainee_of: Callable[[Hyperparameters], Trainee]) -> None:
    """What a worker does, until it is ended: the combination that it is at goes on where it was."""
    trainee: Trainee | None = None
    while True:
        chosen = pipe.recv()
        if trainee is None or trainee.hyperparameters != chosen:
            trainee = trainee_of(chosen)
        pipe.send(trainee.advance())


def _received(pipe: Connection) -> Outcome:
    try:
        outcome: Outcome = pipe.recv()
    except (EOFError, OSError):
        raise WorkError("a process of the search died: memory may be short; ask for fewer --processes") from None
    return outcome


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        outcomes: of all combinations.
        best: the one of least RMSE on the rows for validation.
        predictor: fitted with it on the first share of the rows; its interval is set by those for validation, and its
            evaluation is on the rest, that nothing was chosen by.
    """

    outcomes: tuple[Outcome, ...]
    best: Outcome
    predictor: Predictor
    evaluation: Evaluation


def tune(
    dataset: Dataset,
    settings: TuneSettings,
    training: TrainSettings,
    search_by: Callable[[Examples, Examples, TuneSettings], list[Outcome]],
) -> Tuned:
    """Searches, and fits the best combination again.

    Args:
        training: encoding, bins and coverage of the predictor, and how the rows are split: "time", as the authors do,
            takes the first ones to train on and the last ones to test on; the others draw them.
        search_by: `search`, or what asks for the same elsewhere.

    Raises:
        InputError: too few rows.
        WorkError: every combination diverged.
    """
    learned, validation, test = parts_of(dataset, training.split, training.seed)
    encoding = training.encoding or usual_encoding(SURROGATE, dataset.space)
    examples, others = (examples_of(part, encoding, settings.seed) for part in (learned, validation))
    outcomes = search_by(examples, others, settings)
    best = min(outcomes, key=lambda outcome: outcome.rmse_ms)
    if best.state == DIVERGED:
        raise WorkError(f"all {len(outcomes)} combinations diverged: is a latency wrong by far?")

    def fit(rows: Examples) -> Surrogate:
        return fit_ofa(rows.x, rows.y, settings.seed, best.hyperparameters, settings.epochs)

    chosen = replace(training, surrogate=SURROGATE, encoding=encoding, held_out=None)
    predictor, evaluation = train(learned, chosen, held_out=validation, test=test, fit=fit)
    return Tuned(tuple(outcomes), best, predictor, evaluation)


def parts_of(dataset: Dataset, split: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """The rows to train on, for validation, and to test on: 70, 15 and 15 %, or what comes nearest with "blocks".

    Raises:
        InputError: there are too few.
    """
    group = together(dataset, split)
    if split != "time":
        group = np.random.default_rng(seed).permutation(group.max() + 1)[group]
    order = np.argsort(group, kind="stable")
    ends = [math.floor(share * len(dataset)) for share in (TRAINED, TRAINED + VALIDATED)]
    ends = [int(np.searchsorted(group[order], group[order][end])) for end in ends]  # no group is torn apart
    if not 0 < ends[0] < ends[1]:
        raise InputError(f"{len(dataset)} measurements, too few to train, validate and test on parts: measure more")
    learned, validation, test = np.split(order, ends)
    return dataset.select(learned), dataset.select(validation), dataset.select(test)
