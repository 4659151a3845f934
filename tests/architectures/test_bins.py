"""Bins of depth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from esm_onnx.architectures import Bins, Feature, Space, divide, find_space
from esm_onnx.architectures.compositions import attainable_depths
from esm_onnx.errors import InputError

KERNEL = (Feature("kernel", (3, 5)),)


def test_the_families_by_hand() -> None:
    five = Bins(((4, 8), (9, 13), (14, 18), (19, 23), (24, 28)))
    assert divide(find_space("resnet")) == divide(find_space("resnet"), 5) == five
    assert five.names() == ["4–8", "9–13", "14–18", "19–23", "24–28"]
    assert divide(find_space("densenet"), 4).ranges == ((5, 28), (29, 52), (53, 76), (77, 100))


@given(st.data(), spaces())
def test_bins_are_equally_wide_cover_all_and_none_is_empty(data: st.DataObject, space: Space) -> None:
    depths = attainable_depths(space)
    count = data.draw(st.none() | st.integers(1, 12))
    try:
        bins = divide(space, count)
    except InputError:
        assert count is not None
        assert count > 1
        return
    assert len(bins) == (count or len(bins))
    widths = [high - low + 1 for low, high in bins.ranges]
    assert max(widths) - min(widths) <= 1
    covered = [depth for low, high in bins.ranges for depth in range(low, high + 1)]
    assert covered == list(range(depths[0], depths[-1] + 1))
    for i, (low, high) in enumerate(bins.ranges):
        assert any(low <= depth <= high for depth in depths)
        assert all(bins.index(depth) == i for depth in range(low, high + 1))


@given(spaces())
def test_bins_can_be_had_where_no_depth_is_missing(space: Space) -> None:
    depths = attainable_depths(space)
    if depths == list(range(depths[0], depths[-1] + 1)):
        assert [len(divide(space, n)) for n in range(1, len(depths) + 1)] == list(range(1, len(depths) + 1))
        assert len(divide(space)) == min(5, len(depths))


@pytest.mark.parametrize(
    ("depths", "ranges"),
    [
        (((3,),), ((3, 3),)),
        (((1, 2),), ((1, 1), (2, 2))),
        (((2, 4),), ((2, 2), (3, 4))),
        (((1, 9),), ((1, 4), (5, 9))),
        (((1, 2, 9),), ((1, 5), (6, 9))),
    ],
)
def test_a_small_space_is_given_fewer_bins(
    depths: tuple[tuple[int, ...], ...], ranges: tuple[tuple[int, int], ...]
) -> None:
    bins = divide(Space("small", depths, block=KERNEL))
    covered = sorted({depth for low, high in bins.ranges for depth in range(low, high + 1)})
    assert covered == list(range(depths[0][0], depths[0][-1] + 1))
    assert len(bins) == len(ranges)


@pytest.mark.parametrize("count", [26, 27, 10**12])
def test_more_bins_than_depths(count: int) -> None:
    with pytest.raises(InputError, match=rf"N_Bins is {count}, but space 'resnet' has 25 depths \(4 to 28\)"):
        divide(find_space("resnet"), count)


@pytest.mark.parametrize("count", [0, -1])
def test_no_bins(count: int) -> None:
    with pytest.raises(InputError, match=f"N_Bins is {count}, expected at least 1"):
        divide(find_space("resnet"), count)


def test_an_empty_bin_between_is_refused() -> None:
    with pytest.raises(InputError, match="a bin would hold none of them: take fewer bins"):
        divide(Space("gap", ((1, 2, 9),), block=KERNEL), 3)


@pytest.mark.parametrize("depth", [-1, 0, 3, 29])
def test_a_depth_in_no_bin(depth: int) -> None:
    with pytest.raises(InputError, match=f"depth {depth} lies in none of the bins 4–8, 9–13"):
        divide(find_space("resnet")).index(depth)


def test_names_of_bins_of_one_depth() -> None:
    assert Bins(((2, 2), (3, 5))).names() == ["2", "3–5"]
