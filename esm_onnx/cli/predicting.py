"""`train`, `evaluate`, `predict`: how fast it will be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from esm_onnx.architectures import Space, divide, read_architectures, to_genome
from esm_onnx.cli.options import FILE, SHARE, json_option, seed_option, space_option, store_option, together
from esm_onnx.cli.presets import preset_option
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import ThresholdNotMet
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.encodings import ENCODINGS
from esm_onnx.prediction.evaluation import Evaluation, Metrics
from esm_onnx.prediction.loaded import LoadedPredictor

training_options = together(
    click.option("--encoding", type=click.Choice(list(ENCODINGS)), default="fcc", help="Architecture to vector."),
    click.option("--surrogate", default="mlp", help="What is fitted on it."),
    click.option("--coverage", type=SHARE, default="90%", help="Share that lower_ms and upper_ms shall enclose."),
    click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]"),
)
"""What decides how `train` and `build` train."""

target_option = click.option("--target", help="Name of the target, or the beginning of its digest.")


@click.command()
@store_option()
@space_option(required=False)
@target_option
@preset_option
@training_options
@click.option("--held-out", type=SHARE, default="20%", help="Share never trained on: for accuracy and intervals.")
@seed_option()
@click.option("--out", type=FILE, required=True, help="The predictor, usually predictor.onnx.")
@json_option()
def train(store_path: Path, space: Space | None, target: str | None, out: Path, as_json: bool, **settings: Any) -> None:
    """Train a predictor on a store and write it as ONNX."""
    from esm_onnx.prediction.predictor_onnx import write_predictor
    from esm_onnx.prediction.training import TrainSettings
    from esm_onnx.prediction.training import train as fit

    with Store(store_path, create=False) as store:
        content = choose(store, space=space, target=target)
        dataset = assemble(store, content.space, content.target)
    predictor, evaluation = fit(dataset, TrainSettings(**settings))
    write_predictor(predictor, out, check=dataset)
    if as_json:
        print_json({"predictor": str(out), "measurements": len(dataset), **evaluation.as_json()})
    else:
        print_evaluation(evaluation)
        click.echo(f"predictor for {content.space.name} on {content.target.name!r} written to {out}")


@click.command()
@click.argument("predictor", type=FILE)
@store_option()
@target_option
@click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]")
@click.option("--threshold", type=SHARE, help="Exit with 3 when a bin is below this accuracy.")
@json_option()
def evaluate(
    predictor: Path, store_path: Path, target: str | None, bins: int | None, threshold: float | None, as_json: bool
) -> None:
    """Compare a predictor with the measurements of a store."""
    from esm_onnx.prediction.evaluation import evaluate as compare

    loaded = LoadedPredictor.open(predictor)
    with Store(store_path, create=False) as store:
        content = choose(store, space=loaded.space, target=target)
        dataset = assemble(store, content.space, content.target)
    latency, _, _ = loaded.predict(dataset.genomes)
    evaluation = compare(latency, dataset.latency_ms, dataset.depths, divide(loaded.space, bins), dataset.noise_floor)
    seen = loaded.metadata["dataset"] == dataset.digest
    if seen:
        click.echo("note: the predictor was trained on these measurements; others would tell more", err=True)
    if as_json:
        print_json({"measurements": len(dataset), "trained_on_these": seen, **evaluation.as_json()})
    else:
        print_evaluation(evaluation)
    worst = evaluation.worst_bin
    if threshold is not None and worst is not None and worst.metrics.accuracy < 100 * threshold:
        raise ThresholdNotMet(
            f"bin {worst.name} has accuracy {worst.metrics.accuracy:.2f} %, expected {100 * threshold:g} %"
        )


@click.command()
@click.argument("predictor", type=FILE)
@click.argument("architectures", type=FILE)
@click.option("--out", type=FILE, help="JSON Lines file.  [default: standard output]")
def predict(predictor: Path, architectures: Path, out: Path | None) -> None:
    """Predict the latency of each architecture, as JSON Lines (`-` reads standard input)."""
    loaded = LoadedPredictor.open(predictor)
    chosen = read_architectures(architectures, loaded.space)
    rows = loaded.predict(np.array([to_genome(loaded.space, architecture) for architecture in chosen], np.int64))
    names = ("latency_ms", "lower_ms", "upper_ms")
    values = zip(*(column.tolist() for column in rows), strict=True)
    write_lines(
        (
            {name: value if np.isfinite(value) else None for name, value in zip(names, row, strict=True)}
            for row in values
        ),
        out,
    )


def print_evaluation(evaluation: Evaluation) -> None:
    """The accuracy table: overall and by bin."""
    rows = [("all", *_cells(evaluation.overall))]
    rows += [(bin.name, *_cells(bin.metrics)) for bin in evaluation.bins]
    columns = ("depth", "rows", "accuracy %", "RMSE ms", "RMSE %", "±5 %", "±10 %", "Spearman", "Kendall")
    print_table(columns, rows)


def _cells(metrics: Metrics) -> tuple[str, ...]:
    return ()
