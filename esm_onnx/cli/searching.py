"""`search`: the best architectures within a budget, or the front of accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.text import Text

from esm_onnx.architectures import Space, from_genome, to_json
from esm_onnx.cli.interrupting import NOTHING, interruptible
from esm_onnx.cli.live import View, live
from esm_onnx.cli.measuring import profiler
from esm_onnx.cli.options import (
    FILE,
    OUT,
    measuring_options,
    output_options,
    seed_option,
    space_option,
    store_option,
    together,
)
from esm_onnx.cli.printing import Printer, print_table, printer_of, write_lines
from esm_onnx.errors import ThresholdNotMet, WorkError
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.measurement.session import Profiler, Progress
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.dataset import depths_of
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.search.estimates import BOUNDS, Estimate, Objective, capacity_of, predicted_by, read_accuracy
from esm_onnx.search.evolution import Candidates, Found, Generation, SearchSettings, demand_pymoo
from esm_onnx.search.evolution import search as search_space
from esm_onnx.search.verification import (
    Verification,
    differing_facts,
    estimated_by,
    finalists_of,
    measured_by,
    verify,
)

SHOWN = 10
"""Rows of a table; the file and JSON have all."""

SEARCH = ("population", "generations", "budget", "front", "memo")

search_options = together(
    click.option("--predictor", type=FILE, help="What says how fast an architecture is: predictor.onnx."),
    click.option("--measure", is_flag=True, help="Instead, measure each architecture (--space, --runtime)."),
    click.option("--budget", "--budget-ms", type=float, help="The most that it may take, in the predictor's unit."),
    click.option("--front", is_flag=True, help="All that no other beats in both accuracy and latency."),
    click.option("--accuracy", type=FILE, help="ONNX file from genome to accuracy.  [default: seek capacity]"),
    click.option("--bound", type=click.Choice(BOUNDS), default="value", help="What the budget limits."),
    click.option("--population", type=click.IntRange(min=2), default=100, help="Architectures of a generation."),
    click.option("--generations", type=click.IntRange(min=1), default=500, help="How long to search."),
    click.option("--memo/--no-memo", default=True, help="Estimate no architecture twice."),
    click.option("--verify", "finalists", type=click.IntRange(min=1), help="Measure so many of the best (--runtime)."),
)


@dataclass(frozen=True)
class _Asked:
    """What a search is about.

    Attributes:
        loaded: None where architectures are measured instead.
        bound: what the budget limits, one of `BOUNDS`.
    """

    space: Space
    quantity: Quantity
    loaded: LoadedPredictor | None
    objective: Objective
    settings: SearchSettings
    bound: str

    def rows(self, candidates: Candidates) -> list[dict[str, Any]]:
        """The figures of each by name; infinite bounds are None."""
        names = self.quantity.outputs if self.loaded else self.quantity.outputs[:1]
        columns = self.loaded.predict(candidates.genomes) if self.loaded else (candidates.limited,)
        figures = zip(candidates.worth.tolist(), *(column.tolist() for column in columns), strict=True)
        known = ([value if math.isfinite(value) else None for value in row] for row in figures)
        return [dict(zip((self.objective.name, *names), row, strict=True)) for row in known]

    def figures(self, one: Candidates) -> dict[str, float | None]:
        """What is sought and what is limited, of a single one; None where it is infinite."""
        limited = self.quantity.outputs[2 if self.bound == "upper" else 0]
        figures = {self.objective.name: one.worth[0], limited: one.limited[0]}
        return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}

    def architectures(self, candidates: Candidates) -> list[dict[str, Any]]:
        return [to_json(self.space, from_genome(self.space, row)) for row in candidates.genomes.tolist()]


@click.command()
@search_options
@space_option(required=False)
@store_option()
@click.option("--runtime", help="To measure on: name or alias; `esm-onnx runtimes` lists them.")
@measuring_options
@seed_option()
@click.option("--out", type=OUT, help="JSON Lines file of the architectures found, the best first.")
@output_options
def search(
    predictor: Path | None,
    measure: bool,
    accuracy: Path | None,
    bound: str,
    finalists: int | None,
    space: Space | None,
    out: Path | None,
    as_json: bool,
    json_lines: bool,
    **options: Any,
) -> None:
    """Search the best architectures within a budget, or a front, with a predictor.

    A genetic algorithm seeks the greatest accuracy within the budget; with --front, NSGA-II seeks all that no other
    beats in both. --verify measures the finalists, ranks them anew, and tells how far off the predictions were.
    """
    _check(predictor, measure, bound, finalists, options)
    demand_pymoo()
    settings = SearchSettings(**{name: options[name] for name in SEARCH})
    loaded = None if predictor is None else LoadedPredictor.open(predictor, threads=1)
    space = _space(space, loaded)
    verification, ended = None, None
    with interruptible(partial(_left, measure or finalists, options)), live("searching", events=json_lines) as view:
        objective = _capacity(space, view) if accuracy is None else read_accuracy(accuracy, space)
        asked = _Asked(space, loaded.quantity if loaded else LATENCY, loaded, objective, settings, bound)
        found = _found(asked, options, view)
        if finalists is not None and len(found.best):
            try:
                verification = _verify(asked, found, finalists, options, view)
            except (ThresholdNotMet, WorkError) as error:  # what was found is told all the same, and not written
                out, ended = None, error
    _print(asked, found, verification, out, printer_of(as_json, json_lines))
    if ended is not None:
        raise ended
    _raise_if_none(asked, found, verification)


def _check(
    predictor: Path | None, measure: bool, bound: str, finalists: int | None, options: Mapping[str, Any]
) -> None:
    """Refuses options that do not go together."""
    if measure == (predictor is not None):
        raise click.UsageError("what says how fast an architecture is? Expected either --predictor or --measure")
    if measure and finalists is not None:
        raise click.UsageError("--measure has measured all, expected --verify with --predictor only")
    if measure and bound != "value":
        raise click.UsageError("what is measured has no bounds, expected --bound with --predictor only")
    if (measure or finalists is not None) and options["runtime"] is None:
        raise click.UsageError("what is measured on? Expected --runtime; `esm-onnx runtimes` lists them")
    if not measure and finalists is None and options["runtime"] is not None:
        raise click.UsageError("nothing is measured on --runtime, expected --verify or --measure beside it")
    if options["budget"] is None and not options["front"]:
        raise click.UsageError("how fast is fast enough? Expected --budget, or --front")


def _left(measures: object, options: Mapping[str, Any]) -> str:
    """What is left of a search that was interrupted."""
    kept = f"; what was measured is kept in {options['store_path']}, and the same command does not measure it again"
    return NOTHING + (kept if measures else "")


def _space(space: Space | None, loaded: LoadedPredictor | None) -> Space:
    """The one that is given; the predictor's own where none is."""
    if loaded is None:
        if space is None:
            raise click.UsageError("which space is measured? Expected --space beside --measure")
        return space
    if space is not None:
        loaded.check_space(space)
    return space or loaded.space


