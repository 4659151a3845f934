"""The same search by Ray Tune's `ASHAScheduler`, on the cores of this machine or on a cluster that is there."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esm_onnx.cluster import HERE, connected
from esm_onnx.errors import WorkError
from esm_onnx.prediction.ofa_paper import Hyperparameters
from esm_onnx.prediction.surrogate import Examples
from esm_onnx.prediction.tuning import DIVERGED, FINISHED, STOPPED, Outcome, Report, Trainee, TuneSettings

WORST = 1e30
"""Told of a combination that diverged: Ray compares numbers alone."""


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
        InputError: Ray is not installed, or nothing answers at the address.
        WorkError: Ray gave up.
    """
    with TemporaryDirectory(prefix="esm-onnx-") as name:
        folder = Path(name)
        with connected(address, folder, option="--ray", extra="ray.tune", processes=processes) as ray:
            rows = _results(ray.tune, folder, train, validation, settings)
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
