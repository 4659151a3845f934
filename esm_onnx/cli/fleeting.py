"""`--fleet` of `profile` and `build`, and `fleet start`: nodes that nobody uses without the token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from esm_onnx.architectures import Architecture, Space
from esm_onnx.cli.measuring import export_settings, profiler, protocol_of, runtime_settings
from esm_onnx.cluster import AUTO, HERE, NODE, STORE_BYTES, connected, prepare_token, running
from esm_onnx.errors import InputError, WorkError
from esm_onnx.files import cache_folder
from esm_onnx.fleet.run import Fleet, FleetOutcome, read_devices
from esm_onnx.measurement.session import Progress
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target

PORT = 6379
"""Ray's own."""


@contextmanager
def opened_fleet(
    space: Space, store: Store, report: Callable[[Progress], None], *, fleet: str, **measuring: Any
) -> Iterator[Fleet]:
    """The fleet that the measuring options describe, connected."""
    given = measuring["device"] or ()
    devices = read_devices([given] if isinstance(given, str) else given)
    address = (running() or HERE) if fleet == AUTO else fleet
    with TemporaryDirectory(prefix="esm-onnx-") as folder:
        resources, extra = dict.fromkeys(devices, 1.0), "ray.util.scheduling_strategies"
        with (
            redirect_stdout(sys.stderr),  # Ray tells of processes that died where our result is to stand
            connected(address, Path(folder), option="--fleet", extra=extra, resources=resources) as ray,
            Fleet(
                ray,
                space,
                store,
                measuring["runtime"],
                devices,
                report=report,
                node_folder=measuring["folder"],
                folder=measuring["folder"] or cache_folder(),
                settings=runtime_settings({**measuring, "device": None}),
                export=export_settings(measuring),
                protocol=protocol_of(measuring),
                name=measuring["target"],
                retry_failed=measuring["retry_failed"],
            ) as opened,
        ):
            yield opened


@contextmanager
def measuring_on(
    space: Space, store: Store, report: Callable[[Progress], None], *, fleet: str | None, **measuring: Any
) -> Iterator[tuple[Target, Callable[..., object]]]:
    """The one target that the measuring options describe, and what measures on it: `Profiler.profile`, or a fleet's.

    Raises:
        InputError: the devices are several targets.
    """
    if fleet is None:
        with profiler(space, store, report, **measuring) as measurer:
            yield measurer.target, measurer.profile
        return
    with opened_fleet(space, store, report, fleet=fleet, **measuring) as devices:
        if len(devices.targets) > 1:
            names = ", ".join(repr(target.name) for target in devices.targets)
            raise InputError(f"the devices are several targets ({names}), expected one: a predictor is of one")

        def profile(architectures: Sequence[Architecture], *, enough: Callable[[], bool]) -> None:
            outcome = devices.profile(architectures, enough=enough)
            if not enough():
                demand_all(outcome)

        yield devices.targets[0], profile


def demand_all(outcome: FleetOutcome) -> None:
    """Refuses a partial result.

    Raises:
        WorkError: architectures are left.
    """
    if outcome.left:
        raise WorkError(
            f"{outcome.left} architectures are left, because devices were given up ({'; '.join(outcome.lost.values())})"
            ": what was measured is kept, and the same command goes on where it was"
        )


@click.group()
def fleet() -> None:
    """Devices that measure together, each a node of a Ray cluster; see docs/fleet.md."""


@fleet.command(context_settings={"ignore_unknown_options": True})
@click.option("--address", metavar="HOST[:PORT]", help="The head to join.  [default: this machine is the head]")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, help="Where a head listens.")
@click.option("--ip", metavar="ADDRESS", help="Which of this machine's addresses the others reach.")
@click.option("--device", "devices", multiple=True, help="Kind of a device of this node, such as rpi4.")
@click.option("--node-name", help="What the node is called in records.  [default: its address]")
@click.argument("ray_options", nargs=-1, type=click.UNPROCESSED)
def start(
    address: str | None,
    port: int,
    ip: str | None,
    devices: tuple[str, ...],
    node_name: str | None,
    ray_options: tuple[str, ...],
) -> None:
    """Start a head or a node of a fleet, which asks for a token; options after `--` are those of `ray start`.

    The head makes the token, in ~/.ray/auth_token, which only its owner can read; every node needs a copy of the file.
    """
    token = prepare_token(make=address is None)
    resources = dict.fromkeys(read_devices(devices), 1) if devices else {}
    joined = None if address is None else address if ":" in address else f"{address}:{port}"
    where = ["--head", f"--port={port}", "--include-dashboard=false"] if joined is None else [f"--address={joined}"]
    options = [
        *where,
        f"--resources={_json(resources)}",
        "--num-cpus=1",
        "--num-gpus=0",
        f"--object-store-memory={STORE_BYTES}",
        "--disable-usage-stats",
        *([f"--node-ip-address={ip}"] if ip else []),
        *([f"--node-name={node_name}"] if node_name else []),
        *ray_options,
    ]
    click.echo(f"token {token}: whoever has it can run anything on every node", err=True)
    environment = {**os.environ, **NODE}
    done = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "start", *options], env=environment)
    if done.returncode:
        raise WorkError(f"`ray start` ended with exit code {done.returncode}: its words are above")


def _json(resources: Mapping[str, int]) -> str:
    return "{" + ", ".join(f'"{name}": {count}' for name, count in resources.items()) + "}"
