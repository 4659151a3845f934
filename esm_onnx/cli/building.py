"""`build`: the whole line, in the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from esm_onnx.architectures import Architecture, Space
from esm_onnx.architectures.sampling import STRATEGIES
from esm_onnx.cli.fleeting import measuring_on
from esm_onnx.cli.interrupting import interruptible, kept_in
from esm_onnx.cli.live import View, accuracy_panel, live
from esm_onnx.cli.options import (
    OUT,
    SHARE,
    fleet_option,
    measuring_options,
    output_options,
    quantities_option,
    runtime_option,
    seed_option,
    space_option,
    store_option,
    together,
)
from esm_onnx.cli.predicting import print_evaluation, training_options
from esm_onnx.cli.presets import preset_option
from esm_onnx.cli.printing import Printer, printer_of
from esm_onnx.errors import ThresholdNotMet
from esm_onnx.loop import EXTENSIONS, Plan, Round, rounds
from esm_onnx.measurement.quantities import LATENCY, Quantity, find_quantity
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.training import TrainSettings

PLAN = ("strategy", "extend", "initial", "step", "w_below", "w_above", "bins", "threshold", "by_bin", "evaluation")
BUDGET = ("max_measurements", "max_minutes", "seed")
TRAINING = ("surrogate", "encoding", "folds", "split", "coverage", "bins", "seed")

loop_options = together(
    click.option("--strategy", type=click.Choice(list(STRATEGIES)), default="balanced", help="How to draw."),
    click.option("--extend", type=click.Choice(EXTENSIONS), default="uncertainty", help="How to draw more."),
    click.option("--initial", type=click.IntRange(min=1), default=30, help="N_I, the first architectures."),
    click.option("--step", type=click.IntRange(min=1), default=20, help="N_Step, those of each further round."),
    click.option(
        "--w-below", "--w1", type=click.FloatRange(min=0), default=1.0, help="w1, weight of bins below the threshold."
    ),
    click.option("--w-above", "--w2", type=click.FloatRange(min=0), default=0.25, help="w2, weight of the other bins."),
    click.option("--threshold", type=SHARE, default="95%", help="Acc_TH, the accuracy to reach."),
    click.option("--by-bin/--overall", default=True, help="Must every bin reach it, or the mean over all?"),
    click.option(
        "--evaluation",
        type=click.IntRange(min=0),
        default=0,
        help="Architectures measured only to evaluate; they count as measurements. With 0, cross-validation.",
    ),
    click.option("--max-measurements", type=click.IntRange(min=1), default=2000, help="Stop at so many."),
    click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Measure no longer than so many."),
)


@click.command()
@space_option()
@store_option()
@preset_option
@loop_options
@training_options
@runtime_option
@measuring_options
@fleet_option
@quantities_option("What to measure; the first is predicted. The latency always is measured.")
@seed_option()
@click.option("--out", type=OUT, required=True, help="The predictor, usually predictor.onnx.")
@output_options
def build(space: Space, store_path: Path, out: Path, as_json: bool, json_lines: bool, **options: Any) -> None:
    """Measure, train, evaluate and extend until the predictor is good enough.

    It is evaluated by cross-validation over what was measured, or on a set of its own (`--evaluation`). What was
    measured is kept in the store: the same command after an interruption goes on where it was.
    """
    from esm_onnx.prediction.predictor_onnx import write_predictor

    training = TrainSettings(**{name: options[name] for name in TRAINING})
    quantity = find_quantity((*options["quantities"], LATENCY.name)[0])
    plan = Plan(train=training, **{name: options[name] for name in (*PLAN, *BUDGET)})
    start = time.monotonic()
    best: Round | None = None
    history: list[Round] = []
    ended: ThresholdNotMet | None = None

    def left() -> str:
        return kept_in(store_path) + (f"; the predictor of round {best.number} is in {out}" if best else "")

    with interruptible(left), Store(store_path) as store, live("starting", events=json_lines) as view:
        with measuring_on(space, store, view.report, **options) as (target, profile):

            def measure(architectures: Sequence[Architecture]) -> None:
                view.begin(f"round {len(history) + 1}: measuring", left="left in this round")
                profile(architectures, enough=lambda: minutes_since(start) >= (plan.max_minutes or math.inf))
                view.begin(f"round {len(history) + 1}: training")

            def dataset(architectures: Sequence[Architecture]) -> Dataset:
                found = assemble(store, space, target, only=architectures, quantity=quantity)
                if architectures and not len(found):
                    raise ThresholdNotMet(
                        f"no latency of {len(architectures)} architectures stands after {minutes_since(start):.1f} "
                        "minutes: the same command goes on where it was; `esm-onnx doctor` tells what disturbs this "
                        "machine, and --plain takes every run as it is"
                    )
                return found

            try:
                for turn in rounds(space, plan, measure, dataset):
                    _show(view, turn, plan, quantity)
                    history.append(turn)
                    if best is None or turn.score(plan) >= best.score(plan):
                        best = turn
                    told = [_as_json(each) for each in history]
                    write_predictor(best.predictor, out, check=best.judged, rounds=told)
            except ThresholdNotMet as error:  # the references scatter: what was reached before still counts
                ended = error
    if best is not None:
        _print_outcome(plan, quantity, history, best, out, store_path, printer_of(as_json, json_lines))
    if ended is None and not history[-1].reached:
        ended = ThresholdNotMet(f"{_line(history[-1])}; {REASONS[history[-1].end or '']}")
    if ended is not None:
        raise ended


def _show(view: View, turn: Round, plan: Plan, quantity: Quantity) -> None:
    """Tells of a round."""
    evaluation = turn.evaluation
    accuracy = f"accuracy {evaluation.overall.accuracy:.2f} % on {turn.rows}"
    bins = [(part.name, part.accuracy, low) for part, low in zip(evaluation.bins, turn.below, strict=True)]
    title = f"round {turn.number}: {accuracy}; by depth, ▼ below {100 * plan.threshold:g} %:"
    fields = quantity.named({**_as_json(turn), "threshold": plan.threshold, "end": turn.end})
    view.show("round", fields, line=_line(turn), panel=accuracy_panel(title, bins))


def _print_outcome(
    plan: Plan, quantity: Quantity, history: list[Round], best: Round, out: Path, store: Path, printer: Printer | None
) -> None:
    last = history[-1]
    if printer is not None:
        turns = [_as_json(turn) for turn in history]
        told = {"predictor": str(out), "reached": last.reached, "rounds": turns, **best.evaluation.as_json()}
        printer(quantity.named(told))
        return
    print_evaluation(best.evaluation, quantity)
    click.echo(
        f"predictor of round {best.number} written to {out}; {last.measurements} architectures asked for, "
        f"{plan.evaluation or 'none'} of them only to evaluate; store {store}"
    )


REASONS = {
    "measurements": "the budget of measurements is spent: raise --max-measurements and run the same command again",
    "minutes": "the time is over: raise --max-minutes and run the same command again",
    "space": "every architecture of the space that the rounds could draw is measured",
}


def minutes_since(start: float) -> float:
    """Minutes since a time that `time.monotonic` gave."""
    return (time.monotonic() - start) / 60


def _line(turn: Round) -> str:
    worst = turn.evaluation.worst_bin
    where = f", worst bin {worst.name} {worst.accuracy:.2f} %" if worst else ""
    return (
        f"round {turn.number}: trained on {turn.rows}, accuracy {turn.evaluation.overall.accuracy:.2f} %{where}, "
        f"{sum(turn.below)} of {len(turn.below)} bins below the threshold"
    )


def _as_json(turn: Round) -> dict[str, Any]:
    return {
        "round": turn.number,
        "rows": turn.rows,
        "measurements": turn.measurements,
        "below": list(turn.below),
        **turn.evaluation.as_json(),
    }
