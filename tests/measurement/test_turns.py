"""Works that take turns."""

from __future__ import annotations

from collections.abc import Generator

from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.errors import WorkError
from esm_onnx.measurement.turns import in_turn


def work(name: int, steps: int, log: list[int], *, fails: bool = False) -> Generator[None, None, int]:
    for _ in range(steps):
        log.append(name)
        yield
    if fails:
        raise WorkError(f"work {name} failed")
    return 10 * name


@given(st.lists(st.integers(0, 5), max_size=4))
def test_each_has_a_step_in_turn_until_it_ends(steps: list[int]) -> None:
    log: list[int] = []
    assert in_turn([work(name, count, log) for name, count in enumerate(steps)]) == [10 * n for n in range(len(steps))]
    rounds = range(max(steps, default=0))
    assert log == [name for turn in rounds for name, count in enumerate(steps) if turn < count]


def test_a_failure_does_not_keep_the_others_from_ending() -> None:
    log: list[int] = []
    works = [work(0, 3, log), work(1, 1, log, fails=True), work(2, 0, log, fails=True)]
    first, second, third = in_turn(works)
    assert first == 0
    assert isinstance(second, WorkError)
    assert isinstance(third, WorkError)
    assert (str(second), str(third)) == ("work 1 failed", "work 2 failed")
    assert log == [0, 1, 0, 0]
