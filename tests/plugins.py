"""A stranger's runtime, installed as a package of its own: `faulty`, whose device says what goes wrong.

The device "chosen" goes wrong by the subnet: `choose_faults` says which file brings which fault.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

FAULTY = """
import hashlib, json, os, pathlib, signal, sys, time
from contextlib import contextmanager
import numpy
from esm_onnx.measurement.agreement import expected_outputs
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.runtime import Runtime

HERE = pathlib.Path(__file__).parent


def leave_a_grandchild():
    # Twice forked, in a session of its own, deaf to SIGTERM; it also keeps every file of the worker open.
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()


class Faulty(Runtime):
    name = "faulty"
    loads = now = 0

    def facts(self):
        return {"device": self.settings.device or "sound"}

    @contextmanager
    def load(self, subnet):
        type(self).loads += 1
        mine = self.loads
        printed = False
        content = subnet.read_bytes()
        fault, size = self.settings.device or "sound", len(content)
        if fault == "chosen":
            digest = hashlib.sha256(content).hexdigest()
            fault = json.loads((HERE / "faults.json").read_text()).get(digest, "sound")
            with open(HERE / "loads.txt", "a") as file:
                file.write(digest + "\\n")
        print("a runtime may print what it likes")
        if fault == "load":
            raise ValueError("this operator is unknown")
        if fault.endswith("grandchild"):
            leave_a_grandchild()
        if fault.startswith("segfault"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "abort":
            os.abort()
        if fault == "aborted allocation":
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
            os.abort()
        if fault == "exit":
            print("out of patience", file=sys.stderr, flush=True)
            os._exit(7)

        if fault in ("right", "wrong"):
            right = expected_outputs(subnet, self.inputs(subnet))

        def infer():
            nonlocal printed
            if fault == "run":
                raise RuntimeError("unit 3 failed\\nsecond line")
            if fault.startswith("hang"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while fault == "hang, printing":
                    os.write(1, bytes(1 << 20))
                time.sleep(600)
            if fault == "memory":
                blocks = [numpy.empty(1 << 28, numpy.uint8) for _ in range(10000)]  # untouched: address space is enough
            if fault == "prints" and not printed:
                printed = True
                for _ in range(100):
                    os.write(1, b"{}" * (1 << 20))
                    os.write(2, b"\\n" * (1 << 20))
            drift = 1 + 0.1 * self.loads if fault == "drift" else 1
            calm = 1 + 0.1 * self.loads if fault == "settles" and self.loads < 12 else 1
            halved = 0.5 if fault == "halves" and mine == 1 else 1  # only the calibration subnet, where there is one
            warped = 1.1**mine if fault == "warps" else 1
            self.now += int(1000 * size * drift * calm * warped * halved)
            if fault in ("right", "wrong"):
                return [output * (1.01 if fault == "wrong" else 1) for output in right]
            whole, real = numpy.arange(3), numpy.array([0, numpy.nan if fault == "nan" else 1], numpy.float16)
            return [whole, real]

        yield infer

    def clock(self):
        return self.now

    def counters(self):
        return Counters()  # nothing disturbs a clock of its own
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


def choose_faults(folder: Path, faults: Mapping[Path, str]) -> dict[str, str]:
    """Says which subnet brings which fault on the device "chosen"; gives the faults by digest of the file."""
    by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): fault for path, fault in faults.items()}
    (folder / "faults.json").write_text(json.dumps(by_digest))
    return by_digest


def loads_of(folder: Path) -> list[str]:
    """The digest of each file that the device "chosen" was given so far."""
    return (folder / "loads.txt").read_text().split()


def started_in(folder: Path) -> list[int]:
    """Processes that are alive and have `folder` in their environment: those that a worker of the plug-in left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
