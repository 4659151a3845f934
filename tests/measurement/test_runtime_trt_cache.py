"""What the TensorRT runtimes keep: whole, for the same subnet and facts only, never more than a folder may hold."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest
from esm_onnx.runtimes.trt_cache import DIGEST_BYTES, Cache, engine_key
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_onnx.architectures import Architecture, Space
from esm_onnx.export import write_subnet

FEW = settings(max_examples=15, deadline=None)
CONTENTS = st.binary(max_size=64)


@FEW
@given(st.lists(st.tuples(st.sampled_from("abc"), CONTENTS), max_size=6))
def test_what_was_kept_last_comes_back(puts: list[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as name:
        for key, content in puts:
            Cache(Path(name)).put(key, content)
        assert {key: Cache(Path(name)).get(key) for key in "abc"} == {"a": None, "b": None, "c": None} | dict(puts)


@FEW
@given(CONTENTS, st.data())
def test_a_flipped_bit_or_a_missing_end_counts_as_absent(content: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        cache, path = Cache(Path(name)), Path(name, "engine")
        cache.put("engine", content)
        whole = path.read_bytes()
        at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        assert cache.get("engine") is None
        path.write_bytes(whole[:at])
        assert cache.get("engine") is None
        cache.put("engine", content)
        assert cache.get("engine") == content


@FEW
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 100)), min_size=1, max_size=8))
def test_a_folder_holds_no_more_than_it_may_or_only_the_last(puts: list[tuple[str, int]]) -> None:
    most = 200
    with TemporaryDirectory() as name:
        folder, order = Path(name), []
        for moment, (key, size) in enumerate(puts):
            Cache(folder, most).put(key, bytes(size))
            os.utime(folder / key, ns=(moment, moment))
            order = [*(other for other in order if other != key), key]
            left = {path.name: path.stat().st_size for path in folder.iterdir()}
            assert left[key] == DIGEST_BYTES + size
            assert sum(left.values()) <= most
            order = [other for other in order if other in left]
            assert set(order) == set(left)
        # Those left are the last used: every other one had gone before it had to.
        assert order == sorted(left, key=lambda key: max(moment for moment, put in enumerate(puts) if put[0] == key))


def test_the_first_to_go_is_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=3 * (DIGEST_BYTES + 10))
    for moment, key in enumerate("abc"):
        cache.put(key, bytes(10))
        os.utime(tmp_path / key, ns=(moment, moment))
    assert cache.get("a") == bytes(10)
    cache.put("d", bytes(10))
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


def test_one_that_is_larger_than_all_may_be_is_kept_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=10)
    cache.put("a", b"")
    cache.put("b", bytes(100))
    assert (cache.get("a"), cache.get("b")) == (None, bytes(100))


def test_without_a_folder_or_where_none_can_be_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (None, tmp_path / "file" / "folder"):
        Cache(folder).put("a", b"engine")
        assert Cache(folder).get("a") is None


FACTS = st.dictionaries(st.sampled_from(["device", "tensorrt", "tf32"]), st.sampled_from(["on", "off", 1, 1.5]))


@given(FACTS, FACTS)
def test_engines_of_other_facts_have_other_keys(tiny_subnet: Path, one: dict[str, str], other: dict[str, str]) -> None:
    assert (engine_key(tiny_subnet, one) == engine_key(tiny_subnet, other)) == (one == other)


@pytest.fixture(scope="module")
def tiny_subnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = tmp_path_factory.mktemp("subnet") / "tiny.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])), path)
    return path


def test_engines_of_other_graphs_or_weights_have_other_keys(
    tiny: Space, eight: list[Architecture], tmp_path: Path
) -> None:
    subnet = write_subnet(tiny, eight[0], tmp_path).path
    key = engine_key(subnet, {})
    assert engine_key(write_subnet(tiny, eight[0], tmp_path / "elsewhere").path, {}) == key
    assert engine_key(write_subnet(tiny, eight[1], tmp_path).path, {}) != key
    tensor = onnx.load(subnet, load_external_data=False).graph.initializer[-1]
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (tmp_path / place["location"]).open("r+b") as pool:
        pool.seek(int(place["offset"]) + int(place["length"]) - 1)
        last = pool.read(1)[0]
        pool.seek(-1, os.SEEK_CUR)
        pool.write(bytes([last ^ 1]))
    assert engine_key(subnet, {}) != key
