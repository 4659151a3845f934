"""What importing the architectures loads."""

from __future__ import annotations

import subprocess
import sys


def test_only_the_standard_library_is_loaded() -> None:
    script = (
        "import sys; before = set(sys.modules); import esm_onnx.architectures\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    loaded = set(printed.split())
    assert "esm_onnx" in loaded
    assert loaded - {"esm_onnx"} <= sys.stdlib_module_names
