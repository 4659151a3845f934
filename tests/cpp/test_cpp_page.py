"""The program that docs/cpp.md shows is built as the page says, and finds what Python finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from cpp.programs import ROOT, build, drawn, predictor_file
from prediction.made_up import rows
from test_pages import steps

from esm_onnx.architectures import find_space, to_json
from esm_onnx.prediction.loaded import LoadedPredictor

SPACE = find_space("mobilenetv3")


def test_the_program_of_the_page_prints_what_is_fast_enough(tmp_path: Path) -> None:
    for step in steps(ROOT / "docs" / "cpp.md"):
        if step.file is not None:
            (tmp_path / step.file).write_text(step.text)
    (tmp_path / "esm-onnx").symlink_to(ROOT)
    (tmp_path / "predictor.onnx").write_bytes(predictor_file(SPACE))
    unoptimised = "-DCMAKE_CXX_FLAGS_RELEASE=-O0"
    program = build(tmp_path / "build", "", unoptimised, targets=["fast_enough"], source=tmp_path)
    asked = drawn(SPACE, 20, seed=1)
    lines = [json.dumps(to_json(SPACE, architecture)) for architecture in asked]
    _, _, upper = LoadedPredictor.open(tmp_path / "predictor.onnx").predict(rows(SPACE, asked))
    budget = float(np.sort(upper)[9:11].mean())
    found = program.lines("fast_enough", tmp_path / "predictor.onnx", budget, given="\n".join(lines))
    assert found == [line for line, bound in zip(lines, upper, strict=True) if bound <= budget]
    assert len(found) == 10
    refused = program.run("fast_enough", tmp_path / "predictor.onnx", budget, given='{"space": "resnet"}')
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"mobilenetv3" in refused.stderr
