"""A runtime that halts where a test says, so that what is told in the middle of the work can be looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

HALTING = """
import pathlib, time, zlib
from contextlib import contextmanager
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.runtime import Runtime

HERE = pathlib.Path(__file__).parent
CHANGES = {"one": 0.0, "drifts": 0.025, "moves": 0.1}


class Halting(Runtime):
    # Latency by the size of the file, and somewhat at random; beyond the second load it changes by the device's share.
    name = "halting"
    loads = now = 0

    def facts(self):
        return {"device": self.settings.device or "one"}

    @contextmanager
    def load(self, subnet):
        type(self).loads += 1
        content = subnet.read_bytes()
        change = CHANGES[self.settings.device or "one"] * (self.loads > 2)
        run = int(1000 * len(content) * (1 + change) * (1 + zlib.crc32(content) % 1000 / 20000))

        def infer():
            halt = HERE / "halt"
            while halt.exists() and self.loads >= int(halt.read_text()):
                (HERE / "halted").touch()
                time.sleep(0.01)
            self.now += run

        yield infer

    def clock(self):
        return self.now

    def counters(self):
        return Counters()
"""
PLAIN = ["--runtime", "halting", "--plain", "--runs", 3, "--warmup", 0, "--references", 2, "--target-error", "none"]
"""One load for each measurement."""


def install_halting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Puts the plug-in on the path of this process and of those that it starts."""
    (folder / "halting.py").write_text(HALTING)
    info = folder / "halting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[esm_onnx.runtimes]\nhalting = halting:Halting\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return os.environ


def halt_at(folder: Path, load: int) -> None:
    """From so many loads on, it halts."""
    (folder / "halt").write_text(str(load))


def go_on(folder: Path) -> None:
    (folder / "halt").unlink()
