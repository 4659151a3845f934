"""The blocks of a space as a space: which parts there are, and what a lookup table needs of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from strategies import spaces

from esm_onnx.architectures import Export, Feature, Space, find_space, from_json, genome_length, to_json
from esm_onnx.architectures.blocks import block_space, is_block_space, parts_of, table_entries
from esm_onnx.architectures.space import choices
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError

UNEVEN = Space(
    "uneven",
    depths=((1,), (2, 4)),
    block=(Feature("kernel", (3, 5)),),
    unit=(Feature("se", (0, 1)),),
    network=(Feature("resolution", (160, 224)),),
    export=Export("mobilenetv3", {"widths": [8, 16]}),
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet", 2 + 8 * 9),  # stem and head; first and rest of four units, each with 3 kernels × 3 expansions
        ("mobilenetv3", 2 + 8 * 9),
        ("densenet", 2 + 10 * 5),
        ("ofa-mobilenetv3", 33 * (2 + 10 * 9)),  # resolutions 112 to 240 in steps of 4
        ("compofa-elastic", 33 * (2 + 10 * 9)),  # each of 3 kernels with each of 3 expansions
        ("compofa-fixed", 33 * (2 + 10 * 3)),
    ],
)
def test_so_many_entries_has_the_lookup_table_of_a_family(name: str, count: int) -> None:
    assert len(table_entries(find_space(name))) == count


def test_a_unit_of_one_block_has_no_rest() -> None:
    assert parts_of(UNEVEN) == ["stem", "head", "u1.first", "u2.first", "u2.rest"]


def test_entries_go_by_network_option_then_part_then_combination() -> None:
    entries = [to_json(block_space(UNEVEN), entry) for entry in table_entries(UNEVEN)]
    assert len(entries) == 2 * (2 + 3 * 4)
    assert [entry["resolution"] for entry in entries] == [160] * 14 + [224] * 14
    blocks = [entry["units"] for entry in entries[:7]]
    assert blocks == [
        [[{"part": "stem", "kernel": 3, "se": 0}]],
        [[{"part": "head", "kernel": 3, "se": 0}]],
        *([[{"part": "u1.first", "kernel": kernel, "se": se}]] for kernel in (3, 5) for se in (0, 1)),
        [[{"part": "u2.first", "kernel": 3, "se": 0}]],
    ]


@settings(max_examples=30, deadline=None)
@given(spaces(export=True).filter(lambda space: space.export is not None and choices(space.features) <= 60))
def test_the_block_space_of_any_space_is_a_space_like_another(space: Space) -> None:
    blocks = block_space(space)
    assert is_block_space(blocks)
    assert not is_block_space(space)
    read = space_from_table(json.loads(json.dumps(blocks.table(export=True))))
    assert (read, read.table(export=True)) == (blocks, blocks.table(export=True))
    assert genome_length(blocks) == len(space.network) + 1 + len(space.features)
    if len(space.network) > 1:
        with pytest.raises(InputError, match="has 2 features, expected at most one for a lookup table"):
            table_entries(space)
        return
    entries = table_entries(space)
    assert len(set(entries)) == len(entries)
    for entry in entries[::101]:
        assert from_json(read, json.loads(json.dumps(to_json(blocks, entry)))) == entry


def test_the_blocks_of_another_space_of_that_name_are_another_space() -> None:
    other = Space("uneven", ((1, 2), (2, 4)), UNEVEN.block, UNEVEN.unit, UNEVEN.network, UNEVEN.export)
    assert block_space(other).fingerprint != block_space(UNEVEN).fingerprint


def test_a_long_name_stays_one_that_a_table_can_hold() -> None:
    name = "m" * 80
    blocks = block_space(space_from_table({**UNEVEN.table(export=True), "name": name}))
    assert blocks.name.endswith("m.blocks")
    assert space_from_table(blocks.table(export=True)).name == blocks.name


def test_blocks_of_a_space_that_cannot_be_written_are_refused() -> None:
    bare = Space("bare", ((1, 2),), block=(Feature("kernel", (3, 5)),))
    for function in (block_space, table_entries):
        with pytest.raises(InputError, match=r"space 'bare' has no \[export\], so its blocks cannot be measured"):
            function(bare)


def test_the_blocks_of_a_space_are_found_by_name() -> None:
    assert find_space("densenet.blocks") == block_space(find_space("densenet"))
    with pytest.raises(InputError, match="no space 'abacus', expected one of"):
        find_space("abacus.blocks")
