"""The programs of tools/cpp, built for the tests, and predictors to give them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from prediction.made_up import checked, predictor_of, random_mlp, rows

from esm_onnx.architectures import Architecture, Space, find_space, sample, space_from_table
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.prediction.predictor_onnx import write_predictor

ROOT = Path(__file__).parents[2]
OFA = find_space("ofa-mobilenetv3")
MIXED = space_from_table(
    {
        "name": "größe.mixed",
        "units": 3,
        "depth": [[1, 3], [2], [1, 2, 4]],
        "block": {"kernel": [3, 5.5, "2/3"], "op": ["mbconv", "skip-connect", "größe"]},
        "unit": {"se": [0, 1], "width": [0.65, "1/2"]},
        "coupled": {"ratio": {"1": "1/2", "2": 4, "3": "1/2", "4": 8}},
        "network": {"stem": ["a", "b", "c"], "resolution": [160, 192.5]},
    }
)
ELASTIC, FIXED = find_space("compofa-elastic"), find_space("compofa-fixed")
FAMILIES = map(find_space, ("resnet", "mobilenetv3", "densenet"))
SPACES = {space.name: space for space in (*FAMILIES, OFA, ELASTIC, MIXED)}


@dataclass(frozen=True)
class Programs:
    """The programs, in the folder that they were built in."""

    folder: Path

    def run(self, *words: object, given: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
        command = [str(self.folder / str(words[0])), *map(str, words[1:])]
        given = given.encode() if isinstance(given, str) else given
        return subprocess.run(command, input=given, capture_output=True, check=False, timeout=300)

    def output(self, *words: object, given: str | bytes = "") -> bytes:
        """What a program prints that succeeds; one in which a sanitizer finds something does not."""
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def lines(self, *words: object, given: str | bytes = "") -> list[str]:
        return self.output(*words, given=given).decode().splitlines()

    def answers(self, *words: object, given: Sequence[object]) -> list[Any]:
        """One for each of the values given."""
        lines = self.lines(*words, given="\n".join(json.dumps(each) for each in given))
        assert len(lines) == len(given)
        return [json.loads(line) for line in lines]

    def predict(self, path: Path, genomes: np.ndarray, *, batch: int, threads: int = 1) -> np.ndarray:
        """The quantity and its bounds, float32 [3, n]."""
        given = path.parent / "rows"
        given.write_bytes(genomes.astype(np.int64).tobytes())
        content = self.output("probe", "predict", path, given, batch, threads)
        return np.frombuffer(content, np.float32).reshape(3, -1)


def build(
    folder: Path, sanitizers: str, *settings: str, targets: Sequence[str], source: Path = ROOT / "tools" / "cpp"
) -> Programs:
    """Builds with all warnings as errors, or skips the test and says what is missing."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no cmake, or no C++ compiler")
    ours = ROOT / "build" / "cpp-sdk"
    prefix = str(ours) if (ours / "include").is_dir() else os.environ.get("CMAKE_PREFIX_PATH")
    if not prefix:
        pytest.skip("no headers of ONNX Runtime: `tools/cpp/sdk build/cpp-sdk .venv/bin/python` makes them")
    given = (f"-DCMAKE_PREFIX_PATH={prefix}", f"-DESM_SANITIZE={sanitizers}", *settings)
    for words in (
        ("-S", str(source), "-B", str(folder), *given),
        ("--build", str(folder), "-j2", "--target", *targets),
    ):
        done = subprocess.run([cmake, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return Programs(folder)


def drawn(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    return sample(space, min(count, space.size), strategy="random", rng=Random(seed))


@cache
def predictor_file(space: Space, quantity: Quantity = LATENCY) -> bytes:
    """The content of a predictor that nobody trained."""
    genomes = rows(space, drawn(space, 30))
    predictor = predictor_of(space, "fcc", random_mlp(space, "fcc", genomes), genomes)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.onnx"
        write_predictor(predictor, path, check=replace(checked(predictor, genomes), quantity=quantity.field))
        return path.read_bytes()
