"""The head's side of one device: found in the cluster, asked with a deadline of our own, begun anew after a loss."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esm_onnx import __version__
from esm_onnx.errors import InputError, WorkError
from esm_onnx.fleet.board import Board
from esm_onnx.measurement.replies import read_facts, read_object, read_reply
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.target import Fact
from esm_onnx.measurement.worker import START_S, Lost, Measurer

LOOK_S = 0.5
"""Seconds between two looks whether the fleet is to stop."""
LONGEST_BEGINNING = 100_000
BYTES_A_RUN = 200
"""Characters of JSON for a run at most, and as much again for everything: what a device may answer."""
FILES = ("subnet", "calibration", "fp32")
"""Of a job: those of its fields that are files."""


class DeviceLost(WorkError):
    """A device did not answer in time, died, or answered what it should not."""


class Stopped(WorkError):
    """The fleet was told to stop."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device is waited for.

    Attributes:
        start_s: seconds in which it must be there and have started its measuring process.
        answer_s: seconds beyond the deadline of a subnet, in which it may have to start that process anew.
        losses: a device that is lost so many times, with no answer in between, is given up.
    """

    start_s: float = 2 * START_S
    answer_s: float = START_S + 30
    losses: int = 3


@dataclass(frozen=True, slots=True)
class Place:
    """One device: the custom resource that stands for it, the node that has it, and what the runtime calls it there."""

    resource: str
    node: str
    device: str | None = None

    @property
    def board(self) -> str:
        """What it is called in records."""
        return f"{self.resource}@{self.node}"


def find_places(ray: Any, devices: Mapping[str, str | None]) -> list[Place]:
    """The devices of a cluster.

    Args:
        devices: custom resources, and what the runtime calls such a device, None for its first.

    Raises:
        InputError: a resource that no node has, or that one has other than once; two nodes of one name.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    places = []
    for resource, device in devices.items():
        having = [node for node in nodes if resource in node["Resources"]]
        if not having:
            known = {name for node in nodes for name in node["Resources"] if name[0].islower() and ":" not in name}
            raise InputError(
                f"no node has the resource {resource!r}, expected one of {', '.join(sorted(known)) or 'none'}: start "
                f"one with `esm-onnx fleet start --address HEAD --device {resource}`"
            )
        for node in having:
            if node["Resources"][resource] != 1:
                raise InputError(f"{resource} is {node['Resources'][resource]:g} on {node['NodeName']}, expected 1")
        places += [Place(resource, node["NodeName"], device) for node in having]
    twice = [place.board for place in places if places.count(place) > 1]
    if twice:
        raise InputError(f"two nodes are called {twice[0]!r}, expected names: start them with --node-name")
    return places


