"""`tune`: the table of combinations, the predictor of the best, and the same by Ray."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from cli.calls import Run, error_of

from esm_onnx.architectures import find_space, sample, to_json

TUNE = ["tune", "--out", "p.onnx", "--epochs", 2, "--grace", 1]
STATES = {"finished", "stopped", "diverged"}


@pytest.fixture
def measured(esm: Run, tmp_path: Path) -> None:
    """A store of sixty of Once-for-All's networks, which take as many ms as they have blocks."""
    space = find_space("ofa-mobilenetv3")
    rows = [
        {"architecture": to_json(space, each), "latency_ms": 20 + each.depth}
        for each in sample(space, 60, strategy="balanced", rng=Random(0))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    esm("data", "import", "rows.jsonl", "--space", "ofa-mobilenetv3", "--target", "abacus")


@pytest.mark.usefixtures("measured")
def test_every_combination_has_a_row_and_the_best_becomes_the_predictor(esm: Run) -> None:
    found = json.loads(esm(*TUNE, "--json").stdout)
    combinations = found["combinations"]
    assert (found["measurements"], found["overall"]["count"], len(combinations)) == (60, 9, 36)
    assert len({(row["learning_rate"], row["weight_decay"], row["momentum"]) for row in combinations}) == 36
    assert {row["state"] for row in combinations} <= STATES
    assert all(row["epochs"] == (2 if row["state"] == "finished" else 1) for row in combinations)
    assert found["best"] == min(combinations, key=lambda row: row["rmse_ms"])
    table = esm(*TUNE).stdout.splitlines()
    assert sum(line.split()[-1] in STATES or line.endswith(", the best") for line in table if line.split()) == 36
    assert table[-1] == "predictor for ofa-mobilenetv3 on 'abacus' written to p.onnx"
    checked = json.loads(esm("check", "p.onnx", "--json").stdout)
    assert (checked["surrogate"], checked["encoding"]["name"]) == ("mlp-ofa", "ofa")
    assert (checked["measurements"], checked["target"]["name"]) == ({"trained": 42, "calibrated": 9}, "abacus")


@pytest.mark.usefixtures("measured")
def test_the_papers_preset_trains_its_predictor_on_seventy_percent(esm: Run) -> None:
    found = json.loads(esm("train", "--preset", "ofa-paper", "--out", "p.onnx", "--json").stdout)
    checked = json.loads(esm("check", "p.onnx", "--json").stdout)
    assert (checked["surrogate"], checked["encoding"]["name"]) == ("mlp-ofa", "ofa")
    assert checked["measurements"] == {"trained": 42, "calibrated": 18}
    assert found["overall"]["count"] == 18


@pytest.mark.usefixtures("measured")
def test_misuse_is_one_line(esm: Run) -> None:
    assert "grace is 3 of 2 epochs" in error_of(esm(*TUNE, "--grace", 3, code=2))
    assert "no measurements of any space on target 'x'" in error_of(esm(*TUNE, "--target", "x", code=2))


def processes_of_ray() -> set[str]:
    """Numbers of the processes that belong to a cluster as `tune` starts it."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0" in (folder / "environ").read_bytes():
                found.add(folder.name)
        except OSError:
            continue
    return found


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is written to the home folder or stays in that for temporary files, and every process ends."""
    home, temporary = tmp_path / "home", Path("/tmp") / f"t{tmp_path.name[-8:]}"
    for name, folder in (("HOME", home), ("TMPDIR", temporary)):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    before = processes_of_ray()
    yield
    assert not list(home.iterdir())
    assert not list(temporary.iterdir())
    temporary.rmdir()
    for _ in range(100):
        if not processes_of_ray() - before:
            break
        time.sleep(0.1)
    assert not processes_of_ray() - before


@pytest.mark.usefixtures("measured", "nothing_left")
def test_ray_makes_the_same_search(esm: Run, esm_process: Run) -> None:
    pytest.importorskip("ray.tune")
    found = json.loads(esm_process(*TUNE, "--ray", "--processes", 2, "--json").stdout)
    alone = json.loads(esm(*TUNE, "--json").stdout)
    names = ("learning_rate", "weight_decay", "momentum", "epochs", "rmse_ms")
    finished = [
        ({name: one[name] for name in names}, {name: other[name] for name in names})
        for one, other in zip(found["combinations"], alone["combinations"], strict=True)
        if one["epochs"] == other["epochs"]
    ]
    assert len(finished) > 18
    for one, other in finished:
        assert one == pytest.approx(other, rel=1e-5)
    assert (found["measurements"], found["overall"]["count"]) == (60, 9)


@pytest.mark.usefixtures("measured")
def test_without_ray_it_says_what_to_install(esm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "Ray Tune is needed" in (message := error_of(esm(*TUNE, "--ray", code=2)))
    assert "pip install 'esm-onnx[ray]', or leave out --ray" in message


@pytest.mark.usefixtures("measured")
def test_an_address_at_which_nothing_answers_is_told_at_once(esm: Run) -> None:
    """Ray by itself asks on for minutes."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        for address in ("127.0.0.1:{}", "ray://127.0.0.1:{}"):
            address = address.format(deaf.getsockname()[1])
            told = error_of(esm(*TUNE, "--ray", address, code=1))
            assert told.startswith(f"error: nothing answers at {address} (")
    assert "nothing answers at here:70000" in error_of(esm(*TUNE, "--ray", "here:70000", code=1))
