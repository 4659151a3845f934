"""What predictor.onnx carries to be verified by: the digest of its content, and test genomes with their outputs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto
from prediction.made_up import checked, drawn, moderate_spaces, predictor_of, random_mlp, rows
from prediction.predictors import KINDS, SPACES, file_of, thousand

from esm_onnx.architectures import Feature, Space, find_space, from_genome, genome_length
from esm_onnx.errors import InputError, WorkError
from esm_onnx.measurement.quantities import LATENCY
from esm_onnx.prediction.digest import DIGEST, UNSEALED, check_digest, seal
from esm_onnx.prediction.loaded import LoadedPredictor, run, session_of
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.selftest import MOST_COMBINATIONS, SelfTest, covering_genomes

FAMILIES = ("resnet", "mobilenetv3", "densenet", "ofa-mobilenetv3", "compofa-fixed", "compofa-elastic")
WIDE = Space(
    "wide",
    ((1, 4), (2,)),
    block=tuple(Feature(name, tuple(range(9))) for name in "abc"),
    unit=(Feature("d", tuple(range(40))),),
    network=(Feature("resolution", tuple(range(90))),),
)
"""More combinations than could all be listed."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def written(kind: str, tmp_path: Path) -> Path:
    (tmp_path / "p.onnx").write_bytes(file_of(kind))
    return tmp_path / "p.onnx"


# the test genomes


def assert_covers(space: Space) -> None:
    genomes = covering_genomes(space)
    for row in genomes:
        from_genome(space, row.tolist())  # refuses what is none
    head, width, at = len(space.network), len(space.features), len(space.network)
    for i, feature in enumerate(space.network):
        assert set(genomes[:, i]) == set(range(len(feature.options)))
    present = []
    for depths in space.depths:
        for slot in range(max(depths)):
            absent = {-1} if slot >= min(depths) else set()
            for f, feature in enumerate(space.block + space.unit):
                assert set(genomes[:, at + f]) == set(range(len(feature.options))) | absent
            for f, coupled in enumerate(space.coupled, len(space.block + space.unit)):
                occurring = {coupled.index_at(depth) for depth in depths if depth > slot}
                assert set(genomes[:, at + f]) == occurring | absent
            at += width
        first = at - max(depths) * width
        present.append((genomes[:, first:at:width] >= 0).sum(axis=1))
        assert set(present[-1]) == set(depths)
    totals = (genomes[:, head::width] >= 0).sum(axis=1)
    assert (totals.min(), totals.max()) == space.depth_range
    assert len({tuple(row) for row in genomes}) == len(genomes)


@settings(max_examples=100, deadline=None)
@given(space=moderate_spaces())
def test_they_cover_every_option_of_every_place_and_every_depth(space: Space) -> None:
    assert_covers(space)


@pytest.mark.parametrize("space", [*map(find_space, FAMILIES), WIDE], ids=lambda space: space.name)
def test_a_family_takes_some_tens_of_them(space: Space) -> None:
    assert_covers(space)
    genomes = covering_genomes(space)
    assert len(genomes) <= 100
    made_up = {name: np.linspace(1, 2, len(genomes), dtype=np.float32) ** 5 for name in LATENCY.outputs}
    assert len(json.dumps(SelfTest(genomes, made_up).as_json())) <= 40_000


@pytest.mark.parametrize("family", ["resnet", "ofa-mobilenetv3"])
def test_where_a_block_has_few_combinations_each_stands_in_each_slot(family: str) -> None:
    space = find_space(family)
    assert len(space.combinations) == 9 <= MOST_COMBINATIONS
    genomes, head = covering_genomes(space), len(space.network)
    for at in range(head, genome_length(space), 2):
        assert len({tuple(pair) for pair in genomes[:, at : at + 2] if pair[0] >= 0}) == 9


def test_where_expansion_is_coupled_each_kernel_stands_with_each_of_them_in_each_slot() -> None:
    space = find_space("compofa-elastic")
    genomes = covering_genomes(space)
    for u in range(5):
        for slot, depths in enumerate(((2, 3, 4), (2, 3, 4), (3, 4), (4,))):
            at = 1 + 2 * (4 * u + slot)
            found = {tuple(pair) for pair in genomes[:, at : at + 2] if pair[0] >= 0}
            assert found == {(kernel, depth - 2) for kernel in range(3) for depth in depths}


# what is expected of them


def test_the_file_states_what_it_predicts_and_python_predicts_the_same(tmp_path: Path) -> None:
    space = SPACES["mlp"]
    genomes = rows(space, drawn(space, 30))
    predictor = predictor_of(space, "fcc", random_mlp(space, "fcc", genomes), genomes)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, genomes))
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    selftest = loaded.selftest
    assert set(map(tuple, selftest.genomes[:-1])) == set(map(tuple, covering_genomes(space)))
    with pytest.raises(InputError):
        from_genome(space, selftest.genomes[-1].tolist())
    for name, expected in zip(LATENCY.outputs, predictor.predict(selftest.genomes[:-1]), strict=True):
        np.testing.assert_allclose(selftest.outputs[name][:-1], expected, rtol=1e-4)
        assert math.isnan(selftest.outputs[name][-1])
    assert loaded.metadata["selftest"]["valid"] == [True] * (len(selftest.genomes) - 1) + [False]
    assert loaded.metadata["selftest"]["tolerance"] == 1e-4
    assert loaded.test() <= 1e-6


