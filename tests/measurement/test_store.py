from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Feature, Space, sample, to_genome, to_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import exported_lines, import_file
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Failure, Measurement
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


def test_failures_are_kept(store: Store, tiny: Space, eight: list[Architecture], target: Target) -> None:
    session = store.open_session(tiny, target, {})
    failure = Failure(eight[0], "crash", "ended with signal SIGSEGV", 3.0)
    store.append(session, tiny, failure)
    assert store.failures(tiny, target) == [failure]
    assert store.contents()[0].failures == 1


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
    with pytest.raises(InputError, match="schema 99, expected 1"):
        Store(newer)

    with pytest.raises(InputError, match="no store there"):
        Store(tmp_path / "absent.db", create=False)
    assert not (tmp_path / "absent.db").exists()

    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(InputError, match="no store there"):
        Store(empty, create=False)
    assert empty.stat().st_size == 0


def test_only_one_process_at_a_time_measures_a_target(store: Store, target: Target) -> None:
    program = (
        "import sys; from esm_onnx.measurement.store import Store; from esm_onnx.measurement.target import Target\n"
        "store = Store(sys.argv[1])\n"
        "with store.alone(Target(sys.argv[2], {'device': 'abacus', 'threads': 2})): print('alone')"
    )

    def other(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, str(store.path), name], capture_output=True, text=True)

    with store.alone(target):
        assert "another process measures 'somewhere' into this store" in other(target.name).stderr
        assert other("elsewhere").stdout == "alone\n"
    assert other(target.name).stdout == "alone\n"


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
            ({"runs_ms": [7.0]}, "expected 7.0, the trimmed mean"),
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
