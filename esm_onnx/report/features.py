"""Which features cost what: a linear regression of the latency on how many blocks of each unit have which option."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from esm_onnx.architectures import Space, sample, to_genome
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.report.chart import Chart, Table, counted
from esm_onnx.report.drawing import colour_of, count_along, marker_of
from esm_onnx.report.material import Material

Genomes = NDArray[np.int64]
Vector = NDArray[np.float64]

DRAWN = 2000
"""Architectures that a predictor is asked for."""
ROWS_A_COLUMN = 2
"""Measurements for each number that is fitted, below which measurements alone do not tell."""
MOST_COLUMNS = 4
"""Plots beside each other."""
BLOCK = "a block"


@dataclass(frozen=True)
class Effect:
    """What one block with an option adds.

    Attributes:
        unit: from 1; 0 for an option of the whole network.
        feature: its name; `BLOCK` for a block with the first option of every feature.
        option: the option; of a whole block none.
        adds: what it adds, in the quantity's unit, to a block with the first option.
    """

    unit: int
    feature: str
    option: str
    adds: float


@dataclass(frozen=True)
class Linear:
    """The regression: all effects, and the share of the variance that they explain."""

    effects: tuple[Effect, ...]
    explained: float


def columns_of(space: Space, genomes: Genomes) -> tuple[list[tuple[int, str, str]], Vector]:
    """Unit, feature and option of each column, and how often each genome has it, [n, columns].

    The first option of a feature has no column: what it costs is in the block's. Nor have features that the depth
    decides.
    """
    names: list[tuple[int, str, str]] = []
    columns: list[Vector] = []
    for i, feature in enumerate(space.network):
        for place, option in enumerate(feature.options[1:], 1):
            names.append((0, feature.name, str(option)))
            columns.append((genomes[:, i] == place).astype(np.float64))
    coupled = {feature.name for feature in space.coupled}
    blocks = genomes[:, len(space.network) :].reshape(len(genomes), -1, len(space.features))
    starts = np.cumsum([0, *space.slots])
    for unit, (start, end) in enumerate(itertools.pairwise(starts), 1):
        inside = blocks[:, start:end]
        names.append((unit, BLOCK, ""))
        columns.append((inside[:, :, 0] >= 0).sum(axis=1).astype(np.float64))
        for i, feature in enumerate(space.features):
            for place, option in enumerate(feature.options[1:], 1):
                if feature.name not in coupled:
                    names.append((unit, feature.name, str(option)))
                    columns.append((inside[:, :, i] == place).sum(axis=1).astype(np.float64))
    return names, np.stack(columns, axis=1)


def regress(space: Space, genomes: Genomes, latency: Vector) -> Linear:
    """Least squares; where columns cannot be told apart, the smallest numbers that do."""
    names, counts = columns_of(space, genomes)
    varying = counts.std(axis=0) > 0
    x = np.column_stack([np.ones(len(counts)), counts[:, varying]])
    solved = np.linalg.lstsq(x, latency, rcond=None)[0]
    left = float(((latency - x @ solved) ** 2).sum())
    whole = float(((latency - latency.mean()) ** 2).sum())
    told = (name for name, varies in zip(names, varying, strict=True) if varies)
    effects = tuple(Effect(*name, adds) for name, adds in zip(told, solved[1:].tolist(), strict=True))
    return Linear(effects, 1 - left / whole if whole else 1.0)


def features(material: Material) -> Iterator[Chart]:
    """What a block of each unit and each option adds: by the predictor, or where there is none by the measurements."""
    explained = set[str]()
    for loaded in material.predictors:
        space = loaded.space
        explained.add(f"{space.fingerprint} {loaded.target.digest}")
        drawn = sample(space, min(DRAWN, space.size), strategy="random", rng=Random(0))
        genomes = np.array([to_genome(space, architecture) for architecture in drawn], np.int64)
        predictions = loaded.predict(genomes)[0].astype(np.float64)
        name = f"{loaded.path.name}, {space.name} on {loaded.target.name}"
        of = f"predictions for {counted(len(drawn), 'architecture')}"
        yield from _chart(name, of, loaded.quantity, regress(space, genomes, predictions))
    for measured in material.measured:
        known = f"{measured.space.fingerprint} {measured.target.digest}" in explained
        data = measured.dataset
        if known or not len(data):
            continue
        names, _ = columns_of(measured.space, data.genomes)
        if len(data) >= ROWS_A_COLUMN * len(names):
            of = counted(len(data), "measurement")
            yield from _chart(measured.name, of, LATENCY, regress(measured.space, data.genomes, data.latency_ms))


def _chart(name: str, of: str, quantity: Quantity, linear: Linear) -> Iterator[Chart]:
    blocks = [effect for effect in linear.effects if effect.feature == BLOCK]
    options = [effect for effect in linear.effects if effect.feature != BLOCK and effect.unit]
    if not blocks:
        return
    dear = max(blocks, key=lambda effect: effect.adds)
    sentence = f"A block of unit {dear.unit} takes the most, {dear.adds:.2g} {quantity.unit} with the first options"
    if options:
        most = max(options, key=lambda effect: effect.adds)
        sentence += f"; {most.feature} {most.option} in unit {most.unit} adds {most.adds:.2g} {quantity.unit} to it"
    yield Chart(
        "features",
        name,
        f"{sentence}. Sums of these explain {100 * linear.explained:.1f} % of what varies ({of}).",
        Table(
            "What each adds",
            ("unit", "feature", "option", f"adds, {quantity.unit}"),
            [(e.unit or "network", e.feature, e.option, e.adds) for e in linear.effects],
        ),
        partial(_draw, linear.effects, quantity),
        height=0.6 * -(-len(dict.fromkeys(e.feature for e in linear.effects)) // MOST_COLUMNS),
    )


def _draw(effects: Sequence[Effect], quantity: Quantity, figure: Figure) -> None:
    features = list(
        dict.fromkeys(effect.feature for effect in sorted(effects, key=lambda e: (e.feature != BLOCK, e.unit == 0)))
    )
    columns = min(len(features), MOST_COLUMNS)
    grid = figure.subplots(-(-len(features) // columns), columns, squeeze=False)
    for axes in grid.flat[len(features) :]:
        axes.set_visible(False)
    for axes, feature in zip(grid.flat, features, strict=False):
        own = [effect for effect in effects if effect.feature == feature]
        if own[0].unit:
            for place, option in enumerate(dict.fromkeys(effect.option for effect in own)):
                points = [(effect.unit, effect.adds) for effect in own if effect.option == option]
                axes.plot(
                    [unit for unit, _ in points],
                    [adds for _, adds in points],
                    color=colour_of(place),
                    marker=marker_of(place),
                    linewidth=0.8,
                    label=option,
                )
            axes.set(xlabel="unit")
            count_along(axes.xaxis)
            if own[0].option:
                axes.legend(handlelength=1, borderaxespad=0.1)
        else:
            places = np.arange(len(own))
            axes.plot(places, [effect.adds for effect in own], color=colour_of(0), marker=marker_of(0), linewidth=0.8)
            shown = places[:: max(1, len(own) // 4)]
            axes.set_xticks(shown, [own[i].option for i in shown])
        axes.set_ylim(min(0.0, *(1.05 * effect.adds for effect in own)), None)
        axes.set_title(f"{feature}, {quantity.unit}", loc="left")
