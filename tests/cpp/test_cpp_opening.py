"""A predictor.onnx that changed, or is none, is refused with its name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import numpy as np
import onnx
from cpp.programs import Programs, predictor_file
from onnx import helper, numpy_helper

from esm_onnx.testing import tiny_space


def opened(programs: Programs, what: str, *contents: bytes, folder: Path) -> list[str]:
    """What is said of each file."""
    paths = [folder / f"{i}.onnx" for i in range(len(contents))]
    for file, content in zip(paths, contents, strict=True):
        file.write_bytes(content)
    lines = programs.lines("probe", "open", what, *paths)
    for file, line in zip(paths, lines, strict=True):
        assert line == "right" or line.startswith(f"{file}: ")
    return lines


def test_a_flipped_bit_is_noticed(programs: Programs, tmp_path: Path) -> None:
    content = predictor_file(tiny_space())
    random = Random(0)
    at = content.index(b"esm_onnx_sha256")
    places = [*random.sample(range(len(content)), 200), *range(at - 4, min(at + 85, len(content)))]
    flipped = [content[:i] + bytes([content[i] ^ 1 << random.randrange(8)]) + content[i + 1 :] for i in places]
    assert opened(programs, "all", content, folder=tmp_path) == ["right"]
    said = opened(programs, "all", *flipped, content[:-1], content + b"\0", folder=tmp_path)
    assert all("esm_onnx_sha256" in line for line in said)


def test_what_is_computed_otherwise_is_noticed(programs: Programs, tmp_path: Path) -> None:
    content = predictor_file(tiny_space())
    model = onnx.load_from_string(content)
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data) * (tensor.data_type == 1))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    spoiled = model.SerializeToString(deterministic=True)
    by_test, by_digest = (opened(programs, what, spoiled, folder=tmp_path)[0] for what in ("selftest", "digest"))
    assert "selftest, genome" in by_test
    assert "esm_onnx_sha256" in by_digest
    assert opened(programs, "none", spoiled, folder=tmp_path) == ["right"]


def test_the_file_that_is_no_predictor_is_named(programs: Programs, tmp_path: Path) -> None:
    content = predictor_file(tiny_space())
    model = onnx.load_from_string(content)
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key == "esm_onnx"}["esm_onnx"]

    def with_metadata(**changes: object) -> bytes:
        helper.set_model_props(model, {"esm_onnx": json.dumps(told | changes)})
        return model.SerializeToString()

    bare = onnx.load_from_string(content)
    del bare.metadata_props[:]
    cases = {
        bare.SerializeToString(): "no metadata esm_onnx",
        b"": "an empty one",
        b"\x08\x09hello": "not an ONNX file that ONNX Runtime can run",
        with_metadata(schema=3): "schema is 3, expected 2",
        with_metadata(space=[]): "its metadata is damaged",
        with_metadata(space=told["space"] | {"depth": [[1, 2, 3, 4], [0]]}): "depth is [[1,2,3,4],[0]]",
        with_metadata(space=told["space"] | {"depth": [[1, 2, 3, 4], [5]]}): "genome has columns of another space",
        with_metadata(quantity="beauty"): "outputs are latency_ms, lower_ms, upper_ms, expected beauty among them",
    }
    for line, message in zip(opened(programs, "none", *cases, folder=tmp_path), cases.values(), strict=True):
        assert message in line
    old = with_metadata(schema=1)
    assert opened(programs, "none", old, folder=tmp_path) == ["right"]
    assert "schema is 1, expected 2: train it anew" in opened(programs, "selftest", old, folder=tmp_path)[0]
    for line in programs.lines("probe", "open", "all", tmp_path / "none.onnx", tmp_path):
        assert "no file that can be read" in line


def test_sha_256_is_that_of_the_standard_library(programs: Programs) -> None:
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
        content = bytes(i * 37 % 256 for i in range(length))
        assert programs.lines("probe", "sha256", given=content) == [hashlib.sha256(content).hexdigest()]
