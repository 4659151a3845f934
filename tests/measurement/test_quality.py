"""What of a session stands: the paper's rule by itself, and the paired rule on simulated sessions.

In the simulated sessions the device's latency ratios move by `level(i)` (a natural logarithm) at record i; nothing in
them is taken from the code under test but the records themselves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, sample
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.protocol import PAPER, Protocol
from esm_onnx.measurement.quality import Drift, Level, Quality, judge, level_of, noise_floor, relative_std
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement, Pairing
from esm_onnx.measurement.references import draw_references
from esm_onnx.testing import tiny_space

ARCHITECTURES = sample(tiny_space(), 8, strategy="random", rng=Random(0))
REFERENCES, SUBJECTS = ARCHITECTURES[:3], ARCHITECTURES[3:]
TRUTH = {architecture: 1.0 + i for i, architecture in enumerate(ARCHITECTURES)}
KNOWN = Level({reference: TRUTH[reference] for reference in REFERENCES})
PAIRED = Protocol(tolerance=0.03)
SEEDS = st.integers(0, 2**32)
RUNS = 12


def plain_rounds(latencies: list[list[float]], architectures: list[Architecture]) -> list[Measurement]:
    """One list of latencies for each reference, as single-run measurements."""
    return [
        Measurement(architecture, REFERENCE, (latency,), 0.0)
        for architecture, series in zip(architectures, latencies, strict=False)
        for latency in series
    ]


@given(st.lists(st.lists(st.floats(1, 100), min_size=2, max_size=6), min_size=1, max_size=4), st.floats(0.001, 0.5))
def test_a_plain_session_stands_when_every_reference_stays_within_the_tolerance(
    latencies: list[list[float]], tolerance: float
) -> None:
    references = draw_references(tiny_space(), Protocol(references=4))
    expected = [statistics.stdev(series) / statistics.fmean(series) for series in latencies]
    quality = judge(plain_rounds(latencies, references), Protocol(paired=False, tolerance=tolerance))
    assert list(quality.spreads.values()) == pytest.approx(expected)
    if all(abs(spread - tolerance) > 1e-9 for spread in expected):
        assert quality.accepted == all(spread <= tolerance for spread in expected)
        assert set(quality.stands) == {quality.accepted}
        assert "".join(quality.alarms.values()).count("%") == sum(spread > tolerance for spread in expected)


def test_the_outlier_of_a_plain_session_is_named() -> None:
    references = draw_references(tiny_space(), Protocol(references=3))
    quality = judge(plain_rounds([[1, 1.01], [1, 1.3], [2, 2.01]], references), PAPER)
    assert f"reference 2 (depth {references[1].depth}) 18.4 %" in str(quality)
    assert "reference 1" not in str(quality)


def test_subjects_do_not_count_for_the_quality() -> None:
    subjects = [Measurement(ARCHITECTURES[0], SUBJECT, (latency,), 0.0) for latency in (1.0, 9.0)]
    quality = judge(subjects, PAPER)
    assert (quality.spreads, quality.accepted, quality.subjects) == ({}, True, (2, 2))
    assert noise_floor(subjects) is None


def test_noise_floor_recovers_the_noise_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    series = [(scale * (1 + 0.04 * rng.standard_normal(200))).tolist() for scale in (1, 10, 100)]
    assert noise_floor(plain_rounds(series, ARCHITECTURES)) == pytest.approx(0.04, rel=0.1)
    assert noise_floor(plain_rounds([[1.0], [2.0]], ARCHITECTURES)) is None


def test_the_spread_of_a_single_value_is_none() -> None:
    assert relative_std([3.0]) == 0.0
    assert relative_std([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)


def record(
    architecture: Architecture, role: str, level: float = 0.0, *, speed: float = 1.0, dropped: Reason | None = None
) -> Measurement:
    """A paired measurement without noise, whose ratio is off by `level`, on a device that runs at `speed`."""
    if dropped is None:
        dropped = Reason(0) if abs(math.log(speed)) < 0.1 else Reason.OTHER_SPEED
    run = TRUTH[architecture] * math.exp(level) / speed
    return Measurement(
        architecture, role, (run,) * RUNS, 0.0, (int(dropped),) * RUNS, Pairing((1 / speed,) * RUNS, nominal_ms=1.0)
    )


def round_of(level: float = 0.0, **more: float) -> list[Measurement]:
    return [record(reference, REFERENCE, level, **more) for reference in REFERENCES]


def stretch(level: float = 0.0, **more: float) -> list[Measurement]:
    return [record(subject, SUBJECT, level, **more) for subject in SUBJECTS]


@dataclass(frozen=True)
class Session:
    """Rounds of three references with subjects between them, and the true level of each record."""

    records: list[Measurement]
    levels: list[float]

    def errors(self, quality: Quality) -> list[float]:
        """What of each standing record is wrong: how far it is from its latency at level 0."""
        pairs = zip(self.records, quality.stands, quality.shifts, strict=True)
        return [math.log(shift * r.latency_ms / TRUTH[r.architecture]) for r, stands, shift in pairs if stands]

    def standing(self, quality: Quality, role: str = SUBJECT) -> list[float]:
        """The true levels of the records that stand."""
        rows = zip(self.records, self.levels, quality.stands, strict=True)
        return [level for measurement, level, stands in rows if stands and measurement.role == role]


def simulate(
    rng: np.random.Generator, sigma: float, level: Callable[[int], float] = lambda _i: 0.0, rounds: int = 6
) -> Session:
    planned = [*[(r, REFERENCE) for r in REFERENCES], *[(s, SUBJECT) for s in SUBJECTS]] * (rounds - 1)
    planned += [(r, REFERENCE) for r in REFERENCES]
    levels = [level(i) for i in range(len(planned))]
    noise = sigma * rng.standard_normal(len(planned))
    records = [record(*plan, at + error) for plan, at, error in zip(planned, levels, noise, strict=True)]
    return Session(records, levels)


LENGTH = 5 * (len(REFERENCES) + len(SUBJECTS)) + len(REFERENCES)
"""Records in a simulated session of six rounds."""


def test_a_stable_device_raises_an_alarm_in_at_most_one_session_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    verdicts = [judge(simulate(rng, 0.01).records, PAIRED) for _ in range(500)]
    assert sum(bool(verdict.alarms) for verdict in verdicts) <= 5
    assert sum(not all(verdict.stands) for verdict in verdicts) <= 5


def test_alarms_do_come_on_a_device_that_is_as_noisy_as_the_tolerance() -> None:
    rng = np.random.default_rng(0)
    assert sum(bool(judge(simulate(rng, 0.03).records, PAIRED).alarms) for _ in range(100)) > 50


@given(SEEDS, st.integers(1, LENGTH - 1), st.sampled_from([-0.05, 0.05]), st.floats(0.0005, 0.006))
def test_a_step_of_five_per_cent_anywhere_is_noticed_by_the_first_round_after_it(
    seed: int, at: int, step: float, sigma: float
) -> None:
    session = simulate(np.random.default_rng(seed), sigma, lambda i: step * (i >= at))
    quality = judge(session.records, PAIRED)
    assert len(set(session.standing(quality))) <= 1
    roles = [measurement.role for measurement in session.records]
    if roles[at - 1] == roles[at] == SUBJECT:
        assert not quality.stands[at - 1]
        assert not quality.stands[at]
    if {SUBJECT, REFERENCE} <= set(roles[:at]) and {SUBJECT, REFERENCE} <= set(roles[at:]):
        assert quality.alarms


@given(SEEDS, st.integers(1, LENGTH - 1), st.sampled_from([-0.05, 0.05]))
def test_of_two_levels_the_one_with_more_rounds_stands_whole(seed: int, at: int, step: float) -> None:
    session = simulate(np.random.default_rng(seed), 0.003, lambda i: step * (i >= at))
    period = len(REFERENCES) + len(SUBJECTS)
    starts = [period * i for i in range(6)]
    before = [start for start in starts if start + 3 <= at]
    after = [start for start in starts if start >= at]
    within = 6 - len(before) - len(after)
    if abs(len(before) - len(after)) <= within:
        return  # a round within which the step fell may side with either
    chosen = before if len(before) > len(after) else after
    stands = judge(session.records, PAIRED).stands
    assert all(stands[i] for i in range(chosen[0], chosen[-1] + 3))


@given(SEEDS, st.integers(4, LENGTH - 4))
def test_the_level_of_sessions_accepted_before_wins_over_the_one_with_more_rounds(seed: int, at: int) -> None:
    session = simulate(np.random.default_rng(seed), 0.003, lambda i: 0.05 * (i >= at))
    shifted = Level({reference: TRUTH[reference] * math.exp(0.05) for reference in REFERENCES})
    for level, latencies in ((0.0, KNOWN), (0.05, shifted)):
        assert set(session.standing(judge(session.records, PAIRED, latencies))) <= {level}


def test_at_the_known_level_everything_between_good_rounds_stands() -> None:
    off = [*round_of(0.05), *stretch(0.05)] * 3
    quality = judge([*round_of(), *stretch(), *off, *round_of(), *stretch(), *round_of()], PAIRED, KNOWN)
    assert set(quality.alarms) == {2, 3, 4}
    assert list(quality.stands) == [*[True] * 3, *[False] * 29, *[True] * 11]


@given(SEEDS, st.sampled_from([-0.05, 0.05]), st.floats(0.0005, 0.003), st.integers(0, 4))
def test_a_ramp_of_five_per_cent_within_a_stretch_leaves_one_level(
    seed: int, ramp: float, sigma: float, number: int
) -> None:
    start = (len(REFERENCES) + len(SUBJECTS)) * number + len(REFERENCES)
    session = simulate(
        np.random.default_rng(seed), sigma, lambda i: ramp * min(1, max(0, (i - start + 1) / (len(SUBJECTS) + 1)))
    )
    quality = judge(session.records, PAIRED)
    assert not any(quality.stands[start : start + len(SUBJECTS)])
    assert len(set(session.standing(quality))) == 1
    assert quality.alarms


@given(SEEDS, st.sampled_from([-0.05, 0.05]), st.floats(0.0005, 0.003))
def test_of_a_ramp_over_the_whole_session_stands_what_is_within_the_tolerance_of_one_level(
    seed: int, ramp: float, sigma: float
) -> None:
    session = simulate(np.random.default_rng(seed), sigma, lambda i: ramp * i / (LENGTH - 1))
    quality = judge(session.records, PAIRED)
    standing = session.standing(quality)
    assert standing
    assert max(standing) - min(standing) <= 2 * PAIRED.tolerance
    middle = statistics.median(session.standing(quality, REFERENCE))
    assert all(abs(level - middle) <= PAIRED.tolerance + 4 * sigma for level in standing)


def test_a_slow_drift_over_a_day_is_seen_against_what_is_known() -> None:
    records = [record for i in range(7) for record in (*round_of(0.012 * i), *stretch(0.012 * i))]
    quality = judge([*records, *round_of(0.084)], PAIRED, KNOWN)
    assert set(quality.alarms) == {4, 5, 6, 7, 8}  # from 3.6 % on
    assert list(quality.stands) == [*[True] * 19, *[False] * 40]


@given(SEEDS, st.floats(0.0005, 0.003), st.sampled_from([-0.08, 0.08]))
def test_another_regime_is_brought_over_to_within_one_per_cent(seed: int, sigma: float, shift: float) -> None:
    """Two rounds at the usual speed, then two where the device is slower by a third and its ratios are off by 8 %."""
    rng = np.random.default_rng(seed)
    usual, off = simulate(rng, sigma, rounds=2), simulate(rng, sigma, lambda _i: shift, rounds=2)
    slowed = [
        record(m.architecture, m.role, math.log(m.latency_ms / TRUTH[m.architecture]), speed=0.7) for m in off.records
    ]
    quality = judge([*usual.records, *stretch(speed=0.7), *slowed], PAIRED)
    assert not quality.alarms
    expected = [*[True] * 11, *[False] * 5, *[False] * 3, *[True] * 5, *[False] * 3]
    assert list(quality.stands) == expected
    brought = Session([*usual.records, *stretch(speed=0.7), *slowed], []).errors(quality)
    assert all(abs(error) <= 0.01 + 3 * sigma for error in brought)
    factors = quality.shifts[19:24]
    assert all(abs(math.log(factor) + shift) <= 0.01 for factor in factors)
    assert set(quality.shifts[:11]) == {1.0}


def test_a_subject_whose_speed_was_not_that_of_its_rounds_is_measured_again() -> None:
    slow, usual = record(SUBJECTS[0], SUBJECT, speed=0.7), record(SUBJECTS[0], SUBJECT)
    between_usual = judge([*round_of(), slow, usual, *round_of()], PAIRED)
    assert list(between_usual.stands) == [*[True] * 3, False, True, *[True] * 3]
    much_slower = record(SUBJECTS[0], SUBJECT, speed=0.5)
    between_slow = judge([*round_of(speed=0.7), slow, usual, much_slower, *round_of(speed=0.7)], PAIRED, KNOWN)
    assert list(between_slow.stands) == [*[False] * 3, True, False, False, *[False] * 3]
    mixed = judge([*round_of(), slow, usual, *round_of(speed=0.7)], PAIRED)
    assert not any(mixed.stands[3:5])


def test_a_regime_in_which_the_ratios_are_far_off_is_not_brought_over() -> None:
    quality = judge([*round_of(0.3, speed=0.5), *stretch(0.3, speed=0.5), *round_of(0.3, speed=0.5)], PAIRED, KNOWN)
    assert not any(quality.stands)
    assert "in another regime" in str(quality)


def test_a_device_that_never_had_the_usual_speed_again_keeps_its_own_level() -> None:
    session = [*round_of(speed=0.7), *stretch(speed=0.7), *round_of(speed=0.7)]
    assert all(judge(session, PAIRED).stands)
    level = level_of([r for r in session if r.role == REFERENCE])
    assert level is not None
    assert level.speed == pytest.approx(0.7)
    back = judge([*round_of(0.08), *stretch(0.08), *round_of(0.08)], PAIRED, level)
    assert list(back.stands) == [*[False] * 3, *[True] * 5, *[False] * 3]
    assert back.shifts[3:8] == pytest.approx([math.exp(-0.08)] * 5)


def test_references_that_no_session_accepted_before_had_are_related_through_those_that_it_had() -> None:
    partly = Level({REFERENCES[0]: TRUTH[REFERENCES[0]]})
    off = [*round_of(0.05), *stretch(0.05), *round_of(0.05)]
    assert not any(judge(off, PAIRED, partly).stands)
    assert all(judge([*round_of(), *stretch(), *round_of()], PAIRED, partly).stands)


def test_measurements_that_are_too_noisy_are_not_believed() -> None:
    noisy = [math.exp(0.2 * (-1) ** i) for i in range(40)]
    pairing = Pairing((1.0,) * 20 + (1.0001,) * 20, nominal_ms=1.0)
    subject = Measurement(SUBJECTS[0], SUBJECT, tuple(noisy), 0.0, (0,) * 40, pairing)
    assert PAIRED.tolerance < subject.error < 0.2
    for tolerance, stands in ((PAIRED.tolerance, False), (0.2, True)):
        quality = judge([*round_of(), subject, *round_of()], replace(PAIRED, tolerance=tolerance))
        assert quality.stands[3] == stands


def test_a_round_within_which_the_speed_changed_is_not_good() -> None:
    changed = [*round_of()[:2], record(REFERENCES[2], REFERENCE, speed=0.7)]
    quality = judge([*round_of(), *stretch(), *changed, *stretch(), *round_of()], PAIRED)
    assert set(quality.alarms) == {2}
    assert quality.subjects == (0, 10)


def test_a_subject_with_too_few_clean_runs_does_not_stand() -> None:
    unknown = record(SUBJECTS[0], SUBJECT, dropped=Reason.PREEMPTED)
    quality = judge([*round_of(), unknown, *stretch(), *round_of()], PAIRED)
    assert list(quality.stands) == [*[True] * 3, False, *[True] * 8]
    assert quality.subjects == (5, 6)
    assert not quality.alarms
    assert "1 subjects had too few clean runs" in str(quality)


def test_a_reference_with_too_few_clean_runs_spoils_its_round() -> None:
    unknown = record(REFERENCES[1], REFERENCE, dropped=Reason.PREEMPTED)
    spoilt = [round_of()[0], unknown, round_of()[2]]
    quality = judge([*round_of(), *stretch(), *spoilt, *stretch(), *round_of()], PAIRED)
    assert quality.alarms == {2: "too few clean runs, or too noisy ones"}
    assert not any(quality.stands[3:-3])
    assert all(quality.stands[:3] + quality.stands[-3:])


def test_one_reference_that_is_far_off_spoils_its_round() -> None:
    off = [*round_of()[:2], record(REFERENCES[2], REFERENCE, 0.12)]
    quality = judge([*round_of(), *stretch(), *off, *stretch(), *round_of()], PAIRED)
    assert set(quality.alarms) == {2}
    assert "disagree" in quality.alarms[2]


def test_a_session_that_was_interrupted_between_two_rounds_has_them_doubled() -> None:
    quality = judge([*round_of(), *stretch(), *round_of(), *round_of(), *stretch(), *round_of()], PAIRED)
    assert all(quality.stands)
    assert quality.rounds == 4
    assert quality.accepted
    moved = [*round_of(), *round_of(0.05)]
    quality = judge([*moved, *stretch(0.05), *moved, *stretch(0.05), *moved], PAIRED)
    assert not any(
        stands for stands, r in zip(quality.stands, [*moved, *stretch()] * 2, strict=False) if r.role == SUBJECT
    )


def test_a_session_that_was_interrupted_within_a_round_is_judged_by_what_there_is() -> None:
    quality = judge([*round_of(), *stretch(), *round_of()[:1]], PAIRED)
    assert quality.subjects == (5, 5)
    assert quality.rounds == 2


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4))
def test_subjects_before_the_first_round_and_after_the_last_never_stand(before: int, after: int, rounds: int) -> None:
    between = [*round_of(), *stretch()] * rounds
    closing = round_of() if rounds else []
    quality = judge([*stretch()[:before], *between, *closing, *stretch()[:after]], PAIRED)
    assert list(quality.stands) == [*[False] * before, *[True] * len([*between, *closing]), *[False] * after]
    assert not quality.alarms


def test_an_empty_session_is_nothing_wrong() -> None:
    for protocol in (PAIRED, PAPER):
        quality = judge([], protocol)
        assert (quality.stands, quality.shifts, quality.spreads, quality.rounds) == ((), (), {}, 0)
        assert quality.accepted


@given(SEEDS, st.floats(0.001, 0.05), st.integers(1, 8))
def test_the_verdict_speaks_of_every_record_and_brings_over_only_what_stands(
    seed: int, sigma: float, rounds: int
) -> None:
    session = simulate(np.random.default_rng(seed), sigma, rounds=rounds)
    quality = judge(session.records, PAIRED)
    assert len(quality.stands) == len(quality.shifts) == len(session.records)
    assert quality.rounds == rounds
    assert set(quality.alarms) <= set(range(1, rounds + 1))
    assert quality.subjects[0] == len(session.standing(quality))
    assert set(quality.shifts) == {1.0}


@given(SEEDS, st.floats(0.01, 100))
def test_the_verdict_does_not_depend_on_the_unit(seed: int, scale: float) -> None:
    records = simulate(np.random.default_rng(seed), 0.02).records
    scaled = [scale_nominal(measurement, scale) for measurement in records]
    assert judge(scaled, PAIRED).stands == judge(records, PAIRED).stands


def scale_nominal(measurement: Measurement, scale: float) -> Measurement:
    assert measurement.pairing is not None
    pairing = Pairing(tuple(scale * x for x in measurement.pairing.calibration_ms), scale)
    runs = tuple(scale * run for run in measurement.runs_ms)
    return Measurement(measurement.architecture, measurement.role, runs, 0.0, measurement.dropped, pairing)


@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_the_drift_is_that_of_the_last_round_beside_what_is_known(before: float, last: float) -> None:
    quality = judge([*round_of(before), *stretch(), *round_of(last)], PAIRED, KNOWN)
    assert quality.drift is not None
    assert quality.drift.share == pytest.approx(math.exp(last) - 1, abs=1e-12)
    assert quality.drift.alarm == quality.alarms.get(2, "")
    edges = [0.015, 0.03]  # half the tolerance, and all of it
    if all(abs(abs(math.exp(last) - 1) - edge) > 1e-3 for edge in edges):
        words = {0: "steady", 1: "drifting", 2: "unreliable"}
        assert quality.drift.state == words[sum(abs(math.exp(last) - 1) > edge for edge in edges)]


def test_a_first_round_has_not_drifted_from_anything() -> None:
    assert judge(round_of(), PAIRED).drift is None
    assert judge(round_of(0.01), PAIRED, KNOWN).drift == Drift(pytest.approx(math.expm1(0.01)), 0.03)
    noisy = [record(reference, REFERENCE, dropped=Reason.PREEMPTED) for reference in REFERENCES]
    assert judge(noisy, PAIRED).drift == Drift(0.0, 0.03, "too few clean runs, or too noisy ones")


def test_another_regime_is_no_alarm_and_not_steady() -> None:
    drift = judge([*round_of(), *stretch(), *round_of(0.1, speed=0.7)], PAIRED, KNOWN).drift
    assert drift is not None
    assert (drift.share, drift.alarm, drift.state) == (pytest.approx(math.expm1(0.1)), "", "drifting")


@given(st.lists(st.lists(st.floats(1, 2), min_size=2, max_size=4), min_size=1, max_size=3))
def test_the_drift_of_a_plain_session_is_the_greatest_spread(latencies: list[list[float]]) -> None:
    quality = judge(plain_rounds(latencies, ARCHITECTURES), PAPER)
    worst = max(statistics.stdev(series) / statistics.fmean(series) for series in latencies)
    assert quality.drift is not None
    assert quality.drift.share == pytest.approx(worst)
    assert (quality.drift.state == "unreliable") == (not quality.accepted)
    assert judge(plain_rounds([series[:1] for series in latencies], ARCHITECTURES), PAPER).drift is None


@given(st.lists(st.floats(-0.1, 0.1), min_size=1), st.sampled_from([0.01, 0.03]))
def test_the_gravest_drift_is_an_alarm_or_the_farthest(shares: list[float], tolerance: float) -> None:
    calm = [Drift(share, tolerance) for share in shares]
    assert abs(max(calm, key=lambda drift: drift.gravity).share) == max(map(abs, shares))
    alarm = Drift(0.0, tolerance, "references disagree")
    assert max([*calm, alarm], key=lambda drift: drift.gravity) == alarm
