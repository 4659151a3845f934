from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_onnx.errors import InputError
from esm_onnx.export.pool import ALIGNMENT, BIAS, CHUNK, POSITIVE, Allotment, grow, signed, values, weight_section

SECTION = signed(5)
shapes = st.lists(st.integers(1, 40), min_size=1, max_size=4)
sections = st.sampled_from([signed(2), signed(9), BIAS, POSITIVE])


def held(folder, seed=0, section=SECTION):
    return np.fromfile(folder / section.file(seed), dtype="<f4")


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 3 * CHUNK), count=st.integers(0, 2 * CHUNK))
def test_a_stretch_of_the_stream_does_not_depend_on_where_it_is_read_from(start, count):
    assert np.array_equal(values(0, SECTION, 0, start + count)[start:], values(0, SECTION, start, count))


@pytest.mark.parametrize("section", [SECTION, POSITIVE])
def test_values_come_from_raw_bits_by_exact_arithmetic(section):
    """Derived again from PCG64's 64-bit words, low half first, so that numpy's own way to floats is no part of it."""
    words = np.random.PCG64([7, int.from_bytes(section.name.encode()), 2]).random_raw(50)
    halves = [half for word in words.tolist() for half in (word & 0xFFFFFFFF, word >> 32)]
    steps = np.array([((half >> 8) + 0.5) / 2**24 - 0.5 for half in halves])
    expected = steps.astype(np.float32) * np.float32(section.width) + np.float32(section.middle)
    assert np.array_equal(steps.astype(np.float32), steps)
    assert np.array_equal(values(7, section, 2 * CHUNK, 100), expected)


@pytest.mark.parametrize("exponent", [0, 5, 8, 13])
def test_signed_section_has_its_variance(exponent):
    drawn = values(3, signed(exponent), 0, CHUNK).astype(np.float64)
    assert drawn.dtype == np.float64
    assert drawn.var() == pytest.approx(2.0**-exponent, rel=0.01)
    assert abs(drawn.mean()) < 0.01 * 2 ** (-exponent / 2)
    assert np.abs(drawn).min() > 1e-12


def test_positive_section():
    drawn = values(3, POSITIVE, 0, CHUNK)
    assert drawn.dtype == np.float32
    assert 0.5 <= drawn.min() < 0.51
    assert 1.49 < drawn.max() <= 1.5


def test_streams_differ():
    kinds = [(0, signed(5)), (1, signed(5)), (0, signed(6)), (0, POSITIVE)]
    drawn = [(values(seed, section, 0, 1000) - section.middle) / section.width for seed, section in kinds]
    drawn.append(values(0, signed(5), CHUNK, 1000) / signed(5).width)
    assert np.abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.2


@given(fan_in=st.integers(1, 10**6), gain=st.sampled_from([0.25, 1.0, 2.0]))
def test_weight_section_is_near_the_variance_asked_for(fan_in, gain):
    variance = weight_section(fan_in, gain).width ** 2 / 12
    asked = min(1.0, gain / fan_in)
    assert asked / math.sqrt(2) * 0.999 <= variance <= asked * math.sqrt(2) * 1.001


@given(st.lists(st.tuples(shapes, sections), min_size=1, max_size=30))
def test_allotted_ranges_are_aligned_and_never_overlap(wanted):
    allotment = Allotment(0, embed=False)
    taken = {}
    for i, (shape, section) in enumerate(wanted):
        tensor = allotment.take(f"t{i}", shape, section)
        entry = {e.key: e.value for e in tensor.external_data}
        start, length = int(entry["offset"]), int(entry["length"])
        assert entry["location"] == section.file(0)
        assert length == 4 * math.prod(shape)
        assert list(tensor.dims) == shape
        assert start % ALIGNMENT == 0
        taken.setdefault(section, []).append((start, start + length))
    for section, ranges in taken.items():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(ranges)))
        assert max(end for _, end in ranges) == 4 * allotment.ends[section]


