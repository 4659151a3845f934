"""Ctrl-C: one line that says what is left of the work, and an exit code of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esm_onnx.errors import EsmError

NOTHING = "no result was written"
"""What is left of most commands: files are written in the end, whole or not at all."""


class Interrupted(EsmError):
    """The user has stopped the command."""

    exit_code = 130

    def __init__(self, left: str) -> None:
        super().__init__(f"interrupted; {left}")


@contextmanager
def interruptible(left: Callable[[], str] = lambda: NOTHING) -> Iterator[None]:
    """Makes one line of Ctrl-C, once all that lies within is cleaned up.

    Args:
        left: says then what is left of the work.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(left()) from None


def kept_in(store: Path) -> str:
    """What is left of measuring."""
    return f"what was measured is kept in {store}, and the same command goes on where it was"
