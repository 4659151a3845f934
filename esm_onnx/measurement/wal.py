"""SQLite's write-ahead log, read as bytes (sqlite.org/fileformat2.html, section 4).

SQLite ends its reading at the first damaged frame and takes no notice of what was committed after it. We do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esm_onnx.measurement.tables import PAGE_BYTES

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
LITTLE_ENDIAN_SUMS = 0x377F0682


@dataclass(frozen=True, slots=True)
class Frame:
    """One page as a transaction left it.

    Attributes:
        page: number of the page, from 1.
        ends_transaction: whether it is the last of its transaction.
        is_sound: whether its checksum, and that of every frame before it, is right.
    """

    page: int
    content: bytes
    ends_transaction: bool
    is_sound: bool


def frames_of(store: Path) -> Iterator[Frame]:
    """The frames of a store's log since it was last begun anew; none where there is no log."""
    log = Path(f"{store}-wal").read_bytes() if Path(f"{store}-wal").exists() else b""
    order = "<" if int.from_bytes(log[:4], "big") == LITTLE_ENDIAN_SUMS else ">"
    sums = _sums(log[:24], (0, 0), order)
    is_sound = struct.pack(">II", *sums) == log[24:32]
    salts = log[16:24] if is_sound else log[40:48]  # frames of another salt are left from before
    for at in range(HEADER_BYTES, len(log) - FRAME_BYTES + 1, FRAME_BYTES):
        header, content = log[at : at + FRAME_HEADER_BYTES], log[at + FRAME_HEADER_BYTES : at + FRAME_BYTES]
        is_current = header[8:16] == salts
        if is_sound:
            sums = _sums(header[:8] + content, sums, order)
            is_sound = is_current and struct.pack(">II", *sums) == header[16:24]
        if is_current:
            yield Frame(int.from_bytes(header[:4], "big"), content, header[4:8] != bytes(4), is_sound)


def _sums(content: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """The checksum of section 4.2, continued from that of the frame before."""
    first, second = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
