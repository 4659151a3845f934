"""`runtimes`, `profile`, `time`: how fast it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from esm_onnx.architectures import Architecture, Space, read_architectures, to_json
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.cli.interrupting import NOTHING, interruptible, kept_in
from esm_onnx.cli.layering import print_layers, time_layers
from esm_onnx.cli.live import live
from esm_onnx.cli.options import (
    FILE,
    fleet_option,
    json_option,
    measuring_options,
    output_options,
    quantities_option,
    runtime_option,
    seed_option,
    space_option,
    store_option,
)
from esm_onnx.cli.presets import preset_option
from esm_onnx.cli.printing import FEW, Printer, print_json, print_table, printer_of
from esm_onnx.errors import EsmError, InputError, WorkError
from esm_onnx.export import ExportSettings
from esm_onnx.files import cache_folder
from esm_onnx.measurement.estimate import relative_error, trimmed_mean
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import relative_std
from esm_onnx.measurement.runtime import SWITCHES, RuntimeSettings, find_runtime, list_runtimes
from esm_onnx.measurement.session import Outcome, Profiler, Progress, profile_together
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.timing import Timing
from esm_onnx.measurement.worker import Lost, Worker

TIMING = ("device", "threads", "precision", *SWITCHES, "runs", "warmup", "deadline", "memory")
"""Those of the measuring options that hold for any ONNX file."""


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
@click.option("--architectures", type=FILE, help="JSON Lines file of architectures.")
@click.option(
    "--lookup-table",
    "--blocks",
    "blocks",
    is_flag=True,
    help="Instead, each block by itself: the lookup table of `lut` and `lut-bias`.",
)
@click.option("--layers", is_flag=True, help="Where the time goes, block by block; fills the lookup table too.")
@store_option()
@preset_option
@click.option(
    "--runtime",
    "runtime_names",
    multiple=True,
    required=True,
    help="Name or alias; `esm-onnx runtimes` lists them. Several take turns, subnet by subnet.",
)
@measuring_options
@fleet_option
@quantities_option("What to measure; the latency always is.")
@seed_option()
@output_options
def profile(
    space: Space,
    architectures: Path | None,
    blocks: bool,
    layers: bool,
    store_path: Path,
    runtime_names: tuple[str, ...],
    fleet: str | None,
    as_json: bool,
    json_lines: bool,
    **measuring: Any,
) -> None:
    """Time architectures on a runtime; those that the store holds already are not timed again."""
    if blocks == (architectures is not None):
        raise click.UsageError("what shall be timed? Expected either --architectures or --lookup-table")
    if blocks and layers:
        raise click.UsageError("--layers are those of whole networks, expected --architectures and no --lookup-table")
    chosen = table_entries(space) if architectures is None else read_architectures(architectures, space)
    space = block_space(space) if blocks else space
    names = distinct(runtime_names)
    if fleet is not None:
        if layers or len(names) > 1:
            raise click.UsageError("a fleet measures latencies on one runtime, expected no --layers and one --runtime")
        on_fleet = {**measuring, "fleet": fleet, "runtime": names[0]}
        _profile_on_fleet(space, chosen, store_path, printer_of(as_json, json_lines), json_lines, on_fleet)
        return
    printer = printer_of(as_json, json_lines)
    with interruptible(lambda: NOTHING if layers else kept_in(store_path)), ExitStack() as kept:
        store = kept.enter_context(Store(store_path))
        view = kept.enter_context(live("starting", events=json_lines))
        reports = told_together(view.report, names)
        measurers = [
            kept.enter_context(profiler(space, store, report, runtime=name, **options))
            for name, report, options in zip(names, reports, switched(names, measuring), strict=True)
        ]
        view.begin("measuring")
        if layers:
            timed = [time_layers(measurer, chosen, view.report) for measurer in measurers]
        else:
            outcomes = profile_together(measurers, chosen)
    if layers:
        print_layers(timed, printer)
        return
    done = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    _print_outcomes(done, space, store_path, printer, many=len(names) > 1)
    _raise_errors({name: e for name, e in zip(names, outcomes, strict=True) if isinstance(e, EsmError)}, names)
    _demand_any(done)


def _demand_any(outcomes: Sequence[Outcome]) -> None:
    if any(outcome.failures and not outcome.measured + outcome.already_measured for outcome in outcomes):
        raise WorkError("no architecture could be measured")


def _profile_on_fleet(
    space: Space,
    chosen: Sequence[Architecture],
    store_path: Path,
    printer: Printer | None,
    events: bool,
    measuring: Mapping[str, Any],
) -> None:
    from esm_onnx.cli.fleeting import demand_all, opened_fleet  # which imports from here

    with interruptible(lambda: kept_in(store_path)), Store(store_path) as store:
        with live("starting", events=events) as view:
            with opened_fleet(space, store, view.report, **measuring) as devices:
                view.begin("measuring")
                outcome = devices.profile(chosen)
    _print_outcomes(outcome.outcomes, space, store_path, printer, many=True)
    demand_all(outcome)
    _demand_any([each for each in outcome.outcomes if not outcome.lost])


def _raise_errors(errors: Mapping[str, EsmError], names: Sequence[str]) -> None:
    """Raises the first error, of several runtimes with its name; others are told before."""
    for name, error in list(errors.items())[1:]:
        click.echo(f"{name}: {error}", err=True)
    for name, error in errors.items():
        raise error if len(names) == 1 else type(error)(f"{name}: {error}")


def distinct(names: Sequence[str]) -> list[str]:
    """The names of runtimes without those that mean one again, by an alias say."""
    return list(dict.fromkeys(find_runtime(name).name for name in names))


def switched(names: Sequence[str], measuring: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options for each of several runtimes: a switch is for those that have it, and for all where none has it."""
    has = {name: set(find_runtime(name).switches) for name in names}
    common = {switch for switch in SWITCHES if not any(switch in each for each in has.values())}
    return [{**measuring, **{s: None for s in SWITCHES if s not in has[name] and s not in common}} for name in names]


