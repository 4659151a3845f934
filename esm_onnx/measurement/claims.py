"""Architectures that several devices measure between them: which of them has taken which."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from esm_onnx.architectures import Architecture

DONE = ""
"""In place of a holder's name: nobody needs to measure it any more."""
LOOK_S = 0.5
"""Seconds between two looks whether to stop."""


class Claims:
    """Each architecture is free, held by one device, or done; for several threads at once.

    Args:
        asked: what is to be measured; what nobody knows is nobody's.
        done: those of it that were measured before.
    """

    def __init__(self, asked: Iterable[Architecture], done: Collection[Architecture] = ()) -> None:
        self._holders: dict[Architecture, str | None] = {a: DONE if a in done else None for a in asked}
        self._counts = Counter(self._holders.values())
        self._changed = threading.Condition()

    def is_open_to(self, architecture: Architecture, holder: str) -> bool:
        """Whether it is free, or this holder's."""
        return self._holders[architecture] in (None, holder)

    def take(self, architecture: Architecture, holder: str) -> bool:
        """Makes it this holder's, unless another was faster or it is done."""
        with self._changed:
            mine = self.is_open_to(architecture, holder)
            if mine:
                self._change(architecture, holder)
            return mine

    def give_back(self, architectures: Iterable[Architecture], holder: str) -> None:
        """Makes those free that are this holder's."""
        self._replace(holder, None, set(architectures).__contains__)

    def finish(self, holder: str, *, but: Collection[Architecture] = ()) -> None:
        """What this holder has is done, but for some, which are free again."""
        self.give_back(but, holder)
        self._replace(holder, DONE, lambda _: True)

    def held_by(self, holder: str) -> list[Architecture]:
        """What it has taken and not finished."""
        with self._changed:
            return [architecture for architecture, each in self._holders.items() if each == holder]

    @property
    def left(self) -> list[Architecture]:
        """Those that are not done."""
        with self._changed:
            return [architecture for architecture, holder in self._holders.items() if holder != DONE]

    @property
    def taken(self) -> int:
        """Number of those that are not free."""
        with self._changed:
            return len(self._holders) - self._counts[None]

    def wait(self, holder: str, stop: Callable[[], bool] = lambda: False) -> bool:
        """Whether there is something for this holder: waits while others hold all, for one of them may give back."""
        with self._changed:
            while not stop():
                if self._any_for(holder) or not self._any_held():
                    return self._any_for(holder)
                self._changed.wait(LOOK_S)
            return False

    def _any_for(self, holder: str) -> bool:
        return self._counts[None] + self._counts[holder] > 0

    def _any_held(self) -> bool:
        return self._counts[DONE] < len(self._holders)

    def _change(self, architecture: Architecture, holder: str | None) -> None:
        self._counts[self._holders[architecture]] -= 1
        self._holders[architecture] = holder
        self._counts[holder] += 1

    def _replace(self, holder: str, by: str | None, which: Callable[[Architecture], bool]) -> None:
        with self._changed:
            for architecture in [a for a, each in self._holders.items() if each == holder and which(a)]:
                self._change(architecture, by)
            self._changed.notify_all()
