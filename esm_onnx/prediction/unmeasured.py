"""A predictor for a GPU that nobody measured, from predictors of others and hardware numbers (`hardware`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import divide
from esm_onnx.errors import InputError
from esm_onnx.measurement import nvml
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.base import Base, check_bases, surveyed_genomes
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.hardware import Generalised, Gpu, find_gpu, generalise
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.surrogate import Matrix, Nodes

ENCODING = "feature"
"""A predictor has one; this one asks the bases alone."""
SAME = ("batch", "precision")
"""Facts in which all bases must agree: another batch is another work."""


@dataclass(frozen=True)
class Unmeasured:
    """`Generalised` as a surrogate on what the bases say, the first columns."""

    generalised: Generalised
    name: str = "gpus"

    def predict(self, x: Matrix) -> NDArray[np.float32]:
        """Latencies in ms, [n]."""
        return self.generalised.predict(x[:, : len(self.generalised.shares)]).astype(np.float32)

    def draw(self, graph: Nodes, x: str) -> str:
        """The same in ONNX nodes, [batch, 1]."""
        parts = []
        for i, (share, shift) in enumerate(zip(self.generalised.shares, self.generalised.shifts, strict=True)):
            logarithm = graph.add("Log", f"gpus.log{i}", graph.part(f"gpus.base{i}", x, range(i, i + 1)))
            parts.append(graph.linear(f"gpus.part{i}", logarithm, [[share]], [share * shift]))
        return graph.add("Exp", "gpus.value", graph.add("Sum", "gpus.sum", *parts))


def predictor_for(gpu: Gpu, name: str, bases: Sequence[Base], seed: int = 0) -> Predictor:
    """A predictor for a GPU; nothing is known of its accuracy, and it promises no bounds.

    Args:
        name: what its target shall be called.

    Raises:
        InputError: a base is for another space or quantity, of another batch or precision, or on no GPU of the table.
    """
    space, quantity = bases[0].loaded.space, bases[0].loaded.quantity.field
    check_bases(bases, space, quantity)
    facts = bases[0].loaded.target.facts
    for base in bases[1:]:
        for fact in SAME:
            if (told := base.loaded.target.facts.get(fact)) != facts.get(fact):
                raise InputError(f"its {fact} is {told!r}, expected {facts.get(fact)!r}", file=base.loaded.path)
    genomes = surveyed_genomes(space, seed)
    predicted = np.column_stack([base.predict(genomes) for base in bases])
    found = generalise([gpu_of(base) for base in bases], predicted, gpu)
    told_by = "".join((*(base.loaded.digest for base in bases), repr(gpu)))
    return Predictor(
        space=space,
        encoding=ENCODING,
        surrogate=Unmeasured(found),
        interval=Interval.boundless(divide(space)),
        target={"name": name, "facts": {"device": name, **{fact: facts[fact] for fact in SAME if fact in facts}}},
        trained=(),
        calibrated=(),
        dataset=hashlib.sha256(told_by.encode()).hexdigest(),
        evaluation=None,
        bases=tuple(bases),
    )


def gpu_of(base: Base) -> Gpu:
    """The GPU that a base was measured on: by its fact `device`, else by its target's name.

    Raises:
        InputError: neither names a GPU of the table.
    """
    target: Target = base.loaded.target
    for name in (target.facts.get("device"), target.name):
        try:
            return find_gpu(str(name))
        except InputError as error:
            problem = error
    raise problem.at(base.loaded.path)


def gpu_here(index: int = 0) -> tuple[str, Gpu]:
    """Name and numbers of a GPU of this machine, as NVML tells them.

    Raises:
        InputError: there is none, or it does not tell.
    """
    found = nvml.find_gpu(index)
    if found is None:
        raise InputError("no NVIDIA GPU here that NVML tells of, expected the name of one")
    name, cores, memory, bandwidth = found.name(), found.cores(), found.memory_bytes(), found.bandwidth_gbs()
    if cores and memory and bandwidth:
        return name, Gpu(cores, round(memory / 2**30), bandwidth)
    return name, find_gpu(name)
