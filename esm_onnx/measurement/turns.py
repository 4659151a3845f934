"""Works that take turns."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from esm_onnx.errors import EsmError

Result = TypeVar("Result")


def in_turn(works: Sequence[Generator[None, None, Result]]) -> list[Result | EsmError]:
    """Performs works step by step, a step of each in turn; gives what each returns or raises."""
    results: dict[int, Result | EsmError] = {}
    going = dict(enumerate(works))
    while going:
        for number, work in list(going.items()):
            try:
                next(work)
            except StopIteration as ended:
                results[number] = ended.value
                del going[number]
            except EsmError as error:
                results[number] = error
                del going[number]
    return [results[number] for number in range(len(works))]
