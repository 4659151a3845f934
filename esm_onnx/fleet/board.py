"""The device's side: an actor that writes the subnets it is given and has them timed by a process of its own machine.

All that it takes and gives is text and bytes: JSON, and ONNX files of a few kB whose weights it makes itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from esm_onnx import __version__
from esm_onnx.errors import EsmError
from esm_onnx.export.pool import grow_for
from esm_onnx.files import cache_folder
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.scratch import scratch
from esm_onnx.measurement.worker import Lost, Worker

KEPT = "calibration"
"""The one file that stays from job to job."""


class Board:
    """One device of a fleet.

    Args:
        command: JSON: `runtime`, its `settings`, `memory_bytes`, `quantities`, and `folder`, in which subnets and
            weights are written, None for the cache of the user who started the node.
    """

    def __init__(self, command: str) -> None:
        self._command = json.loads(command)
        self._kept = ExitStack()

    def begin(self) -> str:
        """Starts the measuring process; gives facts, energy counter, version and niceness as JSON, or the problem."""
        command = self._command
        try:
            self._folder = cache_folder() if command["folder"] is None else Path(command["folder"])
            self._word = self._kept.enter_context(scratch(self._folder))
            settings = replace(RuntimeSettings(**command["settings"]), folder=str(self._folder))
            memory, quantities = command["memory_bytes"], command["quantities"]
            self._worker = Worker(command["runtime"], settings, memory_bytes=memory, quantities=quantities)
            self._kept.enter_context(self._worker)
        except EsmError as error:
            return json.dumps({"problem": str(error)})
        return json.dumps(
            {
                "facts": dict(self._worker.facts),
                "energy_counter": self._worker.energy_counter,
                "version": __version__,
                "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            }
        )

    def ask(self, job: str, files: Mapping[str, bytes]) -> str:
        """The reply to a job as JSON, or the problem.

        Args:
            job: as `worker_process` describes it, with `deadline_s`.
            files: the job's ONNX files, by the names that it has for them.
        """
        asked: dict[str, Any] = json.loads(job)
        written: dict[str, Path] = {}
        try:
            written = {role: self._write(role, content) for role, content in files.items()}
            asked |= {role: str(path) for role, path in written.items()}
            reply = self._worker.ask(asked, asked.pop("deadline_s"))
        except (EsmError, OSError) as error:
            return json.dumps({"problem": str(error)})
        finally:
            for role, path in written.items():
                if role != KEPT:
                    path.unlink(missing_ok=True)
        return json.dumps({"kind": reply.kind, "message": reply.message} if isinstance(reply, Lost) else reply)

    def end(self) -> None:
        """Ends the measuring process and deletes the files, but for the weights."""
        self._kept.close()

    def _write(self, role: str, content: bytes) -> Path:
        digest = hashlib.sha256(content).hexdigest()[:16] if role == KEPT else "job"
        path = self._folder / f"{role}-{digest}-{self._word}.onnx"
        if role != KEPT or not path.exists():
            grow_for(self._folder, onnx.load_model_from_string(content))
            path.write_bytes(content)
        return path
