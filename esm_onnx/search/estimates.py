"""Where the numbers come from that a search weighs: from genomes, [n, genome length], one number each.

What is limited (a latency, its upper bound, another quantity) is estimated by a predictor or measured; what is sought
(an accuracy) comes from an ONNX file of somebody's, or is the capacity of the network. All are callables of one kind,
so a lookup table or a formula will do as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Space, genome_length, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.export.cost import cost_of
from esm_onnx.prediction.dataset import depths_of
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.loaded import LoadedPredictor, session_of
from esm_onnx.search.variation import Genomes

Numbers = NDArray[np.float64]
Estimate = Callable[[Genomes], Numbers]
"""[n] numbers of genomes [n, genome length]; infinite where an architecture has none: no budget is great enough."""

BOUNDS = ("value", "upper")
MACS = ("cost.macs.", "cost.ends.macs")
COMPARED = 4
"""Subnets whose graphs are counted beside their encoding."""
EXACT = 1e-6
"""Share of the multiply-adds below which a difference is rounding."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What is sought: the greater, the better.

    Attributes:
        name: as in JSON.
        title: as people read it.
        per: the number that the title's unit stands for.
    """

    name: str
    title: str
    estimate: Estimate
    per: float = 1.0


class Timed:
    """An estimate that counts what it is asked for."""

    def __init__(self, estimate: Estimate, clock: Callable[[], float] = time.perf_counter) -> None:
        self._estimate, self._clock = estimate, clock
        self.rows, self.seconds = 0, 0.0

    def __call__(self, genomes: Genomes) -> Numbers:
        start = self._clock()
        numbers = np.asarray(self._estimate(genomes), np.float64)
        self.seconds += self._clock() - start
        self.rows += len(genomes)
        return numbers


class Memo:
    """Several estimates side by side, [n, estimates], each genome estimated once: the whole of it, network and all."""

    def __init__(self, *estimates: Estimate) -> None:
        self._estimates = estimates
        self._known: dict[bytes, Numbers] = {}

    def __call__(self, genomes: Genomes) -> Numbers:
        keys = [row.tobytes() for row in np.ascontiguousarray(genomes)]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            found = side_by_side(genomes[list(new.values())], *self._estimates)
            self._known.update(zip(new, found, strict=True))
        return np.array([self._known[key] for key in keys]).reshape(len(keys), len(self._estimates))


def side_by_side(genomes: Genomes, *estimates: Estimate) -> Numbers:
    """The estimates as columns, [n, estimates]."""
    return np.stack([estimate(genomes) for estimate in estimates], axis=1)


def predicted_by(loaded: LoadedPredictor, bound: str) -> Estimate:
    """What a predictor says: its "value", or the "upper" bound of its interval.

    Raises:
        InputError: upper bounds are infinite.
    """
    name = loaded.quantity.outputs[2]
    if bound == "upper" and None in loaded.metadata["interval"]["widths"]:
        raise InputError(
            f"its {name} is infinite, since too few measurements set its interval, expected finite bounds: measure "
            "more and train anew, or let --bound value limit what is predicted",
            file=loaded.path,
        )
    place = {"value": 0, "upper": 2}[bound]
    return lambda genomes: loaded.predict(genomes)[place].astype(np.float64)


def capacity_of(space: Space) -> Objective:
    """The multiply-adds of a subnet, counted over its graph where our writers draw it; else its number of blocks.

    They are those of the encoding `cost`, which are not exact for Once-for-All's ResNet50: the title says "about" then.
    """
    try:
        encoding = find_encoding("cost")
        table = encoding.table(space)
    except InputError:
        return Objective("blocks", "blocks", lambda genomes: depths_of(space, genomes).astype(np.float64))
    macs = [i for i, column in enumerate(table.columns) if column.startswith(MACS)]

    def encoded(genomes: Genomes) -> Numbers:
        summed: Numbers = encoding.encode(space, genomes)[:, macs].sum(axis=1)
        return summed

    some = sample(space, min(COMPARED, space.size), strategy="random", rng=Random(0))
    counted = np.array([cost_of(space, each).multiply_adds for each in some], np.float64)
    left_out = counted - encoded(np.array([to_genome(space, each) for each in some], np.int64))  # of stem and head
    title = "multiply-adds, M" if np.ptp(left_out) < EXACT * counted.max() else "multiply-adds, about, M"
    return Objective("multiply_adds", title, lambda genomes: left_out.mean() + encoded(genomes), 1e6)


def read_accuracy(path: Path, space: Space) -> Objective:
    """The accuracy by somebody's ONNX file: input `genome`, int64 [batch, length], output `accuracy`, floats [batch].

    Raises:
        InputError: it is no such file; or, when it is called, it gives a number that is none.
    """
    if not path.is_file():
        raise InputError("no such file, expected an ONNX file that predicts accuracy", file=path)
    try:
        session = session_of(path.read_bytes())
    except InputError as error:
        raise error.at(path) from None
    length = genome_length(space)
    takes = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    if len(takes) != 1 or takes[0][:2] != ("genome", "tensor(int64)") or not _fits(takes[0][2], length):
        raise InputError(
            f"takes {_listed(takes)}, expected genome tensor(int64) [batch, {length}] for space {space.name!r}",
            file=path,
        )
    gives = {value.name: value.type for value in session.get_outputs()}
    if gives.get("accuracy") not in ("tensor(float)", "tensor(double)"):
        raise InputError(f"gives {gives}, expected an output 'accuracy' of floats", file=path)
    return Objective("accuracy", "accuracy", partial(_accuracy, session, path))


def _accuracy(session: Any, path: Path, genomes: Genomes) -> Numbers:
    try:
        (given,) = session.run(["accuracy"], {"genome": np.ascontiguousarray(genomes, np.int64)})
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of damage
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"ONNX Runtime cannot run it: {reason}", file=path) from None
    if given.shape not in ((len(genomes),), (len(genomes), 1)):
        raise InputError(
            f"accuracy of {len(genomes)} genomes has shape {list(given.shape)}, expected [batch] or [batch, 1]",
            file=path,
        )
    numbers: Numbers = given.reshape(-1).astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise InputError(f"accuracy is {numbers[row]} for genome {genomes[row].tolist()}, expected a number", file=path)
    return numbers


def _fits(shape: list[int | str | None], length: int) -> bool:
    """Whether a batch of any size of such genomes may be given."""
    return len(shape) == 2 and not isinstance(shape[0], int) and (shape[1] == length or not isinstance(shape[1], int))


def _listed(values: list[tuple[str, str, list[int | str | None]]]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, kind, shape in values) or "nothing"
