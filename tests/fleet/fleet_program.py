"""What a head does, as a program of its own that can be killed: its one argument is JSON, and so is what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from esm_onnx.architectures import sample
from esm_onnx.cluster import connected
from esm_onnx.errors import EsmError
from esm_onnx.fleet.remote import Patience
from esm_onnx.fleet.run import Fleet
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space


def main(given: dict[str, Any]) -> None:
    space, folder = tiny_space(), Path(given["folder"])
    asked = sample(space, given["count"], strategy="random", rng=Random(0))
    resources = dict.fromkeys(given["devices"], 1.0)
    extra = "ray.util.scheduling_strategies"
    with (
        connected(given["address"], folder, option="--fleet", extra=extra, resources=resources) as ray,
        Store(folder / "esm.db") as store,
        Fleet(
            ray,
            space,
            store,
            given["runtime"],
            given["devices"],
            patience=Patience(**given["patience"]),
            folder=folder / "subnets",
            node_folder=folder / "nodes",
            protocol=Protocol(**given["protocol"]),
            report=lambda progress: print(progress.message, file=sys.stderr) if progress.message else None,
        ) as fleet,
    ):
        outcome = fleet.profile(asked)
    measured = {each.target.name: each.measured for each in outcome.outcomes}
    print(json.dumps({"measured": measured, "left": outcome.left, "lost": dict(outcome.lost)}))


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except EsmError as error:
        sys.exit(f"error: {error}")
