"""`train`, `evaluate`, `predict`: how fast it will be."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from esm_onnx.architectures import Space, divide, read_architectures, to_genome
from esm_onnx.cli.linting import examine
from esm_onnx.cli.options import (
    FILE,
    OUT,
    SHARE,
    SPACE,
    json_option,
    quantity_option,
    seed_option,
    space_option,
    store_option,
    together,
)
from esm_onnx.cli.presets import preset_option
from esm_onnx.cli.printing import print_json, print_table, write_lines
from esm_onnx.errors import InputError, ThresholdNotMet
from esm_onnx.measurement.exchange import import_file
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.measurement.store import Content, Store
from esm_onnx.prediction.assembly import assemble, choose, fields_beside
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import encoding_names
from esm_onnx.prediction.evaluation import Coverage, Evaluation, Metrics
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.splits import SPLITS
from esm_onnx.prediction.surrogates import SURROGATES
from esm_onnx.prediction.training import TrainSettings

training_options = together(
    click.option("--surrogate", type=click.Choice(list(SURROGATES)), default="hybrid", help="What is fitted."),
    click.option(
        "--encoding",
        help=f"Architecture to vector: {', '.join(encoding_names())}, or several joined by +.  [default: it depends]",
    ),
    click.option("--folds", type=click.IntRange(min=2), default=5, help="Parts of the cross-validation."),
    click.option("--split", type=click.Choice(SPLITS), default="random", help="Folds at random, by time or by blocks."),
    click.option("--coverage", type=SHARE, default="90%", help="Share that the intervals shall enclose."),
    click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]"),
)
"""What decides how `train` and `build` train."""

target_option = click.option("--target", help="Name of the target, or the beginning of its digest.")

verify_option = click.option(
    "--verify/--no-verify", default=True, help="Make sure that the predictor is as it was written."
)


@click.command()
@store_option()
@space_option(required=False)
@target_option
@quantity_option()
@preset_option
@training_options
@click.option("--held-out", type=SHARE, help="Share never trained on, in place of cross-validation.")
@click.option("--test", "test_path", type=FILE, help="Measurements to evaluate on: what `data import` reads.")
@seed_option()
@click.option("--out", type=OUT, required=True, help="The predictor, usually predictor.onnx.")
@json_option()
def train(
    store_path: Path,
    space: Space | None,
    target: str | None,
    quantity: Quantity,
    test_path: Path | None,
    out: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a predictor on a store and write it as ONNX."""
    from esm_onnx.prediction.predictor_onnx import write_predictor
    from esm_onnx.prediction.training import train as fit

    training = TrainSettings(**settings)
    with Store(store_path, create=False) as store:
        content = choose(store, space=space, target=target, quantity=quantity)
        dataset = assemble(store, content.space, content.target, quantity=quantity)
        if quantity == LATENCY:  # which lint is about
            examine(store, content, training.split)
    test = None if test_path is None else read_dataset(test_path, content.space, quantity)
    predictor, evaluation = fit(dataset, training, test=test)
    write_predictor(predictor, out, check=dataset)
    if as_json:
        print_json({"predictor": str(out), "measurements": len(dataset), **quantity.named(evaluation.as_json())})
    else:
        print_evaluation(evaluation, quantity)
        click.echo(f"predictor for {content.space.name} on {content.target.name!r} written to {out}")