def _capacity(space: Space, view: View) -> Objective:
    objective = capacity_of(space)
    view.tell(
        f"no --accuracy: what is sought is capacity, the number of {objective.name.replace('_', '-')}; "
        "it stands in for accuracy and knows nothing of it"
    )
    return objective


def _found(asked: _Asked, options: Mapping[str, Any], view: View) -> Found:
    def measuring(progress: Progress) -> None:
        """The bar is the search's: a generation is measured within."""
        view.what = f"measuring {progress.done}/{progress.total}"
        view.report(replace(progress, total=0))

    def report(generation: Generation) -> None:
        view.what = "searching"
        view.report(Progress(asked.settings.generations, generation.number, 0, source="search"))
        _show(asked, generation, view)

    def run(limited: Estimate) -> Found:
        rng = np.random.default_rng(options["seed"])
        return search_space(asked.space, limited, asked.objective.estimate, asked.settings, rng, report=report)

    view.report(Progress(asked.settings.generations, 0, 0, source="search"))
    if asked.loaded is not None:
        return run(predicted_by(asked.loaded, asked.bound))
    with _measuring(asked, options, measuring) as measurer:
        return run(estimated_by(measured_by(measurer, asked.quantity), asked.space))


def _show(asked: _Asked, generation: Generation, view: View) -> None:
    """Tells of a generation: the best so far."""
    best, front = generation.best, asked.settings.front
    figures = [asked.figures(best.select(np.array([at]))) for at in ((0, -1) if front else (0,)) if len(best)]
    unit = asked.quantity.unit
    least = f"the least takes {generation.least.limited[0]:.4g} {unit}"
    if not figures:
        text = f"nothing within {asked.settings.budget:g} {unit} yet: {least}"
    elif front:
        text = f"{len(best)} on the front, {best.limited[0]:.4g} to {best.limited[-1]:.4g} {unit}"
    else:
        worth = best.worth[0] / asked.objective.per
        text = f"best so far: {worth:.5g} ({asked.objective.title}) at {best.limited[0]:.4g} {unit}"
    panel = Text(f"generation {generation.number}, {generation.evaluations} evaluations\n{text}")
    fields = {
        "generation": generation.number,
        "generations": asked.settings.generations,
        "evaluations": generation.evaluations,
        "within": len(best),
        "best": figures[-1] if figures else None,
        "least": asked.figures(generation.least),
    }
    view.show("generation", fields, panel=panel)


