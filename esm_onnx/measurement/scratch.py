"""The files of one profiler in a folder that others use too, and what is left of those that were killed."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from esm_onnx.errors import InputError


@contextmanager
def scratch(folder: Path) -> Iterator[str]:
    """A word for the names of files that nobody else has; at the end those whose names hold it are deleted.

    So are, at the beginning, the files of processes that were killed: the system has freed their locks. Process ids
    would not do: containers and the hosts of a network folder have their own.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("scratch-*.lock"):
            _delete_if_free(path)
        word = secrets.token_hex(8)
        lock = (folder / f"scratch-{word}.lock").open("xb")
    except OSError as error:
        raise InputError(f"cannot be made a folder for subnets: {error.strerror}", file=folder) from None
    with lock:
        with suppress(OSError):  # a file system that knows no locks: nobody deletes anything of others there
            fcntl.flock(lock, fcntl.LOCK_EX)  # belongs to this open file: a second profiler of this process has none
        try:
            yield word
        finally:
            _delete(folder, word)


def _delete_if_free(lock: Path) -> None:
    with suppress(OSError), lock.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(lock.parent, lock.stem.removeprefix("scratch-"))


def _delete(folder: Path, word: str) -> None:
    """Deletes the files whose names hold the word, the lock last."""
    for path in sorted(folder.glob(f"*-{word}.*"), key=lambda path: path.suffix == ".lock"):
        path.unlink(missing_ok=True)
