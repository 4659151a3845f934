"""The parent's side of a measuring process: started when needed, given one job at a time, replaced when it dies."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from esm_onnx.errors import InputError, WorkError
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.target import Fact

START_S = 120.0
"""Seconds in which a worker must have imported its runtime."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A job that brought no runs: its kind and message, as a `Failure` records them."""

    kind: str
    message: str


class Worker:
    """A measuring process for one runtime and its settings; a context manager.

    Raises:
        InputError: the runtime cannot be used here.
        WorkError: the process does not start.
    """

    def __init__(self, runtime: str, settings: RuntimeSettings) -> None:
        self._command = [runtime, json.dumps(asdict(settings))]
        self._job = 0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None
        try:
            self.facts: Mapping[str, Fact] = self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and everything it started."""
        self._stop()
        self._log.close()

    def time(self, subnet: Path, *, runs: int, warmup: int, deadline_s: float) -> list[int] | Lost:
        """Loads a subnet and times it: the runs in ns, or why there are none. A process that died is replaced."""
        if self._process is None:
            self._start()
        self._job += 1
        job = {"job": self._job, "subnet": str(subnet), "runs": runs, "warmup": warmup}
        try:
            assert self._channel is not None
            self._channel.send_bytes(json.dumps(job).encode())
            reply = self._receive(deadline_s)
        except (EOFError, ConnectionError):
            return Lost("crash", self._epitaph())
        if reply is None:
            self._stop()
            return Lost("deadline", f"not finished after {deadline_s:g} s")
        if reply.get("job") != self._job:
            raise WorkError(f"the worker answered job {reply.get('job')} when asked for {self._job}")
        return reply["runs_ns"] if "runs_ns" in reply else Lost(reply["kind"], reply["message"])

    def _start(self) -> Mapping[str, Fact]:
        self._channel, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            # -P: a file of the user's, called like a module of ours, must not be imported
            [sys.executable, "-P", "-m", "esm_onnx.measurement.worker_process", str(theirs.fileno()), *self._command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        theirs.close()
        try:
            reply = self._receive(START_S)
        except (EOFError, ConnectionError):
            raise WorkError(f"the measuring process did not start: {self._epitaph()}") from None
        if reply is None or "facts" not in reply:
            self._stop()
            if reply is None:
                raise WorkError(f"the measuring process did not start within {START_S:g} s")
            raise InputError(reply["problem"])
        facts: Mapping[str, Fact] = reply["facts"]
        if "device" not in facts:
            self._stop()
            raise InputError(f"the runtime gives facts without a device: {', '.join(facts) or 'none'}")
        return facts

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when the time is over."""
        assert self._channel is not None
        if not self._channel.poll(seconds):
            return None
        reply: dict[str, Any] = json.loads(self._channel.recv_bytes())
        return reply

    def _stop(self) -> None:
        if self._process is None:
            return
        if self._channel is not None:
            self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = self._channel = None

    def _epitaph(self) -> str:
        """How the process ended and the last line that it printed; the process is gone afterwards."""
        assert self._process is not None
        process = self._process
        self._stop()
        code = process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 4000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with {how}" + (f": {lines[-1].strip()[:500]}" if lines else "")
