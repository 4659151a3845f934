"""The report of a session: what was measured, what was left out and why, and where the time went."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import ThresholdNotMet
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.protocol import PAPER, Protocol
from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Failure, Measurement, Pairing
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler
from esm_onnx.measurement.session_report import SessionReport, remarks, report_sessions
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target

CLEAN = (0,) * 20
HALF = (int(Reason.PREEMPTED | Reason.WAITING), 0) * 10


def record(
    architecture: Architecture, role: str, latency_ms: float, at: float, dropped: tuple[int, ...] = CLEAN
) -> Measurement:
    """Twenty runs that took 3 s with all that belongs to them, beside a calibration that took 1 ms a run."""
    runs_ms = (0.99 * latency_ms, 1.01 * latency_ms) * 10
    return Measurement(architecture, role, runs_ms, at, dropped, Pairing((1.0,) * 20, 1.0, spent_ms=500.0), elapsed_s=3)


@pytest.fixture
def session(tiny: Space, target: Target, store: Store, eight: list[Architecture]) -> SessionReport:
    """Two references before and after two subjects; of the second round and the second subject nothing stands."""
    one, two, *subjects = eight
    records = [
        record(one, REFERENCE, 10.0, 100.0),
        record(two, REFERENCE, 20.0, 103.0),
        record(subjects[0], SUBJECT, 30.0, 106.0, HALF),
        record(subjects[1], SUBJECT, 40.0, 109.0, (int(Reason.STOLEN), *CLEAN[1:])),
        record(one, REFERENCE, 10.4, 112.0),
        record(two, REFERENCE, 25.0, 115.0),
    ]
    number = store.open_session(tiny, target, {"protocol": Protocol(references=2, target_error=0.004).as_json()})
    for each in records:
        store.append(number, tiny, each)
    for architecture, kind in ((subjects[2], "crash"), (subjects[2], "crash"), (subjects[3], "memory")):
        store.append(number, tiny, Failure(architecture, kind, "it broke", 120.0))
    store.close_session(number, status="accepted", verdict="1 of 2 subjects stand", fallen=[3, 5])
    (report,) = report_sessions(store, tiny, target)
    return report


def test_everything_is_counted(session: SessionReport) -> None:
    assert (session.number, session.status, session.verdict) == (1, "accepted", "1 of 2 subjects stand")
    assert (session.subjects, session.standing) == (2, 1)
    assert session.runs == 6 * 20
    assert session.failures == {"crash": 2, "memory": 1}


def test_contaminated_runs_are_counted_by_reason(session: SessionReport) -> None:
    assert session.dropped == {"preempted": 10, "waiting": 10, "stolen": 1}


def test_the_time_is_told_by_purpose(session: SessionReport) -> None:
    assert session.spent_s == {
        "subjects": pytest.approx(20 * 0.070),
        "references": pytest.approx(20 * 0.0654),
        "calibration": pytest.approx(6 * 0.5),
        "rest": pytest.approx(6 * 3 - 20 * (0.070 + 0.0654) - 6 * 0.5),
    }


def test_references_are_points_in_the_order_of_measuring(session: SessionReport, eight: list[Architecture]) -> None:
    points = session.references
    assert [(point.at_s, point.reference, point.stands) for point in points] == [
        (0.0, 1, True),
        (3.0, 2, True),
        (12.0, 1, True),
        (15.0, 2, False),
    ]
    assert [point.depth for point in points] == [eight[0].depth, eight[1].depth] * 2
    assert [point.latency_ms for point in points] == pytest.approx([10.0, 20.0, 10.4, 25.0])
    assert [point.trimmed_ms for point in points] == pytest.approx([10.0, 20.0, 10.4, 25.0])
    assert {point.speed for point in points} == {1.0}


def test_the_noise_floor_is_that_of_what_stands(session: SessionReport) -> None:
    # of the first reference 10.0 and 10.4 stand, of the second a single measurement
    assert session.noise_floor == pytest.approx(2**0.5 * 0.2 / 10.2)


def test_what_is_less_exact_than_asked_for_is_counted(session: SessionReport) -> None:
    # 20 runs, half at 0.99 and half at 1.01: the interval is about ± 1 %, but for the one with ten equal runs left
    assert session.capped == 5


def test_the_speed_is_that_of_the_calibration_and_the_latency_is_corrected_by_it(
    tiny: Space, target: Target, store: Store, eight: list[Architecture]
) -> None:
    slow = replace(record(eight[0], REFERENCE, 20.0, 0.0), pairing=Pairing((2.0,) * 20, 1.0))
    store.append(store.open_session(tiny, target, {}), tiny, slow)
    (report,) = report_sessions(store, tiny, target)
    (point,) = report.references
    assert (point.speed, point.latency_ms, point.trimmed_ms) == pytest.approx((0.5, 10.0, 20.0))
    assert (report.status, report.verdict, report.noise_floor) == ("open", "", None)


def test_a_report_is_json(session: SessionReport) -> None:
    data = json.loads(json.dumps(session.as_json(), allow_nan=False))
    assert data["references"][0]["reference"] == 1
    assert data["spent_s"] == session.spent_s
    assert data["failures"] == {"crash": 2, "memory": 1}


@pytest.mark.parametrize("device", ["cpu", "shared"])
def test_a_real_session_is_reported_as_its_records_say(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, device: str
) -> None:
    protocol = Protocol(references=2, reference_every=3)
    settings = RuntimeSettings(device=device)
    with Profiler(tiny, store, "dry", folder=tmp_path, settings=settings, protocol=protocol) as profiler:
        profiler.profile(eight)
    (report,) = report_sessions(store, tiny, profiler.target)
    records = list(store.measurements(tiny, session=report.number))
    standing = store.standing(report.number)
    subjects = [each for each in records if each.role == SUBJECT]
    references = [each for each in records if each.role == REFERENCE]
    assert report.subjects == len(subjects) == 8
    assert report.standing == len(store.measured(tiny, profiler.target)) == 8
    assert report.runs == sum(len(each.runs_ms) for each in records)
    assert report.noise_floor == noise_floor(m for m, stands in zip(records, standing, strict=True) if stands)
    assert [point.latency_ms for point in report.references] == [each.latency_ms for each in references]
    assert [point.at_s for point in report.references] == sorted(point.at_s for point in report.references)
    assert {point.reference for point in report.references} == {1, 2}
    timed_s = report.spent_s["subjects"] + report.spent_s["references"]
    assert timed_s == pytest.approx(sum(sum(each.runs_ms) for each in records) / 1000)
    assert report.spent_s["calibration"] == pytest.approx(sum(m.pairing.spent_ms for m in records if m.pairing) / 1000)
    assert sum(report.spent_s.values()) >= sum(each.elapsed_s for each in records) - 1e-6
    assert report.capped == sum(each.error > protocol.target_error for each in records if protocol.target_error)


def test_a_rejected_session_is_reported_too(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    strict = replace(PAPER, references=2, runs=10, tolerance=1e-9, attempts=2)
    with Profiler(tiny, store, "dry", folder=tmp_path, protocol=strict) as profiler:
        with pytest.raises(ThresholdNotMet):
            profiler.profile(eight[:2])
    reports = list(report_sessions(store, tiny, profiler.target))
    assert [report.number for report in reports] == [1, 2]
    for report in reports:
        assert report.status == "rejected"
        assert "nothing stands: references beyond" in report.verdict
        assert (report.subjects, report.standing, report.noise_floor) == (2, 0, None)
        assert not any(point.stands for point in report.references)
        assert len(report.references) == 4
        assert report.capped == 0
        assert report.spent_s["calibration"] == 0


def test_a_store_without_sessions_has_no_report(tiny: Space, target: Target, store: Store) -> None:
    assert list(report_sessions(store, tiny, target)) == []


def test_remarks_tell_what_is_inexact_or_contaminated_and_are_silent_otherwise(eight: list[Architecture]) -> None:
    calm, disturbed = record(eight[0], SUBJECT, 10.0, 0.0), record(eight[1], SUBJECT, 10.0, 0.0, HALF)
    assert remarks([calm] * 4, Protocol()) == []
    assert remarks([calm, disturbed], Protocol()) == ["25 % of the runs contaminated: `esm-onnx doctor` tells by what"]
    assert remarks([calm] * 4 + [disturbed], Protocol()) == []
    inexact = remarks([calm] * 4, Protocol(target_error=0.001, runs=20))
    assert inexact == ["4 of 4 measurements not known within 0.1 % after 20 runs"]
    assert remarks([calm] * 4, PAPER) == []
