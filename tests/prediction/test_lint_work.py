"""Launch-bound sets: recognised where the latency is one of starting kernels, and nowhere else."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

from esm_onnx.architectures import Space, find_space, from_json, sample, to_genome
from esm_onnx.export import ExportSettings
from esm_onnx.export.cost import graph_of
from esm_onnx.measurement.runtime import find_runtime
from esm_onnx.prediction.lint import lint, rows_of_genomes
from esm_onnx.prediction.lint_table import Finding

ROWS = 60
CPU_SET = Path(__file__).parents[1] / "data/mobilenetv3_ort_cpu.jsonl.gz"


def launch_bound(space: Space, genomes: object, latency_ms: object) -> list[Finding]:
    rows = rows_of_genomes(space, np.array(genomes, np.int64), np.array(latency_ms, np.float64))
    return [finding for finding in lint(rows) if finding.kind == "launch-bound"]


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("mobilenetv3", "gpu", True),  # its kernels are shorter than the 5 µs that starting one takes
        ("mobilenetv3", "cpu", False),
        ("mobilenetv3", "board", False),
        ("resnet", "gpu", False),
        ("resnet", "cpu", False),
        ("densenet", "gpu", False),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_what_the_formula_of_dry_says(name: str, device: str, expected: bool, noise: float) -> None:
    dry = sys.modules[find_runtime("dry").__module__]
    space, rng = find_space(name), np.random.default_rng(0)
    chosen = sample(space, ROWS, strategy="balanced", rng=Random(1))
    exact = [dry.cost_ms(graph_of(space, each, ExportSettings()), dry.DEVICES[device]) for each in chosen]
    found = launch_bound(space, [to_genome(space, a) for a in chosen], exact * np.exp(rng.normal(0, noise, ROWS)))
    assert bool(found) is expected


def test_a_cpu_is_not_launch_bound() -> None:
    space = find_space("mobilenetv3")
    with gzip.open(CPU_SET, "rt") as file:
        lines = [json.loads(line) for line in file]
    genomes = [to_genome(space, from_json(space, line["architecture"])) for line in lines]
    assert not launch_bound(space, genomes, [line["latency_ms"] for line in lines])


def test_too_few_rows_say_nothing() -> None:
    space = find_space("mobilenetv3")
    chosen = sample(space, 19, strategy="balanced", rng=Random(1))
    assert not launch_bound(space, [to_genome(space, a) for a in chosen], np.linspace(1, 2, 19))
