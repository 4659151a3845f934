"""`compare`: which surrogate, on which encoding, from how many measurements."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.across import compare_targets
from esm_onnx.cli.linting import examine
from esm_onnx.cli.live import live
from esm_onnx.cli.options import OUT, SHARE, json_option, quantity_option, space_option, store_option
from esm_onnx.cli.predicting import read_dataset
from esm_onnx.cli.printing import demand_one_output, print_json, print_table
from esm_onnx.files import replacing
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.measurement.session import Progress
from esm_onnx.measurement.store import Content, Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.comparison import BASELINES, COMPARE_SPLITS, CompareSettings, Comparison, Result, pairs_of
from esm_onnx.prediction.comparison import compare as run
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import encoding_names
from esm_onnx.prediction.lookup import measuring_time_s
from esm_onnx.prediction.lookup_encoding import Lookup
from esm_onnx.prediction.surrogates import SURROGATES

NONE = "—"


@dataclass(frozen=True, slots=True)
class Column:
    """How a figure is printed: under which heading, with how many places behind the point, with its spread or not.

    Attributes:
        heading: may have {unit}, that of what is predicted.
        significant: the places are digits, wherever the point is.
    """

    heading: str
    places: int
    spread: bool = True
    significant: bool = False


COLUMNS = {
    "accuracy": Column("accuracy %", 2),
    "worst_bin": Column("worst bin %", 2),
    "rmse_ms": Column("RMSE {unit}", 3, significant=True),
    "rmse_percent": Column("RMSE %", 2),
    "within_5": Column("±5 %", 1),
    "kendall": Column("Kendall", 3),
    "coverage": Column("enclosed %", 1),
    "width_percent": Column("by ± %", 1),
    "train_s": Column("train s", 2, spread=False),
    "predict_s": Column("predict s", 3, spread=False),
}


class Sizes(click.ParamType[tuple[int, ...]]):
    """Numbers of rows with commas: 20,50,100."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            self.fail(f"{value!r} are no numbers of measurements, expected for example 20,50,100", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class HeldOut(click.ParamType[int | float | Path]):
    """What is held out: a number of measurements, a share of them, or the measurements of a file."""

    name = "n|share|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float | Path:
        text = str(value).strip()
        if text.isascii() and text.isdigit():
            return int(text)
        return SHARE.convert(text, param, ctx) if text.endswith("%") else Path(text)


