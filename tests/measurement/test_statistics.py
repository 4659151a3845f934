from __future__ import annotations

import statistics
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Space, divide
from esm_onnx.errors import InputError
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import judge, noise_floor
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement, trimmed_mean
from esm_onnx.measurement.session import draw_references
from esm_onnx.testing import tiny_space

RUNS = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200)


@given(RUNS)
def test_trimmed_mean_drops_a_fifth_at_either_end(runs: list[float]) -> None:
    drop = len(runs) // 5
    kept = sorted(runs)[drop : len(runs) - drop]
    assert trimmed_mean(np.array(runs)) == pytest.approx(statistics.fmean(kept))


@given(RUNS, st.integers(0, 2**32))
def test_trimmed_mean_does_not_depend_on_the_order(runs: list[float], seed: int) -> None:
    shuffled = list(runs)
    Random(seed).shuffle(shuffled)
    assert trimmed_mean(np.array(shuffled)) == pytest.approx(trimmed_mean(np.array(runs)))


def test_the_papers_150_runs_leave_90() -> None:
    runs = [1.0] * 30 + [2.0] * 90 + [1000.0] * 30
    assert trimmed_mean(np.array(runs)) == 2.0


def rounds(latencies: list[list[float]], architectures: list[Architecture]) -> list[Measurement]:
    """One list of latencies for each reference, as single-run measurements."""
    return [
        Measurement(architecture, REFERENCE, (latency,), 0.0)
        for architecture, series in zip(architectures, latencies, strict=False)
        for latency in series
    ]


@given(st.lists(st.lists(st.floats(1, 100), min_size=2, max_size=6), min_size=1, max_size=4), st.floats(0.001, 0.5))
def test_a_session_stands_when_every_reference_stays_within_the_tolerance(
    latencies: list[list[float]], tolerance: float
) -> None:
    references = draw_references(tiny_space(), Protocol(references=4))
    expected = [statistics.stdev(series) / statistics.fmean(series) for series in latencies]
    quality = judge(rounds(latencies, references), tolerance)
    assert list(quality.spreads.values()) == pytest.approx(expected)
    if all(abs(spread - tolerance) > 1e-9 for spread in expected):
        assert quality.accepted == all(spread <= tolerance for spread in expected)
        assert len(quality.outliers) == sum(spread > tolerance for spread in expected)


def test_the_outlier_is_named() -> None:
    references = draw_references(tiny_space(), Protocol(references=3))
    quality = judge(rounds([[1, 1.01], [1, 1.3], [2, 2.01]], references), 0.03)
    assert quality.outliers == [f"reference 2 (depth {references[1].depth})"]
    assert "reference 2" in str(quality)
    assert "18.4 %" in str(quality)


def test_subjects_do_not_count_for_the_quality(eight: list[Architecture]) -> None:
    subjects = [Measurement(eight[0], SUBJECT, (latency,), 0.0) for latency in (1.0, 9.0)]
    assert judge(subjects, 0.03).spreads == {}
    assert noise_floor(subjects) is None


def test_noise_floor_recovers_the_noise_that_was_put_in(eight: list[Architecture]) -> None:
    rng = np.random.default_rng(0)
    series = [(scale * (1 + 0.04 * rng.standard_normal(200))).tolist() for scale in (1, 10, 100)]
    assert noise_floor(rounds(series, eight)) == pytest.approx(0.04, rel=0.1)
    assert noise_floor(rounds([[1.0], [2.0]], eight)) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_references_are_different_and_spread_over_the_depths(tiny: Space, count: int) -> None:
    references = draw_references(tiny, Protocol(references=count))
    bins = divide(tiny)
    assert len(set(references)) == count
    assert len({bins.index(reference.depth) for reference in references}) == min(count, len(bins))
    assert references == draw_references(tiny, Protocol(references=count))
    assert references != draw_references(tiny, Protocol(references=count, seed=1))


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"references": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}, {"attempts": 0}]
)
def test_an_impossible_protocol_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Protocol(**wrong)  # type: ignore[arg-type]
