"""What watches a session: the references, the places where they are measured, and the calibration subnet."""

from __future__ import annotations

from collections import Counter
from random import Random

from esm_onnx.architectures import Architecture, Space, divide, extend, from_genome
from esm_onnx.architectures.genome import ABSENT
from esm_onnx.architectures.sampling import left_in_bins
from esm_onnx.measurement.protocol import Protocol


def draw_references(space: Space, protocol: Protocol) -> list[Architecture]:
    """The references of a protocol: architectures of the space, spread evenly over its depths."""
    bins = divide(space)
    count = protocol.references
    places = Counter((2 * i + 1) * len(bins) // (2 * count) for i in range(count))
    left = left_in_bins(space, bins, ())
    quotas = [min(places[i], left[i]) for i in range(len(bins))]
    drawn = extend(space, quotas, bins=bins, rng=Random(protocol.seed))
    return sorted(drawn, key=lambda architecture: architecture.depth)


def draw_places(subjects: int, every: int, rng: Random) -> set[int]:
    """Before which subjects, by their number from 0, a round of references comes besides those at either end.

    Rounds lie `every` subjects apart on average; each distance is as likely as any other up to nearly twice that, so
    that no drift can keep in step with them.
    """
    places: set[int] = set()
    at = rng.randint(1, 2 * every - 1)
    while at < subjects:
        places.add(at)
        at += rng.randint(1, 2 * every - 1)
    return places


def choose_calibration(space: Space) -> Architecture:
    """The calibration subnet: of the space's own kind, and small.

    Each unit has its least depth, blocks have the last options and the network its middle ones. Few but large blocks
    feel a neighbour's use of caches and memory as larger subnets do: on a shared server core the ratio of subnets of 2
    to 7 ms to it varied by 1.2 to 1.5 %, to the one with the first options by 1.4 to 1.8 %.
    """
    genome = [len(feature.options) // 2 for feature in space.network]
    free = [len(feature.options) - 1 for feature in space.block + space.unit]
    absent = [ABSENT] * len(space.features)
    for depths in space.depths:
        block = [*free, *space.coupled_at(min(depths))]
        for slot in range(max(depths)):
            genome += block if slot < min(depths) else absent
    return from_genome(space, genome)
