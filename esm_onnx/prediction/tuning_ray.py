"""The same search by Ray Tune's `ASHAScheduler`, on the cores of this machine or on a cluster that is there.

What is started here listens on this machine alone, asks for a token that nobody else knows, tells nobody of its use,
and is gone in the end, with its files.
"""

from __future__ import annotations

import importlib
import math
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esm_onnx.errors import InputError, WorkError
from esm_onnx.prediction.ofa_paper import Hyperparameters
from esm_onnx.prediction.surrogate import Examples
from esm_onnx.prediction.tuning import DIVERGED, FINISHED, STOPPED, Outcome, Report, Trainee, TuneSettings

HERE = "local"
"""In place of an address: a cluster of this machine's cores, for as long as the search takes."""

ANSWER_S = 5.0
"""For a cluster to answer in; Ray itself goes on asking for minutes."""

STORE_BYTES = 256 * 2**20
"""Of Ray's object store, which holds the encoded rows once."""

WORST = 1e30
"""Told of a combination that diverged: Ray compares numbers alone."""

EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one says nothing when it is told to
}
ALONE = {
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: no cluster of several machines, so the loopback will do
}
"""Environment that Ray reads when it is imported and started."""


def search_with_ray(
    train: Examples,
    validation: Examples,
    settings: TuneSettings,
    *,
    address: str = HERE,
    processes: int = 1,
    report: Report | None = None,
) -> list[Outcome]:
    """What becomes of each combination, in their order; which are stopped depends on who comes first.

    Args:
        address: of a running cluster; HERE starts one of `processes` cores.

    Raises:
        InputError: Ray is not installed.
        WorkError: nothing answers at the address, or Ray gave up.
    """
    with TemporaryDirectory(prefix="esm-onnx-") as folder, _ray(address, processes, Path(folder)) as tune:
        rows = _results(tune, Path(folder), train, validation, settings)
    outcomes = {outcome.hyperparameters: outcome for outcome in (_outcome(row, settings) for row in rows)}
    if missing := [chosen for chosen in settings.combinations if chosen not in outcomes]:
        raise WorkError(f"Ray has no result of {len(missing)} combinations, of {missing[0]} first: run it again")
    if report is not None:
        for outcome in outcomes.values():
            report(outcome)
    return [outcomes[chosen] for chosen in settings.combinations]


def _results(
    tune: Any, folder: Path, train: Examples, validation: Examples, settings: TuneSettings
) -> list[dict[str, Any]]:
    """The last result of each combination."""
    scheduler = tune.schedulers.ASHAScheduler(
        time_attr="epochs", max_t=settings.epochs, grace_period=settings.grace, reduction_factor=settings.eta
    )
    trainable = tune.with_parameters(_trainable(tune), train=train, validation=validation, settings=settings)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"chosen": tune.grid_search([asdict(chosen) for chosen in settings.combinations])},
        tune_config=tune.TuneConfig(metric="rmse_ms", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder / "results"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    grid = tuner.fit()
    if grid.errors:
        raise WorkError(f"Ray: {str(grid.errors[0]).strip().splitlines()[-1]}")
    return [{**result.metrics, **result.config} for result in grid]


def _trainable(tune: Any) -> type[Any]:
    """What Ray trains, a step for each milestone; it starts anew in the same process (`reuse_actors`)."""

    class Combination(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], train: Examples, validation: Examples, settings: TuneSettings) -> None:
            self._given = train, validation, settings
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._trainee = Trainee(*self._given, Hyperparameters(**new_config["chosen"]))
            return True

        def step(self) -> dict[str, Any]:
            outcome = self._trainee.advance()
            diverged = not math.isfinite(outcome.rmse_ms)
            return {"epochs": outcome.epochs, "rmse_ms": WORST if diverged else outcome.rmse_ms, "done": diverged}

    return Combination


def _outcome(row: dict[str, Any], settings: TuneSettings) -> Outcome:
    epochs, rmse_ms = int(row["epochs"]), float(row["rmse_ms"])
    chosen = Hyperparameters(**row["chosen"])
    if rmse_ms >= WORST:
        return Outcome(chosen, epochs, math.inf, DIVERGED)
    return Outcome(chosen, epochs, rmse_ms, FINISHED if epochs >= settings.epochs else STOPPED)


@contextmanager
def _ray(address: str, processes: int, folder: Path) -> Iterator[Any]:
    """`ray.tune`, connected; what was started for it is shut down in the end."""
    if address != HERE:
        _demand_answer(address)
    started = {**ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)} if address == HERE else {}
    with _environment({**EVERYWHERE, **started}):
        try:
            ray, tune = importlib.import_module("ray"), importlib.import_module("ray.tune")
        except ImportError as error:
            raise InputError(f"Ray Tune is needed ({error}): pip install 'esm-onnx[ray]', or leave out --ray") from None
        if ray.is_initialized():
            raise InputError("Ray is in use in this process, expected to connect it ourselves: call ray.shutdown()")
        quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        try:
            if address == HERE:
                resources = {"num_cpus": processes, "num_gpus": 0, "object_store_memory": STORE_BYTES}
                ray.init("local", include_dashboard=False, _temp_dir=str(folder / "ray"), **resources, **quiet)
                _demand_loopback(ray.util.get_node_ip_address())
            else:
                ray.init(address, **quiet)
            yield tune
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WorkError(f"Ray: {' '.join(str(error).split())[:200]}") from None
        finally:
            ray.shutdown()


def _demand_answer(address: str) -> None:
    """Makes sure that something listens; an address of another form is Ray's to judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isascii() and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise WorkError(
                f"nothing answers at {address} ({error}), expected a running cluster: `ray start --head` starts one, "
                "and without an address --ray takes this machine's cores"
            ) from None


def _demand_loopback(address: str) -> None:
    if not address.startswith("127."):
        raise WorkError(
            f"Ray listens on {address}, expected this machine alone: it was imported before; search in another process"
        )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables while it lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
