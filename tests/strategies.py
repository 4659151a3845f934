"""Random valid spaces and their architectures, built without the code under test; and the naive list of all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Coupled, Export, Feature, Options, Space

FEATURE_NAMES = ("kernel", "expansion", "se", "op", "width_mult", "e-2")
NETWORK_NAMES = ("resolution", "stem")

_numbers = st.one_of(
    st.integers(0, 512),
    st.builds(Fraction, st.integers(1, 9), st.integers(2, 9)).map(lambda f: int(f) if f.denominator == 1 else f),
    st.sampled_from([0.65, 0.35, 1.5, 0.1]),
)
_operations = st.sampled_from(["mbconv3", "mbconv5", "skip-connect", "avg pool 3x3", "größe", "none"])


@st.composite
def spaces(draw: st.DrawFn, *, greatest_size: int | None = None, export: bool = False) -> Space:
    """Any space: few units or one, depths with gaps, features of block, unit, network, coupled, or only some of them.

    Args:
        greatest_size: for spaces with no more architectures than this (a few thousand, to list them all).
        export: gives some a writer with settings.
    """
    small = greatest_size is not None
    units = draw(st.integers(1, 2 if small else 4))
    depth = st.sets(st.integers(1, 3 if small else 6), min_size=1, max_size=2 if small else 4)
    depths = tuple(tuple(sorted(draw(depth))) for _ in range(units))
    names = draw(st.lists(st.sampled_from(FEATURE_NAMES), unique=True, min_size=1, max_size=2 if small else 4))
    of_block = draw(st.integers(0, len(names)))
    of_unit = draw(st.integers(of_block, len(names)))
    network = draw(st.lists(st.sampled_from(NETWORK_NAMES), unique=True, max_size=1 if small else 2))
    space = Space(
        draw(st.sampled_from(["toy", "mnas.net-1", "ofa_v3+", "空間"])),
        depths,
        block=tuple(draw(_features(name, small)) for name in names[:of_block]),
        unit=tuple(draw(_features(name, small)) for name in names[of_block:of_unit]),
        network=tuple(draw(_features(name, small)) for name in network),
        export=draw(_exports) if export else None,
        coupled=tuple(draw(_coupled(name, depths)) for name in names[of_unit:]),
    )
    if greatest_size is not None and count(space) > greatest_size:
        return draw(spaces(greatest_size=greatest_size, export=export))
    return space


@st.composite
def _features(draw: st.DrawFn, name: str, small: bool) -> Feature:
    options = draw(st.sampled_from([_numbers, _operations]))
    return Feature(name, tuple(draw(st.lists(options, unique=True, min_size=1, max_size=3 if small else 5))))


@st.composite
def _coupled(draw: st.DrawFn, name: str, depths: tuple[tuple[int, ...], ...]) -> Coupled:
    options = draw(st.sampled_from([_numbers, _operations]))
    return Coupled.of(name, {depth: draw(options) for of_unit in depths for depth in of_unit})


def coupled_spaces() -> st.SearchStrategy[Space]:
    """Any space that has coupled features."""
    return spaces().filter(lambda space: bool(space.coupled))


def coupled_options(space: Space, depth: int) -> dict[str, object]:
    """What the depth of a unit decides."""
    return {feature.name: feature.options[dict(feature.places)[depth]] for feature in space.coupled}


_exports = st.none() | st.builds(
    Export,
    st.sampled_from(["mobilenetv3", "my.module:build"]),
    st.dictionaries(st.sampled_from(["widths", "se"]), st.lists(st.integers(0, 99) | st.booleans(), max_size=3)),
)


@st.composite
def architectures(draw: st.DrawFn, space: Space) -> Architecture:
    """Any architecture of a space."""

    def chosen(features: tuple[Feature, ...]) -> dict[str, object]:
        return {feature.name: draw(st.sampled_from(feature.options)) for feature in features}

    units = []
    for depths in space.depths:
        depth = draw(st.sampled_from(depths))
        shared = chosen(space.unit) | coupled_options(space, depth)
        units.append(tuple(Options(chosen(space.block) | shared) for _ in range(depth)))
    return Architecture(space.name, tuple(units), Options(chosen(space.network)))


def count(space: Space) -> int:
    """Number of architectures, by a formula of its own: the product over units of sums over depths."""
    total = 1
    for feature in space.network:
        total *= len(feature.options)
    for depths in space.depths:
        of_unit = 0
        for depth in depths:
            ways = 1
            for feature in space.unit:
                ways *= len(feature.options)
            for feature in space.block:
                ways *= len(feature.options) ** depth
            of_unit += ways
        total *= of_unit
    return total


def every_architecture(space: Space) -> Iterator[Architecture]:
    """All architectures of a small space, by nested loops."""

    def every(features: tuple[Feature, ...]) -> list[dict[str, object]]:
        names = [feature.name for feature in features]
        values = itertools.product(*[feature.options for feature in features])
        return [dict(zip(names, row, strict=True)) for row in values]

    units = [
        [
            tuple(Options(own | shared | coupled_options(space, depth)) for own in blocks)
            for depth in depths
            for shared in every(space.unit)
            for blocks in itertools.product(every(space.block), repeat=depth)
        ]
        for depths in space.depths
    ]
    for network in every(space.network):
        for chosen in itertools.product(*units):
            yield Architecture(space.name, chosen, Options(network))
