"""Surrogates, encodings and numbers of training rows, compared on one dataset.

For each seed one permutation of the rows: the last of them are held out, the first n are trained on. So all pairs of
surrogate and encoding see the same rows and are judged on the same others, and a larger training set holds the smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from esm_onnx.architectures import Bins, Space, divide
from esm_onnx.errors import EsmError, InputError
from esm_onnx.prediction.comparison_fit import FIGURES, Figures, Pair, figures_of, fit_once, shuffled, without
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import encoding_names, find_encoding, has_encoding
from esm_onnx.prediction.evaluation import evaluate
from esm_onnx.prediction.surrogates import SURROGATES, find_surrogate, usual_encoding
from esm_onnx.prediction.training import LEAST_ROWS

Job = tuple[Pair, int, int]
"""A pair, a number of training rows and a seed: one fit."""

BASELINES = ("linear", "lut", "lut-bias")
"""Surrogates that are always compared with."""
EVERY_ENCODING = "all"
COMPARE_SPLITS = ("random", "blocks")
"""Of `SPLITS`, those that a permutation can make."""
USUAL_TEST, GREATEST_USUAL_TEST = 0.3, 1500
LEAST_USUAL_SIZE = 20


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What is compared.

    Attributes:
        pairs: surrogates, each with an encoding; see `pairs_of`.
        sizes: numbers of training rows, ascending; none: 20, 50, 100, 200, … and last all that are not held out.
        test: number of rows that are held out; None: 30 %, 1,500 at most.
        seeds: number of permutations; the seeds are 0, 1, ….
        coverage: share that intervals shall enclose. They are set by cross-validation, as `train` does.
        intervals: of all, which takes a fit for each fold; else of those that are fitted quickly.
        bins: N_Bins; None divides the space in the usual way.
        split: "random", or "blocks", which keeps networks of the same blocks on one side.
    """

    pairs: tuple[Pair, ...]
    sizes: tuple[int, ...] = ()
    test: int | None = None
    seeds: int = 5
    coverage: float = 0.9
    intervals: bool = False
    bins: int | None = None
    split: str = "random"

    def __post_init__(self) -> None:
        for surrogate, encoding in self.pairs:
            find_surrogate(surrogate)
            find_encoding(encoding)
        if list(self.sizes) != sorted(set(self.sizes)) or min(self.sizes, default=LEAST_ROWS) < LEAST_ROWS:
            listed = ", ".join(map(str, self.sizes))
            raise InputError(f"sizes are {listed}, expected ascending numbers of rows, {LEAST_ROWS} at least")
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}, expected at least 1")
        if self.test is not None and self.test < 1:
            raise InputError(f"test is {self.test}, expected at least 1 row")
        if self.split not in COMPARE_SPLITS:
            raise InputError(f"split {self.split!r}, expected one of {', '.join(COMPARE_SPLITS)}")
        if not 0 < self.coverage < 1:
            raise InputError(f"coverage is {self.coverage}, expected a share between 0 and 1, such as 0.9")


