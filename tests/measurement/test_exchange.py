"""Measurements through a file into another store."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, sample
from esm_onnx.measurement.conditions import Reason
from esm_onnx.measurement.exchange import exported_lines, import_file
from esm_onnx.measurement.quantities import BESIDE
from esm_onnx.measurement.record import SUBJECT, Measurement, Pairing
from esm_onnx.measurement.store import ACCEPTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.testing import tiny_space

SPACE, TARGET = tiny_space(), Target("t", {"device": "d"})
MS = st.floats(1e-3, 1e3)


@st.composite
def measurements(draw: st.DrawFn, architecture: Architecture) -> Measurement:
    """A plain or paired one, watched or not, brought over or not."""
    runs = draw(st.lists(MS, min_size=1, max_size=30))
    every = {"min_size": len(runs), "max_size": len(runs)}
    return Measurement(
        architecture,
        SUBJECT,
        tuple(runs),
        draw(st.floats(0, 1e10)),
        tuple(draw(st.just([]) | st.lists(st.integers(0, sum(Reason)), **every))),
        draw(st.none() | st.builds(Pairing, st.lists(MS, **every).map(tuple), MS)),
        draw(st.just(1.0) | st.floats(0.5, 2.0)),
        host_ms=tuple(draw(st.just([]) | st.lists(MS, **every))),
        quantities=draw(st.dictionaries(st.sampled_from(BESIDE), MS | st.just(0.0))),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(data=st.data())
def test_every_measurement_is_the_same_in_another_store(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    records = [data.draw(measurements(a)) for a in sample(SPACE, 3, strategy="random", rng=Random(0))]
    folder = tmp_path_factory.mktemp("exchange")
    with Store(folder / "first.db") as first, Store(folder / "second.db") as second, Store(folder / "3.db") as third:
        session = first.open_session(SPACE, TARGET, {})
        for record in records:
            first.append(session, SPACE, record)
        first.close_session(session, status=ACCEPTED, verdict="")
        (folder / "runs.jsonl").write_text("\n".join(map(json.dumps, exported_lines(first, runs=True))))
        assert import_file(second, folder / "runs.jsonl", SPACE) == {"t": 3}
        assert list(second.measurements(SPACE, TARGET)) == records == list(first.measurements(SPACE, TARGET))

        lines = list(exported_lines(first))
        (folder / "latencies.jsonl").write_text("\n".join(map(json.dumps, lines)))
        import_file(third, folder / "latencies.jsonl", SPACE)
        assert [line["trimmed_ms"] for line in lines] == [record.trimmed_ms for record in records]
        assert [m.latency_ms for m in third.measurements(SPACE, TARGET)] == [r.latency_ms for r in records]
        assert [m.quantities for m in third.measurements(SPACE, TARGET)] == [r.quantities for r in records]
