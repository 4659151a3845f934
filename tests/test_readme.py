"""What the README and the pages in docs show works as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from esm_onnx.architectures import find_space
from esm_onnx.cli import commands

README = Path(__file__).parents[1] / "README.md"
if not README.is_file():
    pytest.skip("the README is not installed with the package", allow_module_level=True)
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]
SHOWN = re.compile(r"^(?:docker run .* esm-onnx:\w+|esm-onnx) (.*)$", re.MULTILINE)
"""A command on a line of its own, here or in a container."""


def blocks(language: str, page: Path = README) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == language]


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


def shown() -> list[list[str]]:
    """The arguments of every `esm-onnx …` on every page."""
    found = [SHOWN.findall(block.replace("\\\n", " ")) for page in PAGES for block in blocks("", page)]
    return [shlex.split(arguments, comments=True) for block in found for arguments in block]


@pytest.mark.parametrize("arguments", shown(), ids=" ".join)
def test_every_command_shown_is_understood(arguments: list[str], tmp_path: Path) -> None:
    """Each is parsed to its last option; what it does is tested in tests/cli."""
    (toml,) = blocks("toml")
    (tmp_path / "mnasnet.toml").write_text(toml)
    (tmp_path / "net.onnx").touch()
    command: click.Command = commands
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        context = click.Context(commands)
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None, name
            command = found
        command.make_context(name, arguments, parent=context)
    finally:
        os.chdir(before)


def test_the_preset_and_every_public_command_have_help() -> None:
    for command in commands.commands.values():
        assert command.get_short_help_str()
