"""Drawing architectures, seeded and without repetition (ESM, Section IV and Algorithm 1).

    random     each unit's depth uniform, so the total depth is bell-shaped: most architectures are middling
    balanced   equal numbers from each of N_Bins bins of total depth; within a bin the depth uniform, and among the
               architectures of one depth the composition and every option uniform

Nothing is drawn and thrown away: architectures are numbered (`compositions`), and numbers are drawn from an urn. So
corner bins cost no more than middling ones, and a space can be drawn to its last architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import ceil, prod
from random import Random

from esm_onnx.architectures.architecture import Architecture
from esm_onnx.architectures.bins import Bins, divide
from esm_onnx.architectures.compositions import (
    Composition,
    architecture_of_rank,
    attainable_depths,
    composition_of_depth,
    count_in_composition,
    rank_in_depth,
    rank_of_architecture,
    ways,
)
from esm_onnx.architectures.space import Space
from esm_onnx.errors import InputError, SpaceExhausted


class Urn:
    """The whole numbers below `size`, drawn without putting back, in constant time however large `size` is.

    A Fisher–Yates shuffle that keeps only the places it has touched.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self._at: dict[int, int] = {}
        self._place: dict[int, int] = {}

    def draw(self, rng: Random) -> int:
        """A number still in the urn, each equally likely; it is taken out."""
        number = self.peek(rng)
        self.remove(number)
        return number

    def peek(self, rng: Random) -> int:
        """A number still in the urn, each equally likely; it stays."""
        place = rng.randrange(self.left)
        return self._at.get(place, place)

    def remove(self, number: int) -> None:
        """Takes out a number that is still in the urn."""
        self.left -= 1
        place = self._place.pop(number, number)
        last = self._at.pop(self.left, self.left)
        if place != self.left:
            self._at[place] = last
            self._place[last] = place


