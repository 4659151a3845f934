"""What importing the parts of the prediction stage loads."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    script = f"import sys, esm_onnx.prediction.{module}; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    )


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dataset", {"torch", "onnx", "onnxruntime", "click", "sqlite3"}),
        ("encodings", {"torch", "onnx", "onnxruntime", "click", "sqlite3"}),
        ("evaluation", {"torch", "onnx", "onnxruntime", "click", "sqlite3"}),
        ("conformal", {"torch", "onnx", "onnxruntime", "click", "sqlite3"}),
        ("loaded", {"torch", "onnx", "click", "sqlite3"}),
        ("predictor_onnx", {"torch", "sklearn", "click", "sqlite3"}),
        ("uncertainty", {"torch", "sklearn", "onnx", "onnxruntime", "click", "sqlite3"}),
        ("cost_encoding", {"torch", "sklearn", "onnxruntime", "click", "sqlite3"}),
        ("surrogates", {"torch", "sklearn", "onnxruntime", "click", "sqlite3"}),
        ("training", {"torch", "sklearn", "onnxruntime", "click", "sqlite3"}),
        ("hybrid", {"torch", "onnxruntime", "click", "sqlite3"}),
    ],
)
def test_only_what_is_needed_is_loaded(module: str, absent: set[str]) -> None:
    found = loaded_by(module)
    assert {"esm_onnx", "numpy"} <= found
    assert not found & absent
