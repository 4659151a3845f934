"""What the tests of the command line share: a call and its outcome, and a small space as a file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from esm_onnx.architectures import Architecture, Space, to_json

Run = Callable[..., subprocess.CompletedProcess[str]]

TINY_TOML = """
name = "tiny"
units = 2
depth = [1, 2, 3, 4]
[block]
kernel = [3, 5]
expansion = ["1/2", 1]
[export]
writer = "mobilenetv3"
widths = [8, 16]
ratio = 4
stem = 8
head = [32, 32]
classes = 10
resolution = 32
"""
WITHOUT_EXPORT = TINY_TOML.partition("[export]")[0]


def write_architectures(path: Path, space: Space, architectures: Iterable[Architecture]) -> None:
    """A JSON Lines file of architectures."""
    path.write_text("".join(json.dumps(to_json(space, each)) + "\n" for each in architectures))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of the error."""
    (line,) = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    return line
