"""What there is to learn from: how deep the architectures are, and how their latencies are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from esm_onnx.architectures import Space, divide
from esm_onnx.architectures.compositions import attainable_depths, ways
from esm_onnx.report.chart import Chart, Row, Table, counted
from esm_onnx.report.drawing import BLUE, FAINT, GREEN, VERMILLION, count_along, legend_above, one_plot
from esm_onnx.report.material import Material, Measured

MOST_BARS = 40


def expected_shares(space: Space) -> dict[str, dict[int, float]]:
    """For each strategy of sampling the share of architectures that it draws of each depth.

    `random` draws each unit's depth by itself; `balanced` as many from each bin, and within it as many of each depth
    (ESM, Section IV).
    """
    depths, bins = attainable_depths(space), divide(space)
    all_ways = prod(len(allowed) for allowed in space.depths)
    in_bin = Counter(bins.indices(depths))
    return {
        "random": {depth: ways(space.depths, depth) / all_ways for depth in depths},
        "balanced": {depth: 1 / len(bins) / in_bin[bins.index(depth)] for depth in depths},
    }


def depths(material: Material) -> Iterator[Chart]:
    """How many architectures of each depth were measured, beside what sampling would draw."""
    for measured in material.measured:
        dataset = measured.dataset
        if not len(dataset):
            continue
        space, count = measured.space, len(dataset)
        shares, found = expected_shares(space), Counter(dataset.depths.tolist())
        bins = divide(space)
        by_bin = Counter(bins.indices(dataset.depths))
        filled = [by_bin[i] for i in range(len(bins))]
        nearer = min(shares, key=lambda name: sum(abs(found[d] / count - share) for d, share in shares[name].items()))
        yield Chart(
            "depths",
            measured.name,
            f"The {counted(count, 'architecture')} {'is' if count == 1 else 'are'} spread over the depths more like "
            f"{nearer} sampling: {_span(filled)} in each bin of depth.",
            Table(
                "Architectures by depth",
                ("depth", "measured", *(f"expected of {name}" for name in shares)),
                [(d, found[d], *(round(count * each[d], 2) for each in shares.values())) for d in shares["random"]],
            ),
            one_plot(partial(_draw_depths, found, shares, count)),
        )


def _span(counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _draw_depths(found: Counter[int], shares: Mapping[str, Mapping[int, float]], count: int, axes: Axes) -> None:
    depths = list(shares["random"])
    axes.bar(depths, [found[depth] for depth in depths], 0.8, color=BLUE, alpha=0.55, label="measured")
    looks = {"random": (VERMILLION, "--"), "balanced": (GREEN, "-")}
    for name, expected in shares.items():
        colour, style = looks[name]
        axes.step(depths, [count * expected[d] for d in depths], color=colour, linestyle=style, where="mid", label=name)
    axes.set(xlabel="depth, blocks", ylabel="architectures")
    count_along(axes.xaxis)
    axes.grid(axis="x", visible=False)
    legend_above(axes, 3)


def latencies(material: Material) -> Iterator[Chart]:
    """How the measured latencies are spread."""
    for measured in material.measured:
        values = measured.dataset.latency_ms
        if len(values) < 2:
            continue
        least, low, median, high, greatest = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist()
        edges = _edges(values)
        counts = np.histogram(values, edges)[0].tolist()
        yield Chart(
            "latencies",
            measured.name,
            f"Latencies go from {least:.3g} to {greatest:.3g} ms, {greatest / least:.1f} times as much; the median is "
            f"{median:.3g} ms, and nine of ten lie between {low:.3g} and {high:.3g} ms.",
            Table(
                "Latencies by range",
                ("from, ms", "to, ms", "architectures"),
                [(a, b, n) for a, b, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True)],
            ),
            one_plot(partial(_draw_latencies, edges, counts, (low, median, high))),
            (_facts(measured),),
        )


def _facts(measured: Measured) -> Table:
    target = measured.target
    rows: list[Row] = [("target", target.name), ("digest", target.digest), ("how", ", ".join(measured.ways))]
    return Table("Facts of the target", ("fact", "value"), [*rows, *sorted(target.facts.items())])


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranges by the rule of Freedman and Diaconis (1981), so many that bars can be told apart."""
    edges = np.histogram_bin_edges(values, "fd")
    if not 2 < len(edges) <= MOST_BARS + 1:
        edges = np.histogram_bin_edges(values, min(MOST_BARS, max(5, len(values) // 5)))
    return edges


def _draw_latencies(
    edges: NDArray[np.float64], counts: list[int], marks: tuple[float, float, float], axes: Axes
) -> None:
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.55)
    for value, style, name in zip(marks, (":", "-", ":"), ("5 %", "median", "95 %"), strict=True):
        axes.axvline(value, color=VERMILLION if style == "-" else FAINT, linestyle=style)
        axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), fontsize=7.5, ha="center", va="bottom")
    axes.set(xlabel="latency, ms", ylabel="architectures")
