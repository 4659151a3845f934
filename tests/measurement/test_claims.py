from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Space, sample
from esm_onnx.measurement.claims import Claims
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import SUBJECT, Failure, Measurement
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

ASKED = sample(tiny_space(), 6, strategy="random", rng=Random(0))
HOLDERS = ("a", "b")


@given(
    st.lists(st.tuples(st.sampled_from(["take", "give back", "finish"]), st.integers(0, 5), st.sampled_from(HOLDERS)))
)
def test_nothing_has_two_holders_and_nothing_is_forgotten(steps: list[tuple[str, int, str]]) -> None:
    claims = Claims(ASKED)
    free, done = set(ASKED), set[Architecture]()
    held: dict[str, set[Architecture]] = {holder: set() for holder in HOLDERS}
    for step, place, holder in steps:
        architecture = ASKED[place]
        if step == "take":
            assert claims.take(architecture, holder) == (architecture in free or architecture in held[holder])
            if architecture in free:
                free.remove(architecture)
                held[holder].add(architecture)
        elif step == "give back":
            claims.give_back([architecture], holder)
            free |= held[holder] & {architecture}
            held[holder] -= {architecture}
        else:
            claims.finish(holder, but=[architecture])
            free |= held[holder] & {architecture}
            done |= held[holder] - {architecture}
            held[holder] = set()
        assert {each: set(claims.held_by(each)) for each in HOLDERS} == held
        assert set(claims.left) == set(ASKED) - done
        assert claims.taken == len(ASKED) - len(free)


def test_who_waits_is_told_what_another_gives_back_or_that_nothing_will_come() -> None:
    claims = Claims(ASKED)
    assert all(claims.take(each, "a") for each in ASKED)
    heard: list[bool] = []

    def listen() -> None:
        heard.extend([claims.wait("b"), claims.take(ASKED[2], "b")])

    listener = threading.Thread(target=listen)
    listener.start()
    claims.give_back([ASKED[2]], "a")
    listener.join(60)
    assert heard == [True, True]
    claims.finish("a")
    claims.finish("b")
    assert not claims.wait("a")
    assert not Claims(ASKED, ASKED).wait("a")
    assert not claims.wait("a", lambda: True)


DEVICES = ("gpu", "cpu", "board", "hot")
PROTOCOL = Protocol(runs=10, warmup=1, references=1, reference_every=20, session_size=40, target_error=None)


class Ledger(Store):
    """A store that adds up the device's own time for all that it has timed."""

    spent_ms = 0.0

    def append(self, session: int, space: Space, record: Measurement | Failure) -> None:
        super().append(session, space, record)
        assert isinstance(record, Measurement)
        self.spent_ms += sum(record.runs_ms) + (record.pairing.spent_ms if record.pairing else 0.0)


@contextmanager
def measuring(space: Space, folder: Path, name: str, asked: list[Architecture]) -> Iterator[dict[str, Profiler]]:
    """A profiler for each device, all of them with one list and one store."""
    claims, found = Claims(asked), {}
    with ExitStack() as kept:
        for device in DEVICES:
            profiler = Profiler(
                space,
                kept.enter_context(Ledger(folder / name)),
                "dry",
                folder=folder / "subnets",
                settings=RuntimeSettings(device),
                protocol=PROTOCOL,
                board=device,
                claims=claims,
            )
            found[device] = kept.enter_context(profiler)
        yield found


def spent_ms(profiler: Profiler) -> float:
    assert isinstance(profiler.store, Ledger)
    return profiler.store.spent_ms


def test_together_devices_are_as_fast_as_the_sum_of_their_rates(tiny: Space, tmp_path: Path) -> None:
    """On the devices' virtual clocks: whoever has spent least comes next, as it would by the clock on the wall."""
    asked = sample(tiny, 90, strategy="random", rng=Random(1))
    rates, alone = [], asked[:20]
    for device in DEVICES:
        with measuring(tiny, tmp_path, f"{device}.db", alone) as each:
            assert each[device].profile(alone).measured == len(alone)
            rates.append(len(alone) / spent_ms(each[device]))
    with measuring(tiny, tmp_path, "together.db", asked) as together:
        steps = {device: profiler.steps(asked) for device, profiler in together.items()}
        turns = [(0.0, device) for device in DEVICES]
        while turns:
            _, device = heapq.heappop(turns)
            if next(steps[device], "ended") != "ended":
                heapq.heappush(turns, (spent_ms(together[device]), device))
        makespan_ms = max(map(spent_ms, together.values()))
        standing = [
            record.architecture
            for profiler in together.values()
            for record in profiler.store.measurements(tiny, profiler.target, role=SUBJECT)
        ]
    assert sorted(map(repr, standing)) == sorted(map(repr, asked))
    assert len(asked) / makespan_ms >= 0.9 * sum(rates)
