"""`tune`: hyper-parameters of the predictor of Syed and Srinivasan."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.linting import examine
from esm_onnx.cli.live import live
from esm_onnx.cli.options import OUT, SHARE, json_option, seed_option, space_option, store_option
from esm_onnx.cli.predicting import print_evaluation, target_option
from esm_onnx.cli.printing import print_json, print_table
from esm_onnx.cluster import HERE
from esm_onnx.measurement.session import Progress
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.splits import SPLITS
from esm_onnx.prediction.training import TrainSettings

if TYPE_CHECKING:  # which need torch
    from esm_onnx.prediction.tuning import Outcome, Tuned


@click.command()
@store_option()
@space_option(required=False)
@target_option
@click.option("--out", type=OUT, required=True, help="The predictor, usually predictor.onnx.")
@click.option("--encoding", help="Architecture to vector.  [default: ofa, or one-hot where the space has it not]")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="time",
    help="The first 70 % to train on, or drawn at random, or so by blocks.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=100, help="Of a combination at most.")
@click.option("--grace", type=click.IntRange(min=1), default=4, help="Epochs before it can be stopped.")
@click.option("--eta", type=click.IntRange(min=2), default=4, help="One in so many goes on at a rung.")
@click.option("--coverage", type=SHARE, default="90%", help="Share that the intervals shall enclose.")
@click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]")
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Combinations at the same time.")
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value=HERE,
    metavar="[ADDRESS]",
    help="By Ray Tune, on this machine or on the running cluster at ADDRESS.",
)
@seed_option()
@json_option()
def tune(
    store_path: Path,
    space: Space | None,
    target: str | None,
    out: Path,
    encoding: str | None,
    epochs: int,
    grace: int,
    eta: int,
    processes: int,
    address: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the hyper-parameters of the surrogate mlp-ofa by asynchronous successive halving, and train with the best.

    The 36 combinations of learning rate, weight decay and momentum are those of Syed and Srinivasan (2021). They are
    trained on 70 % of the measurements and judged on 15 %; the accuracy is of the last 15 %.
    """
    from esm_onnx.prediction.predictor_onnx import write_predictor
    from esm_onnx.prediction.tuning import TuneSettings, search
    from esm_onnx.prediction.tuning import tune as find

    settings = TuneSettings(epochs=epochs, grace=grace, eta=eta, seed=options["seed"])
    dataset = _read(store_path, space, target, options["split"])
    outcomes: list[Outcome] = []
    with live("training") as view:

        def report(outcome: Outcome) -> None:
            outcomes.append(outcome)
            view.report(Progress(len(settings.combinations), len(outcomes), 0))

        search_by = partial(search, processes=processes, report=report)
        if address is not None:
            from esm_onnx.prediction.tuning_ray import search_with_ray

            search_by = partial(search_with_ray, address=address, processes=processes, report=report)
        tuned = find(dataset, settings, TrainSettings(encoding=encoding, **options), search_by)
    write_predictor(tuned.predictor, out, check=dataset)
    if as_json:
        print_json({"predictor": str(out), "measurements": len(dataset), **_as_json(tuned)})
        return
    columns = ("learning rate", "weight decay", "momentum", "epochs", "RMSE ms", "state")
    print_table(columns, (_cells(outcome, outcome == tuned.best) for outcome in tuned.outcomes))
    print_evaluation(tuned.evaluation)
    click.echo(f"predictor for {dataset.space.name} on {dataset.target['name']!r} written to {out}")


def _read(path: Path, space: Space | None, target: str | None, split: str) -> Dataset:
    with Store(path, create=False) as store:
        content = choose(store, space=space, target=target)
        examine(store, content, split)
        return assemble(store, content.space, content.target)


def _as_json(tuned: Tuned) -> dict[str, Any]:
    rows = [_row(outcome) for outcome in tuned.outcomes]
    return {"best": _row(tuned.best), "combinations": rows, **tuned.evaluation.as_json()}


def _row(outcome: Outcome) -> dict[str, Any]:
    rmse_ms = outcome.rmse_ms if math.isfinite(outcome.rmse_ms) else None
    return {
        **asdict(outcome.hyperparameters),
        "epochs": outcome.epochs,
        "rmse_ms": rmse_ms,
        "state": outcome.state,
    }


def _cells(outcome: Outcome, best: bool) -> tuple[str, ...]:
    *chosen, epochs, rmse_ms, state = _row(outcome).values()
    rmse = "" if rmse_ms is None else f"{rmse_ms:.4g}"
    return (*(f"{value:g}" for value in chosen), str(epochs), rmse, f"{state}, the best" if best else state)