@contextmanager
def _measuring(asked: _Asked, options: Mapping[str, Any], report: Callable[[Progress], None]) -> Iterator[Profiler]:
    """The profiler that the options describe."""
    with Store(options["store_path"]) as store:
        with profiler(asked.space, store, report, **options, quantities=(asked.quantity.name,)) as measurer:
            yield measurer


def _verify(asked: _Asked, found: Found, count: int, options: Mapping[str, Any], view: View) -> Verification:
    assert asked.loaded is not None  # `_check`
    chosen = finalists_of(found.best, count, front=asked.settings.front)
    view.begin("measuring")
    with _measuring(asked, options, view.report) as measurer:
        if names := differing_facts(measurer.target, asked.loaded.target):
            view.tell(
                f"warning: measured on {measurer.target.name!r}, predicted for {asked.loaded.target.name!r}: "
                f"they differ in {', '.join(names)}"
            )
        return verify(
            asked.space,
            chosen,
            asked.loaded.predict,
            measured_by(measurer, asked.quantity),
            budget=asked.settings.budget,
            front=asked.settings.front,
        )


def _print(
    asked: _Asked, found: Found, verification: Verification | None, out: Path | None, printer: Printer | None
) -> None:
    best = found.best
    if verification is not None:
        best = verification.candidates.select(np.array(verification.order, np.int64))
    if out is not None and len(best):
        write_lines(asked.architectures(best), out)
    if printer is not None:
        printer(_as_json(asked, found, verification))
        return
    if str(out) == "-":
        return
    _print_candidates(asked, found.best if len(found.best) else found.least)
    _print_effort(asked, found)
    if verification is not None:
        _print_verification(asked, verification)
    if out is not None and len(best):
        click.echo(f"{len(best)} architectures written to {out}")


def _as_json(asked: _Asked, found: Found, verification: Verification | None) -> dict[str, Any]:
    def listed(candidates: Candidates) -> list[dict[str, Any]]:
        pairs = zip(asked.architectures(candidates), asked.rows(candidates), strict=True)
        return [{"architecture": architecture, **row} for architecture, row in pairs]

    rest = found.seconds - found.limited_s - found.worth_s
    return {
        "space": asked.space.name,
        "quantity": asked.quantity.field,
        "objective": asked.objective.name,
        "budget": asked.settings.budget,
        "found": listed(found.best),
        "least": listed(found.least)[0],
        "generations": found.generations,
        "evaluations": found.evaluations,
        "estimated": found.estimated,
        "memo_hits": found.evaluations - found.estimated,
        "seconds": {"all": found.seconds, "limited": found.limited_s, "sought": found.worth_s, "rest": rest},
        **({} if verification is None else {"verification": _verification_as_json(asked, verification)}),
    }


def _verification_as_json(asked: _Asked, verification: Verification) -> dict[str, Any]:
    field = asked.quantity.field
    columns = (verification.measured, verification.errors, verification.inside)
    measured = zip(*(column.tolist() for column in columns), strict=True)
    finalists = [
        {"architecture": architecture, **row, f"measured_{field}": value, "error_percent": error, "inside": inside}
        for architecture, row, (value, error, inside) in zip(
            asked.architectures(verification.candidates), asked.rows(verification.candidates), measured, strict=True
        )
    ]
    return {
        "finalists": finalists,
        "answer": list(verification.order),
        "failures": [{"kind": failure.kind, "message": failure.message} for failure in verification.failures],
        "factor": verification.refit.factor,
        "factor_standard_error": verification.refit.standard_error,
        "error_percent": float(np.abs(verification.errors).mean()),
        "refitted_error_percent": float(np.abs(verification.refitted_errors).mean()),
    }


