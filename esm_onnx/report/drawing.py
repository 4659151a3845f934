"""Charts as files: inline SVG for a page, SVG, PNG or PDF for a paper.

In a page a chart takes its colours from the page, light or dark. So it is drawn in colours that stand for them, which
are then replaced by CSS variables. They are those of Okabe and Ito (2008, *Color Universal Design*), which people of
any colour vision tell apart; markers and hatches tell them apart without any colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from esm_onnx.errors import InputError
from esm_onnx.files import replacing
from esm_onnx.report.chart import Chart

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT, GRID = "#1b1b1b", "#6b6b6c", "#d0d0d1"

VARIABLES = MappingProxyType(
    {
        BLUE: "--blue",
        VERMILLION: "--vermillion",
        GREEN: "--green",
        PURPLE: "--purple",
        ORANGE: "--orange",
        SKY: "--sky",
        INK: "--ink",
        FAINT: "--faint",
        GRID: "--grid",
    }
)
"""What a page calls each colour."""

PAGE_INCHES, PAPER_INCHES = 4.6, 3.35
"""Width of a chart in a page, where it grows with its column, and in a column of a paper."""
Numbers = NDArray[np.float64]

FORMATS = ("svg", "png", "pdf")
DOTS_PER_INCH, PAGE_DOTS_PER_INCH = 300, 150
MANY_POINTS = 1500
"""Points above which they are drawn as an image inside of the chart: each one would be an element of the page."""

STYLE: Mapping[Any, Any] = MappingProxyType(
    {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "axes.titlesize": 8.5,
        "legend.fontsize": 7.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "legend.frameon": False,
        "legend.handlelength": 1.3,
        "legend.handletextpad": 0.5,
        "legend.columnspacing": 1.0,
        "figure.constrained_layout.use": True,
        "savefig.dpi": DOTS_PER_INCH,
    }
)


@contextmanager
def _drawn(chart: Chart, width: float, more: Mapping[Any, Any]) -> Iterator[Figure]:
    with mpl.rc_context({**STYLE, **more}), warnings.catch_warnings():
        # A page's text is text, drawn with the reader's fonts; elsewhere a box stands for what ours lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, width * chart.height))
        chart.draw(figure)
        yield figure


def inline_svg(chart: Chart, identity: str) -> str:
    """The chart as an SVG element of a page; `identity` is unlike that of any other on it."""
    text = io.StringIO()
    with _drawn(chart, PAGE_INCHES, {"svg.fonttype": "none", "svg.hashsalt": identity}) as figure:
        figure.savefig(
            text, format="svg", transparent=True, dpi=PAGE_DOTS_PER_INCH, metadata={"Date": None, "Creator": None}
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # matplotlib numbers them anew in each chart, and nothing refers to them
    svg = re.sub(r'(?<=[="#( ])(?=[mph][0-9a-f]{10}\b)', f"{identity}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    label = f'role="img" aria-labelledby="{identity}-title {identity}-says"'
    return re.sub(r"<svg[^>]*>", f'<svg {box[0]} {label} xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1)


def save(chart: Chart, path: Path, width: float = PAPER_INCHES) -> None:
    """Writes the chart as SVG, PNG or PDF, as its suffix says, with its numbers as CSV beside it.

    Args:
        width: in inches.

    Raises:
        InputError: another suffix.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"{path.name!r}, expected a file that ends in .{', .'.join(FORMATS)}", file=path)
    metadata = {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}[kind]
    with replacing(path) as temporary:
        with _drawn(chart, width, {"svg.hashsalt": chart.kind, "pdf.fonttype": 42}) as figure:
            figure.savefig(temporary, format=kind, facecolor="white", metadata=metadata)
    with replacing(path.with_suffix(".csv")) as temporary:
        temporary.write_text(chart.numbers.as_csv(), encoding="utf-8")


def one_plot(draw: Callable[[Axes], None]) -> Callable[[Figure], None]:
    """A chart of one pair of axes."""
    return lambda figure: draw(figure.subplots())


def colour_of(place: int) -> str:
    """Of the series with that number, from 0."""
    return SERIES[place % len(SERIES)]


def marker_of(place: int) -> str:
    """Of the series with that number, from 0."""
    return MARKERS[place % len(MARKERS)]


def dots(
    axes: Axes,
    x: Sequence[float] | Numbers,
    y: Sequence[float] | Numbers,
    *,
    colour: str,
    marker: str = "o",
    size: float = 3.2,
    opacity: float = 0.6,
    hollow: bool = False,
    label: str | None = None,
) -> None:
    """Points without a line; many of them as an image, smaller and paler."""
    many = len(x) > MANY_POINTS
    axes.plot(
        np.asarray(x),
        np.asarray(y),
        color=colour,
        marker=marker,
        linestyle="none",
        markersize=min(size, 2.2) if many else size,
        markeredgewidth=0.9 if hollow else 0,
        markerfacecolor="none" if hollow else colour,
        alpha=min(opacity, 0.35) if many else opacity,
        rasterized=many,
        label=label,
    )


def legend_above(axes: Axes, columns: int) -> None:
    """A legend that hides nothing."""
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def count_along(axis: Axis) -> None:
    """Whole numbers along an axis."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def logarithmic(axes: Axes, *which: str) -> None:
    """Logarithmic axes, "x" or "y", with plain numbers: 1, 2 and 5 of each power of ten."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
