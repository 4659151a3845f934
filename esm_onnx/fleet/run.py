"""Profiling on a fleet: one profiler a device, in a thread of its own, all of them fed from one list.

A device that is lost gives back at once what it was measuring, and is begun anew; after too many losses its session is
judged as far as it came, and what does not stand is measured by others. Nothing is measured twice but what no
references vouch for, as with one device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import EsmError, InputError, WorkError
from esm_onnx.export import export_facts
from esm_onnx.fleet.pooling import Levels, apart
from esm_onnx.fleet.remote import DeviceLost, Patience, Place, RemoteWorker, Stopped, find_places
from esm_onnx.measurement.claims import Claims
from esm_onnx.measurement.record import REFERENCE, SUBJECT
from esm_onnx.measurement.session import Outcome, Profiler, Progress
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.measurement.turns import in_turn
from esm_onnx.measurement.verdict import BOARD, close_session, open_sessions

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What a fleet left in the store.

    Attributes:
        outcomes: of each target.
        left: architectures that were neither measured nor failed, because devices were lost.
        lost: why devices were given up, by board.
    """

    outcomes: tuple[Outcome, ...]
    left: int
    lost: Mapping[str, str]


@dataclass(slots=True)
class Member:
    """A device with its profiler and the one thread that works with both."""

    place: Place
    thread: ThreadPoolExecutor
    store: Store | None = None
    profiler: Profiler | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    ended: str = ""

    @property
    def board(self) -> str:
        return self.place.board