def test_an_infinite_bound_is_null_and_comes_back(tmp_path: Path) -> None:
    space = SPACES["mlp"]
    genomes = rows(space, drawn(space, 30))
    predictor = predictor_of(space, "fcc", random_mlp(space, "fcc", genomes), genomes, width=math.inf)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, genomes))
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    assert set(loaded.metadata["selftest"]["outputs"]["upper_ms"]) == {None}
    assert loaded.metadata["selftest"]["outputs"]["lower_ms"] == [0.0] * (len(loaded.selftest.genomes) - 1) + [None]
    assert np.isinf(loaded.selftest.outputs["upper_ms"][:-1]).all()


def outputs_for(space: Space, change: Callable[[np.ndarray], np.ndarray]) -> SelfTest:
    """The self-test of an imaginary predictor, whose last digits are changed."""

    def predict(genomes: np.ndarray) -> dict[str, np.ndarray]:
        sums = genomes.sum(axis=1).astype(np.float32) + 100
        wrong = (genomes >= 9).any(axis=1)
        return dict.fromkeys(LATENCY.outputs, change(np.where(wrong, np.float32(math.nan), sums)))

    return SelfTest.of(space, predict)


def test_predictions_near_nothing_are_left_out() -> None:
    """Where digits cancel, another processor may round otherwise; nobody asks how fast an architecture of 0 ms is."""
    space = replace_options(SPACES["lut-bias"])
    whole = outputs_for(space, lambda values: values)
    few = outputs_for(space, lambda values: np.where(values < 105, np.float32(1e-6), values))
    assert 0 < (whole.outputs["latency_ms"] < 105).sum() < len(whole.genomes) // 2
    assert len(few.genomes) == len(whole.genomes) - (whole.outputs["latency_ms"] < 105).sum()


def replace_options(space: Space) -> Space:
    """The same depths with nine options, so that index 9 is the first wrong one."""
    return Space(space.name, space.depths, block=(Feature("kernel", tuple(range(9))),))


def test_a_predictor_that_gives_a_genome_no_number_is_not_written() -> None:
    space = replace_options(SPACES["lut-bias"])
    with pytest.raises(WorkError, match="expected NaN for the last row alone"):
        outputs_for(space, lambda values: np.where(values > 105, np.float32(math.nan), values))
    with pytest.raises(WorkError, match="expected NaN for the last row alone"):
        outputs_for(space, lambda values: np.nan_to_num(values, nan=7.0))


@pytest.mark.parametrize(("off", "passes"), [(0.0, True), (5e-5, True), (2e-4, False), (math.nan, False)])
def test_an_output_may_be_off_by_a_ten_thousandth(off: float, passes: bool) -> None:
    space = replace_options(SPACES["lut-bias"])
    selftest = outputs_for(space, lambda values: values)
    changed = {name: values.copy() for name, values in selftest.outputs.items()}
    changed["upper_ms"][3] *= np.float32(1 + off)
    if passes:
        assert selftest.check(lambda _: changed, "ms") == pytest.approx(off, rel=0.01, abs=1e-7)
        return
    expected = f"{selftest.outputs['upper_ms'][3]:.6g}"
    with pytest.raises(InputError, match=rf"upper_ms of test genome 3 is .* ms, expected {expected} ms within 0.01 %"):
        selftest.check(lambda _: changed, "ms")


@pytest.mark.parametrize("value", [-math.inf, 1.0])
def test_an_invalid_row_must_be_refused_and_an_infinite_bound_be_infinite(value: float) -> None:
    selftest = outputs_for(replace_options(SPACES["lut-bias"]), lambda values: values)
    infinite = SelfTest(selftest.genomes, selftest.outputs | {"upper_ms": np.full(len(selftest.genomes), np.inf)})
    for stated, name, row in ((selftest, "lower_ms", len(selftest.genomes) - 1), (infinite, "upper_ms", 5)):
        changed = {name: values.copy() for name, values in stated.outputs.items()}
        assert stated.check(lambda _, same=changed: same, "ms") == 0  # type: ignore[misc]
        changed[name][row] = value
        with pytest.raises(InputError, match=f"{name} of test genome {row}"):
            stated.check(lambda _, same=changed: same, "ms")  # type: ignore[misc]
    with pytest.raises(InputError, match="has shape"):
        selftest.check(lambda _: {name: values[:3] for name, values in selftest.outputs.items()}, "ms")


