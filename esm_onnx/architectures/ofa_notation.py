"""Once-for-All's dictionaries: how others write the architectures of its spaces.

    {"ks": […], "e": […], "d": […], "r": 176}    inverted residuals: its MobileNetV3 and ProxylessNAS, and CompOFA
    {"d": […], "e": […], "w": […], "r": 176}     its ResNet50

`ks` and `e` have a number for each place: unit by unit, as many places as the unit has blocks at most. What stands in
the place of an absent block is not read; 0 is written there, as its own encoder does. `r` is a number or a list of one,
called `image_size` by some; the list is written. Which notation a space has follows from its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esm_onnx.architectures.architecture import Architecture, Option
from esm_onnx.architectures.space import Feature, Space, listed, plain
from esm_onnx.errors import InputError, shown

Fields = Mapping[str, Any]
Blocks = list[list[dict[str, Any]]]

RESOLUTION, ALSO_RESOLUTION = "r", "image_size"
OTHERS = (RESOLUTION, "wid", "space")
"""What may stand beside the lists of a notation."""
ABSENT = 0
STEM = ("stem_middle", "stem_width")
"""The network's features that the first two numbers of `w` choose."""


@dataclass(frozen=True, slots=True)
class Notation:
    """One of the two.

    Attributes:
        lists: the names of its lists.
        fits: whether they say all that an architecture of a space is, but for its resolution.
        read: the options of the network and the blocks, as `from_json` reads them.
        write: the lists.
    """

    lists: tuple[str, ...]
    fits: Callable[[Space], bool]
    read: Callable[[Space, Fields], tuple[dict[str, Any], Blocks]]
    write: Callable[[Space, Architecture], dict[str, list[Any]]]


def ofa_lists(space: Space) -> tuple[str, ...]:
    """The lists by which Once-for-All writes an architecture of this space; none where it has no way to."""
    return next((notation.lists for notation in NOTATIONS if notation.fits(space)), ())


def is_ofa_notation(fields: Mapping[str, object]) -> bool:
    """Whether an object looks like `{"ks": […], "e": […], "d": […], "r": 176}`."""
    return "units" not in fields and any(name in fields for name in ("ks", "e", "d"))


def in_full(space: Space, fields: Fields) -> dict[str, Any]:
    """An architecture in Once-for-All's notation as the JSON data that `from_json` reads.

    `wid`, the supernet's width, must be null. Kernels that a space fixes may be left out. The depth of a unit that has
    no choice may be left out at the end, and be too great.

    Raises:
        InputError: a list is missing or of the wrong length, a depth is not allowed, or a field is unknown; or the
            space has no such notation.
    """
    notation = _notation_of(space)
    known = (*notation.lists, *OTHERS)
    if ALSO_RESOLUTION in fields and RESOLUTION not in fields:
        fields = {RESOLUTION if name == ALSO_RESOLUTION else name: value for name, value in fields.items()}
    for name in fields:
        if name not in known:
            beside = " and ".join((", ".join(notation.lists[:-1]), notation.lists[-1]))
            raise InputError(f"unknown field {shown(name)} beside {beside}, expected some of {', '.join(known)}")
    if fields.get("wid") is not None:
        raise InputError(f"wid is {shown(fields['wid'])}, expected null: the space sets the widths")
    network, units = notation.read(space, fields)
    resolution = fields.get(RESOLUTION)
    if isinstance(resolution, list) and len(resolution) == 1:
        resolution = resolution[0]
    if RESOLUTION in fields:
        network["resolution"] = resolution
    return {"space": fields.get("space", space.name), **network, "units": units}


def to_ofa(space: Space, architecture: Architecture) -> dict[str, Any]:
    """An architecture in Once-for-All's notation; `from_json` reads it back.

    Raises:
        InputError: the architecture is not of this space, or the space has no such notation.
    """
    notation = _notation_of(space)
    lists = notation.write(space, space.check(architecture))
    resolution = [plain(value) for name, value in architecture.network.items() if name == "resolution"]
    return {**lists, RESOLUTION: resolution} if resolution else lists


