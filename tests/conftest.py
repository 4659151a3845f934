from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings

from esm_onnx.architectures import Architecture, Space, sample
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space

# A busy machine is no fault: no example has a deadline.
settings.register_profile("untimed", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("untimed")

# A shell that starts us in the background makes us, and all that we start, deaf to Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
