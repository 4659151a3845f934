"""Runtimes and devices side by side, on the architectures that all of them have measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from esm_onnx.errors import InputError
from esm_onnx.prediction.across import Across, put_together
from esm_onnx.report.chart import Chart, Row, Table, counted
from esm_onnx.report.drawing import FAINT, colour_of, dots, legend_above, logarithmic, marker_of, one_plot
from esm_onnx.report.material import Material, Measured


def across(material: Material) -> Iterator[Chart]:
    """The latencies of the same architectures on each target, and how their rankings agree."""
    groups: dict[tuple[str, object], list[Measured]] = {}
    for measured in material.measured:
        key = measured.space.fingerprint, measured.target.facts.get("batch", 1)
        groups.setdefault(key, []).append(measured)
    for group in groups.values():
        try:
            found = put_together([measured.dataset for measured in group])
        except InputError:  # one target alone, or no architectures in common
            continue
        yield _chart(found)


def _chart(found: Across) -> Chart:
    wins = found.wins()
    fastest = max(wins, key=lambda target: wins[target])
    pairs: list[Row] = [
        (*pair.targets, pair.ratio, pair.least_ratio, pair.greatest_ratio, pair.kendall, pair.spearman)
        for pair in found.pairs()
    ]
    ranks = [pair.kendall for pair in found.pairs() if pair.kendall is not None]
    agree = f"; rankings agree with a Kendall of {min(ranks):.2f}" + (" or more" if len(ranks) > 1 else "")
    return Chart(
        "across",
        f"{found.space.name} on {counted(len(found.targets), 'target')}",
        f"{fastest} is the fastest for {wins[fastest]:,} of {counted(len(found.architectures), 'architecture')}"
        + (agree if ranks else "")
        + ".",
        Table(
            "Latencies, ms",
            ("depth", *found.targets, "fastest"),
            [
                (architecture.depth, *latencies, best)
                for architecture, latencies, best in zip(
                    found.architectures, found.latency_ms.tolist(), found.fastest, strict=True
                )
            ],
        ),
        one_plot(partial(_draw_across, found)),
        (
            Table(
                "Agreement of each two targets",
                ("first", "second", "second / first", "5 % are below", "95 % are below", "Kendall", "Spearman"),
                pairs,
            ),
        ),
        height=0.8,
    )


def _draw_across(found: Across, axes: Axes) -> None:
    first = found.latency_ms[:, 0]
    ends = np.array([first.min(), first.max()])
    axes.plot(ends, ends, color=FAINT, linewidth=0.9, label="as fast")
    for place, target in enumerate(found.targets[1:]):
        latencies = found.latency_ms[:, place + 1]
        dots(axes, first, latencies, colour=colour_of(place), marker=marker_of(place), label=target)
    axes.set(xlabel=f"{found.targets[0]}, ms", ylabel="the others, ms")
    logarithmic(axes, "x", "y")
    legend_above(axes, 1)
