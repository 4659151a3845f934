"""The errors that esm-onnx raises.

    EsmError                  anything esm-onnx says on purpose; never a traceback on the command line
    ├── InputError            a wrong argument, file or value; the command line exits with 2
    │   └── SpaceExhausted    fewer architectures are left than were asked for
    ├── WorkError             the work itself failed (a worker that cannot start); exits with 1
    │   └── ExportError       one architecture cannot be written
    └── ThresholdNotMet       the work was done and its result is below what was asked for; exits with 3

A failure that is expected while measuring is no error but a record: `esm_onnx.measurement.record.Failure`.
"""

from __future__ import annotations

import reprlib
from pathlib import Path

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_LONGEST_SHOWN = 80


class EsmError(Exception):
    """Base of all errors of esm-onnx. `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(EsmError):
    """Something from outside is wrong: the message says the value, what was expected, and the next step.

    Args:
        message: one line.
        file: the file that holds the value, if it came from one.
        line: the line in that file, from 1.
    """

    exit_code = 2

    def __init__(self, message: str, *, file: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return " ".join(f"{place}{self.message}".split())

    def at(self, file: Path | str, line: int | None = None) -> InputError:
        """The same error, with the place where the value stands."""
        self.file, self.line = file, line
        return self


class SpaceExhausted(InputError):
    """A space, or one bin of it, has fewer architectures left than were asked for."""


class WorkError(EsmError):
    """The work failed for a reason that is no wrong argument."""

    exit_code = 1


class ExportError(WorkError):
    """One architecture could not be written as ONNX; while profiling it is recorded as a failure."""


class ThresholdNotMet(EsmError):
    """The work ended below what was asked for: references that scatter, an accuracy below the threshold."""

    exit_code = 3


def shown(value: object) -> str:
    """A value from outside as a message shows it: its `repr`, cut short in the middle where it is long."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python prints no integer of more than some thousand digits
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
