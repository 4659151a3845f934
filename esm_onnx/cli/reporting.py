"""`report` and `plot`: what was measured and learned, as pictures."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.options import FILE, OUT, SHARE, json_option, space_option, together
from esm_onnx.cli.printing import print_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.store import Store

if TYPE_CHECKING:
    from esm_onnx.report.material import Material

KINDS = (
    *("time", "drift", "dropped", "depths", "latencies", "accuracy", "bins", "coverage", "encodings", "curve"),
    *("rounds", "front", "search", "across", "features"),
)
"""Those of `report.sections`, by which matplotlib is imported."""

material_options = together(
    click.option("--store", "store_path", type=FILE, help="A store of measurements."),
    click.option("--predictor", "predictors", type=FILE, multiple=True, help="A predictor.onnx; several times."),
    click.option(
        "--comparison", "comparisons", type=FILE, multiple=True, help="What `compare --out` wrote; several times."
    ),
    click.option("--search", "searches", type=FILE, multiple=True, help="What `search --json` printed; several times."),
    space_option(required=False),
    click.option("--target", help="Only this target: its name, or the beginning of its digest."),
    click.option("--threshold", type=SHARE, default="95%", help="The accuracy that a bin shall reach."),
)


def _material(store_path: Path | None, space: Space | None, given: dict[str, Any]) -> Material:
    try:
        import matplotlib  # noqa: F401

        from esm_onnx.report.material import read_material
    except ModuleNotFoundError as error:
        raise InputError(
            f"pictures need matplotlib, and {error.name} cannot be imported: pip install 'esm-onnx[report]'"
        ) from None
    if store_path is None and not any(given[name] for name in ("predictors", "comparisons", "searches")):
        raise click.UsageError("of what? Expected --store, --predictor, --comparison or --search")
    with ExitStack() as kept:
        store = None if store_path is None else kept.enter_context(Store(store_path, create=False))
        return read_material(store, space=space, **given)


@click.command()
@material_options
@click.option("--title", help="Heading of the page.  [default: the names of the files]")
@click.option("--out", type=OUT, default=Path("report.html"), help="The page.")
@json_option()
def report(
    store_path: Path | None, space: Space | None, title: str | None, out: Path, as_json: bool, **given: Any
) -> None:
    """Show what was measured and learned on one page of HTML, with everything in it.

    Each chart has a sentence that says what it shows, and the numbers behind it. What there are no data for is left
    out.
    """
    material = _material(store_path, space, given)
    from esm_onnx.report.page import write_page

    files = [store_path, *given["predictors"], *given["comparisons"], *given["searches"]]
    heading = title or ", ".join(path.name for path in files if path is not None)
    count = write_page(material, out, title=heading, now=datetime.now().astimezone())
    if as_json:
        print_json({"report": str(out), "charts": count, "bytes": out.stat().st_size})
    else:
        click.echo(f"{count} charts written to {out}, {out.stat().st_size / 1e3:,.0f} kB")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@material_options
@click.option(
    "--width", type=click.FloatRange(1, 30), default=3.35, help="Inches; 3.35 is a column of a paper, 7 are both."
)
@click.option("--out", type=OUT, required=True, help="A file that ends in .svg, .png or .pdf; CSV comes beside it.")
@json_option()
def plot(
    kind: str, store_path: Path | None, space: Space | None, width: float, out: Path, as_json: bool, **given: Any
) -> None:
    """Write one chart of a report for a paper, with its numbers as CSV beside it."""
    material = _material(store_path, space, given)
    from esm_onnx.report import sections
    from esm_onnx.report.drawing import save

    charts = sections.charts_of(kind, material)
    if not charts:
        raise InputError(f"no data for the chart {kind!r}: it needs {sections.KINDS[kind].needs}")
    if len(charts) > 1:
        there = "; ".join(chart.of for chart in charts)
        raise InputError(
            f"{len(charts)} charts {kind!r}, expected one: choose with --space, --target and files. {there}"
        )
    (chart,) = charts
    save(chart, out, width)
    beside = out.with_suffix(".csv")
    if as_json:
        print_json({"plot": str(out), "csv": str(beside), "of": chart.of, "sentence": chart.sentence})
    else:
        click.echo(f"{chart.of}: {chart.sentence}\nwritten to {out}, its numbers to {beside}")
