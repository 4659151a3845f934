from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.calls import TINY_TOML, Run


@pytest.fixture
def esm(tmp_path: Path) -> Run:
    """Runs `esm-onnx` in a folder of its own with a cache of its own."""

    def run(*arguments: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from esm_onnx.cli import main; main()", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    return run
