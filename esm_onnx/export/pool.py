"""The weight pool: random values that all subnets of a folder share, made from a seed and never copied.

An initializer of a subnet is ONNX external data: a file beside the subnet, an offset and a length. The pool has one
file for each *section*, a stream of float32 values of one scale, so that every layer finds values of about the variance
that He et al. 2015 ask for and activations neither vanish nor explode; for fp16 another, of the same values rounded.
Values are uniform, as in PyTorch's own initialisation; they come from raw random bits by exact arithmetic, so they are
the same bytes on every device.

A stream is made in chunks, each seeded by (seed, section, chunk): its first values are the same however long the file
is. Files grow in place and never shrink, so another process may have them mapped meanwhile, and needs no lock to grow
them too: whoever writes, writes on from the end that it saw, and the same bytes to the same places.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx

from esm_onnx.errors import InputError

Values = np.ndarray[tuple[int, ...], np.dtype[np.floating]]

KINDS: Mapping[str, np.dtype[np.floating]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
"""The type of a value by precision."""

ALIGNMENT = 4096
"""Bytes. What the ONNX specification asks of offsets that are to be memory-mapped. ONNX Runtime 1.31 on Linux maps any
offset and is as fast at 64 as at 4096 in loading and in running; other runtimes may hold to the specification, and the
cost is below 1 MB of pool."""

CHUNK = 1 << 18
"""Values made at a time: 1 MiB, also the step by which a file grows."""

SAMPLE = 64
"""Values at the start of a chunk that are compared with what they should be."""

FILE = re.compile(r"pool-(\d{1,20})-(positive|\d{1,3})\.f(32|16)")
"""What `Section.file` gives."""

FILE_LIMIT = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file: protobuf ends at 2 GiB."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stream of values, uniform within `width` around `middle`."""

    name: str
    middle: float
    width: float

    def file(self, seed: int, precision: str = "fp32") -> str:
        """Name of the file that holds it."""
        return f"pool-{seed}-{self.name}.{precision.replace('p', '')}"


POSITIVE = Section("positive", 1.0, 1.0)
"""0.5 to 1.5: scales and variances of batch norm."""


def signed(exponent: int) -> Section:
    """Values around 0 of variance 2^−exponent."""
    return Section(str(exponent), 0.0, 2 * math.sqrt(3 * 2.0**-exponent))


BIAS = signed(8)
"""Biases and means: standard deviation 1/16, small beside activations but enough to keep them from vanishing."""


def weight_section(fan_in: int, gain: float) -> Section:
    """The section whose variance is nearest to gain / fan_in, in powers of two."""
    return signed(max(0, round(math.log2(fan_in / gain))))


class Allotment:
    """Gives each initializer of one subnet values of the pool that no other initializer of it has.

    Attributes:
        seed: of the pool.
        precision: number format of the values.
        ends: for each section in use, how many values of it the subnet needs.
    """

    def __init__(self, seed: int, *, embed: bool, precision: str = "fp32") -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed is {seed!r}, expected a whole number from 0")
        self.seed, self.precision = seed, precision
        self.ends: dict[Section, int] = {}
        self._embed = embed
        self._embedded = 0

    def take(self, name: str, shape: Sequence[int], section: Section) -> onnx.TensorProto:
        """An initializer: a reference to the pool, or the same values themselves where weights are embedded."""
        kind, count = KINDS[self.precision], math.prod(shape)
        size, step = kind.itemsize, ALIGNMENT // 4
        start = -(-self.ends.get(section, 0) // step) * step
        self.ends[section] = start + count
        tensor = onnx.TensorProto(name=name, dims=shape, data_type=self.data_type)
        if self._embed:
            self._embedded += size * count
            if self._embedded > FILE_LIMIT:
                raise InputError("the weights exceed the 2 GiB of one ONNX file: write them without embedding them")
            tensor.raw_data = values(self.seed, section, start, count).astype(kind).tobytes()
        else:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"offset": str(size * start), "length": str(size * count)}
            for key, value in {"location": section.file(self.seed, self.precision), **place}.items():
                tensor.external_data.add(key=key, value=value)
        return tensor

    @property
    def data_type(self) -> int:
        """The type of weights and activations, as ONNX numbers it."""
        return int(onnx.helper.np_dtype_to_tensor_dtype(KINDS[self.precision]))