class RemoteWorker(Measurer):
    """A device of the fleet, held by one actor; asked by one thread at a time.

    Args:
        ray: the module, connected.
        stop: once set, whoever waits is told by `Stopped`.
        folder: on the device's machine; None for a cache there.

    Attributes:
        losses: how often it was lost since it last answered.

    Raises:
        InputError: the runtime cannot be used there.
        DeviceLost: it does not answer.
    """

    def __init__(
        self,
        ray: Any,
        place: Place,
        patience: Patience,
        stop: threading.Event,
        folder: Path | None,
        runtime: str,
        settings: RuntimeSettings,
        *,
        memory_bytes: int | None = None,
        quantities: Sequence[str] = (),
    ) -> None:
        self._ray, self.place, self._patience, self._stop = ray, place, patience, stop
        told = {**asdict(settings), "device": place.device, "folder": None}
        command = {"runtime": runtime, "settings": told, "memory_bytes": memory_bytes, "quantities": list(quantities)}
        self._command = json.dumps({**command, "folder": folder and str(folder)})
        self._actor: Any = None
        self.losses = 0
        self.facts: Mapping[str, Fact] = {}
        self._begin()

    def close(self) -> None:
        """Ends the actor and with it the measuring process."""
        if self._actor is not None and not self._stop.is_set():
            with suppress(WorkError):
                self._wait(self._actor.end.remote(), 5.0, 100)
        self._drop()

    def ask(self, job: dict[str, Any], deadline_s: float) -> dict[str, Any] | Lost:
        try:
            if self._actor is None:
                self._begin()
            reply = self._ask(job, deadline_s)
        except DeviceLost:
            self.losses += 1
            self._drop()
            raise
        self.losses = 0
        return reply

    def _ask(self, job: dict[str, Any], deadline_s: float) -> dict[str, Any] | Lost:
        files = {role: Path(job[role]).read_bytes() for role in FILES if job.get(role)}
        text = json.dumps({**job, **dict.fromkeys(files), "deadline_s": deadline_s})
        longest = LONGEST_BEGINNING + BYTES_A_RUN * job.get("runs", 0)
        try:
            reply = self._wait(self._actor.ask.remote(text, files), deadline_s + self._patience.answer_s, longest)
            if "problem" in reply:
                raise DeviceLost(f"{self.place.board}: {str(reply['problem'])[:500]}")
            return read_reply(reply, job)
        except InputError as error:
            raise DeviceLost(f"{self.place.board} answered wrongly: {error}") from None

    def _begin(self) -> None:
        """Starts the actor; the facts must be those that the device had before."""
        until = time.monotonic() + self._patience.start_s
        node = self._node(until)
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "resources": {self.place.resource: 1}, "scheduling_strategy": strategy}
        try:
            actor = self._ray.remote(Board).options(**options, max_restarts=0, max_task_retries=0)
            self._actor = actor.remote(self._command)
            first = self._wait(self._actor.begin.remote(), until - time.monotonic(), LONGEST_BEGINNING)
            if "problem" in first:
                raise InputError(f"{self.place.board}: {first['problem']}")
            facts = read_facts(first.get("facts"))
            self._demand(first, facts)
        except BaseException:
            self._drop()
            raise
        self.facts = facts
        self.energy_counter = None if (counter := first.get("energy_counter")) is None else str(counter)[:80]

    def _demand(self, first: Mapping[str, Any], facts: Mapping[str, Fact]) -> None:
        board = self.place.board
        if first.get("version") != __version__:
            raise InputError(f"{board} has esm-onnx {first.get('version')}, expected {__version__} as here: install it")
        if first.get("niceness") != 0:
            raise InputError(
                f"{board} measures at niceness {first.get('niceness')}, expected 0: start its node with "
                "`esm-onnx fleet start`, or RAY_worker_niceness=0 in its environment"
            )
        if self.facts and facts != self.facts:
            other = next(name for name in {**facts, **self.facts} if facts.get(name) != self.facts.get(name))
            raise InputError(
                f"{board} came back with {other} {facts.get(other)!r}, expected {self.facts.get(other)!r}: another "
                "target; run the same command again"
            )

    def _node(self, until: float) -> str:
        """The id of its node, which is another one after a restart of it."""
        while True:
            for node in self._ray.nodes():
                if node["Alive"] and node["NodeName"] == self.place.node and self.place.resource in node["Resources"]:
                    return str(node["NodeID"])
            if time.monotonic() > until:
                raise DeviceLost(f"{self.place.board} is no longer in the cluster")
            if self._stop.wait(LOOK_S):
                raise Stopped("the fleet was stopped")

    def _wait(self, reference: Any, seconds: float, longest: int) -> dict[str, Any]:
        """The JSON object that a call gives; never waits longer than asked for."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            ready, _ = self._ray.wait([reference], timeout=max(0.0, min(LOOK_S, left)))
            if ready:
                break
            if self._stop.is_set():
                raise Stopped("the fleet was stopped")
            if left <= 0:
                raise DeviceLost(f"{self.place.board} did not answer within {seconds:.0f} s")
        try:
            text = self._ray.get(reference, timeout=LOOK_S)
        except Exception as error:  # Ray makes the exception of what the device raised
            told = " ".join(str(error).split())
            raise DeviceLost(f"{self.place.board} was lost: {type(error).__name__}: {told[:200]}") from None
        return {} if text is None else read_object(text, longest)

    def _drop(self) -> None:
        """Forgets the actor: should it answer late, nobody listens."""
        if self._actor is not None:
            with suppress(Exception):  # a node that is gone
                self._ray.kill(self._actor, no_restart=True)
        self._actor = None
