"""`check`: is this predictor as it was written, and how fast is it here?"""

from __future__ import annotations

from pathlib import Path

import click

from esm_onnx.cli.options import FILE, json_option
from esm_onnx.cli.printing import print_json, print_table
from esm_onnx.prediction.loaded import LoadedPredictor

BATCH = 1024
TOLD = ("space", "fingerprint", "target", "quantity", "encoding", "surrogate", "measurements", "accuracy", "interval")


@click.command()
@click.argument("predictor", type=FILE)
@json_option()
def check(predictor: Path, as_json: bool) -> None:
    """Verify a predictor: its digest, and what it predicts for the test genomes that it carries."""
    loaded = LoadedPredictor.open(predictor, threads=1)
    selftest = {
        "rows": len(loaded.selftest.genomes),
        "deviation": loaded.test(),
        "tolerance": loaded.selftest.tolerance,
    }
    speed = {
        "threads": 1,
        "call_ms": loaded.call_ms(1),
        "batch": BATCH,
        "per_second": 1000 * BATCH / loaded.call_ms(BATCH, calls=50),
    }
    if as_json:
        told = {name: loaded.metadata[name] for name in TOLD}
        print_json({"predictor": str(predictor), **told, "sha256": loaded.digest, "selftest": selftest, "speed": speed})
        return
    measured, target = loaded.metadata["measurements"], loaded.target
    facts = ", ".join(f"{name} {value}" for name, value in target.facts.items())
    surrogate, encoding = loaded.metadata["surrogate"], loaded.metadata["encoding"]["name"]
    rows = [
        ("space", f"{loaded.space.name} ({loaded.space.fingerprint})"),
        ("target", f"{target.name} ({facts or 'no facts'})"),
        ("predicts", f"{loaded.quantity.field}, by {surrogate} on {encoding}"),
        ("measurements", f"{measured['trained']} trained on, {measured['calibrated']} for the interval"),
        ("SHA-256", f"{loaded.digest}, as written"),
        ("self-test", f"{selftest['rows']} test genomes, greatest deviation {100 * selftest['deviation']:.2g} %"),
        ("one call", f"{1000 * speed['call_ms']:.1f} µs in one thread"),
        (f"batches of {BATCH:,}", f"{speed['per_second']:,.0f} predictions/s in one thread"),
    ]
    print_table(("", "found"), rows)
