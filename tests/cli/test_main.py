"""What surrounds every command: standard streams, encodings, Ctrl-C before anything has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "esm_onnx"]
UMLAUT = """
name = "ofa-äöü"
units = 1
depth = [1, 2]
[block]
kernel = [3, 5]
"""


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], text=True, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def test_closed_streams_are_empty_ones(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m esm_onnx"
    for closed, expected in ((f"{shell} spaces >&-", 0), (f"{shell} spaces 2>&- >/dev/null", 0)):
        assert subprocess.run(closed, shell=True, cwd=tmp_path).returncode == expected
    done = subprocess.run(
        f"{shell} genome --space mobilenetv3 - <&-", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert "internal" not in done.stderr
    assert done.returncode in (0, 2)


def test_a_full_standard_output_is_an_error_that_names_it(tmp_path: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = run("spaces", stdout=full, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: a file or standard output: [Errno 28] No space left on device\n"


def test_what_an_encoding_cannot_say_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(UMLAUT, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run("spaces", "a.toml", stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"ofa-\xe4\xf6\xfc" in done.stdout


@pytest.mark.parametrize("module", ["click", "numpy", "onnx", "rich.console"])
def test_ctrl_c_while_python_imports_is_one_line(module: str, tmp_path: Path) -> None:
    """The signal comes as one of the modules that the commands need is looked for."""
    code = f"""
import os, signal, sys
class At:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, At())
sys.argv = ["esm-onnx", "spaces"]
from esm_onnx.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted; nothing was begun\n")


def test_who_is_deaf_to_ctrl_c_stays_so(tmp_path: Path) -> None:
    def deafen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); from esm_onnx.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "spaces"], capture_output=True, text=True, cwd=tmp_path, preexec_fn=deafen
    )
    assert done.returncode == 0
    assert "resnet" in done.stdout
