"""What a lint finds in measured latencies, on tables that are clean but for one defect."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from prediction.made_up import dataset, rows

from esm_onnx.architectures import Feature, Space, find_space, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.prediction.encodings import find_encoding
from esm_onnx.prediction.lint import lint, rows_of_genomes
from esm_onnx.prediction.lint_table import ERROR, NOTE, WARNING, Finding, Rows

Vector = np.ndarray
Change = Callable[[Vector, np.random.Generator], Vector]

RESOLUTIONS = (160, 192, 224)


def table(count: int, seed: int = 0, noise: float = 0.02, power: float = 2.0) -> Rows:
    """Three units of two or three blocks with a kernel and an expansion, at some resolution, and what they would take.

    A sum over blocks of products of their options, times a power of the resolution, times log-normal noise.
    """
    rng = np.random.default_rng(seed)
    depths = rng.integers(2, 4, (count, 3))
    options = rng.integers(0, 3, (count, 3, 3, 2))
    there = np.arange(3) < depths[:, :, None]
    resolution = rng.choice(RESOLUTIONS, count).astype(float)
    costs = (0.3 + 0.2 * options[..., 0]) * (1 + options[..., 1]) * np.array([1, 2, 3])[:, None]
    latency = (1 + (costs * there).sum(axis=(1, 2))) * (resolution / 224) ** power
    features = np.column_stack([resolution, np.where(there[..., None], options, -1).reshape(count, 18)])
    names = [f"u{u}b{b}.{name}" for u in (1, 2, 3) for b in (1, 2, 3) for name in ("kernel", "expansion")]
    return Rows(features, ("resolution", *names), latency * np.exp(noise * rng.standard_normal(count)))


def changed(change: Change, count: int = 600, seed: int = 0, noise: float = 0.02) -> Rows:
    """A table with one defect."""
    clean = table(count, seed, noise)
    return replace(clean, latency_ms=change(clean.latency_ms, np.random.default_rng(seed)))


def reordered(of: Rows, order: np.ndarray) -> Rows:
    return replace(of, features=of.features[order], latency_ms=of.latency_ms[order])


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_clean_tables_hardly_ever_give_a_finding() -> None:
    """Each test speaks up about one table in a thousand; here are forty, of any size."""
    counts = [50] * 24 + [200] * 14 + [1500] * 2
    noises = np.random.default_rng(0).choice([0.01, 0.02, 0.03], len(counts))
    told = [f for i, count in enumerate(counts) for f in lint(table(count, i, noises[i]))]
    assert len(told) <= 1, told


@pytest.mark.parametrize(
    ("count", "factor"), [(60, 8.0), (60, 1 / 8), (100, 3.0), (600, 3.0), (600, 1 / 3), (600, 1.8)]
)
def test_a_single_latency_that_is_off_by_a_factor_is_named(count: int, factor: float) -> None:
    def spoil(latency: Vector, _: np.random.Generator) -> Vector:
        latency[17] *= factor
        return latency

    found = only(lint(changed(spoil, count)))
    assert (found.kind, found.severity, found.rows, found.first) == ("outliers", WARNING, 1, ("row 18",))
    assert "row 18 " in found.message
    assert f"1 of {count} latencies" in found.message


@pytest.mark.parametrize("count", [30, 200])
@pytest.mark.parametrize("share", [0.1, 0.24, 0.45])
@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_rows_of_another_unit_are_told_however_many_they_are(count: int, share: float, factor: float) -> None:
    apart = np.random.default_rng(1).permutation(count)[: max(1, round(share * count))]

    def spoil(latency: Vector, _: np.random.Generator) -> Vector:
        latency[apart] *= factor
        return latency

    found = only(lint(changed(spoil, count)))
    assert (found.kind, found.severity, found.rows) == ("units", ERROR, len(apart))
    assert found.first == tuple(f"row {i + 1}" for i in sorted(apart)[:5])
    told = float(found.message.split("×")[1].split(" ")[0])
    assert 0.3 < told / factor < 3


def test_what_a_feature_tells_apart_is_no_other_unit() -> None:
    """Images of 32 and of 512 pixels, say."""
    clean = table(200)
    large = clean.features[:, 0] == RESOLUTIONS[0]
    assert "units" not in kinds(lint(replace(clean, latency_ms=clean.latency_ms * np.where(large, 300.0, 1.0))))


def test_shallow_networks_are_no_outliers_for_being_few() -> None:
    """What a DenseNet of few layers takes is far from the others', which say little of it."""
    space = find_space("densenet")
    encoding = find_encoding("cost")
    macs = [i for i, name in enumerate(encoding.columns(space)) if "macs" in name]
    for seed in range(12):
        genomes = np.array([to_genome(space, a) for a in sample(space, 40, strategy="balanced", rng=Random(seed))])
        work = encoding.encode(space, genomes)[:, macs].sum(axis=1)
        latency_ms = work / work.mean() * np.exp(0.02 * np.random.default_rng(seed).standard_normal(40))
        assert "outliers" not in kinds(lint(rows_of_genomes(space, genomes, latency_ms)))