@click.command()
@store_option()
@space_option(required=False)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Name of the target, or the beginning of its digest; several with --across.",
)
@quantity_option()
@click.option("--across", type=click.Choice(["runtimes"]), help="Instead, all targets: which is fastest for what.")
@click.option("--surrogate", "surrogates", type=click.Choice(list(SURROGATES)), multiple=True, help="[default: all]")
@click.option(
    "--encoding",
    "encodings",
    multiple=True,
    help=f"{', '.join(encoding_names())}, several joined by +, or `all`.  [default: what suits each surrogate]",
)
@click.option("--sizes", type=Sizes(), help="Numbers of training rows.  [default: 20, 50, 100, 200, … all]")
@click.option("--seeds", type=click.IntRange(min=1), default=5, help="Permutations of the rows.")
@click.option("--test", type=HeldOut(), help="Held out: 1500, 30%, or a file.  [default: 30%, 1500 at most]")
@click.option("--split", type=click.Choice(COMPARE_SPLITS), default="random", help="Rows at random, or by blocks.")
@click.option("--intervals", is_flag=True, help="90 % intervals of all, which takes 5 more fits each.")
@click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]")
@click.option("--processes", type=click.IntRange(1, 256), default=1, help="Fits at the same time.")
@click.option("--out", type=OUT, help="All figures with their spread as CSV; `-` in place of the table.")
@json_option()
def compare(
    store_path: Path,
    space: Space | None,
    targets: tuple[str, ...],
    quantity: Quantity,
    across: str | None,
    surrogates: tuple[str, ...],
    encodings: tuple[str, ...],
    sizes: tuple[int, ...] | None,
    seeds: int,
    test: int | float | Path | None,
    split: str,
    intervals: bool,
    bins: int | None,
    processes: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare surrogates, encodings and numbers of measurements on one store.

    All see the same training rows and are judged on the same others; with each seed, on other ones. Linear regression
    and lookup tables are always among them.
    """
    demand_one_output(out, as_json)
    if across is not None:
        _refuse_beside_across()
        compare_targets(store_path, space, targets, out, as_json)
        return
    if len(targets) > 1:
        raise click.UsageError("several --target are for --across, expected one")
    with Store(store_path, create=False) as store:
        content = choose(store, space=space, target=targets[0] if targets else None, quantity=quantity)
        dataset = assemble(store, content.space, content.target, quantity=quantity)
        spent_s = measuring_time_s(store, content.space, content.target)
        if quantity == LATENCY and not isinstance(test, Path):
            examine(store, content, split)
    held_out = read_dataset(test, content.space, quantity) if isinstance(test, Path) else None
    rows = round(test * len(dataset)) if isinstance(test, float) else test
    settings = CompareSettings(
        pairs_of(content.space, surrogates, encodings),
        sizes or (),
        rows if isinstance(rows, int) else None,
        seeds,
        intervals=intervals,
        bins=bins,
        split=split,
    )
    with live("fits") as view:

        def report(done: int, total: int) -> None:
            view.report(Progress(total, done, 0))

        found = run(dataset, settings, held_out=held_out, processes=processes, report=report)
    _show(found, content, quantity, _measured(dataset, spent_s), out, as_json)


WITH_ACROSS = ("store_path", "space", "targets", "across", "out", "as_json")


def _refuse_beside_across() -> None:
    """Options that mean nothing when targets are compared."""
    context = click.get_current_context()
    given = [
        option
        for option in context.command.params
        if option.name not in WITH_ACROSS
        and context.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{given[0].opts[0]} is not for --across, which compares latencies of all targets")


def _measured(dataset: Dataset, spent_s: float) -> dict[str, Any]:
    """What was measured and how long it took in s; None where nobody knows, or there is no lookup table."""
    table = dataset.lookup if isinstance(dataset.lookup, Lookup) else None
    return {
        "measurements": len(dataset),
        "measuring_s": spent_s or None,
        "table_entries": table and table.entries,
        "table_measuring_s": table and table.measuring_time_s,
    }


def _show(
    found: Comparison, content: Content, quantity: Quantity, measured: dict[str, Any], out: Path | None, as_json: bool
) -> None:
    if str(out) == "-":
        click.echo(csv_of(found, quantity), nl=False)
        return
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(csv_of(found, quantity), encoding="utf-8")
    if as_json:
        told = {"space": content.space.name, "target": content.target.name, **measured, **found.as_json()}
        print_json(quantity.named(told))
        return
    click.echo(f"{content.space.name} on {content.target.name!r}")
    print_comparison(found, quantity)
    if measured["measuring_s"] and measured["table_measuring_s"]:
        click.echo(
            "measuring took {measuring_s:.0f} s for {measurements} architectures, {table_measuring_s:.0f} s for the "
            "{table_entries} entries of the lookup table".format_map(measured)
        )


def csv_of(found: Comparison, quantity: Quantity = LATENCY) -> str:
    """All results as CSV: a line for each, the spread of each figure beside its mean."""
    rows = [quantity.named(result.as_json()) for result in found.results]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def print_comparison(found: Comparison, quantity: Quantity = LATENCY) -> None:
    """A table of all results, the best first; and the baselines beside the best."""
    click.echo(
        f"{found.test} measurements held out, up to {found.available} to train on; "
        f"mean ± standard deviation over the seeds: {found.seeds}"
    )
    shown = [name for name in COLUMNS if any(getattr(result.mean, name, None) is not None for result in found.results)]
    print_table(
        ("rows", "surrogate", "encoding", *(COLUMNS[name].heading.format(unit=quantity.unit) for name in shown)),
        [
            (rows, result.surrogate, result.encoding, *(_cell(result, name) for name in shown))
            for rows in found.sizes
            for result in found.ranked(rows)
        ],
    )
    for line in found.reasons():
        click.echo(line)
    click.echo()
    print_table(
        ("rows", "best", "accuracy %", f"RMSE {quantity.unit}", *(f"{name} %" for name in BASELINES)),
        [_beside_the_best(found, rows) for rows in found.sizes],
    )
    if found.noise_floor is not None and found.reachable is not None:
        click.echo(
            f"noise floor: repeated measurements have a relative standard deviation of {found.noise_floor:.2f} %; "
            f"a perfect predictor would show {found.reachable:.2f} %"
        )


def _cell(result: Result | None, name: str) -> str:
    """A figure's mean, and its spread where there is one: `97.31 ± 0.12`."""
    mean, std = (getattr(part, name, None) for part in (result and result.mean, result and result.std))
    if mean is None:
        return NONE
    column = COLUMNS[name]
    places = column.places if mean == 0 or not column.significant else column.places - 1 - floor(log10(abs(mean)))
    texts = [f"{value:.{max(places, 0)}f}" for value in (mean, std) if value is not None]
    return " ± ".join(texts if column.spread else texts[:1])


def _beside_the_best(found: Comparison, rows: int) -> tuple[object, ...]:
    """The best, and the accuracy of each baseline on its best encoding."""
    best = found.best(rows)
    name = NONE if best is None else f"{best.surrogate} on {best.encoding}"
    baselines = (_cell(found.best(rows, baseline), "accuracy") for baseline in BASELINES)
    return rows, name, _cell(best, "accuracy"), _cell(best, "rmse_ms"), *baselines
