"""The numbers behind the charts, each against another way to get it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.conftest import COUNT, UNSEEN, Files
from strategies import spaces

from esm_onnx.architectures import Space, divide, find_space, sample, to_genome
from esm_onnx.export.cost import cost_of
from esm_onnx.measurement.session_report import report_sessions
from esm_onnx.measurement.store import Store
from esm_onnx.report.chart import Chart
from esm_onnx.report.datasets import expected_shares
from esm_onnx.report.features import BLOCK, columns_of, regress
from esm_onnx.report.material import Material, read_material
from esm_onnx.report.sections import KINDS, SECTIONS, charts_of


def one(kind: str, material: Material, of: str = "") -> Chart:
    (chart,) = [chart for chart in charts_of(kind, material) if of in chart.of]
    return chart


def test_every_kind_has_a_place_in_the_report_and_is_drawn_here(material: Material) -> None:
    assert sorted(itertools.chain(*SECTIONS.values())) == sorted(KINDS)
    missing = [kind for kind in KINDS if not charts_of(kind, material)]
    assert missing == []
    for kind in KINDS:
        for chart in charts_of(kind, material):
            assert chart.kind == kind
            assert chart.sentence.endswith(".")
            for table in (chart.numbers, *chart.beside):
                assert table.rows
                assert {len(row) for row in table.rows} == {len(table.columns)}


def test_without_data_there_is_no_chart() -> None:
    assert not any(charts_of(kind, Material()) for kind in KINDS)


def enumerated(space: Space) -> Counter[int]:
    """Every composition of depths, each of them once."""
    return Counter(sum(depths) for depths in itertools.product(*space.depths))


@given(spaces())
def test_random_sampling_is_every_composition_alike(space: Space) -> None:
    if np.prod([len(allowed) for allowed in space.depths]) > 20_000:
        return
    counted = enumerated(space)
    expected = expected_shares(space)["random"]
    assert {depth: share for depth, share in expected.items() if share} == pytest.approx(
        {depth: count / counted.total() for depth, count in counted.items()}
    )


@given(spaces())
def test_balanced_sampling_fills_bins_and_depths_evenly(space: Space) -> None:
    expected, bins = expected_shares(space)["balanced"], divide(space)
    of_bin = Counter[int]()
    for depth, share in expected.items():
        of_bin[bins.index(depth)] += share  # type: ignore[assignment]
    assert [of_bin[i] for i in range(len(bins))] == pytest.approx([1 / len(bins)] * len(bins))
    for i in range(len(bins)):
        assert len({share for depth, share in expected.items() if bins.index(depth) == i}) == 1


def test_depths_and_latencies_are_those_of_the_store(files: Files, material: Material) -> None:
    rows = one("depths", material, "dry gpu").numbers.rows
    assert {row[0]: row[1] for row in rows if row[1]} == Counter(a.depth for a in files.architectures)
    latencies = one("latencies", material, "dry gpu")
    assert sum(int(row[2] or 0) for row in latencies.numbers.rows) == COUNT
    facts = {row[0]: row[1] for row in latencies.beside[0].rows}
    assert facts["runtime"] == "dry"
    assert facts["target"] == "dry gpu"


def test_time_and_drift_are_what_the_sessions_tell(files: Files, material: Material) -> None:
    with Store(files.store, create=False) as store:
        target = next(content.target for content in store.contents() if content.target.name == "dry shared")
        reports = list(report_sessions(store, files.space, target))
    rows = one("time", material, "dry shared").numbers.rows
    assert [row[:5] for row in rows] == [(r.number, r.status, r.subjects, r.standing, 0) for r in reports]
    assert [sum(row[5:]) for row in rows] == pytest.approx([sum(r.spent_s.values()) for r in reports], abs=0.01)  # type: ignore[arg-type]
    drift = one("drift", material, "dry shared").numbers.rows
    references = [point for report in reports for point in report.references]
    assert [row[4] for row in drift] == [point.latency_ms for point in references]
    for number in {point.reference for point in references}:
        own = [(point, row[5]) for point, row in zip(references, drift, strict=True) if point.reference == number]
        assert np.median([off for point, off in own if point.stands]) == pytest.approx(0, abs=1e-9)
        ratios = {round(point.latency_ms / (1 + float(off or 0) / 100), 9) for point, off in own}
        assert len(ratios) == 1  # all are compared with the same
    minutes = [float(row[0] or 0) for row in drift]
    assert minutes == sorted(minutes)


def test_contaminated_runs_are_counted_once_a_reason(files: Files, material: Material) -> None:
    with Store(files.store, create=False) as store:
        target = next(content.target for content in store.contents() if content.target.name == "dry shared")
        records = [
            record
            for session, *_ in list(store.sessions(files.space, target))
            for record in store.measurements(files.space, session=session)
        ]
    rows = one("dropped", material, "dry shared").numbers.rows
    counted = Counter[str]()
    for record in records:
        for bits in record.dropped:
            counted.update(reason.words for reason in record.reasons if bits & reason)
    assert {row[0]: row[1] for row in rows} == counted
    runs = sum(len(record.runs_ms) for record in records)
    assert [row[2] for row in rows] == [100 * count / runs for count in dict(counted.most_common()).values()]


def test_predictions_are_of_what_has_not_seen_the_row(material: Material) -> None:
    (predicted,) = [each for each in material.predicted if each.target.name == "dry gpu"]
    loaded, data = predicted.loaded, predicted.measured
    trained = loaded.trained_on(data.genomes)
    assert trained.sum() == COUNT - UNSEEN
    error = np.abs(predicted.latency - data.latency_ms) / data.latency_ms
    told = loaded.metadata["accuracy"]["overall"]
    assert 100 * (1 - error[trained].mean()) == pytest.approx(told["accuracy"], abs=1e-4)  # cross-validation's own
    assert (100 * (1 - error.mean())) != pytest.approx(told["accuracy"], abs=1e-4)
    np.testing.assert_array_equal(predicted.latency[~trained], loaded.predict(data.genomes[~trained])[0])
    assert not np.allclose(predicted.latency[trained], loaded.predict(data.genomes[trained])[0], rtol=1e-6)
    rows = one("accuracy", material).numbers.rows
    errors = [abs(float(row[5] or 0)) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert np.mean(errors) == pytest.approx(100 * error.mean())


def test_bins_and_coverage_count_the_same_rows(material: Material) -> None:
    (predicted,) = material.predicted
    data = predicted.measured
    bins, coverage = one("bins", material).numbers.rows, one("coverage", material).numbers.rows
    assert [row[:2] for row in bins] == [row[:2] for row in coverage]
    assert sum(int(row[1] or 0) for row in bins) == COUNT
    inside = (predicted.lower <= data.latency_ms) & (data.latency_ms <= predicted.upper)
    for (low, high), row, covered in zip(predicted.loaded.metadata["interval"]["depths"], bins, coverage, strict=True):
        there = (low <= data.depths) & (data.depths <= high)
        share = np.abs(predicted.latency[there] / data.latency_ms[there] - 1)
        assert row[2] == pytest.approx(100 * (1 - share.mean()))
        assert covered[2] == pytest.approx(100 * inside[there].mean())
    width = predicted.upper / predicted.latency - 1
    assert np.isin(np.round(width, 4), np.round(predicted.loaded.metadata["interval"]["widths"], 4)).all()


def test_the_front_is_what_nothing_beats(files: Files, material: Material) -> None:
    rows = one("front", material).numbers.rows
    (predicted,) = material.predicted
    macs = {to_genome(files.space, a): cost_of(files.space, a).multiply_adds / 1e6 for a in files.architectures}
    worth = np.array([macs[tuple(genome)] for genome in predicted.measured.genomes.tolist()])
    latency = predicted.measured.latency_ms
    for name, seconds in ("measured", latency), ("predicted", predicted.latency):
        unbeaten = [
            i
            for i in range(COUNT)
            if not any(
                (worth[j] >= worth[i] and seconds[j] < seconds[i]) or (worth[j] > worth[i] and seconds[j] <= seconds[i])
                for j in range(COUNT)
            )
        ]
        listed = [row[1] for row in rows if name in str(row[3])]
        assert sorted(listed) == pytest.approx(sorted(latency[unbeaten].tolist()))


def test_what_a_search_found_stands_beside_what_was_measured(files: Files, material: Material) -> None:
    chart, told = one("search", material), json.loads(files.search.read_text())
    assert [row[0] for row in chart.numbers.rows] == [1, 2, 3, 4, 5, 6]  # in millions
    assert [row[4] for row in chart.numbers.rows] == [1.02, 2.04, 3.06, None, None, None]
    assert len(told["found"]) == 6
    assert "off by 2 % on average, and 2 of them are still on the front" in chart.sentence


def test_comparisons_are_the_rows_of_the_file(files: Files, material: Material) -> None:
    lines = [line.split(",") for line in files.comparison.read_text().splitlines()[1:]]
    most = max(int(line[2]) for line in lines)
    best = sorted((line for line in lines if int(line[2]) == most), key=lambda line: -float(line[4]))
    rows = one("encodings", material).numbers.rows
    assert [row[0] for row in rows] == [f"{line[0]} on {line[1]}" for line in best]
    assert [row[2] for row in rows] == [float(line[4]) for line in best]
    curve = one("curve", material).numbers.rows
    assert len(curve) == len([line for line in lines if line[4]])


def test_targets_stand_side_by_side(material: Material) -> None:
    chart = one("across", material)
    busy, gpu = (next(m for m in material.measured if m.target.name == name) for name in ("dry shared", "dry gpu"))
    shared = {tuple(g): ms for g, ms in zip(busy.dataset.genomes.tolist(), busy.dataset.latency_ms, strict=True)}
    expected = [
        (shared[tuple(g)], ms)
        for g, ms in zip(gpu.dataset.genomes.tolist(), gpu.dataset.latency_ms, strict=True)
        if tuple(g) in shared
    ]
    assert sorted(row[1:3] for row in chart.numbers.rows) == sorted(expected)
    assert chart.beside[0].rows[0][:2] == ("dry shared", "dry gpu")


@given(spaces(), st.integers(0, 2**32 - 1))
def test_the_regression_finds_what_additive_latencies_are_made_of(space: Space, seed: int) -> None:
    if space.size < 4:
        return
    rng = np.random.default_rng(seed)
    drawn = sample(space, min(200, space.size), strategy="random", rng=Random(seed))
    genomes = np.array([to_genome(space, architecture) for architecture in drawn], np.int64)
    names, counts = columns_of(space, genomes)
    true = rng.uniform(0.1, 1, len(names))
    linear = regress(space, genomes, 5 + counts @ true)
    assert linear.explained == pytest.approx(1)
    varying = counts.std(axis=0) > 0
    x = np.column_stack([np.ones(len(drawn)), counts[:, varying]])
    if np.linalg.matrix_rank(x) == x.shape[1]:  # else several are as true
        assert [effect.adds for effect in linear.effects] == pytest.approx(true[varying].tolist(), rel=1e-6, abs=1e-6)


def test_counts_of_options_are_those_of_the_architecture() -> None:
    space = find_space("resnet")
    (architecture,) = sample(space, 1, strategy="random", rng=Random(5))
    names, counts = columns_of(space, np.array([to_genome(space, architecture)]))
    found = dict(zip(names, counts[0].tolist(), strict=True))
    for unit, blocks in enumerate(architecture.units, 1):
        assert found[unit, BLOCK, ""] == len(blocks)
        for option in (5, 7):
            assert found[unit, "kernel", str(option)] == sum(block["kernel"] == option for block in blocks)
        assert (unit, "kernel", "3") not in found  # what it costs is in the block's


def test_rounds_are_those_that_build_wrote(material: Material) -> None:
    (predictor,) = material.predictors
    rows = one("rounds", material).numbers.rows
    told = predictor.metadata["rounds"]
    assert [row[:3] for row in rows] == [(n, 30 * n, each["overall"]["accuracy"]) for n, each in enumerate(told, 1)]
    assert [row[4] for row in rows] == [0, 0]


def test_beside_another_target_nothing_has_been_seen(files: Files, tmp_path: Path) -> None:
    with Store(files.store, create=False) as store:
        there = next(content.target for content in store.contents() if content.target.name == "dry shared")
        copy = Store(tmp_path / "other.db")
        copy.add(files.space, there, {"from": "elsewhere"}, store.measurements(files.space, there))
    with copy:
        (predicted,) = read_material(copy, predictors=[files.predictor]).predicted
    assert not predicted.trained.any()
    np.testing.assert_array_equal(predicted.latency, predicted.loaded.predict(predicted.measured.genomes)[0])
    material = Material(predicted=(predicted,), predictors=(predicted.loaded,))
    assert "predicted for dry gpu" in one("accuracy", material).of
    assert "flatters" not in one("coverage", material).sentence