def test_embedded_values_are_those_of_the_pool(tmp_path):
    embedded, external = Allotment(4, embed=True), Allotment(4, embed=False)
    for shape, section in (((700, 500), SECTION), ((8,), BIAS), ((3, 3), SECTION)):
        inside = embedded.take("t", shape, section)
        outside = {e.key: e.value for e in external.take("t", shape, section).external_data}
    grow(tmp_path, 4, external.ends)
    assert embedded.ends == external.ends
    with open(tmp_path / outside["location"], "rb") as file:
        file.seek(int(outside["offset"]))
        assert file.read(int(outside["length"])) == inside.raw_data


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_impossible_seed(seed):
    with pytest.raises(InputError, match="seed is"):
        Allotment(seed, embed=False)


def test_embedded_weights_beyond_the_limit_of_a_file():
    with pytest.raises(InputError, match="2 GiB"):
        Allotment(0, embed=True).take("huge", (2**15, 2**15), SECTION)


def test_grows_and_keeps_what_it_has(tmp_path):
    grow(tmp_path, 0, {SECTION: 10})
    first = held(tmp_path)
    mapped = np.memmap(tmp_path / SECTION.file(0), dtype="<f4", mode="r")
    grow(tmp_path, 0, {SECTION: 2 * CHUNK + 1})
    assert np.array_equal(mapped, first)
    assert np.array_equal(held(tmp_path), values(0, SECTION, 0, 3 * CHUNK))


def test_never_shrinks_and_does_not_write_in_vain(tmp_path):
    grow(tmp_path, 0, {SECTION: 2 * CHUNK})
    path = tmp_path / SECTION.file(0)
    os.utime(path, (1, 1))
    grow(tmp_path, 0, {SECTION: 1})
    assert path.stat().st_size == 8 * CHUNK
    assert path.stat().st_mtime == 1


def test_each_seed_and_section_has_its_own_file(tmp_path):
    grow(tmp_path, 0, {SECTION: 1, POSITIVE: 1})
    grow(tmp_path, 1, {SECTION: 1})
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("size", [0, 10, 4 * CHUNK - 1, 4 * CHUNK, 4 * CHUNK + 7])
def test_truncated_file_is_made_whole(size, tmp_path):
    grow(tmp_path, 0, {SECTION: 2 * CHUNK})
    whole = held(tmp_path)
    os.truncate(tmp_path / SECTION.file(0), size)
    grow(tmp_path, 0, {SECTION: 2 * CHUNK})
    assert np.array_equal(held(tmp_path), whole)


@pytest.mark.parametrize("content", [b"a note", bytes(4 * CHUNK), bytes(8 * CHUNK)])
def test_foreign_file_is_refused_and_left_alone(content, tmp_path):
    path = tmp_path / SECTION.file(0)
    path.write_bytes(content)
    with pytest.raises(InputError, match="delete it") as caught:
        grow(tmp_path, 0, {SECTION: CHUNK})
    assert str(caught.value).startswith(str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize("wanted", [2 * CHUNK, 3 * CHUNK])
def test_file_whose_end_was_lost_in_a_crash_is_refused(wanted, tmp_path):
    """Of the right length, with zeros at the end: whether it is to be used or to grow."""
    grow(tmp_path, 0, {SECTION: 2 * CHUNK})
    with open(tmp_path / SECTION.file(0), "r+b") as file:
        file.seek(4 * CHUNK)
        file.write(bytes(4 * CHUNK))
    with pytest.raises(InputError, match="damaged"):
        grow(tmp_path, 0, {SECTION: wanted})


def test_disk_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * CHUNK))
    grow(tmp_path, 0, {SECTION: CHUNK})
    with pytest.raises(InputError, match=r"grow by 4 MiB, the disk has 1 MiB"):
        grow(tmp_path, 0, {SECTION: 5 * CHUNK})


def test_two_processes_grow_it_at_once(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from esm_onnx.export.pool import CHUNK, grow, signed\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "for size in range(int(sys.argv[2]), 24, 2): grow(Path(sys.argv[1]), 0, {signed(5): size * CHUNK - 3})"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for first in (1, 2)
    ]
    for worker in workers:
        worker.stdout.readline()  # both have imported everything
    for worker in workers:
        worker.stdin.close()
    for worker in workers:
        assert worker.wait(60) == 0
        worker.stdout.close()
    assert np.array_equal(held(tmp_path), values(0, SECTION, 0, 23 * CHUNK))
