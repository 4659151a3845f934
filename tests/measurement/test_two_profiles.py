"""Two `esm-onnx profile` at once on one store, typed by a user who has forgotten the first, or has two devices."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from esm_onnx.architectures import Space, sample, to_json
from esm_onnx.measurement.store import Store
from esm_onnx.testing import TINY_TABLE

Start = Callable[..., subprocess.Popen[str]]

COUNT = 20


@pytest.fixture
def start(tiny: Space, tmp_path: Path) -> Start:
    """Starts `esm-onnx profile` in a folder of its own with a cache of its own: the subnets of all in one folder."""
    # What JSON writes of numbers, texts and lists, TOML reads.
    plain = {key: value for key, value in TINY_TABLE.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in TINY_TABLE.items() if isinstance(value, dict)}
    toml = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, table in tables.items():
        toml += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (tmp_path / "tiny.toml").write_text("\n".join(toml))
    drawn = sample(tiny, COUNT, strategy="random", rng=Random(0))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(to_json(tiny, architecture)) for architecture in drawn))
    asked = ["--space", "tiny.toml", "--architectures", "a.jsonl", "--runtime", "dry", "--runs", "10", "--json"]

    def profile(*options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from esm_onnx.cli import main; main()", "profile", *asked, *options],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return profile


@contextmanager
def held_in_mid_session(process: subprocess.Popen[str], store: Path) -> Iterator[None]:
    """A command whose worker sleeps in the middle of its session, and goes on afterwards."""
    while records_in(store) == 0:
        assert process.poll() is None
        time.sleep(0.01)
    (worker,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
        assert process.poll() is None
    finally:
        os.kill(worker, signal.SIGCONT)


def records_in(store: Path) -> int:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        count: int = db.execute("SELECT count(*) FROM measurements").fetchone()[0]
        return count
    return 0  # not made yet


def outcome_of(process: subprocess.Popen[str]) -> tuple[int, int, list[object]]:
    """What a command that went well has measured, found and failed to measure."""
    printed, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    outcome = json.loads(printed)
    return outcome["measured"], outcome["already_measured"], outcome["failures"]


def test_the_second_on_the_same_device_is_refused_and_told_who_has_it(start: Start, tmp_path: Path) -> None:
    with start() as first:
        with held_in_mid_session(first, tmp_path / "esm.db"):
            for options in ([], ["--batch", "2"]):  # the same target, and another one on the same device
                with start(*options) as second:
                    printed, error = second.communicate(timeout=120)
                assert (second.returncode, printed) == (2, "")
                assert f"process {first.pid} measures on 'gpu' into this store" in error
                assert len(error.splitlines()) == 1
        assert outcome_of(first) == (COUNT, 0, [])


def test_the_second_on_another_device_runs_while_the_first_is_in_mid_session(start: Start, tmp_path: Path) -> None:
    with start("--device", "gpu") as first:
        with held_in_mid_session(first, tmp_path / "esm.db"), start("--device", "board") as second:
            assert outcome_of(second) == (COUNT, 0, [])
        assert outcome_of(first) == (COUNT, 0, [])


def test_two_that_start_together_on_two_devices_both_measure_everything(
    start: Start, tiny: Space, tmp_path: Path
) -> None:
    with start("--device", "gpu") as first, start("--device", "board") as second:
        assert outcome_of(first) == outcome_of(second) == (COUNT, 0, [])
    with Store(tmp_path / "esm.db") as store:
        contents = {content.target.facts["device"]: content for content in store.contents()}
        assert {device: content.measurements for device, content in contents.items()} == {"gpu": COUNT, "board": COUNT}
        for content in contents.values():
            assert store.measured(tiny, content.target) == set(sample(tiny, COUNT, strategy="random", rng=Random(0)))