def values(seed: int, section: Section, start: int, count: int) -> Values:
    """`count` values of a section's stream, from the one numbered `start`; the truth that the files repeat."""
    parts = []
    while count > 0:
        chunk, at = divmod(start, CHUNK)
        parts.append(_chunk(seed, section, chunk)[at : at + count])
        start, count = start + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def grow(folder: Path, seed: int, ends: Mapping[Section, int], precision: str = "fp32") -> None:
    """Makes the pool's files in `folder` as long as `ends` says (values of each section), and checks what was there.

    Raises:
        InputError: a file of that name holds something else, or the disk has too little room.
    """
    kind = KINDS[precision]
    for section, end in ends.items():
        path, chunk_bytes = folder / section.file(seed, precision), kind.itemsize * CHUNK
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            handle = file.fileno()
            size = os.fstat(handle).st_size
            if size < kind.itemsize * end:
                whole = size // chunk_bytes
                _compare(handle, path, seed, section, {0, max(whole - 1, 0)}, kind)
                _demand_room(path, kind.itemsize * end - size)
                # A torn last chunk is written anew, with the same values for whoever has it mapped.
                file.seek(whole * chunk_bytes)
                for chunk in range(whole, -(-end // CHUNK)):
                    file.write(_make(seed, section, chunk, CHUNK).astype(kind, copy=False).data)
                file.flush()
                os.fsync(handle)
            _compare(handle, path, seed, section, {0, (end - 1) // CHUNK}, kind)


def grow_for(folder: Path, model: onnx.ModelProto) -> None:
    """Makes the pool in `folder` as long as a subnet needs that was written elsewhere; such a file travels alone.

    Raises:
        InputError: it refers to something else than a pool, or as `grow`.
    """
    ends: dict[tuple[int, str], dict[Section, int]] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        found = FILE.fullmatch(place["location"])
        if found is None:
            raise InputError(f"weights in {place['location']!r}, expected the weight pool: a subnet of esm-onnx")
        precision = f"fp{found[3]}"
        section = POSITIVE if found[2] == POSITIVE.name else signed(int(found[2]))
        of_file = ends.setdefault((int(found[1]), precision), {})
        end = (int(place["offset"]) + int(place["length"])) // KINDS[precision].itemsize
        of_file[section] = max(end, of_file.get(section, 0))
    for (seed, precision), needed in ends.items():
        grow(folder, seed, needed, precision)


def _compare(
    handle: int, path: Path, seed: int, section: Section, chunks: set[int], kind: np.dtype[np.floating]
) -> None:
    """Refuses a file whose chunks, as far as they are there, do not start as they should."""
    for chunk in chunks:
        found = os.pread(handle, kind.itemsize * SAMPLE, chunk * kind.itemsize * CHUNK)
        if not _make(seed, section, chunk, SAMPLE).astype(kind, copy=False).tobytes().startswith(found):
            raise InputError(
                "other values than this seed's, expected the weight pool that esm-onnx makes: the file is damaged or "
                "not ours; delete it (it is made again), or take another folder",
                file=path,
            )


def _demand_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(f"the weight pool must grow by {needed >> 20} MiB, the disk has {free >> 20} MiB", file=path)


@lru_cache(maxsize=16)
def _chunk(seed: int, section: Section, chunk: int) -> Values:
    return _make(seed, section, chunk, CHUNK)


def _make(seed: int, section: Section, chunk: int, count: int) -> Values:
    bits = np.random.PCG64([seed, int.from_bytes(section.name.encode()), chunk])
    made = np.random.Generator(bits).random(count, dtype=np.float32)
    made -= np.float32(0.5 - 2.0**-25)  # odd multiples of 2^−25: symmetrical, none is 0
    made *= np.float32(section.width)
    made += np.float32(section.middle)
    return made
