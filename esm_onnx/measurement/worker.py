"""The parent's side of a measuring process: started when needed, given one job at a time, replaced after a failure."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esm_onnx.errors import InputError, WorkError
from esm_onnx.measurement.containment import TOKEN, end_processes, is_out_of_memory, usual_memory_bytes
from esm_onnx.measurement.quantities import Unmeasurable
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.target import Fact
from esm_onnx.measurement.timing import Timing

PROCESS = "esm_onnx.measurement.worker_process"
START_S = 120.0
"""Seconds in which a worker must have imported its runtime."""
LOOK_S = 0.5
"""Seconds between two looks whether the process still lives: what it left behind may hold its channel open."""
LEAST_MEMORY_BYTES = 1 << 28
"""Interpreter and runtime alone take about half of it."""
KEPT = 4000
"""Bytes kept of what a process prints."""
SIGNALS = {each.value: each.name for each in signal.Signals}

CALIBRATION_LOST = "calibration"
"""Kind of a job that was lost because the calibration subnet could not be loaded again: no fault of its subnet."""
UNMEASURABLE = "unmeasurable"
"""Kind of a job that was lost because a quantity cannot be measured here: no fault of its subnet either."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A job that brought no runs, as a `Failure` records it.

    Attributes:
        kind: "refused" (the check of a stranger's file), "load" (the runtime does not take it), "run" (it raises),
            "nan" (an output is not finite), "wrong" (an output is not what it should be), "memory", "deadline", "crash"
            (a signal) or "exit" (the process ended).
        message: what was seen, one line.
    """

    kind: str
    message: str


class Measurer(ABC):
    """What times subnets: a process of this machine (`Worker`), or one of another (`esm_onnx.fleet`).

    A context manager.

    Attributes:
        facts: those of the runtime.
        energy_counter: what the energy is read from; None where it is not measured.
    """

    facts: Mapping[str, Fact]
    energy_counter: str | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Ends what was started."""

    @abstractmethod
    def ask(self, job: dict[str, Any], deadline_s: float) -> dict[str, Any] | Lost:
        """The reply to a job, both as `worker_process` describes them, or why there is none."""

    def time(
        self,
        subnet: Path,
        *,
        runs: int,
        warmup: int,
        deadline_s: float,
        target_error: float | None = None,
        calibration: Path | None = None,
        nominal_ns: float | None = None,
        check: bool = False,
        fp32: Path | None = None,
    ) -> Timing | Lost:
        """Loads a subnet, runs it once to see its outputs, and times it (`timing`), or says why it cannot be timed.

        Args:
            calibration: the subnet that alternates with it; stays loaded for the next job. None times it by itself.
            check: the file is a stranger's: `esm_onnx.export.untrusted.check_untrusted` sees it before the runtime.
            fp32: the file whose outputs the subnet must have, `agreement`; None where it is in fp32 itself.

        Raises:
            Unmeasurable: a quantity cannot be measured here.
        """
        limits = {"runs": runs, "warmup": warmup, "target_error": target_error}
        beside = {"calibration": calibration and str(calibration), "nominal_ns": nominal_ns}
        judged = {"check": check, "fp32": fp32 and str(fp32)}
        reply = self.ask({"subnet": str(subnet), **judged, **limits, **beside}, deadline_s)
        if isinstance(reply, Lost) and reply.kind == UNMEASURABLE:
            raise Unmeasurable(reply.message)
        return reply if isinstance(reply, Lost) else Timing(**reply["timing"])

    def layers(self, subnet: Path, *, deadline_s: float) -> dict[str, float] | Lost:
        """The time of each layer of a subnet in ms, by the runtime's names and in the order of execution.

        Raises:
            Unmeasurable: the runtime tells no layer times.
        """
        reply = self.ask({"subnet": str(subnet), "layers": True}, deadline_s)
        if isinstance(reply, Lost) and reply.kind == UNMEASURABLE:
            raise Unmeasurable(reply.message)
        return reply if isinstance(reply, Lost) else dict(reply["layers"])


class Worker(Measurer):
    """A measuring process for one runtime and its settings; a context manager.

    Whatever a subnet does there is a `Lost`: afterwards neither the process nor any that it started is left, and the
    next job has a fresh one. What it prints is read and, but for the end, forgotten.

    Args:
        memory_bytes: what the process may allocate; None takes 80 % of the machine's or the container's memory.
        quantities: what to measure beside the latency, names of `QUANTITIES`.

    Raises:
        InputError: the runtime cannot be used here, or a quantity not be measured, or the memory is too little for any.
        WorkError: the process does not start.
    """

    def __init__(
        self,
        runtime: str,
        settings: RuntimeSettings,
        *,
        memory_bytes: int | None = None,
        quantities: Sequence[str] = (),
    ) -> None:
        memory_bytes = usual_memory_bytes() if memory_bytes is None else memory_bytes
        if memory_bytes < LEAST_MEMORY_BYTES:
            raise InputError(f"memory is {memory_bytes} bytes, expected at least {LEAST_MEMORY_BYTES} (0.25 GiB)")
        self._command = [runtime, json.dumps(asdict(settings)), str(memory_bytes), *quantities]
        self._token = secrets.token_hex(16)
        self._job = 0
        self._printed = b""
        self._output: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None
        self.energy_counter = None
        try:
            self.facts = self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process and everything it started."""
        self._stop()

    @property
    def process_id(self) -> int:
        """The measuring process; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    def ask(self, job: dict[str, Any], deadline_s: float) -> dict[str, Any] | Lost:
        """The reply to a job. A process that failed is ended: device, memory or threads may be in disorder."""
        if self._process is not None and self._process.poll() is not None:
            self._stop()  # it was killed while it had nothing to do: no fault of this subnet
        if self._process is None:
            self._start()
        self._job += 1
        self._printed = b""
        try:
            assert self._channel is not None
            self._channel.send_bytes(json.dumps({"job": self._job, **job}).encode())
            reply = self._receive(deadline_s)
        except (EOFError, ConnectionError):
            return self._death()
        if reply is None:
            self._stop()
            return Lost("deadline", f"not finished after {deadline_s:g} s")
        if reply.get("job") != self._job:
            raise WorkError(f"the worker answered job {reply.get('job')} when asked for {self._job}")
        if "kind" not in reply:
            return reply
        if reply["kind"] != "refused":  # of a refused file the runtime has seen nothing
            self._stop()
        return Lost(reply["kind"], reply["message"])

    def _start(self) -> Mapping[str, Fact]:
        self._channel, theirs = multiprocessing.Pipe()
        self._output, printing = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self._process = subprocess.Popen(
                # -P: a file of the user's, called like a module of ours, must not be imported
                [sys.executable, "-P", "-m", PROCESS, str(theirs.fileno()), *self._command],
                pass_fds=[theirs.fileno()],
                env={**os.environ, TOKEN: self._token},
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(printing)
        try:
            reply = self._receive(START_S)
        except (EOFError, ConnectionError):
            raise WorkError(f"the measuring process did not start: {self._death().message}") from None
        if reply is None or "facts" not in reply:
            self._stop()
            if reply is None:
                raise WorkError(f"the measuring process did not start within {START_S:g} s")
            raise InputError(reply["problem"])
        facts: Mapping[str, Fact] = reply["facts"]
        self.energy_counter = reply["energy_counter"]
        if "device" not in facts:
            self._stop()
            raise InputError(f"the runtime gives facts without a device: {', '.join(facts) or 'none'}")
        return facts

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when the time is over; what the process prints meanwhile is taken from it."""
        assert self._channel is not None
        assert self._process is not None
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            printing = () if self._output is None else (self._output,)
            ready = wait([self._channel, *printing], max(0.0, min(left, LOOK_S)))
            if self._output in ready:
                self._read_output()
            if self._channel in ready:
                reply: dict[str, Any] = json.loads(self._channel.recv_bytes())
                return reply
            if left <= 0:
                return None
            if self._process.poll() is not None and not self._channel.poll():
                raise EOFError

    def _read_output(self) -> bool:
        """Takes what the process has printed and keeps the end of it; tells whether there was something."""
        if self._output is None:
            return False
        try:
            chunk = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        self._printed = (self._printed + chunk)[-KEPT:]
        if not chunk:
            os.close(self._output)
            self._output = None
        return bool(chunk)

    def _stop(self) -> None:
        if self._process is not None:
            end_processes(self._process.pid, self._token)
            self._process.wait()
        while self._read_output():
            pass
        if self._output is not None:
            os.close(self._output)
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = self._output = None

    def _death(self) -> Lost:
        """How the process ended, with the last line that it printed; nothing of it is left afterwards."""
        assert self._process is not None
        process = self._process
        self._stop()
        code = process.returncode
        how = f"signal {SIGNALS.get(-code, -code)}" if code < 0 else f"exit code {code}"
        printed = self._printed.decode(errors="replace").strip()
        last = f": {printed.splitlines()[-1].strip()[:500]}" if printed else ""
        kind = "memory" if is_out_of_memory(printed) else "crash" if code < 0 else "exit"
        return Lost(kind, f"ended with {how}{last}")