def _notation_of(space: Space) -> Notation:
    for notation in NOTATIONS:
        if notation.fits(space):
            return notation
    raise InputError(
        f"space {space.name!r} has no notation of Once-for-All's, expected kernel, expansion and at most a resolution, "
        f"or the features of ofa-resnet50: take our own notation"
    )


# inverted residuals


def _has_kernels(space: Space) -> bool:
    options = _names(space.features) | ({"kernel"} if _fixed_kernels(space) else set())
    return options == {"kernel", "expansion"} and _names(space.network) <= {"resolution"}


def _fixed_kernels(space: Space) -> Sequence[int]:
    """The kernel of each unit, where blocks do not choose it."""
    kernels = space.export.settings.get("kernels") if space.export else None
    fixed = isinstance(kernels, list) and len(kernels) == len(space.depths) and "kernel" not in _names(space.features)
    return kernels if isinstance(kernels, list) and fixed else ()


def _read_kernels(space: Space, fields: Fields) -> tuple[dict[str, Any], Blocks]:
    depths = [_depth(space, u, given) for u, given in enumerate(_given_depths(space, fields))]
    fixed = _fixed_kernels(space)
    lists = {"kernel": "ks", "expansion": "e"}
    units = _at_places(space, fields, depths, {f.name: lists[f.name] for f in space.features})
    if fixed and "ks" in fields:
        for u, blocks in enumerate(_at_places(space, fields, depths, {"kernel": "ks"})):
            for j, block in enumerate(blocks, 1):
                if block["kernel"] != fixed[u]:
                    raise InputError(
                        f"ks has {shown(block['kernel'])} for unit {u + 1}, block {j}, expected {fixed[u]}: the space "
                        f"fixes the kernel"
                    )
    return {}, units


def _given_depths(space: Space, fields: Fields) -> list[Any]:
    """The depth of each unit; at the end, units without a choice may be left out."""
    last = max((u for u, depths in enumerate(space.depths, 1) if len(depths) > 1), default=len(space.depths))
    given = fields.get("d")
    if isinstance(given, list) and len(given) == last:
        return [*given, *space.slots[last:]]
    return _list(fields, "d", len(space.depths))


def _depth(space: Space, unit: int, given: Any) -> int:
    """The depth of a unit; where there is no choice, a greater one means the same, as in Once-for-All's own code."""
    allowed = space.depths[unit]
    if _is_whole(given) and len(allowed) == 1 and given >= allowed[0]:
        return allowed[0]
    if not _is_whole(given) or given not in allowed:
        raise InputError(f"d has {shown(given)} for unit {unit + 1}, expected one of {listed(allowed)}")
    return int(given)


def _write_kernels(space: Space, architecture: Architecture) -> dict[str, list[Any]]:
    fixed = _fixed_kernels(space)
    chosen = [
        [fixed[u] if fixed else block["kernel"] for block in blocks] for u, blocks in enumerate(architecture.units)
    ]
    return {
        "ks": _to_places(space, chosen),
        "e": _to_places(space, [[block["expansion"] for block in blocks] for blocks in architecture.units]),
        "d": [len(blocks) for blocks in architecture.units],
    }


# ResNet50


def _has_widths(space: Space) -> bool:
    return (
        (_names(space.block), _names(space.shared)) == ({"expansion"}, {"width"})
        and not space.coupled
        and _names(space.network) - {"resolution"} == {"stem_block", *STEM}
    )


