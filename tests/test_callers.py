"""tools/callers: what others call predictor.onnx from, run as they would."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.made_up import checked, drawn, moderate_spaces, predictor_of, random_mlp, rows
from prediction.predictors import file_of, thousand

from esm_onnx.architectures import Space, from_genome
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor_onnx import write_predictor

ROOT = Path(__file__).parents[1]
CALLERS = ROOT / "tools/callers"
NODE = Path(os.environ.get("ESM_ONNX_NODE", ROOT / "build/node")) / "node_modules"
ALONE = "import runpy, sys; sys.modules['esm_onnx'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
"""Runs a script as if esm_onnx were not installed."""


@pytest.fixture
def predictor(tmp_path: Path) -> LoadedPredictor:
    """Of a space with options of the network, of units and of blocks."""
    (tmp_path / "predictor.onnx").write_bytes(file_of("mlp"))
    return LoadedPredictor.open(tmp_path / "predictor.onnx")


def printed(command: list[str], given: str = "") -> list[list[str]]:
    """What a caller prints, word by word; it has nothing to complain about."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split(" ", 2) for line in done.stdout.splitlines()]


def some_genomes() -> np.ndarray:
    genomes = thousand("mlp")[:50].copy()
    genomes[7, 0] = 3  # no such option
    return genomes


def assert_predicted(predictor: LoadedPredictor, lines: list[list[str]]) -> None:
    found = np.array(lines, float)
    assert np.isnan(found).any(axis=1).tolist() == [i == 7 for i in range(50)]
    np.testing.assert_allclose(found.T, predictor.predict(some_genomes()), rtol=1e-5)


def as_lines(genomes: np.ndarray) -> str:
    return "".join(json.dumps(row) + "\n" for row in genomes.tolist())


def test_python_needs_nothing_but_onnxruntime_and_numpy(predictor: LoadedPredictor) -> None:
    command = [sys.executable, "-I", "-c", ALONE, str(CALLERS / "predict.py"), str(predictor.path)]
    assert_predicted(predictor, printed(command, as_lines(some_genomes())))


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the path")
@pytest.mark.skipif(not NODE.is_dir(), reason=f"onnxruntime-node is not installed: no {NODE}")
def test_node_predicts_the_same(predictor: LoadedPredictor, tmp_path: Path) -> None:
    for name in ("predict.mjs", "package.json"):
        shutil.copy(CALLERS / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE)
    command = ["node", str(tmp_path / "predict.mjs"), str(predictor.path)]
    assert_predicted(predictor, printed(command, as_lines(some_genomes())))


@pytest.mark.parametrize(("script", "package"), [("with_pymoo.py", "pymoo"), ("with_optuna.py", "optuna")])
def test_a_search_tool_finds_a_front(predictor: LoadedPredictor, script: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    lines = printed([sys.executable, str(CALLERS / script), str(predictor.path)])
    genomes = np.array([json.loads(genome) for _, _, genome in lines], np.int64)
    latency_ms, capacity = (np.array(column, float) for column in zip(*[line[:2] for line in lines], strict=True))
    np.testing.assert_allclose(latency_ms, predictor.predict(genomes)[0], rtol=1e-5)
    np.testing.assert_array_equal(capacity, (genomes + 1).sum(axis=1))
    order = np.lexsort((-capacity, latency_ms))
    front, best = capacity[order], np.maximum.accumulate(capacity[order])
    np.testing.assert_array_equal(front, best)  # none of them is both slower and smaller than another
    rivals = thousand("mlp")
    dominated = [
        ((latency_ms <= latency) & (capacity >= size)).any()
        for latency, size in zip(predictor.predict(rivals)[0], (rivals + 1).sum(axis=1), strict=True)
    ]
    assert np.mean(dominated) > 0.9


@settings(max_examples=15, deadline=None)
@given(space=moderate_spaces(), seed=st.integers(0, 9))
def test_every_choice_of_a_search_tool_is_a_genome(
    tmp_path_factory: pytest.TempPathFactory, space: Space, seed: int
) -> None:
    path = tmp_path_factory.mktemp("described") / "predictor.onnx"
    genomes = rows(space, drawn(space, 10))
    predictor = predictor_of(space, "fc", random_mlp(space, "fc", genomes), genomes)
    write_predictor(predictor, path, check=checked(predictor, genomes))
    described = runpy.run_path(str(CALLERS / "described.py"))["Described"](str(path))
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, described.sizes, (300, len(described.sizes)))
    found = described.genomes(choices)
    architectures = [from_genome(space, row.tolist()) for row in found]
    assert np.isfinite(described.objectives(found)).all()
    if space.size <= 5:
        assert len(set(architectures)) == space.size
