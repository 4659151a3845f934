"""What a command tells while it works: a view that moves in a terminal, plain lines elsewhere, events for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any

import click
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esm_onnx.measurement.quality import STATES, Drift
from esm_onnx.measurement.session import Progress

Clock = Callable[[], float]
"""Seconds; only differences count."""
Fields = Mapping[str, Any]
"""Of an event, as JSON data."""

LAMPS = dict(zip(STATES, (("●", "green"), ("▲", "yellow"), ("■", "red")), strict=True))
"""Symbol and colour; the word stands beside them, for those who see no colours."""
FRAMES_PER_SECOND = 2
"""Few: whoever measures should not be disturbed by being watched."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the work stands.

    Attributes:
        total, done: of this stretch of the work; a total of 0 where it is not known.
        failed: of all sources.
        drift: the gravest of all sources; None where no references can be compared.
        pace_s: seconds for each, by those that were done in this stretch; None before the first.
        at_s: when, on the clock.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    drift: Drift | None = None
    pace_s: float | None = None
    at_s: float = 0.0

    def left_s(self, now_s: float) -> float | None:
        """Seconds until all are done, at this pace; None while it is not known."""
        if self.pace_s is None:
            return None
        return max(0.0, (self.total - self.done) * self.pace_s - (now_s - self.at_s))


class Tally:
    """Adds up what one source or several report.

    The pace is that of what is done under our eyes: what was there already takes no time, and what comes before the
    first, such as calibration, comes only once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: dict[str, Progress] = {}
        self.begin()

    def begin(self) -> None:
        """Another stretch of work: its counts and its pace are its own."""
        self._counted: tuple[int, int, float] | None = None
        self._gained, self._spent_s = 0, 0.0

    def add(self, progress: Progress) -> Standing:
        """Where the work stands with this."""
        self._latest[progress.source] = progress
        if progress.total:  # a device of a fleet that has something to tell may know no counts
            self._count(progress)
        total, done, at_s = self._counted or (0, 0, self._clock())
        drifts = [each.drift for each in self._latest.values() if each.drift is not None]
        return Standing(
            total,
            done,
            sum(each.failed for each in self._latest.values()),
            max(drifts, key=lambda drift: drift.gravity, default=None),
            self._spent_s / self._gained if self._gained else None,
            at_s,
        )

    def _count(self, progress: Progress) -> None:
        now_s = self._clock()
        if self._counted is not None:
            _, before, at_s = self._counted
            gained = max(0, progress.done - before)  # a session that is rejected takes back what was done in it
            if self._gained or gained:
                self._gained, self._spent_s = self._gained + gained, self._spent_s + now_s - at_s
        self._counted = progress.total, progress.done, now_s


class View:
    """Tells on standard error what must be told, one line each: what a log can hold.

    Attributes:
        what: name of the stretch of work that goes on.
    """

    def __init__(self, what: str, clock: Clock) -> None:
        self._clock, self._began_s = clock, clock()
        self._tally = Tally(clock)
        self._standing = Standing()
        self.begin(what)

    def begin(self, what: str, *, left: str = "left") -> None:
        """Another stretch of work.

        Args:
            what: its name.
            left: what the time left is called.
        """
        self._tally.begin()
        self.what, self._left = what, left
        self._standing = Standing(failed=self._standing.failed, drift=self._standing.drift)
        self._move()

    def report(self, progress: Progress) -> None:
        """Takes what measuring, or other work that goes on by numbers, reports; also from other threads."""
        self._standing = self._tally.add(progress)
        self._move()
        if progress.message:
            self.tell(progress.message)

    def tell(self, message: str) -> None:
        """One line that must be told."""
        click.echo(message, err=True)

    def show(self, event: str, fields: Fields, *, line: str = "", panel: RenderableType | None = None) -> None:
        """Tells of something that has happened.

        Args:
            event, fields: for machines.
            line: that must be told; empty where it need not.
            panel: what a terminal shows from now on below the bar.
        """
        if line:
            self.tell(line)

    def _move(self) -> None:
        """Is called when the work has moved on."""


class Screen(View):
    """A bar, the time left, a lamp for the references and a panel, in a terminal; gone when its context ends."""

    def __init__(self, what: str, clock: Clock, console: Console) -> None:
        super().__init__(what, clock)
        self._panel: RenderableType = ""
        self._console = console
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=False,  # which may be a file
            redirect_stderr=False,  # `_Above` does it
        )
        self._above = redirect_stderr(_Above(self._live, console.file))

    def __enter__(self) -> Screen:
        self._above.__enter__()
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        self._above.__exit__(None, None, None)

    def tell(self, message: str) -> None:
        self._console.print(Text(message))

    def show(self, event: str, fields: Fields, *, line: str = "", panel: RenderableType | None = None) -> None:
        self._panel = self._panel if panel is None else panel
        super().show(event, fields, line=line)

    def _render(self) -> RenderableType:
        standing = self._standing
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        counts = f"{standing.done}/{standing.total}" if standing.total else ""
        bar.add_row(Text(self.what), ProgressBar(standing.total or None, standing.done), Text(counts))
        lamp = [] if standing.drift is None else [lamp_of(standing.drift)]
        return Group(bar, self._times(standing), *lamp, self._panel)

    def _times(self, standing: Standing) -> Text:
        now_s = self._clock()
        left_s = standing.left_s(now_s)
        left = "" if left_s is None else f", about {_duration(left_s)} {self._left}"
        failed = (f", {standing.failed} failed", "red") if standing.failed else ""
        return Text.assemble(f"{_duration(now_s - self._began_s)} gone{left}", failed)


class _Above(FileProxy):
    """Standard error while a view is on it: what others write there comes above the view.

    Whoever keeps this beyond the view's end, as Ray does, writes to standard error.
    """

    def __init__(self, live: Live, file: IO[str]) -> None:
        super().__init__(live.console, file)
        self._live = live

    def write(self, text: str) -> int:
        return super().write(text) if self._live.is_started else self.rich_proxied_file.write(text)


class Events(View):
    """A JSON object a line on standard output for all that happens; docs/live.md says which."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._out = sys.stdout  # a fleet puts another in its place
        super().__init__(what, clock)

    def tell(self, message: str) -> None:
        self._write("message", {"text": message})

    def show(self, event: str, fields: Fields, *, line: str = "", panel: RenderableType | None = None) -> None:
        self._write(event, fields)

    def _move(self) -> None:
        standing, now_s = self._standing, self._clock()
        left_s = standing.left_s(now_s)
        drift = standing.drift
        told = {
            "what": self.what,
            "done": standing.done,
            "total": standing.total,
            "failed": standing.failed,
            "seconds": round(now_s - self._began_s, 3),
            "left_seconds": None if left_s is None else round(left_s, 3),
            "drift": drift and {"share": drift.share, "tolerance": drift.tolerance, "state": drift.state},
        }
        self._write("progress", told)

    def _write(self, event: str, fields: Fields) -> None:
        text = json.dumps({"event": event, **fields}, ensure_ascii=False, allow_nan=False)
        click.echo(text, file=self._out)  # which flushes it


