"""Heads, nodes and devices that a test can kill, and a runtime whose devices hang when they are told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from cli.calls import TINY_TOML, write_architectures
from plugins import started_in

from esm_onnx.architectures import Architecture, sample
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

PATIENCE_S = 60

PACED = """
import json, os, pathlib, time
from contextlib import contextmanager
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.runtime import Runtime

HERE = pathlib.Path(__file__).parent


class Paced(Runtime):
    name = "paced"
    now = 0

    def facts(self):
        return {"device": self.settings.device or "one"}

    @contextmanager
    def load(self, subnet):
        size = len(subnet.read_bytes())
        who = os.environ.get("PACED") or self.settings.device
        pace_s = float(os.environ.get("PACE_S", 0.001))
        slower = json.loads(os.environ.get("SLOWER", "{}")).get(self.settings.device, 1)

        def infer():
            while (HERE / f"hang-{who}").exists():
                (HERE / f"hanging-{who}-{os.getpid()}").touch()
                time.sleep(0.01)
            time.sleep(pace_s)
            self.now += round(1000 * size * slower)

        yield infer

    def clock(self):
        return self.now

    def counters(self):
        return Counters()
"""


class Site:
    """A folder with all that a fleet needs, and every process that was started in it.

    Ray keeps sockets below it, so its name is short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        self.install("paced", PACED)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        ray = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        places = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache"), "STARTED_IN": str(folder)}
        ray["RAY_TMPDIR"] = str(folder)
        self.environment = {**ray, **places, "PYTHONPATH": os.pathsep.join(paths)}

    def install(self, name: str, source: str) -> None:
        """A stranger's runtime, whose class is called like it."""
        (self.folder / f"{name}.py").write_text(source)
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[esm_onnx.runtimes]\n{name} = {name}:{name.title()}\n")

    def head(
        self,
        devices: dict[str, str | None],
        *,
        within: Sequence[str] = (),
        runtime: str = "paced",
        count: int = 40,
        address: str = "local",
        patience: dict[str, float] | None = None,
        **protocol: Any,
    ) -> subprocess.Popen[str]:
        """A head that measures `count` architectures.

        Args:
            within: a command that runs another one, such as `ip netns exec NAME`.
        """
        plain = {"paired": False, "target_error": None, "runs": 10, "references": 1, "reference_every": 20}
        given = {
            "folder": str(self.folder),
            "devices": devices,
            "runtime": runtime,
            "count": count,
            "address": address,
            "patience": patience or {},
            "protocol": {**plain, **protocol},
        }
        command = [*within, sys.executable, str(Path(__file__).parent / "fleet_program.py"), json.dumps(given)]
        environment = {**self.environment, "RAY_AUTH_MODE": "token"}
        with (self.folder / "told").open("w") as told:
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=told, text=True)

    @property
    def told(self) -> str:
        """What the last head has said so far, but for its result."""
        return (self.folder / "told").read_text()

    def ended(self, head: subprocess.Popen[str]) -> dict[str, Any]:
        """What a head printed that ended well."""
        out, _ = head.communicate(timeout=3 * PATIENCE_S)
        assert head.returncode == 0, self.told
        result: dict[str, Any] = json.loads(out.splitlines()[-1])  # Ray prints before it
        return result

    def command(self, *words: str) -> subprocess.Popen[str]:
        """A command as a user types it, in the folder, where the space is `tiny.toml` and the store `esm.db`."""
        (self.folder / "tiny.toml").write_text(TINY_TOML)
        command = [sys.executable, "-c", "from esm_onnx.cli import main; main()", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def profile(
        self, devices: dict[str, str | None], count: int, *options: str, address: str = "local"
    ) -> subprocess.Popen[str]:
        """The command that measures `count` architectures on devices of a cluster."""
        write_architectures(self.folder / "a.jsonl", tiny_space(), architectures(count))
        named = [part for name, device in devices.items() for part in ("--device", f"{name}={device}")]
        asked = ("--space", "tiny.toml", "--architectures", "a.jsonl", "--fleet", address, "--json")
        return self.command("profile", *asked, *named, *options)

    def node(self, *options: str, within: Sequence[str] = (), **environment: str) -> None:
        """Starts a node that stays when the command has ended."""
        command = [*within, sys.executable, "-c", "from esm_onnx.cli import main; main()", "fleet", "start"]
        done = subprocess.run(
            [*command, *options], env={**self.environment, **environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr + done.stdout

    def hang(self, who: str) -> int:
        """Has a device hang in the middle of a measurement; gives its measuring process."""
        for told in self.folder.glob(f"hanging-{who}-*"):  # an earlier time
            told.unlink()
        (self.folder / f"hang-{who}").touch()
        self.wait_for(lambda: bool(self.hanging(who)))
        return self.hanging(who)[0]

    def hanging(self, who: str) -> list[int]:
        """The measuring processes that hang now."""
        told = (int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"hanging-{who}-*"))
        return [process for process in told if not has_ended(process)]

    def unhang(self, who: str) -> None:
        (self.folder / f"hang-{who}").unlink()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.02)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the store says, which another process is writing."""
        with suppress(sqlite3.OperationalError):
            with closing(sqlite3.connect(f"file:{self.folder / 'esm.db'}?mode=ro", uri=True)) as db:
                return db.execute(query).fetchall()
        return []

    def measuring(self) -> list[int]:
        """The measuring processes, and the actors that hold them."""
        found = []
        for process in started_in(self.folder):
            with suppress(OSError):
                command = Path(f"/proc/{process}/cmdline").read_bytes()
                if b"worker_process" in command or b"ray::Board" in command:
                    found.append(process)
        return found

    def await_subjects(self, count: int) -> None:
        self.wait_for(lambda: len(self.rows("SELECT id FROM measurements WHERE role = 'subject'")) >= count)

    def assert_each_stands_once(self, count: int) -> Counter[str]:
        """Of all that were asked for; gives how many each board has measured."""
        space = tiny_space()
        standing, boards = [], Counter[str]()
        with Store(self.folder / "esm.db") as store:
            for content in store.contents():
                for session, _, provenance, _ in list(store.sessions(space, content.target)):
                    records = list(store.measurements(space, content.target, session=session, role=SUBJECT))
                    standing += [record.architecture for record in records]
                    boards[provenance["board"]] += len(records)
        assert len(standing) == len(set(standing))
        assert set(standing) == set(architectures(count))
        return boards

    def processes(self) -> list[int]:
        """All that were started here: by their environment or, where Ray has written over that, by open files."""
        found = set(started_in(self.folder))
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):
                if str(link.readlink()).startswith(f"{self.folder}/"):
                    found.add(int(link.parts[2]))
        return sorted(found - {os.getpid()})

    def assert_all_have_ended(self) -> None:
        self.wait_for(lambda: not self.processes())

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.assert_all_have_ended()


def architectures(count: int) -> list[Architecture]:
    return sample(tiny_space(), count, strategy="random", rng=Random(0))


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def has_ended(process: int) -> bool:
    """Whether it runs no more, though its parent may not have asked for it yet."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture
def site() -> Iterator[Site]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'esm-onnx[ray]'")
    folder = Path(mkdtemp(prefix="ef-", dir="/tmp"))
    made = Site(folder)
    try:
        yield made
    finally:
        made.kill_all()
        shutil.rmtree(folder)
