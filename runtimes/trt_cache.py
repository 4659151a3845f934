"""What takes long to build, kept in a folder for the next time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import onnx

from esm_onnx.files import replacing
from esm_onnx.measurement.target import Fact

DIGEST_BYTES = hashlib.sha256().digest_size
MOST_BYTES = 4 << 30
"""What a folder may hold. Engines have the size of their weights, 100 MB say, and a session times hundreds of subnets;
those that come again (the calibration subnet, references, the subjects of a rejected session) are the last used."""


class Cache:
    """Files by key, each with its digest: whatever is damaged counts as absent.

    Args:
        folder: None keeps nothing.
        most_bytes: beyond that, files go, those first that were not used for longest.
    """

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None where there is nothing."""
        if self._folder is None:
            return None
        path = self._folder / key
        try:
            kept = path.read_bytes()
        except OSError:
            return None
        content = kept[DIGEST_BYTES:]
        if kept[:DIGEST_BYTES] != hashlib.sha256(content).digest():
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keeps content, if the disk lets it: what is not kept is built again."""
        if self._folder is None:
            return
        with suppress(OSError):
            with replacing(self._folder / key) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            self._prune(self._folder, but=key)

    def _prune(self, folder: Path, but: str) -> None:
        about = {path: path.stat() for path in folder.iterdir() if not path.name.startswith(".")}
        taken = sum(stat.st_size for stat in about.values())
        for path in sorted(about, key=lambda path: (path.name == but, about[path].st_mtime_ns)):
            if taken <= self._most_bytes or path.name == but:
                return
            path.unlink(missing_ok=True)
            taken -= about[path].st_size


def engine_key(subnet: Path, facts: Mapping[str, Fact]) -> str:
    """What an engine is kept by: the digest of the subnet, of its weights wherever they lie, and of `facts`."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    digest.update(hashlib.sha256(subnet.read_bytes()).digest())
    for tensor in onnx.load(subnet).graph.initializer:
        digest.update(hashlib.sha256(tensor.raw_data).digest())
    return digest.hexdigest()