def sample(
    space: Space,
    count: int,
    *,
    strategy: str,
    rng: Random,
    bins: Bins | None = None,
    exclude: Iterable[Architecture] = (),
) -> list[Architecture]:
    """Draws `count` different architectures, none of them in `exclude`, in random order.

    Args:
        strategy: "random" or "balanced", see above.
        bins: the bins of "balanced"; None divides the space in the usual way.

    Raises:
        SpaceExhausted: the space, or a bin, has too few architectures left.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1")
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](space, count, bins or divide(space), rng, set(exclude))


def extend(
    space: Space, quotas: Sequence[int], *, bins: Bins, rng: Random, exclude: Iterable[Architecture] = ()
) -> list[Architecture]:
    """Draws `quotas[i]` different architectures from bin i, none of them in `exclude`, in random order.

    Raises:
        SpaceExhausted: a bin has fewer left.
    """
    taken = set(exclude)
    drawn = [a for i, quota in enumerate(quotas) for a in _draw_bin(space, bins, i, quota, rng, taken)]
    rng.shuffle(drawn)
    return drawn


def extension_quotas(below: Sequence[bool], step: int, w_below: float, w_above: float) -> list[int]:
    """How many architectures each bin receives in the next round (ESM, Algorithm 1).

    With N_norm = w1·|below| + w2·|above|, a bin below the accuracy threshold receives ⌈N_step·w1/N_norm⌉, any other
    ⌈N_step·w2/N_norm⌉.

    Args:
        below: for each bin, whether its accuracy is below the threshold Acc_TH.
        step: N_step.
        w_below: w1.
        w_above: w2.
    """
    if step < 1 or w_below < 0 or w_above < 0:
        raise InputError(f"step {step} and weights {w_below}, {w_above}: expected at least 1, and weights from 0")
    weights = [Fraction(str(w_below)) if low else Fraction(str(w_above)) for low in below]
    norm = sum(weights)
    return [ceil(step * weight / norm) if norm else 0 for weight in weights]


def left_in_bins(space: Space, bins: Bins, exclude: Iterable[Architecture]) -> list[int]:
    """For each bin, how many architectures are not in `exclude`."""
    left = [sum(_count_of_depth(space, depth) for depth in _depths(space, bins, i)) for i in range(len(bins))]
    for architecture in set(exclude):
        left[bins.index(architecture.depth)] -= 1
    return left


def _random(space: Space, count: int, _bins: Bins, rng: Random, taken: set[Architecture]) -> list[Architecture]:
    if space.size - len(taken) < count:
        raise SpaceExhausted(
            f"space {space.name!r} has {space.size - len(taken)} architectures left of {space.size}, "
            f"{count} were asked for"
        )
    compositions = Urn(prod(len(depths) for depths in space.depths))
    urns: dict[int, tuple[Composition, Urn]] = {}

    def opened(number: int) -> tuple[Composition, Urn]:
        if number not in urns:
            composition = _composition(space, number)
            urns[number] = composition, Urn(count_in_composition(space, composition))
        return urns[number]

    def close_if_empty(number: int) -> None:
        if not urns[number][1].left:
            compositions.remove(number)

    for architecture in taken:
        number = _number(space, architecture)
        opened(number)[1].remove(rank_of_architecture(space, architecture))
        close_if_empty(number)
    drawn: list[Architecture] = []
    while len(drawn) < count:
        number = compositions.peek(rng)
        composition, urn = opened(number)
        drawn.append(architecture_of_rank(space, composition, urn.draw(rng)))
        close_if_empty(number)
    return drawn


def _balanced(space: Space, count: int, bins: Bins, rng: Random, taken: set[Architecture]) -> list[Architecture]:
    each, remainder = divmod(count, len(bins))
    more = set(rng.sample(range(len(bins)), remainder))
    return extend(space, [each + (i in more) for i in range(len(bins))], bins=bins, rng=rng, exclude=taken)


STRATEGIES: dict[str, Callable[[Space, int, Bins, Random, set[Architecture]], list[Architecture]]] = {
    "random": _random,
    "balanced": _balanced,
}


def _draw_bin(
    space: Space, bins: Bins, index: int, quota: int, rng: Random, taken: set[Architecture]
) -> list[Architecture]:
    depths = _depths(space, bins, index)
    urns = {depth: Urn(_count_of_depth(space, depth)) for depth in depths}
    for architecture in taken:
        if architecture.depth in urns:
            urns[architecture.depth].remove(_rank_of_depth(space, architecture))
    left = sum(urn.left for urn in urns.values())
    if left < quota:
        raise SpaceExhausted(
            f"space {space.name!r} has {left} architectures left of depth {bins.names()[index]}, {quota} were asked for"
        )
    drawn: list[Architecture] = []
    for _ in range(quota):
        depth = rng.choice([depth for depth in depths if urns[depth].left])
        rank, options = divmod(urns[depth].draw(rng), _count_of_depth(space, depth) // ways(space.depths, depth))
        drawn.append(architecture_of_rank(space, composition_of_depth(space.depths, depth, rank), options))
    return drawn


def _depths(space: Space, bins: Bins, index: int) -> list[int]:
    low, high = bins.ranges[index]
    return [depth for depth in attainable_depths(space) if low <= depth <= high]


def _count_of_depth(space: Space, depth: int) -> int:
    one = composition_of_depth(space.depths, depth, 0)
    return ways(space.depths, depth) * count_in_composition(space, one)


def _rank_of_depth(space: Space, architecture: Architecture) -> int:
    composition = tuple(len(blocks) for blocks in architecture.units)
    rank = rank_in_depth(space.depths, composition)
    return rank * count_in_composition(space, composition) + rank_of_architecture(space, architecture)


def _composition(space: Space, number: int) -> Composition:
    composition = []
    for depths in space.depths:
        number, index = divmod(number, len(depths))
        composition.append(depths[index])
    return tuple(composition)


def _number(space: Space, architecture: Architecture) -> int:
    number = 0
    for depths, blocks in zip(reversed(space.depths), reversed(architecture.units), strict=True):
        number = number * len(depths) + depths.index(len(blocks))
    return number
