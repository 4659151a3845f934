"""A stranger's runtime, installed as a package of its own: `faulty`, whose device says what goes wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

FAULTY = """
import os, signal, sys, time
from contextlib import contextmanager
from esm_onnx.measurement.runtime import Runtime


class Faulty(Runtime):
    name = "faulty"
    loads = 0

    def facts(self):
        return {"device": self.settings.device or "sound"}

    @contextmanager
    def load(self, subnet):
        type(self).loads += 1
        fault, self.now = self.settings.device or "sound", 0
        size = len(subnet.read_bytes())
        print("a runtime may print what it likes")
        if fault == "load":
            raise ValueError("this operator is unknown")
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "exit":
            print("out of patience", file=sys.stderr, flush=True)
            os._exit(7)

        def infer():
            if fault == "run":
                raise RuntimeError("out of memory\\nsecond line")
            if fault == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            drift = 1 + 0.1 * self.loads if fault == "drift" else 1
            calm = 1 + 0.1 * self.loads if fault == "settles" and self.loads < 12 else 1
            self.now += int(1000 * size * drift * calm)

        yield infer

    def clock(self):
        return self.now
"""


def install_faulty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the plug-in on the path of this process and of the workers that it starts."""
    (folder / "faulty.py").write_text(textwrap.dedent(FAULTY))
    info = folder / "faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[esm_onnx.runtimes]\nfaulty = faulty:Faulty\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
