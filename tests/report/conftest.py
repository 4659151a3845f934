"""One store, predictor, comparison and search that all tests of the report look at: measured on `dry`, in no time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from esm_onnx.architectures import Architecture, Space, find_space, sample, to_json
from esm_onnx.cli.comparing import csv_of
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble, choose
from esm_onnx.prediction.comparison import CompareSettings, compare
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.report.material import Material, read_material

COUNT = 70
UNSEEN = 10


@dataclass(frozen=True)
class Files:
    """What a report is made of, in one folder."""

    folder: Path
    space: Space
    architectures: tuple[Architecture, ...]

    @property
    def store(self) -> Path:
        return self.folder / "esm.db"

    @property
    def predictor(self) -> Path:
        return self.folder / "predictor.onnx"

    @property
    def comparison(self) -> Path:
        return self.folder / "compare.csv"

    @property
    def search(self) -> Path:
        return self.folder / "search.json"

    def read(self, **more: object) -> Material:
        """All of it; or without parts, which `more` empties."""
        given = {"predictors": [self.predictor], "comparisons": [self.comparison], "searches": [self.search], **more}
        with Store(self.store, create=False) as store:
            return read_material(store, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'esm-onnx[report]'")
    made = Files(tmp_path_factory.mktemp("report"), find_space("mobilenetv3"), tuple(drawn()))
    with Store(made.store) as store:
        for device in ("shared", "gpu"):
            settings, protocol = RuntimeSettings(device=device), Protocol(session_size=40)
            with Profiler(
                made.space, store, "dry", folder=made.folder, settings=settings, protocol=protocol
            ) as profiler:
                profiler.profile(made.architectures)
        target = choose(store, space=made.space, target="dry gpu").target
        some = assemble(store, made.space, target, only=made.architectures[:-UNSEEN])
        every = assemble(store, made.space, target)
    predictor, evaluation = train(some, TrainSettings(surrogate="linear"))
    told = evaluation.as_json()
    rounds = [{"round": n, "rows": 30 * n, "measurements": 30 * n, "below": [False] * n, **told} for n in (1, 2)]
    write_predictor(predictor, made.predictor, check=some, rounds=rounds)
    pairs = (("linear", "fcc"), ("linear", "feature"), ("tree", "fcc"))
    made.comparison.write_text(csv_of(compare(every, CompareSettings(pairs, (20, 40), seeds=2))))
    made.search.write_text(json.dumps(search_of(made)))
    return made


def drawn() -> list[Architecture]:
    return sample(find_space("mobilenetv3"), COUNT, strategy="balanced", rng=Random(3))


def search_of(files: Files) -> dict[str, object]:
    """What `search --front --verify --json` prints, in short; tests/cli has a real one."""
    found = [
        {
            "architecture": to_json(files.space, architecture),
            "multiply_adds": 1e6 * n,
            "latency_ms": float(n),
            "lower_ms": 0.9 * n,
            "upper_ms": None if n == 3 else 1.1 * n,
        }
        for n, architecture in enumerate(files.architectures[:6], 1)
    ]
    finalists = [
        {**each, "measured_latency_ms": 1.02 * (n + 1), "error_percent": -2.0} for n, each in enumerate(found[:3])
    ]
    return {
        "space": files.space.name,
        "quantity": "latency_ms",
        "objective": "multiply_adds",
        "budget": None,
        "found": found,
        "verification": {"finalists": finalists, "answer": [0, 1]},
    }


@pytest.fixture(scope="session")
def material(files: Files) -> Material:
    return files.read()