def told_together(report: Callable[[Progress], None], names: Sequence[str]) -> list[Callable[[Progress], None]]:
    """What each of several runtimes reports to: counts are of all, and each says its name with what it has to tell."""
    done = dict.fromkeys(names, 0)

    def tell(name: str, progress: Progress) -> None:
        done[name] = progress.done
        total, message = len(names) * progress.total, progress.message and f"{name}: {progress.message}"
        report(replace(progress, total=total, done=sum(done.values()), message=message, source=name))

    return [partial(tell, name) for name in names] if len(names) > 1 else [report]


def profiler(space: Space, store: Store, report: Callable[[Progress], None], **measuring: Any) -> Profiler:
    """The profiler that the measuring options describe."""
    return Profiler(
        space,
        store,
        measuring["runtime"],
        folder=measuring["folder"] or cache_folder(),
        settings=runtime_settings(measuring),
        export=export_settings(measuring),
        protocol=protocol_of(measuring),
        name=measuring["target"],
        retry_failed=measuring["retry_failed"],
        report=report,
    )


PROTOCOL = ("paired", "runs", "target_error", "warmup", "references", "reference_every", "session_size")
JUDGING = ("tolerance", "attempts", "seed", "quantities")


def protocol_of(measuring: Mapping[str, Any]) -> Protocol:
    """The protocol that the measuring options describe."""
    memory = measuring["memory"]
    return Protocol(
        deadline_s=measuring["deadline"],
        memory_bytes=None if memory is None else int(memory * 2**30),
        **{name: measuring[name] for name in (*PROTOCOL, *JUDGING)},
    )


def runtime_settings(measuring: Mapping[str, Any]) -> RuntimeSettings:
    """The runtime's settings that the measuring options describe."""
    switches = {name: measuring[name] for name in SWITCHES if measuring[name] is not None}
    if isinstance(measuring["device"], tuple):
        raise click.UsageError(f"{len(measuring['device'])} devices, expected one, or --fleet")
    named = ("device", "threads", "precision", "seed")
    return RuntimeSettings(**{name: measuring[name] for name in named if name in measuring}, switches=switches)


def export_settings(measuring: Mapping[str, Any]) -> ExportSettings:
    """The export's settings that the measuring options describe."""
    return ExportSettings(**{name: measuring[name] for name in ("batch", "opset", "embed_weights")})


def _print_outcomes(
    outcomes: Sequence[Outcome], space: Space, store: Path, printer: Printer | None, *, many: bool
) -> None:
    """The outcome of one runtime as it is, of many as a list."""
    if printer is not None:
        if outcomes:
            values = [_outcome_as_json(outcome, space) for outcome in outcomes]
            printer(values if many else values[0])
        return
    for outcome in outcomes:
        _print_outcome(outcome, store)
    if any(outcome.failures for outcome in outcomes):
        click.echo("  after two failures an architecture is left alone; --retry-failed tries it again")