def test_noise_and_what_features_do_not_tell_are_no_outliers() -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        assert "outliers" not in kinds(lint(table(300, seed, noise=0.3)))
        wild = replace(table(300, seed), latency_ms=np.exp(rng.standard_t(4, 300)))
        assert not {"outliers", "units"} & kinds(lint(wild))


@pytest.mark.parametrize("count", [0, 1, 2, 10, 30])
def test_of_few_rows_nothing_is_claimed(count: int) -> None:
    for seed in range(5):
        assert lint(table(count, seed)) == []


finite = st.floats(-1e6, 1e6) | st.sampled_from([-1.0, 0.0, 1.0])


@settings(deadline=None, max_examples=60)
@given(data=st.data(), count=st.integers(0, 40), width=st.integers(0, 5))
def test_no_table_is_too_odd(data: st.DataObject, count: int, width: int) -> None:
    """Whatever stands in it, each finding names rows of the table and can be written as JSON."""
    features = data.draw(arrays.arrays(float, (count, width), elements=finite))
    names = st.sampled_from(["u1b1.k", "u1b2.k", "u2b1.k", "ops[1]", "ops[2]", "r", "b"])
    columns = data.draw(st.lists(names, min_size=width, max_size=width, unique=True))
    latency = data.draw(arrays.arrays(float, count, elements=st.floats() | st.sampled_from([1.0, 2.5, 1e3])))
    sessions = data.draw(st.none() | arrays.arrays(np.int64, count, elements=st.integers(0, 2)))
    odd = Rows(features, tuple(columns), latency, sessions, ("a", "b", "c") if sessions is not None else ("",))
    for finding in lint(odd):
        assert 0 < finding.rows <= count
        assert 1 <= len(finding.first) <= 5
        assert json.loads(json.dumps(finding.as_json())) == finding.as_json()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_values_that_are_no_latencies_are_told_and_left_out(value: float) -> None:
    def fail(latency: Vector, _: np.random.Generator) -> Vector:
        return np.where(np.arange(len(latency)) % 100 == 7, value, latency)

    finding = only(lint(changed(fail)))
    assert (finding.kind, finding.severity, finding.rows) == ("sentinels", ERROR, 6)
    assert finding.first == ("row 8", "row 108", "row 208", "row 308", "row 408")
    assert f"{value:g} (6×)" in finding.message


@pytest.mark.parametrize(
    ("change", "rows", "text"),
    [
        (lambda y, _: np.minimum(y, np.quantile(y, 0.95)), 30, "the greatest of all"),
        (lambda y, _: np.where(np.arange(len(y)) % 150 == 0, 5000.0, y), 4, "exactly 5000 ms, the greatest"),
        (lambda y, _: np.where(np.arange(len(y)) % 50 == 0, 20.0, y), 12, "exactly 20 ms, in the midst"),
        (lambda y, _: np.full(len(y), 12.5), 600, "600 of 600 latencies are exactly 12.5 ms"),
    ],
    ids=["cap", "timeout", "default", "constant"],
)
def test_one_value_that_is_there_too_often_is_a_bound_or_a_default(change: Change, rows: int, text: str) -> None:
    finding = only(lint(changed(change)))
    assert (finding.kind, finding.severity, finding.rows) == ("repeated value", WARNING, rows)
    assert text in finding.message


@pytest.mark.parametrize(("step", "severity"), [(1.0, WARNING), (0.1, NOTE), (1 / 7, NOTE)])
def test_a_coarse_clock_is_told_with_the_error_that_it_makes(step: float, severity: str) -> None:
    coarse = changed(lambda y, _: np.round(y / step) * step)
    error = 100 * step / math.sqrt(12) / np.median(coarse.latency_ms)
    finding = only(lint(coarse))
    assert (finding.kind, finding.severity) == ("coarse clock", severity)
    assert f"multiples of {step:g} ms" in finding.message
    assert f"an error of {error:.1f} %" in finding.message


