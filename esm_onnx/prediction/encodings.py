"""Architecture → vector (ESM, Section III; `statistical` from HAT, Section 3.1; `fcc-first` is ours).

    one-hot      each feature's option as zeros and a one, slot by slot; zeros where the block is absent
    feature      the option itself as a number, slot by slot; 0 where absent
    statistical  for each unit its depth, and mean and standard deviation of each feature in it
    fc           feature count: for each unit, how many blocks have each option of each feature
    fcc          feature combination count: for each unit, how many blocks have each combination of options
    fcc-first    fcc, and which combination is the first block of each unit: its stride and input width differ
    counts       fc and fcc-first together: what options have in common, and what combinations have of their own
    ofa          Syed and Srinivasan's, 128 wide: kernels place by place, then expansions, then eight resolutions, each
                 as zeros and a one; for spaces with these features alone
    entries      how often each entry of a lookup table is needed, see `lookup_encoding.py`; for `lut` and `lut-bias`
    cost         sums over the subnet's ONNX graph, see `cost_encoding.py`; for spaces that our writers draw

Options that are names count as numbers 1, 2, … where a number is needed. Options of the whole network stand in front:
as zeros and a one in one-hot, otherwise as the number itself (names as zeros and a one). With counts, a number of the
network enters as such, squared, and as zeros and a one; each count is there once more, times the square, since work
grows with the square of a resolution; and so is the depth, times each of the zeros and a one.

Two encodings side by side are written with a plus: `cost+fcc-first`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from esm_onnx.architectures import Feature, Space
from esm_onnx.architectures.space import plain
from esm_onnx.errors import InputError
from esm_onnx.prediction.encoding import Columns, Encoding, Matrix, Moments, Parts, Products, Table, values_of
from esm_onnx.prediction.lookup_encoding import ENTRIES


def _chosen(space: Space, feature: Feature) -> list[int]:
    """For each combination, the index of the option that it has of this feature."""
    return [feature.options.index(combination[feature.name]) for combination in space.combinations]


def _has(space: Space, feature: Feature, option: int) -> Matrix:
    """For each combination, 1 where it has this option."""
    return np.array([float(chosen == option) for chosen in _chosen(space, feature)])


def _units(space: Space) -> list[tuple[str, range]]:
    """Name and slots of each unit."""
    units, start = [], 0
    for u, slots in enumerate(space.slots, 1):
        units.append((f"u{u}", range(start, start + slots)))
        start += slots
    return units


def _blocks(space: Space) -> list[tuple[str, range]]:
    """Name and slot of each place for a block."""
    return [(f"{unit}b{j}", range(slot, slot + 1)) for unit, slots in _units(space) for j, slot in enumerate(slots, 1)]


def _build_one_hot(space: Space) -> Table:
    columns = Columns(space)
    columns.add_network(as_numbers=False)
    _add_counts(columns, _blocks(space))
    return columns.done()


def _build_feature(space: Space) -> Table:
    columns = Columns(space)
    columns.add_network(as_numbers=True)
    for name, slot in _blocks(space):
        for feature in space.features:
            values = np.array(values_of(feature))
            columns.add_blocks(f"{name}.{feature.name}", slot, values[_chosen(space, feature)])
    return columns.done()


def _build_fc(space: Space) -> Table:
    return _build_crossed(space, lambda columns: _add_counts(columns, _units(space)))


def _build_fcc(space: Space) -> Table:
    return _build_crossed(space, lambda columns: _add_combinations(columns, _units(space)))


def _build_fcc_first(space: Space) -> Table:
    return _build_crossed(space, _add_firsts)


def _build_all_counts(space: Space) -> Table:
    def add_both(columns: Columns) -> None:
        _add_counts(columns, _units(space))
        _add_firsts(columns)

    return _build_crossed(space, add_both)


def _build_crossed(space: Space, add_counts: Callable[[Columns], None]) -> Table:
    """Counts; with numbers of the network, these and their squares and options, and the products of both."""
    columns = Columns(space)
    columns.add_network(as_numbers=True)
    squares = columns.add_squares()
    if not squares:
        add_counts(columns)
        return columns.done()
    options = columns.add_options()
    depth = len(columns.names)
    columns.add_blocks("depth", range(sum(space.slots)), np.ones(len(space.combinations)))
    start = len(columns.names)
    add_counts(columns)
    pairs = [(count, square) for square in squares for count in range(start, len(columns.names))]
    pairs += [(depth, option) for option in options]
    names = [f"{columns.names[left]}*{columns.names[right]}" for left, right in pairs]
    left, right = zip(*pairs, strict=True)
    return columns.done(columns=columns.names + names, step=Products(len(columns.names), left, right))


def _build_statistical(space: Space) -> Table:
    columns = Columns(space)
    columns.add_network(as_numbers=True)
    depth_column = len(columns.names)
    for unit, slots in _units(space):
        columns.add_blocks(f"{unit}.depth", slots, np.ones(len(space.combinations)))
    head = list(columns.names)
    _add_counts(columns, _units(space))
    groups = [(u, unit, feature) for u, (unit, _) in enumerate(_units(space)) for feature in space.features]
    counts = len(columns.names) - len(head)
    values, distances, members = (
        np.zeros((counts, len(groups))),
        np.zeros((counts, counts)),
        np.zeros((counts, len(groups))),
    )
    start = 0
    for g, (_, _, feature) in enumerate(groups):
        rows = slice(start, start + len(feature.options))
        start = rows.stop
        numbers = np.array(values_of(feature))
        values[rows, g], members[rows, g] = numbers, 1.0
        distances[rows, rows] = (numbers[:, None] - numbers) ** 2 / 2
    names = [f"{unit}.{statistic}.{feature.name}" for statistic in ("mean", "std") for _, unit, feature in groups]
    depth_of = tuple(depth_column + u for u, _, _ in groups)
    return columns.done(columns=head + names, step=Moments(len(head), values, distances, members, depth_of))


def _add_counts(columns: Columns, places: list[tuple[str, range]]) -> None:
    """How many blocks in each place have each option of each feature."""
    space = columns.space
    for name, slots in places:
        for feature in space.features:
            for i, option in enumerate(feature.options):
                columns.add_blocks(f"{name}.{feature.name}={plain(option)}", slots, _has(space, feature, i))


def _add_firsts(columns: Columns) -> None:
    """How many blocks of each unit have each combination, and which combination its first block has."""
    units = _units(columns.space)
    _add_combinations(columns, [*units, *((f"{unit}.first", slots[:1]) for unit, slots in units)])


def _add_combinations(columns: Columns, places: list[tuple[str, range]]) -> None:
    """How many blocks in each place have each combination of options."""
    for name, slots in places:
        columns.add_combinations(name, slots)


OFA_RESOLUTIONS = tuple(range(112, 225, 16))
"""Those that Syed and Srinivasan have a column for."""


def _build_ofa(space: Space) -> Table:
    """A resolution between two that have a column counts for both, by its nearness; one beyond them is the last."""
    features = {feature.name: feature for feature in space.features}
    if set(features) != {"kernel", "expansion"} or [f.name for f in space.network] != ["resolution"]:
        found = ", ".join((*features, *(feature.name for feature in space.network)))
        raise InputError(
            f"space {space.name!r} has the features {found}; the encoding 'ofa' is for kernel, expansion and "
            "resolution alone: take one-hot"
        )
    columns = Columns(space)
    for name in ("kernel", "expansion"):
        for place, slots in _blocks(space):
            for i, option in enumerate(features[name].options):
                columns.add_blocks(f"{place}.{name}={plain(option)}", slots, _has(space, features[name], i))
    resolutions = values_of(space.network[0])
    for resolution, alone in zip(OFA_RESOLUTIONS, np.eye(len(OFA_RESOLUTIONS)), strict=True):
        columns.add_options_of_network(f"resolution={resolution}", np.interp(resolutions, OFA_RESOLUTIONS, alone))
    return columns.done()


def _build_cost(space: Space) -> Table:
    from esm_onnx.prediction.cost_encoding import build_cost  # onnx, which the others do not need

    return build_cost(space)


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("one-hot", _build_one_hot),
        Encoding("feature", _build_feature),
        Encoding("statistical", _build_statistical),
        Encoding("fc", _build_fc),
        Encoding("fcc", _build_fcc),
        Encoding("fcc-first", _build_fcc_first),
        Encoding("counts", _build_all_counts),
    )
}
"""For any space."""

COST = Encoding("cost", _build_cost)
OFA = Encoding("ofa", _build_ofa)


def encoding_names() -> list[str]:
    """All that have a name of their own."""
    return [*ENCODINGS, COST.name, OFA.name]


def has_encoding(space: Space, name: str) -> bool:
    """Whether architectures of a space can be encoded so."""
    try:
        find_encoding(name).table(space)
    except InputError:  # no writer of ours, other features, or too many options
        return False
    return True


@lru_cache
def find_encoding(name: str) -> Encoding:
    """The encoding of that name, or several side by side: `cost+fcc`.

    Raises:
        InputError: there is none.
    """
    every = {**ENCODINGS, **{encoding.name: encoding for encoding in (COST, OFA, ENTRIES)}}
    parts = name.split("+")
    if not set(parts) <= set(every) or len(set(parts)) < len(parts):
        raise InputError(f"encoding {name!r}, expected one of {', '.join(every)}, or several joined by '+'")
    if len(parts) == 1:
        return every[name]

    def build(space: Space) -> Table:
        return _beside([every[part].table(space) for part in parts])

    return Encoding(name, build)


def _beside(tables: list[Table]) -> Table:
    return Table(
        columns=tuple(column for table in tables for column in table.columns),
        network=np.hstack([table.network for table in tables]),
        blocks=np.hstack([table.blocks for table in tables]),
        step=Parts(tuple((table.blocks.shape[1], table.step) for table in tables)),
    )
