"""What the README shows in Python and TOML works as written; its commands are run by test_pages.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from esm_onnx.architectures import find_space
from esm_onnx.cli import commands

README = Path(__file__).parents[1] / "README.md"
if not README.is_file():
    pytest.skip("the README is not installed with the package", allow_module_level=True)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tour_in_python_runs(tmp_path: Path) -> None:
    (tour,) = blocks("python")
    assert len(tour.splitlines()) <= 100
    done = subprocess.run([sys.executable, "-c", tour], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mobilenetv3: 8.38e+26 architectures" in done.stdout
    assert "120 measured on dry" in done.stdout
    accuracy = re.search(r"accuracy (\d+\.\d) % on (\d+)", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 85
    assert (tmp_path / "predictor.onnx").is_file()


def test_the_toml_space_is_read(tmp_path: Path) -> None:
    (toml,) = blocks("toml")
    (tmp_path / "mnasnet.toml").write_text(toml)
    space = find_space(str(tmp_path / "mnasnet.toml"))
    # per unit: 6 shared choices × (2 + 4 + 8) of the blocks; two resolutions
    assert space.size == 2 * (6 * 14) ** 7


def test_the_preset_and_every_public_command_have_help() -> None:
    for command in commands.commands.values():
        assert command.get_short_help_str()