@click.command()
@click.argument("predictor", type=FILE)
@store_option()
@space_option(required=False)
@target_option
@click.option("--bins", type=click.IntRange(min=1), help="N_Bins.  [default: 5, or fewer]")
@click.option("--threshold", type=SHARE, help="Exit with 3 when a bin is below this accuracy.")
@verify_option
@json_option()
def evaluate(
    predictor: Path,
    store_path: Path,
    space: Space | None,
    target: str | None,
    bins: int | None,
    threshold: float | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Compare a predictor with the measurements of a store, less those that it was trained on."""
    from esm_onnx.prediction.evaluation import evaluate as compare

    loaded = LoadedPredictor.open(predictor, verify=verify)
    with Store(store_path, create=False) as store:
        content = _what_it_is_for(store, loaded, space, target)
        loaded.check_space(content.space)
        measured = assemble(store, content.space, content.target, quantity=loaded.quantity)
    seen = loaded.trained_on(measured.genomes)
    unseen = measured.select(~seen)
    if not len(unseen):
        raise InputError(f"trained on all {len(seen)} measurements, expected others too: measure more", file=predictor)
    if content.target.digest != loaded.target.digest:
        click.echo(f"note: measured on {content.target.name!r}, predicted for {loaded.target.name!r}", err=True)
    latency, lower, upper = loaded.predict(unseen.genomes)
    inside = ((lower <= unseen.latency_ms) & (unseen.latency_ms <= upper))[~loaded.calibrated_on(unseen.genomes)]
    coverage = Coverage(
        100 * loaded.metadata["interval"]["coverage"], float(100 * inside.mean()) if inside.size else None
    )
    evaluation = compare(
        latency, unseen.latency_ms, unseen.depths, divide(loaded.space, bins), unseen.noise_floor, coverage
    )
    if as_json:
        told = loaded.quantity.named(evaluation.as_json())
        print_json({"measurements": len(unseen), "trained_on": int(seen.sum()), **told})
    else:
        print_evaluation(evaluation, loaded.quantity)
        others = "; on the others it was trained" if seen.any() else ", none of which it was trained on"
        click.echo(f"{len(unseen)} of {len(seen)} measurements{others}")
    worst = evaluation.worst_bin
    accuracy = worst.accuracy if worst else None
    if threshold is not None and worst and accuracy is not None and accuracy < 100 * threshold:
        raise ThresholdNotMet(f"bin {worst.name} has accuracy {accuracy:.2f} %, expected {100 * threshold:g} %")


@click.command()
@click.argument("predictor", type=FILE)
@click.argument("architectures", type=FILE)
@click.option("--space", type=SPACE, help="Make sure that the predictor is for this space.")
@click.option("--out", type=OUT, help="JSON Lines file.  [default: standard output]")
@verify_option
def predict(predictor: Path, architectures: Path, space: Space | None, out: Path | None, verify: bool) -> None:
    """Predict the latency, or what the predictor is for, of each architecture as JSON Lines (`-`: standard input)."""
    loaded = LoadedPredictor.open(predictor, verify=verify)
    if space is not None:
        loaded.check_space(space)
    chosen = read_architectures(architectures, loaded.space)
    rows = loaded.predict(np.array([to_genome(loaded.space, architecture) for architecture in chosen], np.int64))
    values = zip(*(column.tolist() for column in rows), strict=True)
    write_lines(
        (
            {
                name: value if np.isfinite(value) else None
                for name, value in zip(loaded.quantity.outputs, row, strict=True)
            }
            for row in values
        ),
        out,
    )


def read_dataset(path: Path, space: Space, quantity: Quantity = LATENCY) -> Dataset:
    """The measurements of a file, whatever they were made on."""
    with TemporaryDirectory() as folder, Store(Path(folder) / "test.db") as store:
        import_file(store, path, space, target="test")
        content = choose(store, space=space, quantity=quantity)
        return assemble(store, space, content.target, quantity=quantity)


def _what_it_is_for(store: Store, loaded: LoadedPredictor, space: Space | None, target: str | None) -> Content:
    """The predictor's own space and target, where the store has them and nothing else is asked for."""
    contents = store.contents(fields_beside(loaded.quantity))
    if space is None and loaded.space.fingerprint in {content.space.fingerprint for content in contents}:
        space = loaded.space
    if target is None and loaded.target.digest in {content.target.digest for content in contents}:
        target = loaded.target.digest
    return choose(store, space=space, target=target, quantity=loaded.quantity)


def print_evaluation(evaluation: Evaluation, quantity: Quantity = LATENCY) -> None:
    """The accuracy table: overall and by bin."""
    parts = [("all", evaluation.overall), *((part.name, part.metrics) for part in evaluation.bins)]
    rows = [(name, *_cells(metrics)) for name, metrics in parts]
    columns = ("depth", "rows", "accuracy %", f"RMSE {quantity.unit}", "RMSE %", "±5 %", "±10 %", "Spearman", "Kendall")
    print_table(columns, rows)
    if evaluation.noise_floor is not None and evaluation.reachable is not None:
        click.echo(
            f"noise floor: repeated measurements have a relative standard deviation of {evaluation.noise_floor:.2f} %; "
            f"a perfect predictor would show {evaluation.reachable:.2f} %"
        )
    coverage = evaluation.coverage
    if coverage is not None:
        found = "too few held-out rows to measure it" if coverage.measured is None else f"{coverage.measured:.1f} %"
        _, lower, upper = quantity.outputs
        click.echo(f"{lower} to {upper}: stated to enclose {coverage.stated:g} %, measured {found}")


def _cells(metrics: Metrics | None) -> tuple[str, ...]:
    if metrics is None:
        return ("0", *[""] * 7)
    ranks = ["" if rank is None else f"{rank:.3f}" for rank in (metrics.spearman, metrics.kendall)]
    shares = [f"{share:.1f}" for share in (metrics.rmse_percent, metrics.within_5, metrics.within_10)]
    return (str(metrics.count), f"{metrics.accuracy:.2f}", f"{metrics.rmse_ms:.4g}", *shares, *ranks)
