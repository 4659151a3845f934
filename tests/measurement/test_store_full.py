"""A disk that runs full while a session is measured: a real one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from cli.calls import TINY_TOML

from esm_onnx.architectures import Architecture, Space, sample, to_json
from esm_onnx.errors import WorkError
from esm_onnx.measurement.record import SUBJECT, Measurement
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space

# The mount is seen by these commands only and goes with them.
COMMANDS = """
set -u
mount -t tmpfs -o size=16m none disk
head -c $((16 * 1024 * 1024 - $ROOM)) /dev/zero > disk/others
profile() {
    "$PYTHON" -c 'from esm_onnx.cli import main; main()' profile --space tiny.toml --runtime dry --runs 20 --warmup 1 \\
        --references 2 --architectures a.jsonl --store disk/esm.db --folder subnets
    echo "exit $?" >&2
}
profile 2> full.txt
cp -r disk/. left/
rm disk/others
profile 2> free.txt
cp -r disk/. done/
"""


@pytest.mark.parametrize("room_kb", [12, 300])
def test_a_full_disk_loses_nothing_and_the_same_command_completes(tmp_path: Path, room_kb: int) -> None:
    unshare = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", tmp_path]).returncode:
        pytest.skip("file systems cannot be mounted here, so no small disk can be made")
    space, count = tiny_space(), 30
    architectures = sample(space, count, strategy="random", rng=Random(0))
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(to_json(space, a)) for a in architectures))
    for folder in ("disk", "left", "done"):
        (tmp_path / folder).mkdir()
    environment = {**os.environ, "PYTHON": sys.executable, "ROOM": str(room_kb * 1024)}
    subprocess.run([*unshare, "sh", "-c", COMMANDS], cwd=tmp_path, env=environment, check=True)

    *_, error, status = (tmp_path / "full.txt").read_text().splitlines()
    assert status == "exit 1"
    assert error.startswith("error: disk/esm.db: cannot be ")
    assert "make room on its disk" in error
    assert (tmp_path / "free.txt").read_text().splitlines()[-1] == "exit 0"
    with Store(tmp_path / "done" / "esm.db") as store:
        (content,) = store.contents()
        done = list(store.measurements(space, content.target, role=SUBJECT))
        assert sorted(map(hash, architectures)) == sorted(hash(m.architecture) for m in done)
    if room_kb > 200:
        with Store(tmp_path / "left" / "esm.db") as store:
            kept = list(store.measurements(space, role=SUBJECT))
        assert kept
        assert all(measurement in done for measurement in kept)


def test_a_store_that_another_program_holds_is_told_in_one_line(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    session = store.open_session(tiny, target, {})
    store._db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(WorkError, match=r"esm.db: cannot be written \(database is locked\).* wait until"):
            store.append(session, tiny, Measurement(eight[0], SUBJECT, (1.0,), 0.0))
    store.append(session, tiny, Measurement(eight[1], SUBJECT, (1.0,), 0.0))
    assert [m.architecture for m in store.measurements(tiny, session=session)] == [eight[1]]
