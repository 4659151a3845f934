"""Which devices of one kind are one target: those whose references agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esm_onnx.architectures import Architecture

AGREEMENT = 0.03
"""Share by which the latencies of a reference may differ between two devices of one target."""

Levels = Mapping[Architecture, float]
"""The latency of each reference on one device, in ms."""


def agree(one: Levels, other: Levels) -> bool:
    """Whether two devices agree on every reference that both have measured, and there is one."""
    common = one.keys() & other.keys()
    return bool(common) and all(abs(one[each] / other[each] - 1) <= AGREEMENT for each in common)


def apart(levels: Mapping[str, Levels], known: Sequence[Levels] = ()) -> list[str]:
    """The devices that cannot be pooled with the others, by name.

    Args:
        levels: of each device, by name; the first by name is pooled unless something is known.
        known: levels of the target from before.
    """
    pooled, others = list(known), []
    for name in sorted(levels):
        if all(agree(levels[name], each) for each in pooled):
            pooled.append(levels[name])
        else:
            others.append(name)
    return others
