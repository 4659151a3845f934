"""Encodings and surrogates side by side, and what more measurements bring: what `compare` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from matplotlib.axes import Axes

from esm_onnx.report.chart import Chart, Table, counted
from esm_onnx.report.drawing import BLUE, INK, colour_of, legend_above, logarithmic, marker_of, one_plot
from esm_onnx.report.material import Compared, Material

MOST_BARS = 20
MOST_CURVES = 6

Point = tuple[str, int, float, float | None]
"""Surrogate on encoding, training rows, accuracy in % and its standard deviation over the seeds."""


def _points(compared: Compared) -> list[Point]:
    found: list[Point] = []
    for row in compared.rows:
        accuracy = compared.figure(row, "accuracy")
        if accuracy is not None:
            name = f"{row['surrogate']} on {row['encoding']}"
            found.append((name, int(float(row["rows"])), accuracy, compared.figure(row, "accuracy_std")))
    return found


def encodings(material: Material) -> Iterator[Chart]:
    """Every surrogate on its encodings, from as many measurements as there were (ESM, Fig. 9 and 10)."""
    for compared in material.compared:
        points = _points(compared)
        if not points:
            continue
        most = max(rows for _, rows, *_ in points)
        best = sorted((point for point in points if point[1] == most), key=lambda point: -point[2])
        first, second = best[0], best[1] if best[1:] else None
        shown = best[:MOST_BARS]
        yield Chart(
            "encodings",
            compared.name,
            f"With {counted(most, 'measurement')}, {first[0]} is the best of {len(best)}: {first[2]:.2f} %"
            + (f", before {second[0]} with {second[2]:.2f} %." if second else "."),
            Table(
                "Accuracy by surrogate and encoding",
                ("surrogate on encoding", "measurements", "accuracy, %", "± over seeds"),
                best,
            ),
            one_plot(partial(_draw_encodings, shown)),
            height=0.22 + 0.055 * len(shown),
        )


def _draw_encodings(best: Sequence[Point], axes: Axes) -> None:
    rising = best[::-1]
    names, accuracies = [point[0] for point in rising], [point[2] for point in rising]
    low = max(0.0, min(accuracies) - 0.25 * (100 - min(accuracies)) - 0.5)
    axes.barh(names, [a - low for a in accuracies], 0.65, left=low, color=BLUE, alpha=0.75)
    axes.errorbar(accuracies, names, xerr=[point[3] or 0 for point in rising], fmt="none", ecolor=INK, elinewidth=1)
    axes.set(xlabel="accuracy, %", xlim=(low, 100))
    axes.grid(axis="y", visible=False)


def learning_curve(material: Material) -> Iterator[Chart]:
    """What more measurements bring (ESM, Fig. 11): the best encoding of each surrogate, the best surrogates."""
    for compared in material.compared:
        points = _points(compared)
        sizes = sorted({rows for _, rows, *_ in points})
        if len(sizes) < 2:
            continue
        curves = _curves(points, sizes[-1])
        first = curves[0][0]
        reached = {rows: accuracy for name, rows, accuracy, _ in points if name == first}
        least = min(reached)
        yield Chart(
            "curve",
            compared.name,
            f"{first} goes from {reached[least]:.1f} % with {counted(least, 'measurement')} to "
            f"{reached[max(reached)]:.1f} % with {max(reached):,}.",
            Table(
                "Accuracy by number of measurements",
                ("surrogate on encoding", "measurements", "accuracy, %", "± over seeds"),
                sorted(points, key=lambda point: point[:2]),
            ),
            one_plot(partial(_draw_curves, curves)),
            height=0.8,
        )


def _curves(points: Sequence[Point], most: int) -> list[tuple[str, list[Point]]]:
    """The best pair of each surrogate with the most rows, the best first."""
    best: dict[str, Point] = {}
    for point in sorted((p for p in points if p[1] == most), key=lambda p: -p[2]):
        best.setdefault(point[0].partition(" on ")[0], point)
    names = [point[0] for point in list(best.values())[:MOST_CURVES]]
    return [(name, sorted((p for p in points if p[0] == name), key=lambda p: p[1])) for name in names]


def _draw_curves(curves: Sequence[tuple[str, list[Point]]], axes: Axes) -> None:
    for place, (name, points) in enumerate(curves):
        axes.errorbar(
            [rows for _, rows, *_ in points],
            [accuracy for *_, accuracy, _ in points],
            [spread or 0 for *_, spread in points],
            color=colour_of(place),
            marker=marker_of(place),
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
    axes.set(xlabel="measurements", ylabel="accuracy, %")
    logarithmic(axes, "x")
    legend_above(axes, 2)
