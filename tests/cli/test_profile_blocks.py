"""`profile --lookup-table`: the entries of a lookup table, measured as architectures are."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from cli.calls import WITHOUT_EXPORT, Run, error_of

from esm_onnx.architectures import sample, to_genome, to_json
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.measurement.store import Content, Store
from esm_onnx.prediction.lookup import measuring_time_s, read_table
from esm_onnx.prediction.lookup_encoding import ENTRIES
from esm_onnx.testing import tiny_space

SPACE = tiny_space()
BLOCKS = ["profile", "--lookup-table", "--space", "tiny.toml"]
ENTRIES_OF_TINY = 2 + 2 * 2 * 4  # stem and head; two units, first and rest, of 2 kernels × 2 expansions


def contents(store: Path) -> dict[str, Content]:
    """What a store holds, by the name of the space."""
    with Store(store, create=False) as opened:
        return {content.space.name: content for content in opened.contents()}


def test_exactly_the_entries_are_measured_and_none_of_them_twice(esm: Run, tmp_path: Path) -> None:
    command = [*BLOCKS, "--runtime", "dry", "--json"]
    first = json.loads(esm(*command).stdout)
    assert (first["measured"], first["already_measured"], first["failures"]) == (ENTRIES_OF_TINY, 0, [])
    assert json.loads(first["facts"]["writer_settings"]) == {"of": SPACE.table(export=True)}
    with Store(tmp_path / "esm.db") as store:
        (content,) = store.contents()
        assert store.measured(content.space, content.target) == set(table_entries(SPACE))
    again = json.loads(esm(*command).stdout)
    assert (again["measured"], again["already_measured"]) == (0, ENTRIES_OF_TINY)
    assert "18 were there already" in esm("profile", "--blocks", *command[2:-1]).stdout  # what it was called first
    (listed,) = json.loads(esm("data", "list", "--json").stdout)
    assert (listed["space"], listed["target"], listed["measurements"]) == ("tiny.blocks", "dry gpu", ENTRIES_OF_TINY)


@pytest.mark.parametrize(
    ("runtime", "options"), [("dry", []), ("ort-cpu", ["--plain", "--runs", 30, "--tolerance", "1000%"])]
)
def test_the_table_belongs_to_the_architectures_that_are_measured_alike(
    esm: Run, tmp_path: Path, runtime: str, options: list[object]
) -> None:
    four = sample(SPACE, 4, strategy="balanced", rng=Random(0))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(to_json(SPACE, each)) + "\n" for each in four))
    alike = ["--runtime", runtime, "--references", 1, *options]
    assert "18 measured" in esm(*BLOCKS, *alike).stdout
    assert "4 measured" in esm("profile", "--space", "tiny.toml", "--architectures", "a.jsonl", *alike).stdout
    found = contents(tmp_path / "esm.db")
    assert set(found) == {"tiny", "tiny.blocks"}
    target = found["tiny"].target
    with Store(tmp_path / "esm.db") as store:
        table = read_table(store, SPACE, target)
        blocks = {m.architecture: m.latency_ms for m in store.measurements(block_space(SPACE), role="subject")}
        spent = measuring_time_s(store, block_space(SPACE), found["tiny.blocks"].target)
    assert table.latency_ms.tolist() == [[blocks[entry] for entry in table_entries(SPACE)]]
    assert (table.latency_ms > 0).all()
    assert table.measuring_time_s == spent > 0
    counts = ENTRIES.encode(SPACE, np.array([to_genome(SPACE, each) for each in four]))
    assert (counts.sum(axis=1) == [2 + each.depth for each in four]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "--space", "tiny.toml", "--runtime", "dry"], "either --architectures or --lookup-table"),
        ([*BLOCKS, "--architectures", "a.jsonl", "--runtime", "dry"], "either --architectures or --lookup-table"),
        (
            ["profile", "--lookup-table", "--space", "bare.toml", "--runtime", "dry"],
            "space 'tiny' has no [export], so its blocks",
        ),
        (
            ["profile", "--lookup-table", "--space", "torch.toml", "--runtime", "dry"],
            "its writer is 'some.module:net', expected",
        ),
    ],
)
def test_misuse_is_one_line(esm: Run, tmp_path: Path, arguments: list[object], message: str) -> None:
    (tmp_path / "bare.toml").write_text(WITHOUT_EXPORT)
    (tmp_path / "torch.toml").write_text(WITHOUT_EXPORT + '[export]\nwriter = "some.module:net"\n')
    done = esm(*arguments, code=2)
    assert message in error_of(done)
    assert len(done.stderr.splitlines()) == 1