def _read_widths(space: Space, fields: Fields) -> tuple[dict[str, Any], Blocks]:
    """`d` counts the blocks beyond the least; its first says whether the stem has its block: the greatest or not."""
    skipped, *more = _list(fields, "d", 1 + len(space.depths))
    if not _is_whole(skipped) or not 0 <= skipped <= _most(space):
        raise InputError(f"d has {shown(skipped)} for the stem, expected one of 0 to {_most(space)}")
    depths = []
    for u, given in enumerate(more):
        allowed = space.depths[u]
        if not _is_whole(given) or given + allowed[0] not in allowed:
            beyond = listed(tuple(depth - allowed[0] for depth in allowed))
            raise InputError(f"d has {shown(given)} for unit {u + 1}, expected one of {beyond}")
        depths.append(int(given) + allowed[0])
    features = _w_features(space)
    chosen = [
        _option(feature, place) for feature, place in zip(features, _list(fields, "w", len(features)), strict=True)
    ]
    network = {"stem_block": int(skipped == _most(space)), **dict(zip(STEM, chosen, strict=False))}
    units = _at_places(space, fields, depths, {"expansion": "e"})
    return network, [
        [{**block, "width": width} for block in blocks]
        for blocks, width in zip(units, chosen[len(STEM) :], strict=True)
    ]


def _write_widths(space: Space, architecture: Architecture) -> dict[str, list[Any]]:
    chosen = [architecture.network[name] for name in STEM] + [blocks[0]["width"] for blocks in architecture.units]
    beyond = [len(blocks) - depths[0] for blocks, depths in zip(architecture.units, space.depths, strict=True)]
    return {
        "d": [_most(space) * int(architecture.network["stem_block"]), *beyond],
        "e": _to_places(space, [[block["expansion"] for block in blocks] for blocks in architecture.units]),
        "w": [f.options.index(option) for f, option in zip(_w_features(space), chosen, strict=True)],
    }


def _w_features(space: Space) -> list[Feature]:
    """For each number of `w`, the feature whose options it counts."""
    by_name = {feature.name: feature for feature in (*space.network, *space.unit)}
    return [*(by_name[name] for name in STEM), *(by_name["width"] for _ in space.depths)]


def _most(space: Space) -> int:
    """By how many blocks a unit may be deeper than it must."""
    return max(depths[-1] - depths[0] for depths in space.depths)


def _option(feature: Feature, place: Any) -> int | float | str:
    if not _is_whole(place) or not 0 <= place < len(feature.options):
        raise InputError(
            f"w has {shown(place)} for {feature.name}, expected 0 to {len(feature.options) - 1}: the place of a share"
        )
    return plain(feature.options[int(place)])


# both


def _at_places(space: Space, fields: Fields, depths: Sequence[int], lists: Mapping[str, str]) -> Blocks:
    """The blocks of each unit; `lists` says which list has which feature."""
    options = {feature: _list(fields, name, sum(space.slots)) for feature, name in lists.items()}
    return [
        [{feature: values[place] for feature, values in options.items()} for place in places[:depth]]
        for places, depth in zip(_places(space), depths, strict=True)
    ]


def _to_places(space: Space, units: Sequence[Sequence[Option]]) -> list[Any]:
    """A number for each place, from those of the blocks that are there."""
    return [
        plain(blocks[j]) if j < len(blocks) else ABSENT
        for blocks, slots in zip(units, space.slots, strict=True)
        for j in range(slots)
    ]


def _places(space: Space) -> Iterator[range]:
    """The places of each unit."""
    start = 0
    for slots in space.slots:
        yield range(start, start + slots)
        start += slots


def _list(fields: Fields, name: str, length: int) -> list[Any]:
    if name not in fields:
        raise InputError(f"no {name!r}, expected a list of {length}")
    value = fields[name]
    if not isinstance(value, list) or len(value) != length:
        got = f"has {len(value)} values" if isinstance(value, list) else f"is {shown(value)}"
        raise InputError(f"{name} {got}, expected a list of {length}")
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def _names(features: Sequence[Feature]) -> set[str]:
    return {feature.name for feature in features}


NOTATIONS = (
    Notation(("ks", "e", "d"), _has_kernels, _read_kernels, _write_kernels),
    Notation(("d", "e", "w"), _has_widths, _read_widths, _write_widths),
)
