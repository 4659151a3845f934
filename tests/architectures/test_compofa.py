"""The spaces of CompOFA, against its paper's numbers and public rows."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from esm_onnx.architectures import Space, find_space, to_genome
from esm_onnx.architectures.notation import from_json, to_json
from esm_onnx.errors import InputError

PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "syed_srinivasan_ofa"
FIXED, ELASTIC, OFA = (find_space(name) for name in ("compofa-fixed", "compofa-elastic", "ofa-mobilenetv3"))
KERNELS = [3, 5, 3, 3, 5]  # of MobileNetV3-Large: Howard et al. 2019, Table 1
RESOLUTIONS = 33  # 112 to 240 in steps of 4


def test_sizes_of_the_paper() -> None:
    """Sahni et al. 2021, Section 3: 3⁵ = 243 networks, and (3² + 3³ + 3⁴)⁵ with elastic kernels."""
    assert FIXED.size == 243 * RESOLUTIONS
    assert ELASTIC.size == (9 + 27 + 81) ** 5 * RESOLUTIONS == 117**5 * RESOLUTIONS
    assert f"{ELASTIC.size / RESOLUTIONS:.2g}" == "2.2e+10"


@pytest.mark.parametrize("space", [FIXED, ELASTIC], ids=lambda space: space.name)
def test_all_but_expansion_and_kernel_is_once_for_alls(space: Space) -> None:
    assert (space.depths, space.network) == (OFA.depths, OFA.network)
    (expansion,) = space.coupled
    assert [expansion.options[expansion.index_at(depth)] for depth in (2, 3, 4)] == [3, 4, 6]
    assert space.export is not None
    assert OFA.export is not None
    settings = dict(space.export.settings)
    kernels = settings.pop("kernels", None)
    assert (space.export.writer, settings) == (OFA.export.writer, OFA.export.settings)
    if space is FIXED:
        assert kernels == KERNELS
        assert [feature.name for feature in space.features] == ["expansion"]
    else:
        assert kernels is None
        assert {f.name: f.options for f in space.block} == {"kernel": (3, 5, 7)}


def test_a_unit_of_three_blocks_with_expansion_six_is_refused() -> None:
    unit = [{"expansion": 4}] * 3
    data = {"space": "compofa-fixed", "resolution": 224, "units": [unit] * 5}
    assert to_json(FIXED, from_json(FIXED, data)) == data
    assert to_genome(FIXED, from_json(FIXED, data)) == (28, *(1, 1, 1, -1) * 5)
    with pytest.raises(InputError, match="unit 2, block 1: expansion is 6, expected 4 in a unit of 3 blocks"):
        from_json(FIXED, {**data, "units": [unit, [{"expansion": 6}] * 3, *[unit] * 3]})


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="needs the public data of Syed and Srinivasan")
@pytest.mark.parametrize("space", [FIXED, ELASTIC], ids=lambda space: space.name)
def test_every_public_row_is_of_the_space(space: Space) -> None:
    with gzip.open(PUBLIC / f"{space.name.replace('-', '_')}.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10_000
    rows = list({(row["ks"], row["e"], row["d"], row["r"]): row for row in rows}.values())[:2000]
    different = set()
    for row in rows:
        units = []
        for u, depth in enumerate(map(int, row["d"])):
            at = range(4 * u, 4 * u + depth)
            blocks = [{"kernel": int(row["ks"][i]), "expansion": int(row["e"][i])} for i in at]
            if space is FIXED:
                assert {block.pop("kernel") for block in blocks} == {KERNELS[u]}
            units.append(blocks)
        found = from_json(space, {"space": space.name, "resolution": int(row["r"]), "units": units})
        different.add(found.units)
    assert len(different) == (243 if space is FIXED else 2000)