# the digest


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place(kind: str) -> None:
    content = file_of(kind)
    entries = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    digits = entries[DIGEST].encode()
    assert content.count(digits) == 1
    assert hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest() == entries[DIGEST] == check_digest(content)
    assert sorted(entries) == ["esm_onnx", "esm_onnx_sha256"]


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """One bit of the file is another, for as long as this lasts."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        for value in (byte ^ 1 << bit % 8, byte):
            file.seek(bit // 8)
            file.write(bytes([value]))
            file.flush()
            if value != byte:
                yield


def test_no_flipped_bit_passes(kind: str, written: Path) -> None:
    """At 300 random places of the file, and in the entry that holds the digest."""
    content = file_of(kind)
    at = content.index(DIGEST.encode())
    bits = [*np.random.default_rng(0).choice(8 * len(content), 300, replace=False), *range(8 * at, 8 * (at + 81), 25)]
    for bit in bits:
        with flipped(written, int(bit)), pytest.raises(InputError) as caught:
            LoadedPredictor.open(written)
        assert str(caught.value).startswith(f"{written}: ")
        assert "\n" not in str(caught.value)
    assert written.read_bytes() == content
    LoadedPredictor.open(written)


def cut(content: bytes) -> bytes:
    return content[: -len(content) // 7]


def cut_by_one(content: bytes) -> bytes:
    return content[:-1]


def without_the_digest(content: bytes) -> bytes:
    return content[: content.index(DIGEST.encode()) - 4]


def appended(content: bytes) -> bytes:
    return content + b"\0"


def twice(content: bytes) -> bytes:
    return content + content


def retold(content: bytes) -> bytes:
    """The metadata of another predictor."""
    model, other = onnx.load_from_string(content), onnx.load_from_string(file_of("mlp"))
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in other.metadata_props})
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("damage", [cut, cut_by_one, without_the_digest, appended, twice, retold])
def test_other_damage_does_not_pass_either(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(damage(file_of("linear")))
    with pytest.raises(InputError, match=r"p.onnx: .*(SHA-256|esm_onnx_sha256|not an ONNX file)"):
        LoadedPredictor.open(tmp_path / "p.onnx")


# the self-test without the digest


def weights(content: bytes) -> list[int]:
    """Where the file holds numbers in float32: the first byte of each."""
    constants = [c for c in onnx.load_from_string(content).graph.initializer if c.data_type == TensorProto.FLOAT]
    starts = [(content.index(c.raw_data), len(c.raw_data)) for c in constants if len(c.raw_data) >= 16]
    return [start + i for start, length in starts for i in range(0, length, 4)]


def test_the_self_test_alone_notices_most_of_what_moves_predictions(tmp_path: Path) -> None:
    """Of single bits flipped among the weights, of those that move a prediction of 1,000 genomes by more than 1 %.

    Not all: a leaf of a tree that no test genome reaches may hold anything.
    """
    moved = noticed = 0
    for kind in KINDS:
        content, genomes, path = file_of(kind), thousand(kind), tmp_path / f"{kind}.onnx"
        path.write_bytes(content)
        usual = LoadedPredictor.open(path, threads=1).predict(genomes)
        for place in np.random.default_rng(1).choice(weights(content), 30):
            with flipped(path, 8 * int(place) + 24 + int(place) // 4 % 8):  # exponent and sign
                changed = LoadedPredictor.open(path, verify=False, threads=1)
            try:
                found = changed.predict(genomes)
            except InputError:  # an index beyond its table: nobody takes that for a prediction
                continue
            if all(np.allclose(a, b, rtol=0.01, atol=0) for a, b in zip(found, usual, strict=True)):
                continue
            moved += 1
            try:
                changed.test()
            except InputError:
                noticed += 1
    assert moved >= 25
    assert noticed >= 0.8 * moved


def test_a_file_sealed_anew_with_other_weights_fails_the_self_test(written: Path, kind: str) -> None:
    model = onnx.load_from_string(file_of(kind))
    (least,) = [c for c in model.graph.initializer if c.name == "least_ms"]
    least.CopyFrom(onnx.numpy_helper.from_array(np.float32(1e6), "least_ms"))
    next(entry for entry in model.metadata_props if entry.key == DIGEST).value = UNSEALED
    written.write_bytes(seal(model.SerializeToString()))
    check_digest(written.read_bytes())
    with pytest.raises(InputError, match=r"p.onnx: self-test: latency_ms of test genome 0 is 1e\+06 ms, expected"):
        LoadedPredictor.open(written)
    assert (LoadedPredictor.open(written, verify=False).predict(thousand(kind))[0] == 1e6).all()


def test_it_is_run_by_the_session_that_predicts(written: Path, kind: str) -> None:
    loaded = LoadedPredictor.open(written)
    outputs = run(session_of(file_of(kind), threads=1), LATENCY, loaded.selftest.genomes)
    for name, values in loaded.selftest.outputs.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-6)