def _outcome_as_json(outcome: Outcome, space: Space) -> dict[str, Any]:
    return {
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


def _print_outcome(outcome: Outcome, store: Path) -> None:
    click.echo(
        f"{outcome.measured} measured on {outcome.target.name!r}, {outcome.already_measured} were there already, "
        f"{len(outcome.failures)} failed; store {store}"
    )
    if outcome.weakly_measured:
        weakly = f"{outcome.weakly_measured} of those were measured with less care than is asked for now"
        click.echo(f"  {weakly}; another --store measures them anew")
    for failure in outcome.failures[:FEW]:
        click.echo(f"  failed ({failure.kind}): {failure.message}")


@click.command(name="time", params=[option for option in profile.params if option.name in TIMING])
@runtime_option
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@json_option()
def time_files(
    files: tuple[Path, ...],
    runtime: str,
    runs: int,
    warmup: int,
    deadline: float,
    memory: float | None,
    as_json: bool,
    **measuring: Any,
) -> None:
    """Time any ONNX files, each checked before it is loaded: standard operators only, and no files beside it but a pool
    of weights that `export` made."""
    memory_bytes = None if memory is None else int(memory * 2**30)
    for file in files:
        demand_precision(file, measuring["precision"])
    with Worker(find_runtime(runtime).name, runtime_settings(measuring), memory_bytes=memory_bytes) as worker:
        replies = [worker.time(f, runs=runs, warmup=warmup, deadline_s=deadline, check=True) for f in files]
        facts = {"runtime": find_runtime(runtime).name, **worker.facts, "precision": measuring["precision"]}
    rows = [{"file": str(file), **_timed(reply)} for file, reply in zip(files, replies, strict=True)]
    if as_json:
        print_json({"facts": facts, "files": rows})
    else:
        columns = ("file", "latency ms", "± ms", "minimum ms", "spread", "failure")
        print_table(columns, (_cells(row) for row in rows))
    refused = [row["message"] for row in rows if row.get("kind") == "refused"]
    if refused:
        raise InputError(refused[0] + (f" (and {len(refused) - 1} more files refused)" if refused[1:] else ""))
    if all("kind" in row for row in rows):
        raise WorkError(f"no file could be timed: {rows[0]['kind']}: {rows[0]['message']}")


def demand_precision(file: Path, precision: str) -> None:
    """Refuses a file that is not written in the narrow precision asked for.

    Raises:
        InputError: it is in fp32.
    """
    if precision not in ("fp16", "int8") or not file.is_file():
        return
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except Exception:  # whatever is wrong with a stranger's file, the worker says it
        return
    kinds = {value.type.tensor_type.elem_type for value in graph.input} | {w.data_type for w in graph.initializer}
    operators = {node.op_type for node in graph.node}
    written = {"fp16": onnx.TensorProto.FLOAT16 in kinds, "int8": "QuantizeLinear" in operators}
    if not written[precision]:
        raise InputError(
            f"written in another precision, expected {precision}: write it so, or leave out --precision", file=file
        )


def _timed(reply: Timing | Lost) -> dict[str, Any]:
    """What is known of a file: its latency and half its 95 % interval in ms, or why there are none."""
    if isinstance(reply, Lost):
        return {"kind": reply.kind, "message": reply.message}
    runs_ms = np.array(reply.runs_ns) / 1e6
    latency_ms = trimmed_mean(runs_ms)
    error = relative_error(runs_ms)
    return {
        "latency_ms": latency_ms,
        "error_ms": latency_ms * error if math.isfinite(error) else None,
        "minimum_ms": float(runs_ms.min()),
        "spread": relative_std(runs_ms.tolist()),
        "runs_ms": runs_ms.tolist(),
        **reply.quantities,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "kind" in row:
        return row["file"], "", "", "", "", f"{row['kind']}: {row['message']}"
    error = "" if row["error_ms"] is None else f"{row['error_ms']:.2g}"
    return (
        row["file"],
        f"{row['latency_ms']:.4g}",
        error,
        f"{row['minimum_ms']:.4g}",
        f"{100 * row['spread']:.1f} %",
        "",
    )
