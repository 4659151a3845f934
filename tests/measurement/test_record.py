"""What a measurement says of its runs, on measurements made by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture
from esm_onnx.measurement.calibration import calibrate
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.record import LEAST_CLEAN, SUBJECT, Measurement, Pairing
from esm_onnx.measurement.references import choose_calibration
from esm_onnx.measurement.timing import Timing
from esm_onnx.testing import tiny_space

ARCHITECTURE: Architecture = choose_calibration(tiny_space())
BAD, OTHER = int(Reason.PREEMPTED), int(Reason.OTHER_SPEED)


def paired(dropped: list[int], runs: list[float], calibration: list[float] | float = 1.0, **more: float) -> Measurement:
    beside = [calibration] * len(runs) if isinstance(calibration, float) else calibration
    pairing = Pairing(tuple(beside), more.pop("nominal_ms", 1.0))
    return Measurement(ARCHITECTURE, SUBJECT, tuple(runs), 0.0, tuple(dropped), pairing, **more)


@given(st.lists(st.sampled_from([0, BAD, OTHER]), min_size=1, max_size=40))
def test_a_plain_measurement_ignores_what_was_noticed(dropped: list[int]) -> None:
    runs = tuple(float(i + 1) for i in range(len(dropped)))
    measurement = Measurement(ARCHITECTURE, SUBJECT, runs, 0.0, tuple(dropped))
    assert measurement.used.all()
    assert measurement.is_known
    assert measurement.at_usual_speed
    assert measurement.speed == 1
    assert measurement.latency_ms == measurement.trimmed_ms == pytest.approx((len(runs) + 1) / 2)


def test_the_latency_is_the_ratio_times_the_nominal_latency() -> None:
    measurement = paired([0] * 20, [6.0] * 10 + [12.0] * 10, [2.0] * 10 + [4.0] * 10, nominal_ms=1.5)
    assert measurement.latency_ms == pytest.approx(3 * 1.5)
    assert measurement.trimmed_ms == pytest.approx(9.0)
    assert measurement.speed == pytest.approx(1.5 / 3)


def test_what_references_brought_over_is_multiplied_by_their_factor() -> None:
    assert paired([0] * 20, [6.0] * 20, shift=0.9).latency_ms == pytest.approx(0.9 * 6)


def test_contaminated_runs_do_not_count() -> None:
    measurement = paired([0, BAD, BAD, BAD] * 10, [6.0, 600.0, 600.0, 600.0] * 10)
    assert measurement.latency_ms == pytest.approx(6)
    assert measurement.used.tolist() == [True, False, False, False] * 10
    assert measurement.is_known
    assert measurement.at_usual_speed


def test_runs_at_another_speed_count_only_where_there_are_too_few_at_the_usual() -> None:
    few = paired([OTHER] * 31 + [0] * 9, [12.0] * 31 + [6.0] * 9, [2.0] * 31 + [1.0] * 9)
    assert (few.is_known, few.at_usual_speed, int(few.used.sum())) == (True, False, 40)
    assert few.speed == pytest.approx(0.5)
    enough = paired([0, OTHER] * 20, [6.0, 12.2] * 20, [1.0, 2.0] * 10 + [1.0001, 2.0001] * 10)
    assert (enough.is_known, enough.at_usual_speed, int(enough.used.sum())) == (True, True, 20)
    assert enough.latency_ms == pytest.approx(6, rel=1e-3)
    assert enough.speed == pytest.approx(1, rel=1e-3)
    of_one_block = paired([0] * 20 + [BAD] * 20, [6.0] * 40, [1.0] * 20 + [1.1] * 20)
    assert not of_one_block.is_known


def test_too_few_clean_runs_are_no_latency() -> None:
    measurement = paired([0] * (LEAST_CLEAN - 1) + [BAD | OTHER] * 31, [6.0] * 40)
    assert not measurement.is_known
    assert not measurement.at_usual_speed
    assert measurement.used.all()  # a number to look at, not to believe


def test_a_run_with_two_reasons_is_contaminated_whichever_of_them_is_forgiven() -> None:
    assert not paired([BAD | OTHER] * 40, [6.0] * 40).is_known


def test_of_a_measurement_with_few_runs_half_must_be_clean() -> None:
    assert paired([0, 0, BAD], [6.0] * 3).is_known
    assert not paired([0, BAD, BAD], [6.0] * 3).is_known


def test_a_paired_measurement_that_nothing_watched_counts_all_its_runs() -> None:
    assert paired([], [6.0] * 40).used.all()


def test_the_reasons_are_counted_each_by_itself() -> None:
    measurement = paired([0, BAD, BAD | OTHER, int(Reason.STOLEN)], [6.0] * 4)
    assert measurement.reasons == Counter({Reason.PREEMPTED: 2, Reason.OTHER_SPEED: 1, Reason.STOLEN: 1})
    assert not Measurement(ARCHITECTURE, SUBJECT, (1.0,), 0.0).reasons


def test_the_error_is_that_of_the_used_runs() -> None:
    runs = (6 + 0.1 * np.random.default_rng(0).standard_normal(40)).tolist()
    clean = paired([0] * 40, runs)
    disturbed = paired([0] * 40 + [BAD] * 10, [*runs, *[50.0] * 10])
    assert 0.001 < clean.error < 0.02
    assert disturbed.error == clean.error


def timing(blocks: list[tuple[float, Reason]]) -> Timing:
    calibrations = [ms * 1e6 for ms, _ in blocks for _ in range(20)]
    dropped = [int(reason) for _, reason in blocks for _ in range(20)]
    return Timing([5_000_000] * len(dropped), dropped, calibrations)


def test_the_nominal_latency_is_that_of_the_blocks_that_nothing_slowed_down() -> None:
    fast = [(1.00, Reason(0)), (1.01, Reason(0)), (1.02, Reason.PREEMPTED)]
    slow = [(1.30, Reason(0)), (1.40, Reason(0)), (1.50, Reason(0)), (1.60, Reason(0))]
    contaminated = [(0.5, Reason.UNPAIRED), (9.0, Reason.UNPAIRED | Reason.STOLEN)]
    found = calibrate(ARCHITECTURE, [timing([*slow, *contaminated]), timing(fast)], 5.0)
    assert found is not None
    assert (found.architecture, found.started_at) == (ARCHITECTURE, 5.0)
    assert found.nominal_ms == pytest.approx(1.01)
    assert found.spread == pytest.approx(np.std([1.0, 1.01, 1.02]) / 1.01)


def test_contaminated_blocks_alone_give_no_calibration() -> None:
    assert calibrate(ARCHITECTURE, [timing([(1.0, Reason.UNPAIRED)] * 10)], 0.0) is None
