"""The order of a report, and every kind of chart by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

from esm_onnx.report import comparisons, datasets, features, fronts, predictions, sessions, targets
from esm_onnx.report.chart import Chart
from esm_onnx.report.material import Material

Charts = Callable[[Material], Iterator[Chart]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Charts of one kind.

    Attributes:
        title: what a page calls them.
        needs: what must be there for one.
    """

    title: str
    needs: str
    charts: Charts


KINDS = MappingProxyType(
    {
        "time": Kind("Where the time went", "a store with measurements (--store)", sessions.time_spent),
        "drift": Kind("Reference drift", "a session with two rounds of references (--store)", sessions.drift),
        "dropped": Kind("Contaminated runs", "a session that contaminated runs were found in", sessions.dropped_runs),
        "depths": Kind("Depths", "a store with measurements (--store)", datasets.depths),
        "latencies": Kind("Latencies", "two measurements (--store)", datasets.latencies),
        "accuracy": Kind(
            "Predicted and measured",
            "a predictor (--predictor), and measurements of its space that it has not seen, or only out of their fold",
            predictions.accuracy,
        ),
        "bins": Kind("Accuracy by depth", "a predictor (--predictor)", predictions.accuracy_by_bin),
        "coverage": Kind(
            "Interval coverage", "a predictor with finite bounds (--predictor) and measurements", predictions.coverage
        ),
        "encodings": Kind(
            "Surrogates and encodings", "what `compare --out` wrote (--comparison)", comparisons.encodings
        ),
        "curve": Kind(
            "Learning curve", "what `compare --out` wrote, with two sizes (--comparison)", comparisons.learning_curve
        ),
        "rounds": Kind(
            "Rounds of the loop", "a predictor that `build` wrote after two rounds (--predictor)", predictions.rounds
        ),
        "front": Kind("Latency against capacity", "a predictor (--predictor) and measurements", fronts.front),
        "search": Kind("Found by search", "what `search --json` printed (--search)", fronts.found_by_search),
        "across": Kind(
            "Targets side by side", "two targets that measured the same architectures (--store)", targets.across
        ),
        "features": Kind(
            "Which features cost what",
            "a predictor (--predictor), or two measurements for each number that is fitted",
            features.features,
        ),
    }
)
"""By the name that `plot` takes, in the order of a report."""

SECTIONS = MappingProxyType(
    {
        "What was measured": ("time", "drift", "dropped"),
        "The dataset": ("depths", "latencies"),
        "Predictions": ("accuracy", "bins", "coverage"),
        "Encodings, surrogates, rounds": ("encodings", "curve", "rounds"),
        "What to choose": ("front", "search"),
        "Runtimes and devices": ("across",),
        "Features": ("features",),
    }
)
"""Headings of a report, with the kinds below each; one without charts is left out."""


def charts_of(kind: str, material: Material) -> list[Chart]:
    """Every chart of a kind that the material has the data for."""
    return list(KINDS[kind].charts(material))
