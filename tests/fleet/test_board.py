"""The device's side, without a cluster: it is a class like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pytest

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.export.pool import grow_for
from esm_onnx.fleet.board import Board
from esm_onnx.fleet.run import read_devices
from esm_onnx.measurement.replies import read_reply
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.worker import Lost

JOB = {"runs": 10, "warmup": 1, "target_error": None, "calibration": None, "nominal_ns": None}
JOB |= {"check": False, "fp32": None, "deadline_s": 60}


def board(folder: Path, runtime: str = "ort-cpu", **settings: Any) -> Board:
    command = {"runtime": runtime, "settings": asdict(RuntimeSettings(**settings)), "memory_bytes": None}
    return Board(json.dumps({**command, "quantities": [], "folder": str(folder)}))


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Board]:
    made = board(tmp_path / "there")
    assert json.loads(made.begin())["facts"]["device"]
    yield made
    made.end()
    assert not [path for path in (tmp_path / "there").iterdir() if not path.name.startswith("pool-")]


def test_a_file_of_a_few_kilobytes_is_timed_on_weights_that_the_device_makes(
    begun: Board, tiny: Space, eight: list[Architecture], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first, second = (write_subnet(tiny, each, here, name=f"{i}.onnx").path for i, each in enumerate(eight[:2]))
    assert first.stat().st_size < 30_000
    job = {**JOB, "calibration": "calibration"}
    files = {"subnet": first.read_bytes(), "calibration": second.read_bytes()}
    reply = read_reply(json.loads(begun.ask(json.dumps(job), files)), job)
    assert not isinstance(reply, Lost)
    assert len(reply["timing"]["runs_ns"]) == 10
    for pool in here.glob("pool-*"):
        assert (there / pool.name).read_bytes() == pool.read_bytes()


def test_embedded_weights_need_no_pool(begun: Board, tiny: Space, eight: list[Architecture], tmp_path: Path) -> None:
    subnet = write_subnet(tiny, eight[0], tmp_path / "here", ExportSettings(embed_weights=True)).path
    reply = read_reply(json.loads(begun.ask(json.dumps(JOB), {"subnet": subnet.read_bytes()})), JOB)
    assert not isinstance(reply, Lost)
    assert not list((tmp_path / "there").glob("pool-*"))


def test_what_a_device_cannot_do_it_says(tmp_path: Path, tiny: Space, eight: list[Architecture]) -> None:
    assert "expected one of gpu, cpu" in json.loads(board(tmp_path, "dry", device="abacus").begin())["problem"]
    made = board(tmp_path, "dry")
    made.begin()
    try:
        path = write_subnet(tiny, eight[0], tmp_path / "here").path
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = "../../etc/passwd"
        reply = json.loads(made.ask(json.dumps(JOB), {"subnet": model.SerializeToString()}))
        assert "expected the weight pool" in reply["problem"]
        with pytest.raises(InputError, match="expected the weight pool"):
            grow_for(tmp_path, model)
        reply = json.loads(made.ask(json.dumps(JOB), {"subnet": path.read_bytes()}))
        assert len(reply["timing"]["runs_ns"]) == 10  # it goes on after a wrong file
    finally:
        made.end()


def test_devices_are_names_of_kinds_and_what_the_runtime_calls_them() -> None:
    assert read_devices(["rpi4", "box=cuda:1"]) == {"rpi4": None, "box": "cuda:1"}
    for wrong, message in ([], "no device"), (["a b"], "expected NAME"), (["a", "a=1"], "twice"), (["GPU"], "NAME"):
        with pytest.raises(InputError, match=message):
            read_devices(wrong)
