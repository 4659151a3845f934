from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from esm_onnx.architectures import Architecture, Space, sample
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space


@pytest.fixture
def tiny() -> Space:
    return tiny_space()


@pytest.fixture
def eight(tiny: Space) -> list[Architecture]:
    return sample(tiny, 8, strategy="random", rng=Random(0))


@pytest.fixture
def target() -> Target:
    return Target("somewhere", {"device": "abacus", "threads": 2})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "esm.db") as opened:
        yield opened