@pytest.mark.parametrize("step", [0.001, 0.01, 0.05])
def test_latencies_that_are_equal_because_they_are_rounded_are_no_cache(step: float) -> None:
    rounded = changed(lambda y, _: np.round(y / step) * step, count=2000)
    assert len(np.unique(rounded.latency_ms)) < 1990
    assert lint(rounded) == []


def test_a_cache_that_leaves_out_the_resolution_is_seen() -> None:
    """Each architecture stands there at three resolutions, with the latency of the first that was measured."""
    some = table(100, power=0.0)
    features = np.repeat(some.features, 3, axis=0)
    features[:, 0] = np.tile(RESOLUTIONS, 100)
    order = np.random.default_rng(0).permutation(300)
    cached = replace(some, features=features[order], latency_ms=np.repeat(some.latency_ms, 3)[order])
    found = {finding.kind: finding for finding in lint(cached)}
    assert {"cached measurements", "leak"} <= set(found)
    cache, leak = found["cached measurements"], found["leak"]
    assert (cache.severity, cache.rows, leak.rows) == (ERROR, 300, 300)
    assert "300 rows hold 100 measurements" in cache.message
    assert "differs in resolution but not in kernel, expansion" in cache.message
    assert "in 100 groups of up to 3" in leak.message
    assert "96 % are in the training set too" in leak.message  # 1 − 0.2²


def test_a_cache_that_was_hit_now_and_then_is_seen() -> None:
    def hit(latency: Vector, rng: np.random.Generator) -> Vector:
        return np.where(rng.random(len(latency)) < 0.05, np.roll(latency, 1), latency)

    assert kinds(lint(changed(hit))) == {"cached measurements", "leak", "outliers"}


def test_copies_of_rows_are_duplicates_that_leak() -> None:
    clean = table(400)
    order = np.concatenate([np.arange(400), np.arange(0, 400, 4)])
    copied = {finding.kind: finding for finding in lint(reordered(clean, order))}
    assert set(copied) == {"duplicates", "leak"}
    assert copied["duplicates"].severity == WARNING
    assert "of 400 architectures in 500 rows 100 are there more than once" in copied["duplicates"].message
    assert "100 with the same latency to the last digit" in copied["duplicates"].message
    assert (copied["duplicates"].rows, copied["leak"].rows) == (200, 200)


@pytest.mark.parametrize(("noise", "severity"), [(0.01, NOTE), (0.2, WARNING)])
def test_architectures_that_were_measured_again_are_noted_unless_they_disagree(noise: float, severity: str) -> None:
    clean = table(300, noise=0.0)
    twice = reordered(clean, np.random.default_rng(0).permutation(np.tile(np.arange(300), 2)))
    factors = np.exp(noise * np.random.default_rng(1).standard_normal(600))
    found = {finding.kind: finding for finding in lint(replace(twice, latency_ms=twice.latency_ms * factors))}
    assert set(found) == {"duplicates", "leak"}
    assert found["duplicates"].severity == severity
    # the median distance of two normal values is 0.954 of their standard deviation
    stated = float(found["duplicates"].message.split(" in the median")[0].rsplit("+", 1)[1].removesuffix(" %"))
    assert stated == pytest.approx(100 * math.expm1(0.954 * noise), rel=0.25)


@pytest.mark.parametrize("digits", [9, 4, 2])
def test_sums_of_a_table_are_seen_through_the_resolution(digits: int) -> None:
    """The made-up latency is a sum over blocks at each resolution, and no sum over options."""
    finding = only(lint(changed(lambda y, _: np.round(y, digits), count=800, noise=0.0)))
    assert (finding.kind, finding.severity, finding.rows) == ("sums", ERROR, 800)
    assert "with resolution" in finding.message
    assert "combinations of options in blocks" in finding.message


def test_sums_over_options_are_seen_whatever_the_columns_are_called() -> None:
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 5, (300, 12)).astype(float)
    latency = 3 + rng.random((12, 5))[np.arange(12), digits.astype(int)].sum(axis=1)
    summed = Rows(digits, tuple(f"ops[{i}]" for i in range(12)), latency)
    assert only(lint(summed)).kind == "sums"
    assert lint(replace(summed, latency_ms=latency * np.exp(0.002 * rng.standard_normal(300)))) == []


def test_a_feature_without_effect_is_told_with_bounds() -> None:
    finding = only(lint(table(600, power=0.0)))
    assert (finding.kind, finding.severity) == ("no effect", WARNING)
    assert "hardly depends on resolution (from 160 to 224:" in finding.message
    assert lint(table(600, power=0.5)) == []
    assert lint(table(60, power=0.0)) == []  # too few to be sure


