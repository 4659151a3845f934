"""`runtimes`, `profile`: how fast it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from esm_onnx.architectures import Space, read_architectures, to_json
from esm_onnx.cli.options import (
    FILE,
    cache_folder,
    json_option,
    measuring_options,
    seed_option,
    space_option,
    store_option,
)
from esm_onnx.cli.printing import FEW, print_json, print_table, progress_bar
from esm_onnx.errors import WorkError
from esm_onnx.export import ExportSettings
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.runtime import RuntimeSettings, list_runtimes
from esm_onnx.measurement.session import Outcome, Profiler, Progress
from esm_onnx.measurement.store import Store


@click.command()
@json_option()
def runtimes(as_json: bool) -> None:
    """List all runtimes, with the reason where one cannot be used here."""
    entries = list_runtimes()
    if as_json:
        print_json([{"name": e.names[0], "aliases": list(e.names[1:]), "problem": e.problem} for e in entries])
    else:
        rows = [(e.names[0], ", ".join(e.names[1:]), e.problem or "ready") for e in entries]
        print_table(("runtime", "alias", "state"), rows)


@click.command()
@space_option()
@click.option("--architectures", type=FILE, required=True, help="JSON Lines file of architectures.")
@store_option()
@measuring_options
@seed_option()
@json_option()
def profile(space: Space, architectures: Path, store_path: Path, as_json: bool, **measuring: Any) -> None:
    """Time architectures on a runtime; those that the store holds already are not timed again."""
    chosen = read_architectures(architectures, space)
    with Store(store_path) as store, progress_bar("measuring") as report:
        with profiler(space, store, report, **measuring) as measurer:
            outcome = measurer.profile(chosen)
    _print_outcome(outcome, space, store_path, as_json)
    if outcome.failures and not outcome.measured + outcome.already_measured:
        raise WorkError("no architecture could be measured")


def profiler(space: Space, store: Store, report: Callable[[Progress], None], **measuring: Any) -> Profiler:
    """The profiler that the measuring options describe."""
    take = measuring.__getitem__
    protocol = Protocol(
        tolerance=take("tolerance"),
        deadline_s=take("deadline"),
        **{
            name: take(name)
            for name in ("runs", "warmup", "references", "reference_every", "session_size", "attempts", "seed")
        },
    )
    return Profiler(
        space,
        store,
        take("runtime"),
        folder=take("folder") or cache_folder(),
        settings=RuntimeSettings(take("device"), take("threads"), take("precision"), take("seed")),
        export=ExportSettings(take("batch"), take("opset"), take("precision"), take("embed_weights")),
        protocol=protocol,
        name=take("target"),
        retry_failed=take("retry_failed"),
        report=report,
    )


def _print_outcome(outcome: Outcome, space: Space, store: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "target": outcome.target.name,
                "facts": dict(outcome.target.facts),
                "measured": outcome.measured,
                "already_measured": outcome.already_measured,
                "weakly_measured": outcome.weakly_measured,
                "failures": [
                    {
                        "architecture": to_json(space, failure.architecture),
                        "kind": failure.kind,
                        "message": failure.message,
                    }
                    for failure in outcome.failures
                ],
                "sessions": [{"accepted": q.accepted, "spreads": dict(q.spreads)} for q in outcome.sessions],
            }
        )
        return
    click.echo(
        f"{outcome.measured} measured on {outcome.target.name!r}, {outcome.already_measured} were there already, "
        f"{len(outcome.failures)} failed; store {store}"
    )
    if outcome.weakly_measured:
        click.echo(f"  {outcome.weakly_measured} of those had fewer runs or a greater tolerance than is asked for now")
    for failure in outcome.failures[:FEW]:
        click.echo(f"  failed ({failure.kind}): {failure.message}")
    if outcome.failures:
        click.echo("  after two failures an architecture is left alone; --retry-failed tries it again")
