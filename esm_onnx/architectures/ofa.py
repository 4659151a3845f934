"""Once-for-All on MobileNetV3: the space at width multiplier 1.2, and the notation in which others write it.

Source: Cai et al. 2020, *Once-for-All*, Section 3.2 (units, depths, kernels, expansions) and the released supernet
`ofa_mbv3_d234_e346_k357_w1.2` (channels, strides, squeeze-excite, activations). The paper has resolutions 128 to 224;
here are some more on either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esm_onnx.architectures.space import Export, Feature, Space, listed
from esm_onnx.errors import InputError, shown

OFA_MOBILENETV3 = Space(
    name="ofa-mobilenetv3",
    depths=((2, 3, 4),) * 5,
    block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))),
    network=(Feature("resolution", tuple(range(112, 241, 4))),),
    export=Export(
        "mobilenetv3",
        {
            "stem": 24,
            "first": 24,
            "widths": [32, 48, 96, 136, 192],
            "strides": [2, 2, 2, 1, 2],
            "se": [0, 1, 0, 1, 1],
            "hswish": [0, 0, 1, 1, 1],
            "head": [1152, 1536],
            "classes": 1000,
        },
    ),
)

LISTS = {"ks": "kernel", "e": "expansion"}
"""What a list of Once-for-All's notation holds: an option of this feature for each place of each unit."""

FIELDS = (*LISTS, "d", "r", "wid", "space")


def has_ofa_layout(space: Space) -> bool:
    """Whether Once-for-All's notation says all that an architecture of this space is."""
    return (
        {feature.name for feature in space.features} == set(LISTS.values())
        and {feature.name for feature in space.network} <= {"resolution"}
        and len(set(space.slots)) == 1
    )


def is_ofa_notation(fields: Mapping[str, object]) -> bool:
    """Whether an object looks like `{"ks": […], "e": […], "d": […], "r": 176}`."""
    return "units" not in fields and any(name in fields for name in (*LISTS, "d"))


def in_full(space: Space, fields: Mapping[str, object]) -> dict[str, Any]:
    """An architecture in Once-for-All's notation as the JSON data that `from_json` reads.

    Position i of `ks` and `e` belongs to block i % n of unit i // n, n being the greatest depth of a unit, and is left
    out of account where that block is absent. `r` may be a number or a list of one; `wid`, the supernet's width, must
    be null.

    Raises:
        InputError: a list is missing or of the wrong length, a depth is not allowed, or a field is unknown.
    """
    for name in fields:
        if name not in FIELDS:
            raise InputError(f"unknown field {shown(name)} beside ks, e and d, expected some of {', '.join(FIELDS)}")
    if fields.get("wid") is not None:
        raise InputError(f"wid is {shown(fields['wid'])}, expected null: the space sets the widths")
    places = space.slots[0]
    options = {feature: _list(fields, name, places * len(space.slots)) for name, feature in LISTS.items()}
    units = []
    for u, depth in enumerate(_list(fields, "d", len(space.slots))):
        if isinstance(depth, bool) or depth not in space.depths[u]:
            raise InputError(f"d has {shown(depth)} for unit {u + 1}, expected one of {listed(space.depths[u])}")
        here = range(u * places, u * places + int(depth))
        units.append([{feature: values[i] for feature, values in options.items()} for i in here])
    resolution = fields.get("r")
    if isinstance(resolution, list) and len(resolution) == 1:
        resolution = resolution[0]
    network = {"resolution": resolution} if "r" in fields else {}
    return {"space": fields.get("space", space.name), **network, "units": units}


def _list(fields: Mapping[str, object], name: str, length: int) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) != length:
        got = f"has {len(value)} values" if isinstance(value, list) else f"is {shown(value)}"
        raise InputError(f"{name} {got}, expected a list of {length}")
    return value
