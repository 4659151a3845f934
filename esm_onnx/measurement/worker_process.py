"""The process that times: `python -m esm_onnx.measurement.worker_process FD RUNTIME SETTINGS`.

It imports neither torch nor sklearn. Jobs and replies are JSON on a channel of their own, FD, because runtimes print to
standard output when something goes wrong. First message out: the runtime's facts. Then for each job
`{"job": 7, "subnet": "…", "runs": 150, "warmup": 10}` one reply with the same number:
`{"job": 7, "runs_ns": […]}` or `{"job": 7, "kind": "load", "message": "…"}`. It ends when the channel closes.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from esm_onnx.measurement.runtime import Runtime, RuntimeSettings, find_runtime
from esm_onnx.measurement.timing import time_runs

PR_SET_PDEATHSIG = 1


def serve(channel: Connection, runtime: Runtime) -> None:
    """Answers jobs until the channel closes."""
    channel.send_bytes(json.dumps({"facts": dict(runtime.facts())}).encode())
    while True:
        try:
            job = json.loads(channel.recv_bytes())
        except (EOFError, ConnectionError):
            return
        channel.send_bytes(json.dumps({"job": job["job"], **_perform(runtime, job)}).encode())


def _perform(runtime: Runtime, job: dict[str, Any]) -> dict[str, Any]:
    kind = "load"
    try:
        with runtime.load(Path(job["subnet"])) as infer:
            kind = "run"
            return {"runs_ns": time_runs(infer, runtime.clock, runs=job["runs"], warmup=job["warmup"])}
    except Exception as error:  # whatever a runtime raises is the subnet's failure, not the session's
        return {"kind": kind, "message": " ".join(f"{type(error).__name__}: {error}".split())[:1000]}


def die_with_parent() -> None:
    """Has Linux end this process when its parent dies, even while an inference hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Opens the channel and the runtime that the command line names."""
    die_with_parent()
    channel, name, settings = Connection(int(sys.argv[1])), sys.argv[2], RuntimeSettings(**json.loads(sys.argv[3]))
    try:
        runtime = find_runtime(name)(settings)
    except Exception as error:
        channel.send_bytes(json.dumps({"problem": str(error)}).encode())
        return
    serve(channel, runtime)


if __name__ == "__main__":
    main()
