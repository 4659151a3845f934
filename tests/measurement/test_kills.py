"""Commands that profile are killed at random moments, themselves or their worker, and started again.

`tools/bench/kills` does the same by the hundred and by the clock; here moments are told by what was acknowledged.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from plugins import started_in

from esm_onnx.architectures import Architecture, Space, sample, to_genome
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import SUBJECT, Failure, Measurement
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import GREATEST_FAILURES, Profiler
from esm_onnx.measurement.store import Store

KILLS, WORKERS = 8, 4
"""Commands that are killed, and how many of them lose a worker before."""

PROGRAM = """
import json, os, sys
from pathlib import Path
from random import Random
from esm_onnx.architectures import sample, to_genome
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

class Telling(Store):
    def append(self, session, space, record):
        super().append(session, space, record)  # when it has returned, the record is acknowledged
        told = [session, to_genome(space, record.architecture), record.started_at, getattr(record, "kind", "")]
        os.write(1, json.dumps(told).encode() + b"\\n")

space, folder = tiny_space(), Path(sys.argv[1])
protocol = Protocol(runs=10, warmup=1, references=2, reference_every=6, session_size=15)
with Telling(folder / "esm.db") as store:
    with Profiler(space, store, "dry", folder=folder / "subnets", protocol=protocol) as profiler:
        profiler.profile(sample(space, 40, strategy="random", rng=Random(0)))
"""


def command(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "STARTED_IN": str(folder)}
    arguments = [sys.executable, "-c", PROGRAM, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True)


def kept_in(path: Path, space: Space) -> list[str]:
    """Every record of a store, as it is told."""
    kept: list[str] = []
    with Store(path) as store:
        for content in store.contents():
            for session, *_ in list(store.sessions(space, content.target)):
                records: list[Measurement | Failure] = [
                    *store.measurements(space, session=session),
                    *store.failures(space, content.target, session=session),
                ]
                kept += [told(session, space, record) for record in records]
    return kept


def told(session: int, space: Space, record: Measurement | Failure) -> str:
    kind = getattr(record, "kind", "")
    return json.dumps([session, to_genome(space, record.architecture), record.started_at, kind])


def words(folder: Path) -> set[str]:
    """What tells the files of one command in the folder from those of another."""
    names = [path.name for path in folder.glob("*") if not path.name.startswith("pool-")]
    found = [
        re.fullmatch(r"\.?(?:subnet|calibration|beside-\d|scratch)-([0-9a-f]{16})\.(?:onnx|lock).*", name)
        for name in names
    ]
    assert all(found), names
    return {match[1] for match in found if match}


def test_no_kill_loses_a_record_or_has_one_measured_twice(tiny: Space, tmp_path: Path) -> None:
    rng = Random(7)
    acknowledged: list[str] = []
    left: list[set[str]] = []
    outlived = 0
    for number in range(KILLS):
        with command(tmp_path) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = [process.stdout.readline() for _ in range(rng.randrange(9))]
            time.sleep(rng.uniform(0, 0.02 if lines else 0.6))  # also in the middle of a record, or of the start
            if number % (KILLS // WORKERS) == 0 and (worker := worker_of(process)):
                os.kill(worker, signal.SIGKILL)
                lines += (after := [process.stdout.readline() for _ in range(3)])
                outlived += all(after)
            process.kill()
            lines += process.stdout.readlines()
            error = process.stderr.read()
        assert process.returncode == -signal.SIGKILL or "ended with signal SIGKILL" in error, error
        acknowledged += [line.strip() for line in lines if line]
        await_end_of(tmp_path)
        if (tmp_path / "esm.db").exists():
            kept = kept_in(tmp_path / "esm.db", tiny)
            assert set(acknowledged) <= set(kept)
            assert len(kept) == len(set(kept))
            assert len(kept) <= len(acknowledged) + number + 1  # each command may die before it tells its last
        if (tmp_path / "subnets").exists():
            left.append(words(tmp_path / "subnets"))
    assert outlived > 0  # the command went on when its worker was killed
    assert max(map(len, left)) == 1  # the files of the command before are deleted
    assert len(set.union(*left)) > 1

    with command(tmp_path) as process:
        assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert words(tmp_path / "subnets") == set()
    assert_each_was_measured_once(tiny, tmp_path / "esm.db")


def assert_each_was_measured_once(space: Space, path: Path) -> None:
    """In no session twice, and over the sessions each stands once, unless it has failed too often."""
    with Store(path) as store:
        (content,) = store.contents()
        sessions = [number for number, *_ in store.sessions(space, content.target)]
        for session in sessions:
            subjects = [m.architecture for m in store.measurements(space, session=session) if m.role == SUBJECT]
            assert len(subjects) == len(set(subjects))
        standing = [m.architecture for m in store.measurements(space, content.target, role=SUBJECT)]
        failures = Counter(failure.architecture for failure in store.failures(space, content.target))
    given_up = {architecture for architecture, count in failures.items() if count >= GREATEST_FAILURES}
    assert len(standing) == len(set(standing))
    assert len(sessions) > 1
    assert set(standing) | given_up >= set(sample(space, 40, strategy="random", rng=Random(0)))


def worker_of(process: subprocess.Popen[str]) -> int:
    """The measuring process of a command; 0 where it has none yet."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


def await_end_of(folder: Path) -> None:
    """A killed command's worker is told by the system; one that was just starting sees it when it is ready."""
    until = time.monotonic() + 30
    while left := started_in(folder):
        assert time.monotonic() < until, f"processes left: {left}"
        time.sleep(0.01)


def test_the_files_of_a_profiler_that_still_runs_are_left_alone(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    folder, protocol = tmp_path / "subnets", Protocol(runs=10, references=2)

    def profiler(device: str) -> Profiler:
        return Profiler(tiny, store, "dry", folder=folder, settings=RuntimeSettings(device), protocol=protocol)

    with profiler("gpu") as first:
        first.profile(eight[:2])
        (word,) = words(folder)
        with profiler("board") as second:
            second.profile(eight[:2])
            assert len(words(folder)) == 2
        assert words(folder) == {word}
        assert len(list(folder.glob(f"calibration-{word}.onnx"))) == 1
        assert first.profile(eight).measured == 6
    assert words(folder) == set()
