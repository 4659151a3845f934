"""Profiling on the fake and for real: sessions, references, interruptions, failures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from plugins import choose_faults, install_faulty

from esm_onnx.architectures import Architecture, Export, Space
from esm_onnx.errors import InputError, ThresholdNotMet, WorkError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement import session
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.record import REFERENCE, SUBJECT
from esm_onnx.measurement.references import choose_calibration
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Profiler, Progress
from esm_onnx.measurement.store import Store

QUICK = Protocol(runs=10, warmup=1, references=2, reference_every=3, session_size=5)


def profiler(space: Space, store: Store, folder: Path, runtime: str = "dry", **more: Any) -> Profiler:
    return Profiler(space, store, runtime, folder=folder, **{"protocol": QUICK, **more})


def test_every_architecture_is_measured_among_references(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    told: list[Progress] = []
    with profiler(tiny, store, tmp_path / "s", report=told.append) as measuring:
        outcome = measuring.profile(eight)
        target = measuring.target
    assert (outcome.measured, outcome.already_measured, outcome.failures) == (8, 0, ())
    subjects = []
    for number, status, _, verdict in store.sessions(tiny, target):
        assert status == "accepted"
        assert "all 2 references" in verdict
        records = list(store.measurements(tiny, session=number))
        assert all(len(record.runs_ms) == 10 for record in records)
        roles = "".join(record.role[0] for record in records)
        assert re.fullmatch("rr(s{1,5}rr)+", roles), roles
        subjects.append(roles.count("s"))
    assert subjects == [5, 3]
    assert store.measured(tiny, target) == set(eight)
    assert [done for done, _ in groupby(p.done for p in told)] == list(range(9))
    assert told[-1].done == told[-1].total == 8


def test_what_is_measured_is_not_measured_again(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    for asked, measured, already in ((eight[:5], 5, 0), (eight[:5], 0, 5), (eight + eight, 3, 5)):
        with profiler(tiny, store, tmp_path / "s") as measuring:
            outcome = measuring.profile(asked)
        assert (outcome.measured, outcome.already_measured) == (measured, already)


def test_a_target_with_other_facts_is_measured_by_itself(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    for device in ("gpu", "board"):
        with profiler(tiny, store, tmp_path / "s", settings=RuntimeSettings(device=device)) as measuring:
            assert measuring.profile(eight[:2]).measured == 2
    assert [content.measurements for content in store.contents()] == [2, 2]


def test_subnets_are_deleted_once_they_are_timed(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    with profiler(tiny, store, tmp_path / "s") as measuring:
        measuring.profile(eight[:2])
    assert not list((tmp_path / "s").glob("*.onnx"))


def test_an_interrupted_session_goes_on_with_a_round_of_references(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), profiler(tiny, store, tmp_path / "s", report=interrupt) as measuring:
        measuring.profile(eight[:5])
    with profiler(tiny, store, tmp_path / "s") as measuring:
        outcome = measuring.profile(eight[:5])
        target = measuring.target
    assert outcome.measured == 5
    ((number, status, _, _),) = store.sessions(tiny, target)
    records = list(store.measurements(tiny, session=number))
    assert status == "accepted"
    assert re.fullmatch("rrs(rr)?s(rr)+s(rr)?s(rr)?srr", "".join(record.role[0] for record in records))
    assert [record.architecture for record in records if record.role == SUBJECT] == eight[:5]


PLAIN = replace(QUICK, paired=False, target_error=None)


def test_drifting_references_reject_a_plain_session_and_it_is_tried_again(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    drifting = {"settings": RuntimeSettings(device="drift"), "protocol": PLAIN}
    with profiler(tiny, store, tmp_path / "s", "faulty", **drifting) as measuring:
        with pytest.raises(ThresholdNotMet, match=r"3 sessions in a row.*reference 1 \(depth \d\) \d+\.\d %") as caught:
            measuring.profile(eight[:2])
        assert caught.value.exit_code == 3
        assert [status for _, status, _, _ in store.sessions(tiny, measuring.target)] == ["rejected"] * 3
        assert store.measured(tiny, measuring.target) == set()


def test_a_device_that_settles_is_believed_once_it_has(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    settling = {"settings": RuntimeSettings(device="settles"), "protocol": PLAIN}
    with profiler(tiny, store, tmp_path / "s", "faulty", **settling) as measuring:
        outcome = measuring.profile(eight[:3])
        statuses = [status for _, status, _, _ in store.sessions(tiny, measuring.target)]
        accepted = list(store.measurements(tiny, measuring.target))
    assert statuses == ["rejected", "rejected", "accepted"][-len(statuses) :]
    assert "rejected" in statuses
    assert outcome.measured == 3
    assert [record.role for record in accepted].count(SUBJECT) == 3
    assert [record.role for record in accepted].count(REFERENCE) >= 4


def test_a_device_whose_ratios_move_is_told_at_once_and_nothing_of_it_is_believed(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    told: list[str] = []
    moving = {"settings": RuntimeSettings(device="warps"), "report": lambda progress: told.append(progress.message)}
    with profiler(tiny, store, tmp_path / "s", "faulty", **moving) as measuring:
        with pytest.raises(ThresholdNotMet, match="3 sessions in a row"):
            measuring.profile(eight)
        assert store.measured(tiny, measuring.target) == set()
    assert any(re.match(r"round 2 of references: .* %; what lies beside it", message) for message in told), told


def test_progress_says_where_the_references_of_the_running_session_stand(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    told: list[Progress] = []
    calm = {"report": told.append, "protocol": replace(QUICK, reference_every=2)}
    with profiler(tiny, store, tmp_path / "s", "faulty", **calm) as measuring:
        measuring.profile(eight)
    assert told[0].drift is None  # nothing is measured yet
    states = [progress.drift and (progress.drift.share, progress.drift.state) for progress in told]
    assert states[-1] == (pytest.approx(0, abs=1e-9), "steady")
    second = next(i for i, progress in enumerate(told) if "session 1 accepted" in progress.message) + 1
    assert states[second] is None
    assert states[second + 1] == states[-1]  # beside what the first session has shown

    told.clear()
    moving = {"settings": RuntimeSettings(device="warps"), "report": told.append}
    with profiler(tiny, store, tmp_path / "s", "faulty", **moving) as measuring:
        with pytest.raises(ThresholdNotMet):
            measuring.profile(eight)
    alarms = [progress for progress in told if "what lies beside it" in progress.message]
    assert alarms
    for progress in alarms:
        assert progress.drift is not None
        assert f": {progress.drift.alarm}; what lies beside it" in progress.message
        assert progress.drift.state == "unreliable"
        assert abs(progress.drift.share) > progress.drift.tolerance == QUICK.tolerance


def test_the_spread_of_references_in_a_plain_session_is_told_while_it_runs(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    told: list[Progress] = []
    drifting = {"settings": RuntimeSettings(device="drift"), "report": told.append}
    often = replace(PLAIN, reference_every=1, attempts=1)
    with profiler(tiny, store, tmp_path / "s", "faulty", protocol=often, **drifting) as measuring:
        with pytest.raises(ThresholdNotMet):
            measuring.profile(eight[:5])
    running = [progress.drift for progress in told if not progress.message]
    assert [drift and drift.state for drift in running[:3]] == [None, None, None]  # after the first round and a subject
    assert running[-1] is not None
    assert running[-1].state == "unreliable"
    assert running[-1].alarm.startswith("reference 1")


def test_failed_are_those_that_gave_no_latency_in_any_session(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    told: list[Progress] = []
    settings = RuntimeSettings(device="chosen")
    choose_faults(tmp_path, {})
    with profiler(tiny, store, tmp_path / "s", "faulty", settings=settings, report=told.append) as measuring:
        good = [a for a in eight if a not in measuring.references]
        subnets = [write_subnet(tiny, each, tmp_path / "s", ExportSettings()).path for each in good[:2]]
        choose_faults(tmp_path, dict.fromkeys(subnets, "load"))
        outcome = measuring.profile(good)
    assert len(outcome.failures) == 2
    assert [failed for failed, _ in groupby(progress.failed for progress in told)] == [0, 1, 2]
    assert told[-1].done == told[-1].total


def test_what_a_drift_does_to_subnet_and_calibration_alike_cancels(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    found = {}
    for device in ("sound", "drift"):
        with profiler(tiny, store, tmp_path / "s", "faulty", settings=RuntimeSettings(device=device)) as measuring:
            assert measuring.profile(eight).measured == 8
            records = list(store.measurements(tiny, measuring.target))
        nominal = {record.pairing.nominal_ms for record in records if record.pairing}
        assert len(nominal) == 1
        found[device] = {record.architecture: record.latency_ms / max(nominal) for record in records}
    assert found["drift"] == pytest.approx(found["sound"])


def test_the_nominal_latency_is_established_once_for_a_target(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    nominal = []
    for asked in (eight[:2], eight[:4]):
        with profiler(tiny, store, tmp_path / "s", settings=RuntimeSettings(device="cpu")) as measuring:
            measuring.profile(asked)
            nominal.append(store.calibration(tiny, measuring.target))
            records = list(store.measurements(tiny, measuring.target))
    first, second = nominal
    assert first is not None
    assert first == second
    assert first.architecture == choose_calibration(tiny)
    assert 0 <= first.spread < 0.05
    assert {record.pairing and record.pairing.nominal_ms for record in records} == {first.nominal_ms}


def test_what_was_measured_plainly_does_not_set_the_level_of_paired_references(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    plain_then_paired = (replace(PLAIN, attempts=9), QUICK)
    for protocol, asked in zip(plain_then_paired, (eight[:3], eight), strict=True):
        settling = {"settings": RuntimeSettings(device="halves"), "protocol": protocol}
        with profiler(tiny, store, tmp_path / "s", "faulty", **settling) as measuring:
            measuring.profile(asked)
            sessions = [status for _, status, _, _ in store.sessions(tiny, measuring.target)]
    assert sessions == ["rejected", "accepted", "accepted"]  # the first load is a reference in the plain one


def test_both_statistics_of_a_paired_measurement_are_near_on_a_calm_device(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    with profiler(tiny, store, tmp_path / "s", protocol=Protocol(session_size=5)) as measuring:
        measuring.profile(eight)
        records = list(store.measurements(tiny, measuring.target))
    assert all(len(record.runs_ms) == 40 for record in records)
    assert all(record.error <= 0.02 for record in records)
    assert all(record.latency_ms == pytest.approx(record.trimmed_ms, rel=0.03) for record in records)


def test_a_session_left_open_by_another_protocol_is_judged_and_what_stands_is_kept(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    often = replace(QUICK, reference_every=1)  # a round after every subject
    with pytest.raises(KeyboardInterrupt):
        with profiler(tiny, store, tmp_path / "s", protocol=often, report=interrupt) as measuring:
            measuring.profile(eight[:5])
    other = replace(QUICK, runs=12)
    with profiler(tiny, store, tmp_path / "s", protocol=other) as measuring:
        outcome = measuring.profile(eight[:5])
        statuses = [status for _, status, _, _ in store.sessions(tiny, measuring.target)]
        runs = [len(m.runs_ms) for m in store.measurements(tiny, measuring.target) if m.role == SUBJECT]
    assert statuses == ["accepted", "accepted"]
    assert outcome.measured == 5
    assert sorted(runs) == [10, 10, 10, 12, 12]  # the fourth had no round after it


def test_a_reference_that_cannot_be_measured_ends_the_command(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_faulty(tmp_path, monkeypatch)
    with profiler(tiny, store, tmp_path / "s", "faulty", settings=RuntimeSettings(device="load")) as measuring:
        with pytest.raises(WorkError, match="this operator is unknown"):
            measuring.profile(eight[:2])


SUPERNET = """
import os
import torch
def build(architecture):
    if architecture.depth >= int(os.environ["TOO_DEEP"]):
        raise ValueError("too deep")
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
"""


def test_a_failure_is_recorded_tried_twice_and_then_left(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supernet_for_failures.py").write_text(SUPERNET)
    monkeypatch.syspath_prepend(str(tmp_path))
    space = replace(tiny, export=Export("supernet_for_failures:build", {"resolution": 8}))
    deep, *others = sorted(eight[:3], key=lambda architecture: -architecture.depth)
    monkeypatch.setenv("TOO_DEEP", str(deep.depth))
    monkeypatch.setattr(session, "draw_references", lambda *_: others[:1])
    for measured in (2, 0):
        with profiler(space, store, tmp_path / "s") as measuring:
            outcome = measuring.profile(eight[:3])
        assert outcome.measured == measured
        assert [failure.kind for failure in outcome.failures] == ["export"]
        assert "the supernet failed: ValueError: too deep" in outcome.failures[0].message
    assert [failure.architecture for failure in store.failures(space, measuring.target)] == [deep, deep]
    assert store.measured(space, measuring.target) == set(others)
    monkeypatch.setenv("TOO_DEEP", "99")
    for retry, measured in ((False, 0), (True, 1)):
        with profiler(space, store, tmp_path / "s", retry_failed=retry) as measuring:
            assert measuring.profile(eight[:3]).measured == measured


def test_a_supernet_with_another_source_is_another_target(
    tiny: Space, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TOO_DEEP", "99")
    digests = set()
    for name in ("first_supernet", "second_supernet"):
        (tmp_path / f"{name}.py").write_text(SUPERNET + f"# {name}\n")
        space = replace(tiny, export=Export(f"{name}:build", {"resolution": 8}))
        with profiler(space, store, tmp_path / "s") as measuring:
            digests.add(measuring.target.facts["writer_source"])
    assert len(digests) == 2


def test_a_weaker_protocol_of_before_is_told(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    for protocol, asked, weak in (
        (Protocol(runs=2, references=1), eight[:3], 0),
        (Protocol(runs=5, references=1), eight[:5], 3),
        (Protocol(runs=2, references=1), eight[:5], 0),
    ):
        with profiler(tiny, store, tmp_path / "s", protocol=protocol) as measuring:
            assert measuring.profile(asked).weakly_measured == weak


def test_enough_ends_the_session_with_its_references(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    answers = iter([False] * 5 + [True] * 9)
    with profiler(tiny, store, tmp_path / "s") as measuring:
        assert measuring.profile(eight, enough=lambda: next(answers)).measured == 4
        records = "".join(record.role[0] for record in store.measurements(tiny, measuring.target))
        assert re.fullmatch("rr(s+rr)+", records)
        assert records.count("s") == 4
        assert measuring.profile(eight).measured == 4


def test_enough_measures_no_references_for_subjects_that_do_not_come(
    tiny: Space, eight: list[Architecture], store: Store, tmp_path: Path
) -> None:
    answers = iter([False] * 2 + [True] * 9)
    with profiler(tiny, store, tmp_path / "s") as measuring:
        assert measuring.profile(eight, enough=lambda: next(answers)).measured == 1
        assert "".join(record.role[0] for record in store.measurements(tiny, measuring.target)) == "rrsrr"


def test_a_wrong_export_is_told_before_anything_is_opened(tiny: Space, store: Store, tmp_path: Path) -> None:
    wrong = replace(tiny, export=Export("mobilenetv3", {"widths": [8]}))
    with pytest.raises(InputError, match="widths"):
        profiler(wrong, store, tmp_path / "s")
    assert store.contents() == []


@pytest.mark.parametrize("wrong", [{"runtime": "abacus"}, {"settings": RuntimeSettings(precision="int3")}])
def test_wrong_arguments_are_refused_at_once(tiny: Space, store: Store, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        profiler(tiny, store, tmp_path / "s", **{"runtime": "dry", **wrong})


def test_kill_9_in_the_middle_loses_nothing(tiny: Space, eight: list[Architecture], tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from random import Random\n"
        "from esm_onnx.testing import tiny_space; from esm_onnx.architectures import sample\n"
        "from esm_onnx.measurement.session import Profiler; from esm_onnx.measurement.store import Store\n"
        "from esm_onnx.measurement.protocol import Protocol\n"
        "space, folder = tiny_space(), Path(sys.argv[1])\n"
        "p = Protocol(runs=10, warmup=1, references=2, reference_every=3, session_size=5, tolerance=9.0,\n"
        "             paired=False)\n"
        "with Store(folder / 'esm.db') as store:\n"
        "    with Profiler(space, store, 'ort-cpu', folder=folder / 's', protocol=p,\n"
        "                  report=lambda x: print(x.done, flush=True)) as q:\n"
        "        print('facts', dict(q.target.facts), flush=True)\n"
        "        print('end', q.profile(sample(space, 8, strategy='random', rng=Random(0))).measured)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "2":
                break
        os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] in ("8", "3")
    with Store(tmp_path / "esm.db") as store:
        (content,) = store.contents()
        records = [m.architecture for m in store.measurements(tiny, content.target) if m.role == SUBJECT]
    assert sorted(map(hash, records)) == sorted(map(hash, eight))
