"""Works that take turns."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from esm_onnx.errors import EsmError

Result = TypeVar("Result")


def in_turn(works: Sequence[Generator[None, None, Result]]) -> list[Result]:
    """Performs works step by step, a step of each in turn; gives what they return.

    Raises:
        EsmError: the first that a work raised, once the others have ended.
    """
    results: dict[int, Result] = {}
    errors: list[EsmError] = []
    going = dict(enumerate(works))
    while going:
        for number, work in list(going.items()):
            try:
                next(work)
            except StopIteration as ended:
                results[number] = ended.value
                del going[number]
            except EsmError as error:
                errors.append(error)
                del going[number]
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(works))]
