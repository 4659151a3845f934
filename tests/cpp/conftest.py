from __future__ import annotations

from pathlib import Path

import pytest
from cpp.programs import Programs, build


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("plain")
    return build(folder, "", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", targets=["predict", "search", "bench", "probe"])


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("sanitized")
    settings = "-DCMAKE_CXX_FLAGS_RELEASE=-O0"  # a third of the time of -O1 to build
    return build(folder, "address,undefined", settings, targets=["search", "probe"])


@pytest.fixture(params=["plain", "sanitized"])
def programs(request: pytest.FixtureRequest) -> Programs:
    """Both, one after the other."""
    built: Programs = request.getfixturevalue(request.param)
    return built


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the predictor of a test is put."""
    return tmp_path / "predictor.onnx"
