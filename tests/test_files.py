"""Writing files: whole or not at all, and never in the place of what is no file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from esm_onnx.files import replacing


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def fail_halfway(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("second")
        raise OSError("halfway")


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write(path, "first")
    with pytest.raises(OSError, match="halfway"):
        fail_halfway(path)
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]
    write(path, "third")
    assert path.read_text() == "third"


def test_a_link_stays_one_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "far" / "a.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    write(link, "through it")
    assert link.is_symlink()
    assert target.read_text() == "through it"


def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "through it")
    reader.join()
    assert read == ["through it"]
    assert pipe.is_fifo()


def test_a_full_device_says_so_and_stays_a_device() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"):
        write(full, "anything")
    assert full.is_char_device()