@contextmanager
def live(what: str, *, events: bool = False, clock: Clock = time.monotonic) -> Iterator[View]:
    """The view of a command that takes its time.

    Args:
        what: name of its first stretch of work.
        events: for machines.
    """
    console = Console(stderr=True)
    if events:
        yield Events(what, clock)
    elif sys.stderr.isatty() and console.is_interactive:
        with Screen(what, clock, console) as screen:
            yield screen
    else:
        yield View(what, clock)


def lamp_of(drift: Drift) -> Text:
    """The lamp for the references, with its words."""
    symbol, colour = LAMPS[drift.state]
    off = drift.alarm or f"{100 * drift.share:+z.1f} % of ±{100 * drift.tolerance:g} %"
    return Text.assemble((f"{symbol} references {drift.state}", colour), f": {off}")


def accuracy_panel(title: str, bins: Iterable[tuple[str, float | None, bool]]) -> RenderableType:
    """The accuracy by bin: name, accuracy in %, and whether it is below the threshold."""
    return Group(Text(title), Columns([_bin(*each) for each in bins], padding=(0, 3), equal=True))


def _bin(name: str, accuracy: float | None, below: bool) -> Text:
    reached = "nothing measured" if accuracy is None else f"{accuracy:.2f} %"
    return Text.assemble(("▼" if below else "✓", "yellow" if below else "green"), f" {name}: {reached}")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