@dataclass(frozen=True, slots=True)
class Result:
    """One pair with one number of training rows, over all seeds.

    Attributes:
        rows: number of training rows.
        seeds: number of fits that went well.
        mean: over the seeds; None where no fit went well.
        std: standard deviation over the seeds (of the population that they are drawn from: n − 1); None below two.
        reason: why a fit did not go well; empty where all did.
    """

    surrogate: str
    encoding: str
    rows: int
    seeds: int
    mean: Figures | None
    std: Figures | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """One flat row of JSON data, the spread of each figure beside its mean: `accuracy`, `accuracy_std`, …"""
        row: dict[str, Any] = {
            "surrogate": self.surrogate,
            "encoding": self.encoding,
            "rows": self.rows,
            "seeds": self.seeds,
        }
        for name in FIGURES:
            row[name] = getattr(self.mean, name, None)
            row[f"{name}_std"] = getattr(self.std, name, None)
        return {**row, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All results.

    Attributes:
        results: by number of training rows, then in the order of the pairs.
        available: number of rows that could be trained on.
        test: number of rows held out.
        seeds: number of permutations.
        noise_floor, reachable: as in `evaluation.Evaluation`.
    """

    results: tuple[Result, ...]
    available: int
    test: int
    seeds: int
    noise_floor: float | None
    reachable: float | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of training rows."""
        return tuple(dict.fromkeys(result.rows for result in self.results))

    def ranked(self, rows: int) -> list[Result]:
        """The results with that number of training rows, those of greatest accuracy first, the impossible last."""
        found = [result for result in self.results if result.rows == rows]
        return sorted(found, key=lambda result: math.inf if result.mean is None else -(result.mean.accuracy or 0.0))

    def best(self, rows: int, surrogate: str | None = None) -> Result | None:
        """The best with that number of rows, of all surrogates or of one; None where nothing could be fitted."""
        for result in self.ranked(rows):
            if surrogate in (None, result.surrogate) and result.mean is not None:
                return result
        return None

    def reasons(self) -> list[str]:
        """Why something could not be fitted: a line for each reason, with the pairs and the sizes that it holds for."""
        found: dict[str, dict[str, list[int]]] = {}
        for result in self.results:
            if result.reason:
                pairs = found.setdefault(result.reason, {})
                pairs.setdefault(f"{result.surrogate} on {result.encoding}", []).append(result.rows)
        return [
            "; ".join(
                pair if tuple(sizes) == self.sizes else f"{pair} ({', '.join(map(str, sizes))} rows)"
                for pair, sizes in pairs.items()
            )
            + f": {reason}"
            for reason, pairs in found.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON data; for each size the winner, and each baseline on its best encoding."""
        rows = {name: getattr(self, name) for name in ("available", "test", "seeds")}
        best = [
            {"rows": size, "winner": _named(self.best(size)), **{b: _named(self.best(size, b)) for b in BASELINES}}
            for size in self.sizes
        ]
        noise = {"noise_floor_percent": self.noise_floor, "reachable_accuracy": self.reachable}
        return {**rows, **noise, "best": best, "results": [result.as_json() for result in self.results]}


def _named(result: Result | None) -> dict[str, Any] | None:
    if result is None or result.mean is None:
        return None
    return {"surrogate": result.surrogate, "encoding": result.encoding, "accuracy": result.mean.accuracy}


def pairs_of(space: Space, surrogates: Sequence[str] = (), encodings: Sequence[str] = ()) -> tuple[Pair, ...]:
    """Each surrogate on each encoding, and the baselines on what suits them.

    Args:
        surrogates: none takes all.
        encodings: none takes what suits each surrogate; "all" stands for every one that the space has. A lookup table
            stands on its own, whatever is asked for.

    Raises:
        InputError: an unknown name.
    """
    chosen, general = list(surrogates or SURROGATES), encoding_names()
    usual = {name: usual_encoding(name, space) for name in (*chosen, *BASELINES)}
    own = {name for name, encoding in usual.items() if not set(encoding.split("+")) <= set(general)}
    crossed = [name for name in encodings if name != EVERY_ENCODING]
    if EVERY_ENCODING in encodings:
        held = [name for name in general if has_encoding(space, name)]
        crossed += [*held, *(encoding for name, encoding in usual.items() if name not in own)]
    pairs = [
        (name, encoding) for name in chosen for encoding in (crossed if crossed and name not in own else [usual[name]])
    ]
    return tuple(dict.fromkeys([*pairs, *((name, usual[name]) for name in BASELINES)]))


def compare(
    dataset: Dataset,
    settings: CompareSettings,
    *,
    held_out: Dataset | None = None,
    processes: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Fits every pair on every number of rows with every seed. What cannot be fitted gives a result with the reason.

    Args:
        held_out: judge on these measurements of the same space, in place of the last rows of each permutation; what is
            among them is not trained on.
        processes: number of fits at the same time.
        report: told the number of fits done, and of all.

    Raises:
        InputError: nothing is left to train on, or to judge on.
    """
    dataset = dataset if held_out is None else without(dataset, held_out)
    apart = 0 if held_out is not None else _usual_test(dataset) if settings.test is None else settings.test
    available, test = max(len(dataset) - apart, 0), apart if held_out is None else len(held_out)
    _check_rows(available, test)
    bins, sizes = divide(dataset.space, settings.bins), settings.sizes or _usual_sizes(available)
    perfect = evaluate(dataset.latency_ms, dataset.latency_ms, dataset.depths, bins, dataset.noise_floor)
    jobs = [(pair, rows, seed) for rows in sizes for pair in settings.pairs for seed in range(settings.seeds)]
    outcomes: dict[Job, Figures | str] = {}
    for job, outcome in _each(partial(_outcome, dataset, held_out, apart, bins, settings), jobs, processes):
        outcomes[job] = outcome
        if report is not None:
            report(len(outcomes), len(jobs))
    results = (
        _result(pair, rows, [outcomes[pair, rows, seed] for seed in range(settings.seeds)])
        for rows in sizes
        for pair in settings.pairs
    )
    return Comparison(tuple(results), available, test, settings.seeds, perfect.noise_floor, perfect.reachable)


def _check_rows(available: int, test: int) -> None:
    if test < 1 or available < LEAST_ROWS:
        raise InputError(
            f"{test} measurements held out and {available} left to train on, expected at least 1 and {LEAST_ROWS}: "
            f"hold out another number, or measure more"
        )


def _usual_test(dataset: Dataset) -> int:
    return min(round(USUAL_TEST * len(dataset)), GREATEST_USUAL_TEST)


def _usual_sizes(available: int) -> tuple[int, ...]:
    ladder = (digit * 10**power for power in range(1, len(str(available))) for digit in (1, 2, 5))
    return *(size for size in ladder if LEAST_USUAL_SIZE <= size < available), available


def _outcome(
    dataset: Dataset, held_out: Dataset | None, apart: int, bins: Bins, settings: CompareSettings, job: Job
) -> Figures | str:
    """The figures of one fit, or why there are none; `apart`: number of rows that are held out of the dataset."""
    pair, rows, seed = job
    known, unseen = shuffled(dataset, apart, seed, settings.split)
    if rows > len(known):
        return f"{len(known)} measurements to train on, expected {rows}: measure more"
    unseen = unseen if held_out is None else held_out
    coverage = settings.coverage if settings.intervals or find_surrogate(pair[0]).quick else None
    try:
        known = known.select(slice(rows))
        fit = fit_once(pair, known, unseen, bins=bins, seed=seed, coverage=coverage, split=settings.split)
        return figures_of(fit, unseen, bins)
    except EsmError as error:
        return str(error)
    except MemoryError:
        return "out of memory"
    except Exception as error:  # whatever a library raises: hours of other fits must not be lost to it
        return " ".join(f"{type(error).__name__}: {error}".split())


def _each(
    work: Callable[[Job], Figures | str], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Figures | str]]:
    """Each job with its outcome, as they are done."""
    if processes == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        started = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(started):
            try:
                outcome = future.result()
            except BrokenProcessPool:
                outcome = f"one of {processes} processes was killed, as where memory runs out: take fewer"
            yield started[future], outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _result(pair: Pair, rows: int, outcomes: Sequence[Figures | str]) -> Result:
    good = [outcome for outcome in outcomes if isinstance(outcome, Figures)]
    reasons = dict.fromkeys(outcome for outcome in outcomes if isinstance(outcome, str))
    return Result(
        *pair,
        rows=rows,
        seeds=len(good),
        mean=_over(np.mean, good) if good else None,
        std=_over(partial(np.std, ddof=1), good) if len(good) > 1 else None,
        reason="; ".join(reasons),
    )


def _over(statistic: Callable[[list[float]], Any], figures: Sequence[Figures]) -> Figures:
    """A statistic of each figure; None where one of them has none."""
    columns = {name: [found[name] for found in map(asdict, figures)] for name in FIGURES}
    return Figures(**{name: None if None in values else float(statistic(values)) for name, values in columns.items()})