def slow(count: int, start: float, end: float, factor: float) -> Vector:
    """1, and a factor from one share of the rows to another."""
    place = np.arange(count) / count
    return np.where((start <= place) & (place < end), factor, 1.0)


def wander(count: int, rng: np.random.Generator, share: float, size: float) -> Vector:
    """Autoregressive noise of that standard deviation."""
    steps, noise = rng.standard_normal(count), np.zeros(count)
    for i in range(1, count):
        noise[i] = share * noise[i - 1] + math.sqrt(1 - share**2) * steps[i]
    return np.exp(size * noise)


DISORDERS: dict[str, tuple[str, Change]] = {
    "line": ("drift", lambda y, _: y * np.exp(np.linspace(-0.02, 0.02, len(y)))),
    "warming up": ("drift", lambda y, _: y * (1 - 0.1 * np.exp(-np.arange(len(y)) / 100))),
    "first tenth": ("level shift", lambda y, _: y * slow(len(y), 0, 0.1, 1.15)),
    "second half": ("level shift", lambda y, _: y * slow(len(y), 0.5, 1, 0.96)),
    "burst": ("level shift", lambda y, _: y * slow(len(y), 0.3, 0.4, 1.06)),
    "two bursts": ("drift", lambda y, _: y * slow(len(y), 0.2, 0.3, 1.1) * slow(len(y), 0.6, 0.8, 0.92)),
    "autoregression": ("autocorrelation", lambda y, rng: y * wander(len(y), rng, 0.5, 0.03)),
    "alternation": ("autocorrelation", lambda y, _: y * np.where(np.arange(len(y)) % 2, 1.03, 0.97)),
}


@pytest.mark.parametrize("name", DISORDERS)
def test_what_depends_on_the_order_of_measuring_is_found_and_goes_with_the_order(name: str) -> None:
    kind, change = DISORDERS[name]
    disordered = changed(change, count=1000, seed=3)
    finding = only(lint(disordered))
    assert (finding.kind, finding.severity) == (kind, WARNING)
    assert lint(reordered(disordered, np.random.default_rng(1).permutation(1000))) == []


def test_a_level_shift_is_told_with_its_rows_and_size() -> None:
    shifted = only(lint(changed(DISORDERS["burst"][1], count=1000)))
    first, last = (int(part) for part in shifted.message.removeprefix("rows ").split(" are ")[0].split("–"))
    assert (first, last) == (pytest.approx(301, abs=15), pytest.approx(400, abs=15))
    assert shifted.rows == last - first + 1
    assert shifted.first[0] == f"row {first}"
    size = float(shifted.message.split(" are ")[1].split(" %")[0])
    assert size == pytest.approx(6, abs=1.5)


def test_drift_is_told_by_tenths() -> None:
    drifting = only(lint(changed(DISORDERS["line"][1], count=4000)))
    tenths = drifting.message.split("each tenth ")[1].split(" %")[0].split()
    np.testing.assert_allclose([float(tenth) for tenth in tenths], np.linspace(-1.8, 1.8, 10), atol=0.5)


def test_outliers_are_neither_drift_nor_do_they_hide_it() -> None:
    def spoilt(latency: Vector, rng: np.random.Generator) -> Vector:
        return np.where(rng.random(len(latency)) < 0.05, 10 * latency, latency)

    assert kinds(lint(changed(spoilt, count=1000))) == {"outliers"}
    both = changed(lambda y, rng: DISORDERS["line"][1](spoilt(y, rng), rng), count=1000)
    assert kinds(lint(both)) == {"drift", "outliers"}


