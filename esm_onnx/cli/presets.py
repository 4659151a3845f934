"""Defaults that belong together, by name."""

from __future__ import annotations

from typing import Any

import click

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {  # ESM, Sections III to V
        "encoding": "fcc",
        "surrogate": "mlp",
        "strategy": "balanced",
        "extend": "bins",
        "evaluation": 100,
        "initial": 300,
        "step": 100,
        "bins": 5,
        "paired": False,
        "runs": 150,
        "target_error": "none",
        "tolerance": 0.03,
    },
    "ofa-paper": {  # Syed and Srinivasan 2021; `tune` finds the hyper-parameters anew
        "surrogate": "mlp-ofa",
        "held_out": 0.3,
        "split": "time",
        "strategy": "random",
        "initial": 7000,
        "evaluation": 1500,
        "max_measurements": 8500,
        "paired": False,
        "target_error": "none",
    },
}


def _apply(context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        context.default_map = {**(context.default_map or {}), **PRESETS[name]}
    return name


preset_option = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    is_eager=True,
    expose_value=False,
    callback=_apply,
    help="Defaults of a paper; an option given beside it still counts.",
)
