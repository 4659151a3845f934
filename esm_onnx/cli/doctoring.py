"""`doctor`: is this machine fit for a long session?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from esm_onnx.architectures import Space
from esm_onnx.cli.measuring import export_settings, profile, protocol_of, runtime_settings
from esm_onnx.cli.options import json_option, space_option
from esm_onnx.cli.printing import print_json, print_table
from esm_onnx.measurement.checkup import Checkup, check_up
from esm_onnx.measurement.protocol import Protocol

UNUSED = ("paired", "session_size", "attempts", "quantities")
"""Options of `profile` that change nothing here: both ways of timing are compared, and no session is judged."""
LEFT_OUT = (
    *UNUSED,
    "architectures",
    "store_path",
    "target",
    "retry_failed",
    "preset",
    "runtime_names",
    "layers",
    "fleet",
    "blocks",
    "space",
    "as_json",
    "json_lines",
    "folder",
)
"""Those, and options that mean nothing here or stand here anew."""


@click.command(params=[option for option in profile.params if option.name not in LEFT_OUT])
@space_option(default="mobilenetv3")
@click.option("--runtime", default="ort-cpu", show_default=True, help="Name or alias.")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, help="How long to measure.")
@click.option("--count", type=click.IntRange(min=1), default=1000, help="Subnets that you mean to measure.")
@json_option()
def doctor(space: Space, runtime: str, seconds: float, count: int, as_json: bool, **measuring: Any) -> None:
    """Check this machine before a long session: what disturbs it, what error can be reached, how long it will take."""
    protocol = protocol_of(measuring | {name: getattr(Protocol(), name) for name in UNUSED})
    with tempfile.TemporaryDirectory() as folder:
        checkup = check_up(
            space,
            runtime,
            folder=Path(folder),
            settings=runtime_settings(measuring),
            export=export_settings(measuring),
            protocol=protocol,
            seconds=seconds,
            report=lambda message: click.echo(message, err=True),
        )
    hours = checkup.hours(count, protocol)
    if as_json:
        print_json({**checkup.as_json(), "count": count, "hours": hours})
        return
    _print(checkup, count, hours)


def _print(checkup: Checkup, count: int, hours: float) -> None:
    noise = checkup.noise
    print_table(
        ("", "topic", "finding", "what to do"),
        [(advice.severity, advice.topic, advice.finding, advice.advice) for advice in checkup.advice],
    )
    click.echo(
        f"{checkup.target}: {noise.rounds} rounds of references; plain timing scatters by "
        f"{_percent(noise.plain_spread)}, paired by {_percent(noise.paired_spread)}; "
        f"95 % interval of one measurement ±{_percent(noise.error)}; "
        f"speed {noise.speeds[0]:.2f} to {noise.speeds[1]:.2f} of the usual"
    )
    click.echo(f"{count} subnets will take about {_duration(hours)}")


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.1f} %"


def _duration(hours: float) -> str:
    units = (("hours", hours), ("minutes", 60 * hours))
    return next((f"{count:.1f} {unit}" for unit, count in units if count >= 1), f"{3600 * hours:.1f} seconds")
