"""Device + runtime + the settings that a latency depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

Fact = str | int | float


@dataclass(frozen=True, slots=True)
class Target:
    """Measurements whose facts differ are never mixed.

    Attributes:
        name: what people call it; two targets may share a name.
        facts: versions, hardware and settings that a latency depends on.
    """

    name: str
    facts: Mapping[str, Fact] = field(hash=False)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of name and facts."""
        text = json.dumps([self.name, dict(self.facts)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
