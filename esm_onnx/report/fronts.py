"""What a search wants, and what the error of predictions moves: latency against capacity or accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from esm_onnx.measurement.quantities import Quantity, quantity_of
from esm_onnx.report.chart import Chart, Row, Table, counted
from esm_onnx.report.drawing import BLUE, FAINT, GREEN, INK, VERMILLION, dots, legend_above, one_plot
from esm_onnx.report.material import Material, Predicted, Searched
from esm_onnx.search.estimates import Objective, capacity_of
from esm_onnx.search.evolution import front_of

Vector = NDArray[np.float64]

SHOWN_PER = MappingProxyType({"multiply_adds": ("multiply-adds, M", 1e6)})
"""What people read of an objective in place of its name, and the number that its unit stands for."""


@dataclass(frozen=True)
class _Front:
    """Measured architectures with what they are worth; fronts as places among them, the least first."""

    quantity: Quantity
    objective: Objective
    worth: Vector
    measured: Vector
    predicted: Vector
    on_measured: NDArray[np.int64]
    on_predicted: NDArray[np.int64]

    @property
    def regret(self) -> Vector:
        """For each on the predicted front, how much more it takes than the least that is worth as much, as a share."""
        least = np.array([self.measured[self.worth >= self.worth[i]].min() for i in self.on_predicted])
        share: Vector = self.measured[self.on_predicted] / least - 1
        return share


def front(material: Material) -> Iterator[Chart]:
    """The front of latency against capacity as it was measured, and as it was predicted (ESM, Fig. 2)."""
    for predicted in material.predicted:
        known = np.isfinite(predicted.latency)
        if known.sum() < 2:
            continue
        found = _front(predicted, known)
        both = len(set(found.on_measured.tolist()) & set(found.on_predicted.tolist()))
        title = found.objective.title
        yield Chart(
            "front",
            predicted.name,
            f"Of {counted(len(found.on_measured), 'architecture')} on the measured front, {both} "
            f"{'is' if both == 1 else 'are'} on the predicted one too; what is chosen by prediction takes "
            f"{100 * found.regret.mean():.2g} % more than the best that was measured on average, "
            f"{100 * found.regret.max():.2g} % at most.",
            Table(
                "Architectures on either front",
                (title, f"measured, {found.quantity.unit}", f"predicted, {found.quantity.unit}", "on the front of"),
                _front_rows(found),
            ),
            one_plot(partial(_draw_front, found)),
            height=0.75,
        )


def _front(predicted: Predicted, known: NDArray[np.bool_]) -> _Front:
    objective = capacity_of(predicted.loaded.space)
    data = predicted.measured.select(known)
    worth = objective.estimate(data.genomes) / objective.per
    latency = predicted.latency[known]
    fronts = front_of(data.latency_ms, worth), front_of(latency, worth)
    return _Front(predicted.loaded.quantity, objective, worth, data.latency_ms, latency, *fronts)


def _front_rows(found: _Front) -> list[Row]:
    measured, predicted = set(found.on_measured.tolist()), set(found.on_predicted.tolist())
    rows: list[Row] = []
    for i in sorted(measured | predicted, key=lambda place: float(found.measured[place])):
        which = " and ".join(name for name, front in (("measured", measured), ("predicted", predicted)) if i in front)
        rows.append((float(found.worth[i]), float(found.measured[i]), float(found.predicted[i]), which))
    return rows


def _draw_front(found: _Front, axes: Axes) -> None:
    dots(axes, found.measured, found.worth, colour=FAINT, size=2.2, opacity=0.4)
    on = found.on_measured
    axes.plot(found.measured[on], found.worth[on], color=GREEN, marker="o", markersize=3, label="measured front")
    on = found.on_predicted
    label = "chosen by prediction"
    dots(axes, found.measured[on], found.worth[on], colour=VERMILLION, marker="s", opacity=1, hollow=True, label=label)
    axes.set(xlabel=f"measured, {found.quantity.unit}", ylabel=found.objective.title)
    axes.legend(loc="lower right")


def found_by_search(material: Material) -> Iterator[Chart]:
    """What a search found, predicted with its bounds; and its finalists, measured (ESM, Fig. 2)."""
    for searched in material.searched:
        if not searched.found["found"]:
            continue
        quantity, verified = quantity_of(searched.found["quantity"]), _finalists(searched)
        objective = _title(searched)
        count = counted(len(searched.found["found"]), "architecture")
        yield Chart(
            "search",
            f"{searched.name}, {searched.found['space']}",
            f"The search found {count}"
            + (_budget(searched, quantity) or " on the front")
            + f"; {_verified(searched)}.",
            Table(
                "Found, then measured",
                (objective, *(f"{name}" for name in quantity.outputs), f"measured_{quantity.field}"),
                _search_rows(searched, quantity, verified),
            ),
            one_plot(partial(_draw_search, searched, quantity, verified)),
            height=0.75,
        )


def _title(searched: Searched) -> str:
    objective = str(searched.found["objective"])
    return SHOWN_PER.get(objective, (objective.replace("_", "-"), 1.0))[0]


def _worth(searched: Searched, listed: Sequence[Mapping[str, Any]]) -> list[float]:
    """What is sought, of each, in the unit of the title."""
    objective = str(searched.found["objective"])
    per = SHOWN_PER.get(objective, ("", 1.0))[1]
    return [float(each[objective]) / per for each in listed]


def _finalists(searched: Searched) -> list[dict[str, Any]]:
    return list(searched.found.get("verification", {}).get("finalists", []))


def _budget(searched: Searched, quantity: Quantity) -> str:
    budget = searched.found.get("budget")
    return f" within {budget:g} {quantity.unit}" if budget is not None else ""


def _verified(searched: Searched) -> str:
    finalists = _finalists(searched)
    if not finalists:
        return "none of them was measured: `search --verify` does"
    errors = [abs(float(each["error_percent"])) for each in finalists]
    kept = len(searched.found["verification"]["answer"])
    where = "within the budget" if searched.found.get("budget") is not None else "on the front"
    return (
        f"predictions of {counted(len(finalists), 'finalist')} are off by {np.mean(errors):.2g} % on average, and "
        f"{kept} of them {'is' if kept == 1 else 'are'} still {where} once measured"
    )


def _search_rows(searched: Searched, quantity: Quantity, verified: list[dict[str, Any]]) -> list[Row]:
    measured = {str(each["architecture"]): each[f"measured_{quantity.field}"] for each in verified}
    by_architecture = {str(each["architecture"]): each for each in (*searched.found["found"], *verified)}
    listed = list(by_architecture.values())
    return [
        (worth, *(each.get(name) for name in quantity.outputs), measured.get(str(each["architecture"])))
        for worth, each in zip(_worth(searched, listed), listed, strict=True)
    ]


def _draw_search(searched: Searched, quantity: Quantity, verified: list[dict[str, Any]], axes: Axes) -> None:
    field, lower, upper = quantity.outputs
    found = sorted(searched.found["found"], key=lambda each: float(each[field]))
    at = [each[field] for each in found]
    worth = _worth(searched, found)
    reach = [[each[field] - (each.get(lower) or each[field]) for each in found]]
    reach += [[(each.get(upper) or each[field]) - each[field] for each in found]]
    axes.errorbar(at, worth, xerr=reach, fmt="none", ecolor=BLUE, alpha=0.25, elinewidth=2)
    dots(axes, at, worth, colour=BLUE, opacity=1, label="predicted, with bounds")
    if verified:
        measured, height = [each[f"measured_{field}"] for each in verified], _worth(searched, verified)
        axes.hlines(height, [each[field] for each in verified], measured, color=INK, linewidth=0.8)
        dots(axes, measured, height, colour=VERMILLION, marker="s", opacity=1, label="measured")
    if searched.found.get("budget") is not None:
        axes.axvline(searched.found["budget"], color=INK, linestyle="--", linewidth=1, label="budget")
    axes.set(xlabel=f"{quantity.name}, {quantity.unit}", ylabel=_title(searched))
    legend_above(axes, 3)