@pytest.mark.parametrize("by", ["depth", "resolution", "everything", "depth, again and again"])
def test_an_order_by_features_is_no_drift(by: str) -> None:
    """Deep networks do not fit the cache: what no sum explains is then alike in neighbours, but not for the time."""
    clean = table(1500)
    depth = (clean.features[:, 1::2] >= 0).sum(axis=1)
    crooked = replace(clean, latency_ms=clean.latency_ms * np.where(depth >= 8, 1.06, 1.0))
    keys = {
        "depth": (depth,),
        "resolution": (crooked.features[:, 0],),
        "everything": tuple(crooked.features.T),
        "depth, again and again": (depth, np.arange(1500) // 50),
    }
    assert lint(crooked) == []
    assert lint(reordered(crooked, np.lexsort(keys[by]))) == []


def test_rows_sorted_by_latency_tell_of_no_order() -> None:
    clean = table(300)
    for order in (np.argsort(clean.latency_ms), np.argsort(-clean.latency_ms)):
        finding = only(lint(reordered(clean, order)))
        assert (finding.kind, finding.severity) == ("order", NOTE)


def in_sessions(of: Rows, count: int) -> Rows:
    """The rows in so many sessions, one after the other."""
    return replace(
        of, sessions=np.arange(len(of)) * count // len(of), names=tuple(f"session {i}" for i in range(count))
    )


def test_a_session_on_another_level_is_named() -> None:
    clean = in_sessions(table(800), 8)
    assert lint(clean) == []
    finding = only(lint(replace(clean, latency_ms=clean.latency_ms * np.where(clean.session == 5, 1.04, 1.0))))
    assert (finding.kind, finding.severity, finding.rows) == ("sessions", WARNING, 100)
    assert "1 of 8 sessions" in finding.message
    assert "session 5 is +" in finding.message
    assert finding.first[0] == "session 5 row 1"


def test_sessions_of_other_architectures_are_on_no_other_level() -> None:
    """Later sessions of a loop measure what is still predicted badly: deep networks, say."""
    clean = table(1500)
    depth = (clean.features[:, 1::2] >= 0).sum(axis=1)
    crooked = replace(clean, latency_ms=clean.latency_ms * np.where(depth >= 8, 1.06, 1.0))
    late = np.random.default_rng(0).random(1500) < np.where(depth >= 8, 0.9, 0.05)
    order = np.argsort(late, kind="stable")
    looped = replace(reordered(crooked, order), sessions=late[order].astype(np.int64), names=("first", "second"))
    assert lint(looped) == []


def test_drift_within_one_of_several_sessions_is_told_with_its_name() -> None:
    clean = in_sessions(table(1200), 3)
    within = np.exp(np.where(clean.session == 1, np.linspace(-0.15, 0.15, 1200), 0))
    finding = only(lint(replace(clean, latency_ms=clean.latency_ms * within)))
    assert finding.kind == "drift"
    assert "of session 1:" in finding.message
    assert finding.rows == 400


def test_what_is_stated_not_to_be_measured_is_told() -> None:
    clean = table(50)
    stated = replace(clean, provenance=("measured",) * 40 + ("sum of a table",) * 10)
    finding = only(lint(stated))
    assert (finding.kind, finding.severity, finding.rows) == ("provenance", ERROR, 10)
    assert "10 of 50 latencies are no measurements but sum of a table" in finding.message
    assert lint(replace(clean, provenance=("measured",) * 50)) == []


def test_a_dataset_is_linted_in_its_order() -> None:
    clean = dataset(400, noise=0.02)
    order = np.random.default_rng(0).permutation(400)
    arguments = clean.space, clean.genomes[order], clean.latency_ms[order]
    assert lint(rows_of_genomes(*arguments)) == []
    drifting = clean.latency_ms[order] * np.exp(np.linspace(-0.05, 0.05, 400))
    assert kinds(lint(rows_of_genomes(*arguments[:2], drifting))) == {"drift"}
    sessions = [f"session {i // 200}" for i in range(400)]
    apart = clean.latency_ms[order] * np.where(np.arange(400) < 200, 1, 1.1)
    assert kinds(lint(rows_of_genomes(*arguments[:2], apart, sessions, ["measured"] * 400))) == {"sessions"}


def test_features_of_the_network_count_as_the_numbers_that_they_are() -> None:
    space = Space(
        "toy",
        depths=((1, 2),),
        block=(Feature("kernel", (3, 5)),),
        network=(Feature("resolution", (128, 224)), Feature("stem", ("plain", "deep"))),
    )
    chosen = sample(space, 10, strategy="random", rng=Random(0))
    made = rows_of_genomes(space, rows(space, chosen), np.ones(10))
    assert made.columns == ("resolution", "stem", "u1b1.kernel", "u1b2.kernel")
    assert made.features[:, 0].tolist() == [architecture.network["resolution"] for architecture in chosen]
    assert set(made.features[:, 1]) <= {0, 1}
    assert set(made.features[:, 3]) <= {-1, 0, 1}


def test_a_table_that_does_not_fit_together_is_refused() -> None:
    clean = table(5)
    with pytest.raises(InputError, match=r"features are \(5, 19\), expected \(5, 18\)"):
        replace(clean, columns=clean.columns[1:])
    with pytest.raises(InputError, match="3 provenance, expected one for each of 5 rows"):
        replace(clean, provenance=("measured",) * 3)
    with pytest.raises(InputError, match="row 2 has no finite 'resolution'"):
        replace(clean, features=np.where(np.eye(5, 19, -1) == 1, np.nan, clean.features))
