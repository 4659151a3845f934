"""How a session measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esm_onnx.errors import InputError

LONGEST_DEADLINE_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Protocol:
    """The protocol of the paper (ESM, Section V), with its numbers as defaults where it gives them.

    Attributes:
        runs: timed runs of each measurement (the paper's 150).
        warmup: untimed runs before them.
        references: number of reference architectures, drawn from the space, spread over its depths.
        reference_every: a round of references comes before the first subject, after every so many, and at the end.
        session_size: subjects that one session covers at most; they stand or fall together.
        tolerance: greatest relative standard deviation of a reference in a session (the paper's 3 %), as a share.
        attempts: how often the same subjects are measured before the command gives up.
        deadline_s: seconds after which a subnet that has not finished counts as hanging.
        seed: draws the references.
    """

    runs: int = 150
    warmup: int = 10
    references: int = 3
    reference_every: int = 20
    session_size: int = 100
    tolerance: float = 0.03
    attempts: int = 3
    deadline_s: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"runs": 1, "warmup": 0, "references": 1, "reference_every": 1, "session_size": 1, "attempts": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {bound}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance is {self.tolerance}, expected more than 0")
        if not 0 < self.deadline_s <= LONGEST_DEADLINE_S:
            raise InputError(f"deadline is {self.deadline_s} s, expected more than 0 and at most {LONGEST_DEADLINE_S}")

    def asks_more_than(self, provenance: Mapping[str, Any]) -> bool:
        """Whether records of that provenance had fewer runs or a greater tolerance; not known of imported ones."""
        other = provenance.get("protocol")
        return other is not None and (other["runs"] < self.runs or other["tolerance"] > self.tolerance)

    def as_json(self) -> dict[str, Any]:
        """The protocol as JSON data."""
        return asdict(self)