class Fleet:
    """Measures architectures of one space on the devices of a cluster into one store; a context manager.

    Args:
        ray: the module, connected.
        devices: custom resources of the cluster, and what the runtime calls such a device, None for its first.
        runtime, options: as for `Profiler`.
        node_folder: where the devices write; None for a cache of theirs.
        report: told of progress.

    Raises:
        InputError: a device is not there, or none can be used.
        WorkError: no device answers.
    """

    def __init__(
        self,
        ray: Any,
        space: Space,
        store: Store,
        runtime: str,
        devices: Mapping[str, str | None],
        *,
        patience: Patience | None = None,
        node_folder: Path | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        **options: Any,
    ) -> None:
        self.space, self.store, self._runtime = space, store, runtime
        self._ray, self._patience, self._node_folder = ray, patience or Patience(), node_folder
        self._report, self._options = report, options
        self._stop, self._telling = threading.Event(), threading.Lock()
        self._claims = Claims(())
        self._known: dict[str, dict[Architecture, dict[str, Any]]] = {}
        self._devices = devices
        self.members: list[Member] = []
        with ExitStack() as kept:
            kept.callback(self._close)
            places = find_places(ray, devices)
            self.members = [Member(p, ThreadPoolExecutor(1, thread_name_prefix=p.board)) for p in places]
            self._each(self._begin, self.members)
            if not self._present:
                raise WorkError("; ".join(f"{m.ended}" for m in self.members))
            self._pool()
            self._kept = kept.pop_all()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        self._kept.close()

    @property
    def targets(self) -> list[Target]:
        """Those that are measured on, each once."""
        return list({p.target.digest: p.target for p in self._profilers}.values())

    def profile(
        self, architectures: Iterable[Architecture], *, enough: Callable[[], bool] = lambda: False
    ) -> FleetOutcome:
        """Measures what no device of this kind has measured before, each architecture on one of them.

        Args:
            enough: asked before each subject; once it says so, sessions are brought to their end.
        """
        asked = list(dict.fromkeys(architectures))
        for member in self.members:
            member.outcomes.clear()
        with ExitStack() as held:
            for target in {t.facts["device"]: t for t in self.targets}.values():
                held.enter_context(self.store.alone(target))
            self._close_absent()
            self._known = {target.digest: self._measured_how(target) for target in self.targets}
            before = {digest: set(known) for digest, known in self._known.items()}
            self._claims = Claims(asked, self._done())
            for member in self._present:
                self._claim_open(member)
            self._each(partial(self._run, asked, enough), self._present)
        lost = {member.board: member.ended for member in self.members if member.ended}
        outcomes = tuple(self._outcome(target, asked, before[target.digest]) for target in self.targets)
        return FleetOutcome(outcomes, len(self._claims.left), lost)

    @property
    def _present(self) -> list[Member]:
        return [member for member in self.members if not member.ended]

    @property
    def _profilers(self) -> list[Profiler]:
        return [member.profiler for member in self.members if member.profiler is not None]

    def _each(self, work: Callable[[Member], Result], members: Sequence[Member]) -> list[Result]:
        """Has devices do something at the same time; an interruption stops all of them."""
        futures: list[Future[Result]] = [member.thread.submit(work, member) for member in members]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self._stop.set()
            raise

    def _begin(self, member: Member) -> None:
        """Starts the device and its profiler."""
        try:
            member.store = Store(self.store.path, looked_at=True)
            member.profiler = self._profiler(member)
        except Stopped:
            raise
        except EsmError as error:
            self._end(member, str(error))

    def _profiler(self, member: Member) -> Profiler:
        assert member.store is not None
        place = member.place
        worker = partial(RemoteWorker, self._ray, place, self._patience, self._stop, self._node_folder)
        return Profiler(
            self.space,
            member.store,
            self._runtime,
            **self._options,
            report=partial(self._tell, member),
            worker=worker,
            board=place.board,
            claims=self._claims,
        )

    def _tell(self, member: Member, progress: Progress) -> None:
        """One device's progress as the fleet's."""
        message = progress.message
        if message and member.board not in message:
            message = f"{member.board}: {message}"
        with self._telling:
            self._report(replace(progress, done=self._claims.taken, message=message))

    def _pool(self) -> None:
        """Settles which devices share a target; each keeps the one that it had before."""
        groups: dict[str, list[Member]] = {}
        for member in self._present:
            assert member.profiler is not None
            if self._has_measured(member.board, member.profiler.own):
                member.profiler.target = member.profiler.own
            elif not self._has_measured(member.board, member.profiler.target):
                groups.setdefault(member.profiler.target.digest, []).append(member)
        for group in groups.values():
            self._pool_new(group)

    def _pool_new(self, group: Sequence[Member]) -> None:
        """Settles it for new devices whose facts are the same."""
        target = next(m.profiler.target for m in group if m.profiler is not None)
        known = self._levels(target)
        if len(group) == 1 and not known:
            return
        measured = zip(group, self._each(self._levels_of, group), strict=True)
        levels = {member.board: found for member, found in measured if found}
        others = apart(levels, [known] if known else [])
        for member in group:
            if member.board in others and member.profiler is not None:
                member.profiler.target = member.profiler.own
                self._tell(
                    member,
                    Progress(
                        0,
                        0,
                        0,
                        f"{member.board}: its references differ by more than 3 % from those of "
                        f"{target.name!r}, so it is a target of its own, {member.profiler.own.name!r}",
                    ),
                )

    def _levels_of(self, member: Member) -> Levels | None:
        """The latencies of its references now; None for a device that is given up over them."""
        assert member.profiler is not None
        while True:
            try:
                return member.profiler.reference_latencies()
            except Stopped:
                raise
            except EsmError as error:
                if not self._may_begin_anew(member, error):
                    self._end(member, str(error))
                    return None

    def _may_begin_anew(self, member: Member, error: EsmError) -> bool:
        """Whether it was lost, and not too often: what it is asked next begins it anew."""
        assert member.profiler is not None
        assert isinstance(member.profiler.worker, RemoteWorker)
        return isinstance(error, DeviceLost) and member.profiler.worker.losses < self._patience.losses

    def _levels(self, target: Target) -> Levels:
        """The mean latency of each reference on a target, as far as the store knows it."""
        found: dict[Architecture, list[float]] = {}
        for record in self.store.measurements(self.space, target, role=REFERENCE):
            found.setdefault(record.architecture, []).append(record.latency_ms)
        return {architecture: sum(each) / len(each) for architecture, each in found.items()}

    def _has_measured(self, board: str, target: Target) -> bool:
        sessions = self.store.sessions(self.space, target)
        return any(provenance.get(BOARD) == board for _, _, provenance, _ in sessions)

    def _kin(self) -> list[Target]:
        """Targets of the store that these devices or others of their kinds have measured on, in the same way."""
        profiler = self._profilers[0]
        facts = profiler.target.facts
        same = {name: facts[name] for name in (*export_facts(self.space, profiler.export), "runtime")}
        return [
            content.target
            for content in self.store.contents()
            if content.matches(self.space, None) and same.items() <= dict(content.target.facts).items()
        ]

    def _is_kin(self, board: object) -> bool:
        return isinstance(board, str) and board.partition("@")[0] in self._devices

    def _close_absent(self) -> None:
        """Judges the sessions that devices left open that are not here now."""
        here = {member.board for member in self._present}
        for target in self._kin():
            for session, protocol, board in open_sessions(self.store, self.space, target):
                if self._is_kin(board) and board not in here:
                    close_session(self.store, self.space, target, session, protocol, board)

    def _measured_how(self, target: Target) -> dict[Architecture, dict[str, Any]]:
        """What stands on a target, with its provenance."""
        return dict(self.store.measured_how(self.space, target, self._profilers[0].protocol.fields))

    def _done(self) -> set[Architecture]:
        """What devices of these kinds have measured before."""
        done = set[Architecture]().union(*self._known.values())
        for target in self._kin():
            if target.digest not in self._known:
                how = self._measured_how(target)
                done |= {architecture for architecture, by in how.items() if self._is_kin(by.get(BOARD))}
        return done

    def _claim_open(self, member: Member) -> None:
        """A device takes what it has measured in the session that it will continue."""
        profiler = member.profiler
        assert profiler is not None
        profiler.claims = self._claims
        for architecture in self._in_open_sessions(self.store, profiler, member.board):
            self._claims.take(architecture, member.board)

    def _in_open_sessions(self, store: Store, profiler: Profiler, board: str) -> set[Architecture]:
        return {
            record.architecture
            for session, _, whose in open_sessions(store, self.space, profiler.target)
            if whose == board
            for record in store.measurements(self.space, session=session, role=SUBJECT)
        }

    def _run(self, asked: Sequence[Architecture], enough: Callable[[], bool], member: Member) -> None:
        """Measures with one device until nothing is left, or it is given up."""
        profiler, claims, board = member.profiler, self._claims, member.board
        assert profiler is not None
        known = self._known[profiler.target.digest]
        assert member.store is not None
        while claims.wait(board, lambda: self._stop.is_set() or enough()):
            (outcome,) = in_turn([profiler.steps(asked, enough=enough, known=known)])
            if isinstance(outcome, Outcome):
                member.outcomes.append(outcome)
                for failure in outcome.failures:  # enough of them: nobody else needs to fail with it
                    claims.take(failure.architecture, board)
                claims.finish(board)
            elif isinstance(outcome, Stopped):
                raise outcome
            elif self._may_begin_anew(member, outcome):
                kept = self._in_open_sessions(member.store, profiler, board)
                held = claims.held_by(board)  # in its sessions before this one too, and what stands there remains its
                claims.give_back([a for a in held if a not in kept and a not in known], board)
                self._tell(member, Progress(len(asked), 0, 0, f"{outcome}; begun anew"))
            else:
                self._give_up(member, outcome, asked)
                return

    def _give_up(self, member: Member, error: EsmError, asked: Sequence[Architecture]) -> None:
        """Judges the session of a device that will not come back; others measure what does not stand."""
        profiler = member.profiler
        assert profiler is not None
        profiler.close_sessions()
        known = self._known[profiler.target.digest]
        self._claims.finish(member.board, but=[a for a in self._claims.held_by(member.board) if a not in known])
        self._end(member, str(error))
        self._tell(member, Progress(len(asked), 0, 0, f"given up: {error}"))

    def _end(self, member: Member, why: str) -> None:
        member.ended = why

    def _outcome(self, target: Target, asked: Sequence[Architecture], before: set[Architecture]) -> Outcome:
        """What all devices of a target did."""
        measured = self._measured_how(target)
        of_members = [o for m in self.members for o in m.outcomes if o.target == target]
        failures = {f.architecture: f for o in of_members for f in o.failures if f.architecture not in measured}
        return Outcome(
            target,
            sum(a in measured and a not in before for a in asked),
            sum(a in before for a in asked),
            max((o.weakly_measured for o in of_members), default=0),
            tuple(failures.values()),
            tuple(quality for o in of_members for quality in o.sessions),
        )

    def _close(self) -> None:
        for member in self.members:
            member.thread.submit(self._close_member, member)
        for member in self.members:
            member.thread.shutdown()

    @staticmethod
    def _close_member(member: Member) -> None:
        if member.profiler is not None:
            member.profiler.__exit__()
        if member.store is not None:
            member.store.__exit__(None, None, None)


def read_devices(texts: Sequence[str]) -> dict[str, str | None]:
    """`NAME` or `NAME=DEVICE` as custom resource and what the runtime calls the device.

    Raises:
        InputError: none, or one twice.
    """
    if not texts:
        raise InputError("no device, expected --device NAME for each kind of device of the fleet")
    pairs = [text.partition("=") for text in texts]
    names = [name for name, _, _ in pairs]
    for text, name in zip(texts, names, strict=True):
        if not name.replace("-", "").replace("_", "").isalnum() or name in ("CPU", "GPU", "memory"):
            raise InputError(f"device {text!r}, expected NAME or NAME=DEVICE, NAME a custom resource such as rpi4")
        if names.count(name) > 1:
            raise InputError(f"device {name!r} twice, expected each kind once: all nodes that have it take part")
    return {name: device or None for name, _, device in pairs}
