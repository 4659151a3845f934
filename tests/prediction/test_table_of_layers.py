"""Once-for-All's tables of layers as predictors: the sums that others published are what the file predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from prediction.made_up import measured
from prediction.test_lookup import latency_of, sum_of_parts, target_of

from esm_onnx.architectures import Architecture, Space, find_space, sample, to_genome
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.errors import InputError
from esm_onnx.measurement.importers import Reading, read_table
from esm_onnx.measurement.importers_lut import LookupTable, read_lookup_table
from esm_onnx.measurement.layers import WITHIN_NETWORKS
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.lookup import measured_table, predictor_of, table_of_layers
from esm_onnx.prediction.predictor_onnx import write_predictor

HERE = Path(__file__).parents[1] / "data"
PUBLIC = Path(__file__).parents[3] / "shared/data"
OFA = find_space("ofa-mobilenetv3")
EXTRACT = HERE / "ofa_lut_176.csv", HERE / "ofa_176.csv"
WHOLE = PUBLIC / "ofa_lut/ofa_mbv3_note10_lut.csv.gz"
SUMS = {"ofa-mobilenetv3": "ofa", "compofa-fixed": "compofa_fixed", "compofa-elastic": "compofa_elastic"}


def written(table: LookupTable, space: Space, path: Path) -> LoadedPredictor:
    restricted, lookup = table_of_layers(table, space)
    predictor = predictor_of(restricted, lookup, Target("note10", {}))
    genomes = genomes_of(restricted, sample(restricted, 50, strategy="random", rng=Random(0)))
    sums_ms = predictor.predict(genomes)[0].astype(np.float64)
    write_predictor(predictor, path, check=Dataset(restricted, genomes, sums_ms, {}))
    return LoadedPredictor.open(path)


def genomes_of(space: Space, architectures: list[Architecture]) -> np.ndarray:
    return np.array([to_genome(space, each) for each in architectures], np.int64)


@pytest.mark.parametrize(
    ("space", "table", "sums", "resolutions", "count"),
    [
        pytest.param(OFA, *EXTRACT, (176,), 20, id="extract"),
        *(
            pytest.param(
                *(find_space(name), WHOLE, PUBLIC / f"syed_srinivasan_ofa/{file}.csv.gz"),
                *(tuple(range(160, 225, 4)), 10_000),
                marks=pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no {PUBLIC}"),
                id=name,
            )
            for name, file in SUMS.items()
        ),
    ],
)
def test_the_file_predicts_the_published_sums(
    space: Space, table: Path, sums: Path, resolutions: tuple[int, ...], count: int, tmp_path: Path
) -> None:
    loaded = written(read_lookup_table(table), space, tmp_path / "p.onnx")
    assert loaded.space.network[0].options == resolutions
    rows = list(read_table(sums, space, Reading(latency="note10_lut_ms")))
    found, lower, upper = loaded.predict(genomes_of(loaded.space, [row.architecture for row in rows]))
    assert len(found) == count
    np.testing.assert_allclose(found, [row.latency_ms for row in rows], rtol=5e-7)
    assert (lower == 0).all()
    assert (upper == np.inf).all()


def test_nothing_is_said_of_what_nobody_measured(tmp_path: Path) -> None:
    metadata = written(read_lookup_table(EXTRACT[0]), OFA, tmp_path / "p.onnx").metadata
    assert metadata["accuracy"] is None
    assert metadata["measurements"] == {"trained": 0, "calibrated": 0}
    assert set(metadata["interval"]["widths"]) == {None}
    assert (metadata["surrogate"], metadata["encoding"]["name"]) == ("lut", "entries")


def test_a_space_whose_expansions_follow_depth_is_summed_alike(tmp_path: Path) -> None:
    """The table has the layers of CompOFA's networks too: they are some of Once-for-All's."""
    table, space = read_lookup_table(EXTRACT[0]), find_space("compofa-elastic")
    loaded = written(table, space, tmp_path / "p.onnx")
    chosen = sample(loaded.space, 30, strategy="random", rng=Random(1))
    found = loaded.predict(genomes_of(loaded.space, chosen))[0]
    np.testing.assert_allclose(found, [table.sum_ms(space, each) for each in chosen], rtol=1e-6)


def test_another_spaces_table_and_a_table_with_a_gap_are_refused() -> None:
    table = read_lookup_table(EXTRACT[0])
    key = next(key for _, key in table.entries_ms if key.startswith("Conv_2"))
    gap = replace(table, entries_ms={place: ms for place, ms in table.entries_ms.items() if place[1] != key})
    with pytest.raises(InputError, match=f"no entry '{key}' at resolution 176 in the table"):
        table_of_layers(gap, OFA)
    narrow = replace(OFA, network=(replace(OFA.network[0], options=(128,)),))
    with pytest.raises(InputError, match="resolutions are 176, expected some of space 'ofa-mobilenetv3'"):
        table_of_layers(table, narrow)


# a store's


def whole_table(store: Store, space: Space, name: str = "somewhere", **facts: str | int) -> None:
    blocks = block_space(space)
    target = target_of(blocks, name, **facts)
    measured(store, blocks, target, [(entry, latency_of(entry)) for entry in table_entries(space)])


@pytest.mark.parametrize("within", [{}, dict(WITHIN_NETWORKS)], ids=["by themselves", "within networks"])
def test_the_table_of_a_store_needs_no_architectures(store: Store, tiny: Space, within: dict[str, str]) -> None:
    whole_table(store, tiny, **within)
    space, target, lookup = measured_table(store, None, None)
    assert (space, target) == (tiny, target_of(tiny))
    predictor = predictor_of(space, lookup, target)
    chosen = sample(tiny, 20, strategy="random", rng=Random(0))
    found = predictor.predict(genomes_of(tiny, chosen))[0]
    np.testing.assert_allclose(found, [sum_of_parts(tiny, each) for each in chosen], rtol=1e-6)


def test_one_of_several_tables_is_chosen_by_space_and_target(store: Store, tiny: Space) -> None:
    other = replace(tiny, name="other")
    for space, name, threads in ((tiny, "one", 1), (tiny, "four", 4), (other, "one", 1)):
        whole_table(store, space, name, threads=threads)
    with pytest.raises(
        InputError, match=r"more than one lookup table, choose .*tiny on 'one'; tiny on 'four'; other on"
    ):
        measured_table(store, None, None)
    assert measured_table(store, tiny, "four")[1].facts["threads"] == 4
    assert measured_table(store, other, None)[0].name == "other"
    with pytest.raises(
        InputError, match=r"no lookup table of that space and target: .* `esm-onnx profile --lookup-tab"
    ):
        measured_table(store, other, "four")


def test_a_table_that_is_not_whole_says_what_measures_the_rest(store: Store, tiny: Space) -> None:
    blocks = block_space(tiny)
    measured(store, blocks, target_of(blocks), [(entry, 1.0) for entry in table_entries(tiny)[4:]])
    with pytest.raises(InputError, match=r"4 of the 18 entries .* `esm-onnx profile --lookup-table --space tiny"):
        measured_table(store, None, None)
