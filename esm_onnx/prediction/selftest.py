"""Test genomes that predictor.onnx carries, with what it predicted for them when it was written.

The digest tells that the file is the one that was written; these tell that it still computes the same, in whatever
version of ONNX Runtime, on whatever processor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm_onnx.architectures import Feature, Space, genome_length
from esm_onnx.architectures.genome import ABSENT
from esm_onnx.architectures.space import choices
from esm_onnx.errors import InputError, WorkError

TOLERANCE = 1e-4
"""Greatest deviation of an output from what it was, as a share of it: float32 in another order gives 1e-6."""
MOST_COMBINATIONS = 32
"""Where features have no more combinations than this, each stands in each place; else each option does."""
NEAR_NOTHING = 0.01
"""Of the median prediction. Below it, digits cancel that another processor may round otherwise."""
DAMAGED = (
    "the file is damaged, or this ONNX Runtime computes otherwise; "
    "copy the file again, or take another version of onnxruntime"
)

Floats = NDArray[np.float32]
Outputs = Callable[[NDArray[np.int64]], Mapping[str, Floats]]
"""Outputs by name, each [n], of genomes [n, length]."""


@dataclass(frozen=True)
class SelfTest:
    """Genomes and the outputs that are expected of them.

    Attributes:
        genomes: int64 [n, length], the last of them no genome of the space.
        outputs: by name, float32 [n]; NaN for an invalid row.
        tolerance: the greatest deviation, as a share of the expected output.
    """

    genomes: NDArray[np.int64]
    outputs: Mapping[str, Floats]
    tolerance: float = TOLERANCE

    @staticmethod
    def of(space: Space, outputs_of: Outputs) -> SelfTest:
        """Asks a predictor what it gives for genomes that cover its space, and for one row that is no genome.

        Rows with a prediction near nothing are left out.

        Raises:
            WorkError: it gives no number for a genome, or one for what is none.
        """
        genomes = covering_genomes(space)
        predicted, *_ = outputs_of(genomes).values()
        wrong = genomes[-1].copy()
        wrong[0] = len((space.network + space.features)[0].options)
        genomes = np.vstack([genomes[~(predicted < NEAR_NOTHING * np.median(predicted))], wrong])
        outputs = outputs_of(genomes)
        for name, values in outputs.items():
            if np.isnan(values).tolist() != [False] * (len(genomes) - 1) + [True]:
                raise WorkError(f"{name} of the test genomes is {values}, expected NaN for the last row alone")
        return SelfTest(genomes, outputs)

    def check(self, outputs_of: Outputs, unit: str) -> float:
        """The greatest deviation of a predictor's outputs from the expected ones, as a share of these.

        Raises:
            InputError: an output deviates by more than the tolerance.
        """
        outputs = outputs_of(self.genomes)
        worst = 0.0
        for name, expected in self.outputs.items():
            found = outputs[name]
            if found.shape != expected.shape:
                raise InputError(f"self-test: {name} has shape {found.shape}, expected {expected.shape}: {DAMAGED}")
            with np.errstate(invalid="ignore", divide="ignore"):  # an infinite bound has no difference
                shares = np.abs(found.astype(np.float64) - expected) / np.abs(expected)
            shares[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0
            wrong = ~(shares <= self.tolerance)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise InputError(
                    f"self-test: {name} of test genome {row} is {found[row]:.6g} {unit}, expected {expected[row]:.6g} "
                    f"{unit} within {100 * self.tolerance:g} %: {DAMAGED}"
                )
            worst = max(worst, float(shares.max()))
        return worst

    def as_json(self) -> dict[str, Any]:
        """As the metadata of predictor.onnx holds it."""
        valid = ~np.isnan(next(iter(self.outputs.values())))
        return {
            "genomes": self.genomes.tolist(),
            "valid": valid.tolist(),
            "outputs": {name: [_plain(value) for value in values] for name, values in self.outputs.items()},
            "tolerance": self.tolerance,
        }

    @staticmethod
    def from_json(data: Any, space: Space, names: Sequence[str]) -> SelfTest:
        """What the metadata of a predictor of that space, with outputs of those names, hold.

        Raises:
            InputError: it is no self-test, or that of another predictor.
            KeyError, TypeError, ValueError: the same.
        """
        genomes, valid = np.array(data["genomes"], np.int64), np.array(data["valid"], np.bool_)
        outputs = {name: np.array([_number(value) for value in data["outputs"][name]], np.float32) for name in names}
        shapes = {values.shape for values in (valid, *outputs.values())}
        if genomes.shape != (len(valid), genome_length(space)) or shapes != {(len(genomes),)} or not valid.any():
            raise InputError("its self-test is not one of its space and outputs: train it anew")
        stated = {name: np.where(valid, values, np.float32(np.nan)) for name, values in outputs.items()}
        return SelfTest(genomes, stated, float(data["tolerance"]))


def covering_genomes(space: Space) -> NDArray[np.int64]:
    """Some tens of genomes that between them hold every option in every place, [n, length]; always the same.

    The first differ in the depths of their units, the others have the greatest; where features are coupled to the
    depth, others again have each lesser one.
    """
    block, unit, network = _turns(space.block), _turns(space.unit), _turns(space.network)
    joint = len(block) * len(unit) <= MOST_COMBINATIONS
    pace = len(block) if joint else 1
    varied = _depths(space.depths)
    every = max(len(block), pace * len(unit))
    levels = max(map(len, space.depths)) if space.coupled else 1
    count = max(len(varied) + levels * every, len(network))
    genomes = []
    for i in range(count):
        row, slot = [*network[i % len(network)]], 0
        for u, (depths, slots) in enumerate(zip(space.depths, space.slots, strict=True)):
            level = min((i - len(varied)) // every, levels - 1)  # below 0 for those varied
            depth = varied[i][u] if i < len(varied) else depths[-1 - level % len(depths)]
            shared = unit[(i // pace + u) % len(unit)] + space.coupled_at(depth)
            for j in range(slots):
                present = (*block[(i + slot) % len(block)], *shared)
                row += present if j < depth else [ABSENT] * len(present)
                slot += 1
        genomes.append(tuple(row))
    return np.array(list(dict.fromkeys(genomes)), np.int64)


def _turns(features: tuple[Feature, ...]) -> list[tuple[int, ...]]:
    """Options of these features, by index, that places take in turn."""
    sizes = [len(feature.options) for feature in features]
    if choices(features) <= MOST_COMBINATIONS:
        return list(itertools.product(*map(range, sizes)))
    return [tuple(i % size for size in sizes) for i in range(max(sizes))]


def _depths(depths: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Depths of all units: from the least to the greatest by way of every depth, where the units take turns; then one
    unit at its least and the others at their greatest, and the other way round."""
    steps, units = max(1, 2 * (max(map(len, depths)) - 1)), len(depths)
    growing = [
        tuple(d[((len(d) - 1) * step * units + u * steps) // (steps * units)] for u, d in enumerate(depths))
        for step in range(steps + 1)
    ]
    apart = [
        tuple(d[-1] if (u == alone) == deep else d[0] for u, d in enumerate(depths))
        for alone in range(units)
        for deep in (False, True)
    ]
    return growing + apart


def _plain(value: np.float32) -> float | None:
    """In as few digits as give the same float32 again."""
    return float(str(value)) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.inf if value is None else value
