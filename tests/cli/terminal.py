"""A terminal for tests: commands run in it as a person runs them, and its screen can be read.

It understands what the live view writes and nothing else: an unknown sequence is an error.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 120
TOKEN = re.compile(r"\x1b\[(?P<numbers>[?0-9;]*)(?P<letter>[A-Za-z])|(?P<plain>[^\x1b])")
BEGUN = re.compile(r"\x1b(\[[?0-9;]*)?$")
CONTROLLED = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from esm_onnx.cli import main; main()"


class Screen:
    """What is on the screen, and all that has scrolled out of it.

    Attributes:
        cursor: whether it is shown.
        colours: sequences of colours that were seen.
    """

    def __init__(self, columns: int) -> None:
        self._columns, self._lines, self._row, self._column = columns, [""], 0, 0
        self._begun = ""
        self.cursor, self.colours, self.sequences = True, set[str](), 0

    def feed(self, text: str) -> None:
        text, self._begun = self._begun + text, ""
        if unfinished := BEGUN.search(text):
            text, self._begun = text[: unfinished.start()], unfinished[0]
        at = 0
        while at < len(text):
            token = TOKEN.match(text, at)
            assert token, text[at : at + 20]
            at = token.end()
            if token["plain"]:
                self._write(token["plain"])
            else:
                self._obey(token["numbers"], token["letter"])

    def _write(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            if self._column == self._columns:
                self._down()
                self._column = 0
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append("")

    def _obey(self, numbers: str, letter: str) -> None:
        self.sequences += 1
        if letter == "A":
            self._row -= int(numbers or 1)
            assert self._row >= 0
        elif (numbers, letter) == ("2", "K"):
            self._lines[self._row] = ""
        elif (numbers, letter[0]) in (("?25", "h"), ("?25", "l")):
            self.cursor = letter == "h"
        elif letter == "m":
            self.colours |= {numbers} - {"0", "1", ""}
        else:
            raise AssertionError(f"unknown sequence {numbers}{letter}")

    @property
    def text(self) -> str:
        """Lines without trailing blanks."""
        return "\n".join(line.rstrip() for line in self._lines).rstrip()

    @property
    def words(self) -> str:
        """The same in one line, however it was wrapped."""
        return " ".join(self.text.split())


class Session:
    """A command that runs in a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, columns: int) -> None:
        self._process, self._master = process, master
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self.screen = Screen(columns)

    def wait_for(self, condition: Callable[[Screen], bool]) -> None:
        """Reads until the screen is as it should be."""
        until = time.monotonic() + PATIENCE_S
        while not condition(self.screen):
            assert time.monotonic() < until, self.screen.text
            assert self._read(), self.screen.text

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def end(self) -> int:
        """Reads to the end; gives the exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            chunk = os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other side open
            return False
        self.screen.feed(self._decode(chunk))
        return bool(chunk)


@contextmanager
def terminal(
    *arguments: object, folder: Path, columns: int, environment: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Runs `esm-onnx` with these arguments in a terminal of that width."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, *map(str, arguments)],
        cwd=folder,
        env={**inherited, "TERM": "xterm-256color", **(environment or {})},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Session(process, master, columns)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(master)