def _print_candidates(asked: _Asked, candidates: Candidates) -> None:
    shown = candidates.select(np.arange(min(SHOWN, len(candidates))))
    rows, depths = asked.rows(shown), depths_of(asked.space, shown.genomes)
    networks = [from_genome(asked.space, genome).network for genome in shown.genomes.tolist()]
    features = [feature.name for feature in asked.space.network]
    columns = ("", asked.objective.title, *list(rows[0])[1:], "blocks", *features)
    print_table(
        columns,
        [
            (i, *_cells(asked, row), depth, *(network[name] for name in features))
            for i, (row, depth, network) in enumerate(zip(rows, depths.tolist(), networks, strict=True), 1)
        ],
    )
    if len(candidates) > len(shown):
        click.echo(f"… {len(candidates)} in all")


def _cells(asked: _Asked, row: Mapping[str, Any]) -> list[str]:
    worth, *figures = row.values()
    return [f"{worth / asked.objective.per:.5g}", *("" if figure is None else f"{figure:.4g}" for figure in figures)]


def _print_effort(asked: _Asked, found: Found) -> None:
    hits = found.evaluations - found.estimated
    source = "measuring" if asked.loaded is None else "the predictor"
    rest = found.seconds - found.limited_s - found.worth_s
    click.echo(
        f"{found.evaluations} evaluations in {found.generations} generations: {found.estimated} estimated, {hits} from "
        f"the memo; {found.seconds:.1f} s: {source} {found.limited_s:.1f}, {asked.objective.name.replace('_', '-')} "
        f"{found.worth_s:.1f}, the rest {rest:.1f}"
    )


def _print_verification(asked: _Asked, verification: Verification) -> None:
    unit = asked.quantity.unit
    columns = (verification.predicted, verification.measured, verification.errors, verification.inside)
    worths = verification.candidates.worth / asked.objective.per
    ranks = {place: rank for rank, place in enumerate(verification.order, 1)}
    rows = [
        (i, f"{worth:.5g}", f"{predicted:.4g}", f"{measured:.4g}", f"{error:+.1f}", "yes" if held else "no", rank)
        for i, (worth, predicted, measured, error, held, rank) in enumerate(
            zip(worths, *columns, (ranks.get(place, "") for place in range(len(worths))), strict=True), 1
        )
    ]
    titles = (
        "finalist",
        asked.objective.title,
        f"predicted {unit}",
        f"measured {unit}",
        "error %",
        "bounds held",
        "rank",
    )
    print_table(titles, rows)
    for failure in verification.failures:
        click.echo(f"  failed ({failure.kind}): {failure.message}")
    before, after = (np.abs(errors).mean() for errors in (verification.errors, verification.refitted_errors))
    refit, inside = verification.refit, verification.inside
    spread = "" if refit.standard_error is None else f" ± {100 * refit.standard_error:.2g} %"
    click.echo(
        f"mean error {before:.2f} %, {after:.2f} % once predictions are multiplied by {refit.factor:.4g}{spread}; "
        f"the bounds held for {inside.sum()} of {len(inside)}"
    )
    if verification.order and not asked.settings.front:
        first = verification.order[0]
        click.echo(
            f"the best that measured within the budget: finalist {first + 1}, {verification.measured[first]:.4g} {unit}"
        )


def _raise_if_none(asked: _Asked, found: Found, verification: Verification | None) -> None:
    """Tells that nothing is within the budget: of what was estimated, or of what was measured then."""
    budget, unit = asked.settings.budget, asked.quantity.unit
    least = found.least.limited[0]
    if not np.isfinite(least):
        raise WorkError(f"none of {found.estimated} architectures could be measured")
    if not len(found.best):
        raise ThresholdNotMet(
            f"none of {found.estimated} architectures is within {budget:g} {unit}: the least that was found takes "
            f"{least:.4g} {unit}; allow a greater --budget"
        )
    if verification is not None and not verification.order:
        assert budget is not None  # without one, all are within it
        raise ThresholdNotMet(
            f"no finalist measured within {budget:g} {unit}: the least takes {verification.measured.min():.4g} {unit}; "
            f"search again with --budget {budget / verification.refit.factor:.4g}, which makes up for the predictions"
        )
