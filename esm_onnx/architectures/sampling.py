"""Drawing architectures, seeded and without repetition (ESM, Section IV and Algorithm 1).

    random     each unit's depth uniform, so the total depth is bell-shaped: most architectures are middling
    balanced   equal numbers from each of N_Bins bins of total depth; within a bin the depth uniform, and among the
               architectures of one depth the composition and every option uniform

Nothing is drawn and thrown away: architectures are numbered (`compositions`), and numbers are drawn from an urn. So
corner bins cost no more than middling ones, and a space can be drawn to its last architecture. What is excluded leaves
the urns in the order of its numbers, so that one seed draws the same whatever order, or set, it comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import ceil, isfinite
from random import Random

from esm_onnx.architectures.architecture import Architecture
from esm_onnx.architectures.bins import Bins, divide
from esm_onnx.architectures.compositions import (
    architecture_of_rank,
    attainable_depths,
    composition_of,
    composition_of_depth,
    composition_of_rank,
    count_compositions,
    count_in_composition,
    rank_in_depth,
    rank_of_architecture,
    rank_of_composition,
    ways,
)
from esm_onnx.architectures.space import Space
from esm_onnx.errors import InputError, SpaceExhausted, shown


class Urn:
    """The whole numbers below `size`, drawn without putting back, in constant time however large `size` is.

    A Fisher–Yates shuffle that keeps only the places it has touched: the numbers still inside stand at the places
    below `left`, number n at place n unless noted otherwise.
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
        InputError: no such strategy, a count below 1, or `exclude` holds an architecture of another space.
    """
    if count < 1:
        raise InputError(f"count is {count}, expected at least 1")
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {shown(strategy)}, expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](space, count, bins or divide(space), rng, _different(space, exclude))


def extend(
    space: Space, quotas: Sequence[int], *, bins: Bins, rng: Random, exclude: Iterable[Architecture] = ()
) -> list[Architecture]:
    """Draws `quotas[i]` different architectures from bin i, none of them in `exclude`, in random order.

    Raises:
        SpaceExhausted: a bin has fewer left.
        InputError: not one quota from 0 for each bin, or `exclude` holds an architecture of another space.
    """
    if len(quotas) != len(bins) or any(quota < 0 for quota in quotas):
        raise InputError(f"quotas {shown(list(quotas))}, expected one number from 0 for each of {len(bins)} bins")
    taken = _different(space, exclude)
    drawn = [a for i, quota in enumerate(quotas) for a in _draw_bin(space, bins, i, quota, rng, taken)]
    rng.shuffle(drawn)
    return drawn


def extension_quotas(below: Sequence[bool], step: int, w_below: float, w_above: float) -> list[int]:
    """How many architectures each bin receives in the next round (ESM, Algorithm 1).

    With N_norm = w1·|below| + w2·|above|, a bin below the accuracy threshold receives ⌈N_step·w1/N_norm⌉, any other
    ⌈N_step·w2/N_norm⌉; where all weights that count are 0, none receives any. Weights mean their decimals: 0.7 is 7/10,
    so that rounding lifts no quota above the formula's.

    Args:
        below: for each bin, whether its accuracy is below the threshold Acc_TH.
        step: N_step.
        w_below: w1.
        w_above: w2.
    """
    if step < 1 or not all(isfinite(weight) and weight >= 0 for weight in (w_below, w_above)):
        raise InputError(f"step {step} and weights {w_below}, {w_above}: expected at least 1, and weights from 0")
    weights = [Fraction(str(w_below)) if low else Fraction(str(w_above)) for low in below]
    norm = sum(weights)
    return [ceil(step * weight / norm) if norm else 0 for weight in weights]


def left_in_bins(space: Space, bins: Bins, exclude: Iterable[Architecture]) -> list[int]:
    """For each bin, how many architectures are not in `exclude`."""
    left = [sum(_count_of_depth(space, depth) for depth in _depths(space, bins, i)) for i in range(len(bins))]
    for architecture in _different(space, exclude):
        left[bins.index(architecture.depth)] -= 1
    return left


def _random(space: Space, count: int, _bins: Bins, rng: Random, taken: set[Architecture]) -> list[Architecture]:
    if space.size - len(taken) < count:
        raise SpaceExhausted(
            f"space {space.name!r} has {space.size - len(taken)} architectures left of {space.size}, "
            f"{count} were asked for: ask for fewer (`build`: --initial, --evaluation)"
        )
    compositions = Urn(count_compositions(space.depths))
    urns: dict[int, Urn] = {}

    def opened(number: int) -> Urn:
        if number not in urns:
            depth = sum(composition_of_rank(space.depths, number))
            urns[number] = Urn(count_in_composition(space, depth))
        return urns[number]

    def close_if_empty(number: int) -> None:
        if not urns[number].left:
            compositions.remove(number)

    for number, rank in sorted(_rank_in_space(space, architecture) for architecture in taken):
        opened(number).remove(rank)
        close_if_empty(number)
    drawn: list[Architecture] = []
    while len(drawn) < count:
        number = compositions.peek(rng)
        composition = composition_of_rank(space.depths, number)
        drawn.append(architecture_of_rank(space, composition, opened(number).draw(rng)))
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
    for depth, rank in sorted((a.depth, _rank_in_depth(space, a)) for a in taken if a.depth in urns):
        urns[depth].remove(rank)
    left = sum(urn.left for urn in urns.values())
    if left < quota:
        raise SpaceExhausted(
            f"space {space.name!r} has {left} architectures left of depth {bins.names()[index]}, {quota} were asked "
            "for: ask for fewer in all (`build`: --initial, --evaluation), or draw at random (--strategy random)"
        )
    drawn: list[Architecture] = []
    for _ in range(quota):
        depth = rng.choice([depth for depth in depths if urns[depth].left])
        rank, options = divmod(urns[depth].draw(rng), count_in_composition(space, depth))
        drawn.append(architecture_of_rank(space, composition_of_depth(space.depths, depth, rank), options))
    return drawn


def _depths(space: Space, bins: Bins, index: int) -> list[int]:
    low, high = bins.ranges[index]
    return [depth for depth in attainable_depths(space) if low <= depth <= high]


def _count_of_depth(space: Space, depth: int) -> int:
    return ways(space.depths, depth) * count_in_composition(space, depth)


def _rank_in_depth(space: Space, architecture: Architecture) -> int:
    rank = rank_in_depth(space.depths, composition_of(architecture))
    return rank * count_in_composition(space, architecture.depth) + rank_of_architecture(space, architecture)


def _rank_in_space(space: Space, architecture: Architecture) -> tuple[int, int]:
    number = rank_of_composition(space.depths, composition_of(architecture))
    return number, rank_of_architecture(space, architecture)


def _different(space: Space, architectures: Iterable[Architecture]) -> set[Architecture]:
    different = set(architectures)
    for architecture in different:
        if architecture.space != space.name:
            raise InputError(f"an architecture of space {shown(architecture.space)}, expected {space.name!r}")
    return different
