"""One process at a time on one device: locks that vanish with their holder, and who holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from esm_onnx.errors import WorkError

HELD, WRITING = 0, 1
"""Bytes of a lock file: locked as long as the device is in use; locked while the file is looked at or written."""


class Busy(Exception):
    """Another process holds the lock; `holder` is its process id."""

    def __init__(self, holder: int) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a lock file, which also names the holder; the system takes the lock back when the process ends.

    Raises:
        Busy: another process holds it.
        WorkError: the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            _hold(stack.enter_context(path.open("ab+")))
        except OSError as error:
            raise WorkError(f"{path}: cannot be written ({error.strerror}): make room on its disk") from None
        yield


def _hold(file: IO[bytes]) -> None:
    """Locks an open file and writes the holder into it."""
    fcntl.lockf(file, fcntl.LOCK_EX, 1, WRITING)  # what the file says is the holder's: he wrote it under this lock
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, HELD)
        except OSError:
            file.seek(0)
            raise Busy(int(file.read())) from None
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        file.flush()
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, WRITING)
