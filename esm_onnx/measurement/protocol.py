"""How a session measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from esm_onnx.errors import InputError
from esm_onnx.measurement.estimate import LEAST_VALUES
from esm_onnx.measurement.quantities import LATENCY, QUANTITIES, find_quantity
from esm_onnx.measurement.record import Measurement

LONGEST_DEADLINE_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Protocol:
    """How subnets are timed and sessions judged.

    Attributes:
        paired: a calibration subnet alternates with each subnet, contaminated runs are left out, and what lies between
            two good rounds of references stands. Otherwise the paper's protocol (ESM, Section V): all runs count, and
            a session stands or falls as a whole.
        runs: timed runs of each measurement (the paper's 150); the cap where there is a target error.
        target_error: a measurement ends early once half the 95 % confidence interval of its latency is within this
            share of it; None for always all runs.
        warmup: untimed runs before them.
        references: number of reference architectures, drawn from the space, spread over its depths.
        reference_every: a round of references comes before the first subject, at the end, and in between at random
            places, so many subjects apart on average.
        session_size: subjects that one session covers at most.
        tolerance: how far references may wander, as a share. Paired: the mean of a round from what is known of them.
            Plain: the relative standard deviation of each in a session (the paper's 3 %).
        attempts: how many sessions in a row may bring nothing before the command gives up.
        deadline_s: seconds after which a subnet that has not finished counts as hanging.
        memory_bytes: memory that the measuring process may take; None for most of the machine's.
        seed: draws the references and their places.
        quantities: what is measured beside the latency, names of `QUANTITIES`; they do not judge a session.
    """

    paired: bool = True
    runs: int = 150
    target_error: float | None = 0.02
    warmup: int = 5
    references: int = 3
    reference_every: int = 20
    session_size: int = 100
    tolerance: float = 0.03
    attempts: int = 3
    deadline_s: float = 300.0
    memory_bytes: int | None = None
    seed: int = 0
    quantities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"runs": 1, "warmup": 0, "references": 1, "reference_every": 1, "session_size": 1, "attempts": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {bound}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance is {self.tolerance}, expected more than 0")
        if self.target_error is not None and not 0 < self.target_error < 1:
            raise InputError(f"target_error is {self.target_error}, expected a share between 0 and 1, or None")
        if not 0 < self.deadline_s <= LONGEST_DEADLINE_S:
            raise InputError(f"deadline is {self.deadline_s} s, expected more than 0 and at most {LONGEST_DEADLINE_S}")

        asked = {find_quantity(name).name for name in self.quantities} - {LATENCY.name}
        object.__setattr__(self, "quantities", tuple(name for name in QUANTITIES if name in asked))  # in one order

    @property
    def fields(self) -> tuple[str, ...]:
        """What a measurement must hold beside its latency, by name with unit."""
        return tuple(QUANTITIES[name].field for name in self.quantities)

    def asks_more_than(self, provenance: Mapping[str, Any]) -> bool:
        """Whether records of that provenance were made with less care; not known of imported ones."""
        other = provenance.get("protocol")
        if other is None:
            return False
        theirs = other.get("target_error")
        less_exact = theirs is not None and (self.target_error is None or theirs > self.target_error)
        unpaired = self.paired and not other.get("paired", False)
        return unpaired or less_exact or other["runs"] < self.runs or other["tolerance"] > self.tolerance

    def is_known(self, record: Measurement) -> bool:
        """Whether a measurement tells its latency: enough runs were clean, and they agree well enough.

        Plain ones always do, as in the paper; and three runs say nothing about how well they agree.
        """
        limit = max(self.tolerance, self.target_error or 0.0)
        return not self.paired or (record.is_known and (record.error <= limit or len(record.values) < LEAST_VALUES))

    def as_json(self) -> dict[str, Any]:
        """The protocol as JSON data."""
        return {**asdict(self), "quantities": list(self.quantities)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Protocol:
        """The protocol that `as_json` gave, of this version or one before pairing was known."""
        names = {field.name for field in fields(cls)}
        before = {"paired": False, "target_error": None}
        return cls(**before | {name: value for name, value in data.items() if name in names})


PAPER = Protocol(paired=False, target_error=None)
"""The protocol of the ESM paper (Section V)."""
