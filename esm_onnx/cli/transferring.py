"""`transfer`: to a new device, from predictors of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np

from esm_onnx.architectures import Space, divide, to_json
from esm_onnx.cli.linting import examine
from esm_onnx.cli.options import FILE, OUT, json_option, quantity_option, seed_option, space_option
from esm_onnx.cli.predicting import print_evaluation, read_dataset, target_option, training_options
from esm_onnx.cli.printing import demand_one_output, print_json, print_table, write_lines
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose

SURROGATE = "hybrid"
HERE = "here"


@click.command()
@click.option("--base", "paths", type=FILE, multiple=True, required=True, help="A predictor of another device.")
@click.option("--store", "store_path", type=FILE, help="What was measured on the new device.")
@click.option("--suggest", type=click.IntRange(min=1), help="Do not train: write so many architectures to measure.")
@click.option("--gpu", help="A GPU that nobody measured: by name, or `here` for this machine's.")
@space_option(required=False)
@target_option
@quantity_option()
@training_options
@click.option("--test", "test_path", type=FILE, help="Measurements to evaluate on: what `data import` reads.")
@seed_option()
@click.option("--out", type=OUT, required=True, help="The new predictor; with --suggest the architectures.")
@json_option()
def transfer(
    paths: tuple[Path, ...],
    store_path: Path | None,
    suggest: int | None,
    gpu: str | None,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a predictor for a new device from a few measurements and the predictors of other devices.

    First `--suggest 20 --out few.jsonl`; then, on the new device, `profile --architectures few.jsonl --store new.db`;
    then `--store new.db --out predictor.onnx`. With --gpu nothing is measured: hardware numbers alone say how much
    faster or slower it is, which may be wrong by a factor.
    """
    if gpu is not None:
        if store_path is not None or suggest is not None:
            raise click.UsageError("--gpu is for a GPU without measurements, expected neither --store nor --suggest")
        _generalise(paths, gpu, out, as_json, options["seed"])
    elif suggest is not None:
        _suggest(paths, store_path, suggest, out, as_json, **options)
    elif store_path is None:
        raise click.UsageError("no --store, expected what was measured on the new device, or --suggest, or --gpu")
    else:
        _train(paths, store_path, out, as_json, **options)


def _generalise(paths: Sequence[Path], name: str, out: Path, as_json: bool, seed: int) -> None:
    from esm_onnx.prediction.base import Base
    from esm_onnx.prediction.hardware import find_gpu
    from esm_onnx.prediction.predictor_onnx import write_unmeasured
    from esm_onnx.prediction.unmeasured import Unmeasured, gpu_here, predictor_for

    name, gpu = gpu_here() if name == HERE else (name, find_gpu(name))
    predictor = predictor_for(gpu, name, [Base.open(path) for path in paths], seed)
    write_unmeasured(predictor, out)
    assert isinstance(predictor.surrogate, Unmeasured)
    found = predictor.surrogate.generalised
    factors = np.exp(found.shifts)
    rows = list(zip(map(str, paths), found.shares.tolist(), factors.tolist(), strict=True))
    if as_json:
        told = [{"base": path, "weight": weight, "factor": factor} for path, weight, factor in rows]
        print_json({"predictor": str(out), "gpu": {"name": name, **asdict(gpu)}, "bases": told})
        return
    print_table(("base", "weight %", "×"), [(path, f"{100 * weight:.0f}", f"{by:.3f}") for path, weight, by in rows])
    click.echo(f"predictor for {predictor.space.name} on {name!r}, without measurements or bounds, written to {out}")


def _suggest(
    paths: Sequence[Path],
    store_path: Path | None,
    count: int,
    out: Path,
    as_json: bool,
    *,
    space: Space | None,
    target: str | None,
    quantity: Quantity,
    bins: int | None,
    seed: int,
    **_training: Any,
) -> None:
    from esm_onnx.architectures import from_genome
    from esm_onnx.prediction.base import Base
    from esm_onnx.prediction.suggestion import suggest

    demand_one_output(out, as_json)
    bases = [Base.open(path) for path in paths]
    space = space or bases[0].loaded.space
    measured = []
    if store_path is not None:
        with Store(store_path, create=False) as store:
            content = choose(store, space=space, target=target, quantity=quantity)
            dataset = assemble(store, content.space, content.target, quantity=quantity)
        measured = [from_genome(space, genome) for genome in dataset.genomes]
    found = suggest(space, bases, count, bins=divide(space, bins), rng=Random(seed), measured=measured)
    written = write_lines((to_json(space, architecture) for architecture in found), out)
    if as_json:
        print_json({"suggested": written, "out": str(out)})


def _train(
    paths: Sequence[Path],
    store_path: Path,
    out: Path,
    as_json: bool,
    *,
    space: Space | None,
    target: str | None,
    quantity: Quantity,
    test_path: Path | None,
    surrogate: str,
    **settings: Any,
) -> None:
    from esm_onnx.prediction.base import Base
    from esm_onnx.prediction.hybrid import Hybrid
    from esm_onnx.prediction.predictor_onnx import write_predictor
    from esm_onnx.prediction.training import TrainSettings, train

    if surrogate != SURROGATE:
        raise InputError(f"surrogate is {surrogate!r}, expected {SURROGATE!r}: the others know no bases")
    training, bases = TrainSettings(surrogate, **settings), [Base.open(path) for path in paths]
    with Store(store_path, create=False) as store:
        content = choose(store, space=space or bases[0].loaded.space, target=target, quantity=quantity)
        dataset = assemble(store, content.space, content.target, quantity=quantity)
        if quantity == LATENCY:
            examine(store, content, training.split)
    test = None if test_path is None else read_dataset(test_path, content.space, quantity)
    predictor, evaluation = train(dataset, training, test=test, bases=bases)
    write_predictor(predictor, out, check=dataset)
    assert isinstance(predictor.surrogate, Hybrid)
    first = predictor.surrogate.first
    if as_json:
        told = {"weight_of_cost": first.weights[0], "bases": [asdict(verdict) for verdict in first.verdicts]}
        scores = quantity.named(evaluation.as_json())
        print_json({"predictor": str(out), "measurements": len(dataset), **told, **scores})
        return
    rows = [
        (str(path), v.name, "" if v.rank is None else f"{v.rank:.2f}", f"{100 * v.explained:.0f}",
         f"{100 * v.error:.1f}", f"{100 * v.weight:.0f}", v.refused or "")
        for path, v in zip(paths, first.verdicts, strict=True)
    ]  # fmt: skip
    rows.append(("", "measured here", "", "", "", f"{100 * first.weights[0]:.0f}", ""))
    print_table(("base", "target", "rank", "explains %", "error %", "weight %", "left out because"), rows)
    print_evaluation(evaluation, quantity)
    click.echo(f"predictor for {content.space.name} on {content.target.name!r} written to {out}")
