from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Feature, Space, sample, to_genome, to_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import exported_lines, import_file
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Calibration, Failure, Measurement, Pairing
from esm_onnx.measurement.store import ACCEPTED, REJECTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space

MS = st.floats(1e-6, 1e6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(data=st.data())
def test_every_run_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    space, target = tiny_space(), Target("t", {"device": "d", "threads": 1, "share": 0.1})
    architectures = sample(space, 4, strategy="random", rng=Random(data.draw(st.integers(0, 100))))
    records = [
        Measurement(
            a, data.draw(st.sampled_from([SUBJECT, REFERENCE])), tuple(data.draw(st.lists(MS, min_size=1))), 1.5
        )
        for a in architectures
    ]
    path = tmp_path_factory.mktemp("store") / "esm.db"
    with Store(path) as store:
        session = store.open_session(space, target, {"protocol": 1})
        for record in records:
            store.append(session, space, record)
        store.close_session(session, status=ACCEPTED, verdict="good")
    with Store(path) as store:
        assert list(store.measurements(space, target)) == records
        assert store.measured(space, target) == {r.architecture for r in records if r.role == SUBJECT}


def test_only_accepted_sessions_of_the_same_facts_are_given(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    other = Target(target.name, {**target.facts, "threads": 3})
    for architecture, of, status in zip(
        eight, (target, target, target, other), (ACCEPTED, REJECTED, None, ACCEPTED), strict=False
    ):
        session = store.open_session(tiny, of, {"of": str(status)})
        store.append(session, tiny, Measurement(architecture, SUBJECT, (1.0,), 0.0))
        if status:
            store.close_session(session, status=status, verdict="")
    assert store.measured(tiny, target) == {eight[0]}
    assert store.measured(tiny, other) == {eight[3]}
    assert [(c.target.digest, c.measurements) for c in store.contents()] == [(target.digest, 1), (other.digest, 1)]
    assert store.contents()[0].space == tiny


def test_a_name_of_any_bytes_will_do(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff ?#%.db")
    for _ in range(2):
        with Store(path) as opened:
            assert list(opened.contents()) == []


def test_failures_are_kept(store: Store, tiny: Space, eight: list[Architecture], target: Target) -> None:
    session = store.open_session(tiny, target, {})
    failure = Failure(eight[0], "crash", "ended with signal SIGSEGV", 3.0)
    store.append(session, tiny, failure)
    assert store.failures(tiny, target) == [failure] == store.failures(tiny, target, session=session)
    assert store.contents()[0].failures == 1
    other = store.open_session(tiny, target, {})
    assert store.failures(tiny, target, session=other) == []


def test_an_unfinished_session_is_found_again_by_the_same_protocol_only(
    store: Store, tiny: Space, target: Target
) -> None:
    session = store.open_session(tiny, target, {"runs": 150})
    assert store.unfinished_session(tiny, target, {"runs": 150}) == session
    assert store.unfinished_session(tiny, target, {"runs": 10}) is None
    store.close_session(session, status=REJECTED, verdict="")
    assert store.unfinished_session(tiny, target, {"runs": 150}) is None


WRITER = """
import sys
from random import Random
from esm_onnx.architectures import sample
from esm_onnx.measurement.record import Measurement
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space
space, store = tiny_space(), Store(sys.argv[1])
session = store.open_session(space, Target("t", {"device": "d"}), {})
for i, architecture in enumerate(sample(space, 200, strategy="random", rng=Random(0))):
    store.append(session, space, Measurement(architecture, "subject", (i + 1.0,) * 150, 0.0))
    print(i, flush=True)
"""


@pytest.mark.parametrize("after", [0, 3, 20])
def test_kill_9_loses_no_record_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    path = tmp_path / "esm.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == after:
                break
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = after + 1 + len(writer.stdout.read().split())
    with Store(path) as store:
        kept = [m.latency_ms for m in store.measurements(tiny_space(), session=1)]
    assert kept[:acknowledged] == [i + 1.0 for i in range(acknowledged)]
    assert len(kept) <= acknowledged + 1


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes\n" * 100)
    with pytest.raises(InputError, match=r"notes.txt: cannot be used as a store"):
        Store(text)
    assert text.read_text().startswith("these are my notes")

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    before = other.read_bytes()
    with pytest.raises(InputError, match="another program"):
        Store(other)
    assert other.read_bytes() == before

    newer = tmp_path / "newer.db"
    with Store(newer) as store:
        store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="schema 99, expected 3"):
        Store(newer)

    with pytest.raises(InputError, match="no store there"):
        Store(tmp_path / "absent.db", create=False)
    assert not (tmp_path / "absent.db").exists()

    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(InputError, match="no store there"):
        Store(empty, create=False)
    assert empty.stat().st_size == 0


def test_what_has_fallen_does_not_stand_although_its_session_is_accepted(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    pairing = Pairing((1.0, 2.0, 1.0), 4.0)
    records = [Measurement(a, SUBJECT, (1.0 + i, 2.0, 3.0), 0.0, (0, 1, 0), pairing) for i, a in enumerate(eight)]
    for first in (0, 4):  # places count from the beginning of their own session
        session = store.open_session(tiny, target, {})
        for record in records[first : first + 4]:
            store.append(session, tiny, record)
        store.close_session(session, status=ACCEPTED, verdict="", fallen=[1, 3], shifts={0: 1.1, 3: 0.9})
        kept = list(store.measurements(tiny, session=session))
        assert [m.shift for m in kept] == [1.1, 1.0, 1.0, 0.9]
        assert kept[0] == replace(records[first], shift=1.1)
        assert store.standing(session) == [True, False, True, False]
    standing = [architecture for i, architecture in enumerate(eight) if i % 2 == 0]
    assert [m.architecture for m in store.measurements(tiny, target)] == standing
    assert store.measured(tiny, target) == set(standing)
    assert store.contents()[0].measurements == 4
    assert len(list(exported_lines(store))) == 4
    assert list(store.measurements(tiny, target, role=REFERENCE)) == []
    stored = store._db.execute("SELECT latency_ms, trimmed_ms, stands FROM measurements ORDER BY id").fetchall()
    everything = [m for session in (1, 2) for m in store.measurements(tiny, session=session)]
    assert stored == [(m.latency_ms, m.trimmed_ms, 1 - i % 2) for i, m in enumerate(everything)]


def test_a_calibration_is_kept_for_its_space_and_target_only(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    other = Target("other", {"device": "abacus"})
    calibrations = [Calibration(architecture, 1.5, 0.01, 7.0) for architecture in eight[:3]]
    assert store.calibration(tiny, target) is None
    store.set_calibration(tiny, target, calibrations[0])
    store.set_calibration(tiny, other, calibrations[1])
    assert (store.calibration(tiny, target), store.calibration(tiny, other)) == (calibrations[0], calibrations[1])
    store.set_calibration(tiny, target, calibrations[2])
    with Store(store.path) as again:
        assert (again.calibration(tiny, target), again.calibration(tiny, other)) == (calibrations[2], calibrations[1])


HOLDER = """
import sys
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Target
store = Store(sys.argv[1])
with store.alone(Target(sys.argv[2], {"device": sys.argv[3], "threads": 2})):
    print("alone", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(store: Store, name: str, device: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has asked to measure on a device, and holds it until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(store.path), name, device]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def test_the_second_process_on_a_device_is_told_who_has_it(store: Store) -> None:
    with holder(store, "mine", "abacus") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "alone\n"
        with holder(store, "yours", "abacus") as second, holder(store, "mine", "slide rule") as third:
            assert f"process {first.pid} measures on 'abacus' into this store" in second.communicate()[1]
            assert third.communicate() == ("alone\n", "")


def test_a_killed_holder_leaves_no_lock_and_is_not_named_again(store: Store) -> None:
    with holder(store, "mine", "abacus") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "alone\n"
        first.kill()
    with holder(store, "mine", "abacus") as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "alone\n"
        with holder(store, "mine", "abacus") as third:
            assert f"process {second.pid} measures" in third.communicate()[1]


def test_many_processes_make_one_new_store(tmp_path: Path) -> None:
    program = "import sys; from esm_onnx.measurement.store import Store; Store(sys.argv[1]); print('made')"
    command = [sys.executable, "-c", program, str(tmp_path / "esm.db")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [process.communicate() for process in started] == [("made\n", "")] * 6


class TestExchange:
    @pytest.fixture
    def lines(self, tiny: Space, eight: list[Architecture]) -> list[str]:
        return [json.dumps({"architecture": to_json(tiny, a), "latency_ms": 1.5 + i}) for i, a in enumerate(eight)]

    def test_import_then_export_gives_the_same_lines(
        self, store: Store, tiny: Space, lines: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "measured.jsonl"
        path.write_text("\n".join(lines) + "\n\n")
        assert import_file(store, path, tiny, target="a100") == {"a100": 8}
        exported = list(exported_lines(store))
        assert [{k: line[k] for k in ("architecture", "latency_ms")} for line in exported] == [
            json.loads(line) for line in lines
        ]
        assert all(line["target"] == "a100" and line["provenance"]["imported"] == "measured.jsonl" for line in exported)

    def test_the_same_file_twice_adds_nothing(
        self, store: Store, tiny: Space, lines: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "measured.jsonl"
        path.write_text("\n".join(lines))
        import_file(store, path, tiny, target="a100")
        assert import_file(store, path, tiny, target="a100") == {"a100": 0}
        assert import_file(store, path, tiny, target="b200") == {"b200": 8}
        wider = replace(tiny, block=(Feature("kernel", (3, 5, 7)), *tiny.block[1:]))
        assert import_file(store, path, wider, target="a100") == {"a100": 8}  # the same name, another space

    def test_a_store_goes_through_a_file_into_another_store(
        self, store: Store, tiny: Space, eight: list[Architecture], target: Target, tmp_path: Path
    ) -> None:
        session = store.open_session(tiny, target, {})
        records = [Measurement(a, SUBJECT, (1.0 + i, 2.0, 3.0), 4.0) for i, a in enumerate(eight)]
        for record in records:
            store.append(session, tiny, record)
        store.close_session(session, status=ACCEPTED, verdict="")
        path = tmp_path / "measured.jsonl"
        path.write_text("\n".join(map(json.dumps, exported_lines(store, runs=True))))
        with Store(tmp_path / "second.db") as second:
            assert import_file(second, path, tiny) == {target.name: 8}
            assert list(second.measurements(tiny, target)) == records

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"latency_ms": float("nan")}, "latency_ms is nan, expected a positive number"),
            ({"latency_ms": float("inf")}, "latency_ms is inf"),
            ({"latency_ms": -1}, "latency_ms is -1"),
            ({"latency_ms": 1e300}, "latency_ms is 1e+300"),
            ({"latency_ms": 10**400}, "latency_ms is"),
            ({"started_at": 10**400}, "started_at is"),
            ({"facts": {"clock": float("nan")}}, "facts is"),
            ({"facts": {"clock": "\ud800"}}, "facts is"),
            ({"latency_ms": "3"}, "latency_ms is '3'"),
            ({"latency_ms": True}, "latency_ms is True"),
            ({"latency_ms": None}, "latency_ms is None"),
            ({"latency": 3}, "unknown field 'latency'"),
            ({"runs_ms": []}, "runs_ms is"),
            ({"runs_ms": [5.5], "dropped": [0, 0]}, "dropped has 2 values, expected 1"),
            ({"runs_ms": [5.5], "dropped": [256]}, "dropped has 256, expected the bits of reasons, 0 to 255"),
            ({"runs_ms": [5.5], "dropped": [True]}, "dropped has True"),
            ({"runs_ms": [5.5], "dropped": 0}, "dropped is 0"),
            ({"runs_ms": [5.5], "calibration_ms": [1.0]}, "nominal_ms is None"),
            ({"runs_ms": [5.5], "nominal_ms": 1.0}, "calibration_ms is None"),
            ({"runs_ms": [5.5], "calibration_ms": [0], "nominal_ms": 1.0}, "calibration_ms is 0"),
            ({"runs_ms": [5.5], "calibration_ms": [2.0], "nominal_ms": 1.0}, "expected 2.75"),
            ({"runs_ms": [5.5], "shift": -1}, "shift is -1, expected a positive factor"),
            ({"nominal_ms": 1.0}, "nominal_ms without runs_ms"),
            ({"runs_ms": [7.0]}, "expected 7.0, as its runs_ms give it"),
            ({"runs_ms": [5.5], "host_ms": [5.5, 5.5]}, "host_ms has 2 values, expected 1"),
            ({"runs_ms": [5.5], "host_ms": [0]}, "host_ms is 0"),
            ({"host_ms": [5.5]}, "host_ms without runs_ms"),
            ({"quantities": [8.1]}, "quantities is [8.1], expected an object"),
            ({"quantities": {"energy": 8.1}}, "unknown quantity 'energy', expected some of copy_ms, energy_mj, memory"),
            ({"quantities": {"energy_mj": -1}}, "energy_mj is -1, expected a positive number"),
            ({"quantities": {"energy_mj": float("nan")}}, "energy_mj is nan"),
            ({"quantities": {"memory_mb": "8"}}, "memory_mb is '8'"),
            ({"facts": {"a": [1]}, "target": "x"}, "facts is"),
            ({"started_at": "now"}, "started_at is 'now'"),
            ({"architecture": {"space": "tiny"}}, "units"),
        ],
    )
    def test_a_bad_line_is_named_and_nothing_is_imported(
        self, store: Store, tiny: Space, lines: list[str], tmp_path: Path, change: dict[str, object], message: str
    ) -> None:
        lines[4] = json.dumps(json.loads(lines[4]) | change)
        path = tmp_path / "measured.jsonl"
        path.write_text("\n".join(lines))
        with pytest.raises(InputError) as caught:
            import_file(store, path, tiny, target="a100")
        assert str(caught.value).startswith(f"{path}:5: ")
        assert message in str(caught.value)
        assert store.contents() == []

    def test_a_torn_line_and_a_missing_target_are_named(
        self, store: Store, tiny: Space, lines: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "measured.jsonl"
        path.write_text("\n".join([*lines[:2], lines[2][:40]]))
        with pytest.raises(InputError, match=r"measured.jsonl:3: not JSON"):
            import_file(store, path, tiny, target="a100")
        path.write_text(lines[0])
        with pytest.raises(InputError, match=r"measured.jsonl:1: target is None.*--target"):
            import_file(store, path, tiny)
        path.write_text("")
        with pytest.raises(InputError, match="no line"):
            import_file(store, path, tiny, target="a100")


def test_genomes_are_stored_as_json(store: Store, tiny: Space, eight: list[Architecture], target: Target) -> None:
    session = store.open_session(tiny, target, {})
    store.append(session, tiny, Measurement(eight[0], SUBJECT, (1.0,), 0.0))
    with sqlite3.connect(store.path) as db:
        (genome,) = db.execute("SELECT genome FROM measurements").fetchone()
    db.close()
    assert tuple(json.loads(genome)) == to_genome(tiny, eight[0])
