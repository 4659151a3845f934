"""`profile --layers`: where the time goes, and the lookup table that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from cli.calls import Run, error_of, write_architectures

from esm_onnx.architectures import sample
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.measurement.layers import HOW
from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

SPACE = tiny_space()
LAYERS = ["profile", "--layers", "--space", "tiny.toml", "--architectures", "a.jsonl"]


@pytest.fixture
def thirty(tmp_path: Path) -> None:
    write_architectures(tmp_path / "a.jsonl", SPACE, sample(SPACE, 30, strategy="balanced", rng=Random(0)))


@pytest.mark.usefixtures("thirty")
def test_blocks_of_real_networks_fill_the_lookup_table_once(esm: Run, tmp_path: Path) -> None:
    first = json.loads(esm(*LAYERS, "--runtime", "ort-cpu", "--json").stdout)
    assert len(first["architectures"]) == 30
    assert first["failures"] == []
    for line in first["architectures"]:
        units = line["architecture"]["units"]
        blocks = {f"u{u}.b{b}" for u, unit in enumerate(units, 1) for b in range(1, len(unit) + 1)}
        assert set(line["blocks_ms"]) == blocks | {"stem", "head"}
        assert min(line["blocks_ms"].values()) > 0
    with Store(tmp_path / "esm.db") as store:
        (content,) = store.contents()
        measured = store.measured(content.space, content.target)
        assert content.space.fingerprint == block_space(SPACE).fingerprint
        assert len(measured) == first["entries"] > 10
        assert measured <= set(table_entries(SPACE))
        ((_, _, provenance, _),) = store.sessions(content.space, content.target)
        assert provenance["how"] == HOW
        assert content.target.facts["timed"] == "within networks"
    again = json.loads(esm(*LAYERS, "--runtime", "ort-cpu", "--json").stdout)
    assert again["entries"] == 0


@pytest.mark.usefixtures("thirty")
def test_the_table_on_the_terminal_has_the_blocks_in_their_order(esm: Run) -> None:
    told = esm(*LAYERS, "--runtime", "ort-cpu").stdout.splitlines()
    names = [line.split()[0] for line in told if line.split()[0][0] in "suh"]
    assert names[0] == "stem"
    assert names[-1] == "head"
    assert names[1:-1] == sorted(names[1:-1])
    assert "30 architectures on 'ort-cpu" in told[0]


@pytest.mark.usefixtures("thirty")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--runtime", "dry"], "runtime 'dry' tells no layer times, expected another"),
        (["--runtime", "ort-cpu", "--blocks"], "Expected either --architectures or --lookup-table"),
    ],
)
def test_where_there_are_no_layer_times(esm: Run, options: list[str], expected: str) -> None:
    assert expected in error_of(esm(*LAYERS, *options, code=2))
