"""Predicted against measured, by rows that the prediction has not seen; and the rounds that led to a predictor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from esm_onnx.architectures import Bins
from esm_onnx.measurement.quantities import Quantity
from esm_onnx.prediction.evaluation import BinMetrics, Evaluation, evaluate
from esm_onnx.report.chart import Chart, Row, Table, counted
from esm_onnx.report.drawing import BLUE, FAINT, GREEN, INK, VERMILLION, dots, legend_above, logarithmic, one_plot
from esm_onnx.report.material import Material, Predicted

Vector = NDArray[np.float64]
WITHIN = (5, 10)
"""Errors in % whose lines are drawn (ESM, Fig. 3 and 8)."""


def accuracy(material: Material) -> Iterator[Chart]:
    """Predicted against measured (ESM, Fig. 3 and 8)."""
    for predicted in material.predicted:
        unseen = np.isfinite(predicted.latency)
        quantity, measured = predicted.loaded.quantity, predicted.measured.latency_ms
        if not unseen.any():
            continue
        evaluation = _evaluation(predicted)
        overall = evaluation.overall
        rows = _rows(predicted, unseen)
        yield Chart(
            "accuracy",
            predicted.name,
            f"Of {counted(overall.count, 'architecture')} {_seen(predicted)}, {overall.within_5:.0f} % are "
            f"predicted within ±5 % and {overall.within_10:.0f} % within ±10 %; accuracy {overall.accuracy:.2f} %"
            + (
                f", where a perfect predictor would show {evaluation.reachable:.2f} %." if evaluation.reachable else "."
            ),
            Table(
                "Predicted and measured, the greatest errors first",
                (
                    "depth",
                    f"measured, {quantity.unit}",
                    f"predicted, {quantity.unit}",
                    f"lower, {quantity.unit}",
                    f"upper, {quantity.unit}",
                    "error, %",
                ),
                rows,
            ),
            one_plot(partial(_draw_accuracy, quantity, measured[unseen], predicted.latency[unseen])),
            height=0.85,
        )


def _evaluation(predicted: Predicted) -> Evaluation:
    unseen = np.isfinite(predicted.latency)
    data = predicted.measured
    return evaluate(
        predicted.latency[unseen], data.latency_ms[unseen], data.depths[unseen], _bins(predicted), data.noise_floor
    )


def _bins(predicted: Predicted) -> Bins:
    """Those of its interval."""
    return Bins(tuple((low, high) for low, high in predicted.loaded.metadata["interval"]["depths"]))


def _seen(predicted: Predicted) -> str:
    folded = predicted.trained & np.isfinite(predicted.latency)
    if folded.all():
        return "predicted out of their fold"
    return "it has not seen" if not folded.any() else "it has not seen, or predicted out of their fold"


def _rows(predicted: Predicted, unseen: NDArray[np.bool_]) -> list[Row]:
    data = predicted.measured
    error = 100 * (predicted.latency / data.latency_ms - 1)
    columns = (data.depths, data.latency_ms, predicted.latency, predicted.lower, predicted.upper, error)
    order = [i for i in np.argsort(-np.abs(error)).tolist() if unseen[i]]
    return [tuple(_finite(column[i].item()) for column in columns) for i in order]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _draw_accuracy(quantity: Quantity, measured: Vector, predicted: Vector, axes: Axes) -> None:
    ends = np.array([min(measured.min(), predicted.min()) * 0.93, max(measured.max(), predicted.max()) * 1.07])
    axes.plot(ends, ends, color=FAINT, linewidth=0.9)
    for share, style in zip(WITHIN, ("--", ":"), strict=True):
        for sign in (-1, 1):
            line = ends * (1 + sign * share / 100)
            axes.plot(ends, line, color=INK, linewidth=0.8, linestyle=style, label=f"±{share} %" if sign > 0 else None)
    dots(axes, measured, predicted, colour=BLUE, size=3.4)
    axes.set(xlim=ends, ylim=ends, xlabel=f"measured, {quantity.unit}", ylabel=f"predicted, {quantity.unit}")
    if ends[1] > 8 * ends[0]:
        logarithmic(axes, "x", "y")
    axes.legend(loc="upper left")


def accuracy_by_bin(material: Material) -> Iterator[Chart]:
    """Accuracy in each bin of depth, beside the threshold (ESM, Fig. 7)."""
    for predicted in material.predicted:
        if np.isfinite(predicted.latency).any():
            yield _by_bin(predicted.name, _evaluation(predicted), _seen(predicted), material.threshold)
    shown = {id(predicted.loaded) for predicted in material.predicted if np.isfinite(predicted.latency).any()}
    for loaded in material.predictors:
        told = loaded.metadata.get("accuracy")
        if id(loaded) not in shown and told:
            name = f"{loaded.path.name}, {loaded.space.name} on {loaded.target.name}"
            yield _told_by_bin(name, told, material.threshold)


def _by_bin(name: str, evaluation: Evaluation, seen: str, threshold: float) -> Chart:
    rows: list[Row] = [(each.name, *_figures(each)) for each in evaluation.bins]
    return _bins_chart(name, rows, f"for architectures {seen}", threshold)


def _figures(each: BinMetrics) -> tuple[int, float | None, float | None]:
    return (0, None, None) if each.metrics is None else (each.metrics.count, each.accuracy, each.metrics.rmse_percent)


def _told_by_bin(name: str, told: Mapping[str, Any], threshold: float) -> Chart:
    rows: list[Row] = [(each["depth"], each["count"], each["accuracy"], each["rmse_percent"]) for each in told["bins"]]
    return _bins_chart(name, rows, "as the predictor tells of itself", threshold)


def _bins_chart(name: str, rows: list[Row], seen: str, threshold: float) -> Chart:
    filled = [(str(row[0]), float(row[2])) for row in rows if row[2] is not None]
    worst, least = min(filled, key=lambda pair: pair[1])
    below = sum(accuracy < 100 * threshold for _, accuracy in filled)
    reached = "all bins reach" if not below else f"{below} of {counted(len(rows), 'bin')} miss"
    return Chart(
        "bins",
        name,
        f"The worst bin, depth {worst}, has {least:.2f} %; {reached} {100 * threshold:g} %, {seen}.",
        Table("Accuracy by bin of depth", ("depth", "architectures", "accuracy, %", "RMSE, %"), rows),
        one_plot(partial(_draw_bins, filled, 100 * threshold, "accuracy, %", "threshold")),
        height=0.55,
    )


def _draw_bins(filled: Sequence[tuple[str, float]], line: float, label: str, name: str, axes: Axes) -> None:
    names, values = zip(*filled, strict=True)
    low = min(*values, line)
    axes.bar(names, values, 0.65, color=BLUE, alpha=0.75)
    axes.axhline(line, color=VERMILLION, linestyle="--", label=f"{name} {line:g} %")
    for place, value in enumerate(values):
        axes.annotate(f"{value:.1f}", (place, value), ha="center", va="bottom", fontsize=7.5)
    room = 101 - low
    axes.set(xlabel="depth, blocks", ylabel=label, ylim=(max(0.0, low - 0.6 * room), 100 + 0.3 * room))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    axes.grid(axis="x", visible=False)
    legend_above(axes, 1)


def coverage(material: Material) -> Iterator[Chart]:
    """The share of measurements inside the bounds, in each bin of depth."""
    for predicted in material.predicted:
        data, loaded = predicted.measured, predicted.loaded
        bounded = np.isfinite(predicted.latency) & np.isfinite(predicted.upper)
        if not bounded.any():
            continue
        inside = (predicted.lower <= data.latency_ms) & (data.latency_ms <= predicted.upper)
        bins, stated = _bins(predicted), 100 * loaded.metadata["interval"]["coverage"]
        of_bin = np.array(bins.indices(data.depths))
        width = 50 * (predicted.upper - predicted.lower) / predicted.latency
        rows: list[Row] = []
        for i, name in enumerate(bins.names()):
            there = bounded & (of_bin == i)
            shares = (100 * float(inside[there].mean()), float(width[there].mean())) if there.any() else (None, None)
            rows.append((name, int(there.sum()), *shares))
        filled = [(str(row[0]), float(row[2])) for row in rows if row[2] is not None]
        whole = 100 * float(inside[bounded].mean())
        set_by = predicted.calibrated[bounded].mean()
        flattered = (
            f"; {100 * set_by:.0f} % of these rows set the bounds themselves, which flatters them" if set_by else ""
        )
        yield Chart(
            "coverage",
            predicted.name,
            f"The bounds are stated to enclose {stated:g} % and enclose {whole:.1f} % of "
            f"{counted(int(bounded.sum()), 'architecture')}{flattered}.",
            Table(
                "Interval coverage by bin of depth",
                ("depth", "architectures", "inside, %", "width, ± % of the prediction"),
                rows,
            ),
            one_plot(partial(_draw_bins, filled, stated, "inside the bounds, %", "stated")),
            height=0.55,
        )


def rounds(material: Material) -> Iterator[Chart]:
    """Accuracy over the rounds of the loop (ESM, Fig. 11)."""
    for loaded in material.predictors:
        told: Sequence[Mapping[str, Any]] = loaded.metadata.get("rounds", [])
        if len(told) < 2:
            continue
        turns = [
            (int(each["measurements"]), float(each["overall"]["accuracy"]), _worst(each), sum(each["below"]))
            for each in told
        ]
        (first, _, began, _), (last, _, ended, _) = turns[0], turns[-1]
        yield Chart(
            "rounds",
            f"{loaded.path.name}, {loaded.space.name} on {loaded.target.name}",
            f"{counted(len(turns), 'round')} took the worst bin from {began:.1f} % with {first} measurements to "
            f"{ended:.1f} % with {last}.",
            Table(
                "Rounds of the loop",
                ("round", "measurements", "accuracy, %", "worst bin, %", "bins below the threshold"),
                [(number, *turn) for number, turn in enumerate(turns, 1)],
            ),
            one_plot(partial(_draw_rounds, turns, 100 * material.threshold)),
        )


def _worst(told: Mapping[str, Any]) -> float:
    return min((each["accuracy"] for each in told["bins"] if each["accuracy"] is not None), default=0.0)


def _draw_rounds(turns: Sequence[tuple[int, float, float, int]], threshold: float, axes: Axes) -> None:
    measurements, overall, worst, _ = zip(*turns, strict=True)
    axes.plot(measurements, overall, color=BLUE, marker="o", label="all bins")
    axes.plot(measurements, worst, color=VERMILLION, marker="s", linestyle="--", label="worst bin")
    axes.axhline(threshold, color=GREEN, linewidth=1, linestyle=":", label=f"threshold {threshold:g} %")
    axes.set(xlabel="measurements", ylabel="accuracy, %")
    legend_above(axes, 3)
