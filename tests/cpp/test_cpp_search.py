"""The search of tools/cpp, and what it does to genomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpp.programs import SPACES, Programs, drawn, predictor_file
from onnx import TensorProto, helper, numpy_helper
from prediction.made_up import rows
from strategies import every_architecture

from esm_onnx.architectures import Architecture, Space, from_genome, from_json, genome_length, to_genome
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.testing import tiny_space


@pytest.mark.parametrize("name", SPACES)
def test_rows_drawn_mutated_and_crossed_are_genomes(name: str, programs: Programs, path: Path) -> None:
    space = SPACES[name]
    path.write_bytes(predictor_file(space))
    lines = programs.lines("probe", "draw", path, 2000, 1)
    genomes = np.array([json.loads(line) for line in lines])
    assert {from_genome(space, row).space for row in genomes} == {space.name}
    sizes = [len(feature.options) for feature in space.network]
    for depths in space.depths:
        for slot in range(max(depths)):
            sizes += [len(feature.options) for feature in space.block + space.unit]
            deep_enough = [depth for depth in depths if depth > slot]
            sizes += [len({feature.index_at(depth) for depth in deep_enough}) for feature in space.coupled]
    for found in (genomes[::2], genomes[1::2]):  # every option of every place is drawn, and is left by mutation
        assert [len(set(column) - {-1}) for column in found.T] == sizes
    assert programs.lines("probe", "draw", path, 2000, 1) == lines
    assert programs.lines("probe", "draw", path, 2000, 2) != lines


def searched(programs: Programs, space: Space, *words: object) -> list[Architecture]:
    lines = programs.lines("search", *words)
    return [from_json(space, json.loads(line)) for line in lines]


@pytest.mark.parametrize("bound", ["value", "upper"])
@pytest.mark.parametrize("name", SPACES)
def test_what_a_search_finds_is_within_the_budget(name: str, bound: str, programs: Programs, path: Path) -> None:
    space = SPACES[name]
    path.write_bytes(predictor_file(space))
    loaded = LoadedPredictor.open(path)
    place = ["value", "lower", "upper"].index(bound)
    usual = ("--bound", bound, "--generations", 30, "--top", 7)
    unlimited = searched(programs, space, path, "--budget", 1e9, *usual)
    budget = 0.9999 * float(loaded.predict(rows(space, unlimited))[place].min())  # so that it keeps out what is best
    words = (path, "--budget", budget, *usual)
    found = searched(programs, space, *words)
    assert len(set(found)) == 7
    assert (loaded.predict(rows(space, found))[place] <= budget).all()
    assert searched(programs, space, *words) == found
    assert searched(programs, space, *words, "--seed", 1) != found


def capacity(space: Space, architecture: Architecture) -> float:
    """As tools/cpp/search.cpp says it: options as shares of the greatest, over all blocks."""
    greatest = {f.name: max(float(option) for option in f.options) for f in space.features}
    return sum(
        float(value) / greatest[name]
        for blocks in architecture.units
        for block in blocks
        for name, value in block.items()
    )


def test_a_search_finds_the_greatest_capacity_of_a_small_space(programs: Programs, path: Path) -> None:
    space = replace(tiny_space(), depths=((1, 2, 3), (2,)))
    path.write_bytes(predictor_file(space))
    whole = list(every_architecture(space))
    predicted = LoadedPredictor.open(path).predict(rows(space, whole))[0]
    budget = float(np.quantile(predicted, 0.3)) + 1e-4
    within = [a for a, value in zip(whole, predicted, strict=True) if value <= budget]
    best = max(capacity(space, a) for a in within)
    assert best < max(capacity(space, a) for a in whole)
    found = searched(programs, space, path, "--budget", budget, "--generations", 100, "--top", 3)
    assert capacity(space, found[0]) == pytest.approx(best)
    assert [capacity(space, a) for a in found] == sorted((capacity(space, a) for a in found), reverse=True)
    assert set(found) <= set(within)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_search_finds_the_greatest_output_of_an_objective(keepdims: int, programs: Programs, path: Path) -> None:
    space = tiny_space()
    path.write_bytes(predictor_file(space))
    weights = np.random.default_rng(0).uniform(-1, 1, (1, genome_length(space))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["genome"], ["row"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["row", "weights"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "axis"], ["accuracy"], keepdims=keepdims),
    ]
    takes = helper.make_tensor_value_info("genome", TensorProto.INT64, ["batch", genome_length(space)])
    gives = helper.make_tensor_value_info("accuracy", TensorProto.FLOAT, ["batch", 1][: 1 + keepdims])
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "accuracy", [takes], [gives], constants)
    objective = path.parent / "accuracy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), objective)
    found = searched(programs, space, path, "--budget", 1e9, "--objective", objective, "--generations", 100)
    best = max(float(np.dot(to_genome(space, a), weights[0])) for a in drawn(space, 3000))
    assert float(np.dot(to_genome(space, found[0]), weights[0])) >= best - 1e-5
    refused = programs.run("search", path, "--budget", 1, "--objective", path.parent / "no.onnx")
    assert refused.returncode == 2
    assert b"no.onnx" in refused.stderr


def test_a_search_says_what_is_wrong(programs: Programs, path: Path) -> None:
    path.write_bytes(predictor_file(tiny_space()))
    for words, code, message in (
        ([path], 2, "expected a predictor and a budget"),
        ([path, "--budget", "much"], 2, "--budget is much, expected a number"),
        ([path, "--budget", "1", "--bound", "middle"], 2, "--bound is middle, expected value, lower or upper"),
        ([path, "--budget", "1", "--top", "0"], 2, "--top is 0, expected a whole number from 1"),
        ([path, "--budget", "1", "--speed", "9"], 2, "unknown option --speed"),
        ([path, "--budget"], 2, "--budget without a value"),
        ([path, "--budget", "1e-9", "--generations", "3"], 1, "none within the budget: the least latency_ms found is"),
    ):
        done = programs.run("search", *words)
        assert done.returncode == code
        assert message in done.stderr.decode()
        assert not done.stdout
