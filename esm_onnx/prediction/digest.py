"""The SHA-256 that predictor.onnx carries of itself, so that a file damaged on its way is noticed.

The metadata entry `esm_onnx_sha256` holds 64 hexadecimal digits: the SHA-256 of the whole file with zeros in their
place. It tells damage, not malice: whoever can change the file can compute it anew.
"""

from __future__ import annotations

import hashlib
import re

from esm_onnx.errors import InputError

DIGEST = "esm_onnx_sha256"
"""Key of the metadata entry."""
UNSEALED = "0" * 64
"""What stands there while the digest is computed."""

_ENTRY = re.compile(DIGEST.encode() + rb"\x12\x40([0-9a-f]{64})")  # field 2 of the entry, 64 bytes long, in protobuf


def seal(content: bytes) -> bytes:
    """The file with its digest in the place of the zeros."""
    return _with_digits(content, _digest(content).encode())


def check_digest(content: bytes) -> str:
    """The digest of a file, which is as it was written.

    Raises:
        InputError: it is not, or it holds no digest.
    """
    stated = _ENTRY.findall(content)
    if len(stated) != 1:
        raise InputError(f"{len(stated)} entries {DIGEST!r}, expected one: copy the file again, or train it anew")
    found = _digest(content)
    if stated[0].decode() != found:
        raise InputError(
            f"its SHA-256 is {found[:12]}…, expected {stated[0].decode()[:12]}…: it was changed after it was written; "
            "copy it again, or train it anew"
        )
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(_with_digits(content, UNSEALED.encode())).hexdigest()


def _with_digits(content: bytes, digits: bytes) -> bytes:
    return _ENTRY.sub(lambda entry: entry[0][: -len(UNSEALED)] + digits, content)
