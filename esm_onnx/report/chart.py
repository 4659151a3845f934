"""One picture: what it is of, the sentence that says what it shows, the numbers behind it, and how it is drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

Cell = str | int | float | None
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Numbers with their columns' names, units among them."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Row]

    def as_csv(self) -> str:
        """A line for each row below the names; what is unknown is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()


@dataclass(frozen=True)
class Chart:
    """A picture that can be drawn in any size and format.

    Attributes:
        kind: what `plot` calls it, one of `sections.KINDS`.
        of: what it is about, such as a space and a target.
        sentence: what it shows on these data.
        numbers: what is drawn; `plot` writes it as CSV.
        draw: draws it into an empty figure.
        beside: more that belongs to it and is not drawn.
        height: over the width.
    """

    kind: str
    of: str
    sentence: str
    numbers: Table
    draw: Callable[[Figure], None]
    beside: tuple[Table, ...] = ()
    height: float = 0.66


def percent(share: float, digits: int = 1) -> str:
    """A share as text in per cent."""
    return f"{100 * share:.{digits}f} %"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 session`, `2 sessions`, `1,000 sessions`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
