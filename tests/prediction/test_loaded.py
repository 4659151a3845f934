"""Reading predictor.onnx, ours and what is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prediction.made_up import checked, dataset, drawn, predictor_of, random_mlp, rows

from esm_onnx.architectures import Feature, Space, find_space
from esm_onnx.errors import InputError
from esm_onnx.prediction.digest import DIGEST, UNSEALED, seal
from esm_onnx.prediction.loaded import METADATA, LoadedPredictor
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train

TOY = Space("toy", ((1, 3), (2,)), block=(Feature("kernel", (3, 5)),), network=(Feature("resolution", (160, 224)),))


@pytest.fixture
def predictor() -> Predictor:
    genomes = rows(TOY, drawn(TOY, 20))
    return predictor_of(TOY, "fcc", random_mlp(TOY, "fcc", genomes), genomes)


@pytest.fixture
def path(predictor: Predictor, tmp_path: Path) -> Path:
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, rows(TOY, drawn(TOY, 20))))
    return tmp_path / "p.onnx"


def test_a_predictor_survives_its_file(predictor: Predictor, path: Path) -> None:
    loaded = LoadedPredictor.open(path)
    genomes = rows(TOY, drawn(TOY, 50, seed=1))
    assert loaded.space == TOY
    assert loaded.metadata["encoding"]["name"] == "fcc"
    for found, expected in zip(loaded.predict(genomes), predictor.predict(genomes), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    for found in LoadedPredictor.open(str(path)).predict(genomes[:0]):
        assert found.shape == (0,)


@pytest.mark.parametrize("family", ["resnet", "mobilenetv3", "densenet", "ofa-mobilenetv3"])
def test_the_space_is_read_back_whole(family: str, tmp_path: Path) -> None:
    space = find_space(family)
    genomes = rows(space, drawn(space, 5))
    predictor = predictor_of(space, "fcc", random_mlp(space, "fcc", genomes), genomes)
    write_predictor(predictor, tmp_path / "p.onnx", check=checked(predictor, genomes))
    assert LoadedPredictor.open(tmp_path / "p.onnx").space == space


@pytest.mark.parametrize(("held_out", "both"), [(None, True), (0.25, False)])
def test_it_knows_again_what_it_was_made_from(held_out: float | None, both: bool, tmp_path: Path) -> None:
    whole, others = dataset(40), dataset(20, seed=5)
    predictor, _ = train(whole, TrainSettings(surrogate="linear", held_out=held_out))
    write_predictor(predictor, tmp_path / "p.onnx", check=whole)
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    trained, calibrated = loaded.trained_on(whole.genomes), loaded.calibrated_on(whole.genomes)
    assert (trained | calibrated).all()
    assert (trained & calibrated).all() == both
    assert trained.sum() == (40 if both else 40 - calibrated.sum())
    assert not loaded.trained_on(others.genomes).any()
    assert not loaded.calibrated_on(others.genomes).any()
    told = loaded.out_of_fold(np.concatenate([others.genomes, whole.genomes]))
    assert np.isnan(told[:20]).all()
    if both:
        np.testing.assert_allclose(told[20:], predictor.out_of_fold, rtol=1e-6)
        error = np.abs(told[20:] - whole.latency_ms) / whole.latency_ms
        assert 100 * (1 - error.mean()) == pytest.approx(loaded.metadata["accuracy"]["overall"]["accuracy"], abs=1e-4)
    else:
        assert np.isnan(told).all()


def test_invalid_rows_are_nan(path: Path) -> None:
    genomes = rows(TOY, drawn(TOY, 3))
    genomes[1, 1] = 2
    for values in LoadedPredictor.open(path).predict(genomes.astype(np.int32)):
        assert np.isnan(values).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "genomes", [np.zeros((3, 5), np.int64), np.zeros(6, np.int64), np.zeros((2, 6)), np.zeros((2, 6), bool)]
)
def test_arrays_that_hold_no_genomes_are_refused(path: Path, genomes: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"genomes are .* of shape .*, expected integers of shape \[n, 6\]"):
        LoadedPredictor.open(path).predict(genomes)


def test_a_predictor_for_another_space_is_refused(path: Path) -> None:
    loaded = LoadedPredictor.open(path)
    loaded.check_space(replace(TOY))
    with pytest.raises(InputError) as caught:
        loaded.check_space(find_space("resnet"))
    assert "for space 'toy'" in str(caught.value)
    assert "'resnet'" in str(caught.value)
    assert caught.value.file == path
    with pytest.raises(InputError, match="a predictor for space 'toy'"):
        loaded.check_space(replace(TOY, block=(Feature("kernel", (5, 3)),)))


def as_text(path: Path) -> None:
    path.write_text('{"architecture": {}}\n')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_network(path: Path) -> None:
    takes, gives = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [takes], [gives])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (as_text, "not an ONNX file that ONNX Runtime can load"),
        (cut, "not an ONNX file that ONNX Runtime can load"),
        (emptied, "not an ONNX file that ONNX Runtime can load"),
        (removed, "no such file"),
        (a_folder, "no such file"),
        (another_network, "an ONNX file without the metadata 'esm_onnx', expected a predictor of esm-onnx"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_are_no_predictors(path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(path)
    with pytest.raises(InputError) as caught:
        LoadedPredictor.open(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def retold(path: Path, text: str, *, sealed: bool = True) -> None:
    """Another text as metadata, the digest computed anew or left out."""
    model = onnx.load(path)
    entries = {METADATA: text} | ({DIGEST: UNSEALED} if sealed else {})
    helper.set_model_props(model, entries)
    path.write_bytes(seal(model.SerializeToString()))


def metadata_of(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(next(e.value for e in onnx.load(path).metadata_props if e.key == METADATA))
    return data


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: {key: value for key, value in data.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"schema": 1}, "a predictor of schema 1, expected 2: train it anew"),
        (without("schema"), "its metadata is damaged"),
        (without("space"), "its metadata is damaged"),
        (without("fingerprint"), "its metadata is damaged"),
        (without("quantity"), "its metadata is damaged"),
        (lambda data: data | {"quantity": "noise"}, "quantity 'noise', expected one of latency_ms, energy_mj, memory"),
        (lambda data: data | {"quantity": "energy_mj"}, "its graph lacks an output, expected energy_mj, lower_mj, up"),
        (lambda data: data | {"out_of_fold": "?"}, "its metadata is damaged"),
        (lambda data: data | {"out_of_fold": 5}, "its metadata is damaged"),
        (lambda data: data | {"out_of_fold": "AAAAAA=="}, "its metadata tells of other rows than it was trained on"),
        (lambda data: [data], "its metadata is damaged"),
        (lambda _: None, "its metadata is damaged"),
        (lambda data: data | {"space": "resnet"}, "the space is 'resnet', expected a table"),
        (lambda data: data | {"space": data["space"] | {"depth": []}}, "depth is []"),
        (lambda data: data | {"space": data["space"] | {"depth": [[1, 2], [2]]}}, "its metadata is of another space"),
        (
            lambda data: (
                data | {"space": find_space("resnet").table(), "fingerprint": find_space("resnet").fingerprint}
            ),
            "its metadata is of another space than its graph",
        ),
    ],
)
def test_metadata_that_do_not_fit(path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    retold(path, json.dumps(change(metadata_of(path))))
    for verify in (True, False):
        with pytest.raises(InputError) as caught:
            LoadedPredictor.open(path, verify=verify)
        assert str(caught.value).startswith(f"{path}: {message}")


def selftest_with(**parts: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data | {"selftest": data["selftest"] | parts}


@pytest.mark.parametrize(
    "change",
    [
        without("selftest"),
        lambda data: data | {"selftest": None},
        selftest_with(genomes=[]),
        selftest_with(genomes=[[0, 1], [1]]),
        selftest_with(genomes=[[0, 0, 0]]),
        selftest_with(genomes=[[2**70] * 6]),
        selftest_with(valid=[]),
        selftest_with(outputs={}),
        selftest_with(outputs={"latency_ms": [1], "lower_ms": [1], "upper_ms": [1]}),
        selftest_with(tolerance="little"),
        lambda data: data | {"selftest": data["selftest"] | {"valid": [False] * len(data["selftest"]["valid"])}},
    ],
)
def test_a_self_test_that_is_none_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    retold(path, json.dumps(change(metadata_of(path))))
    with pytest.raises(InputError, match=r"its metadata is damaged|its self-test is not one of its space and outputs"):
        LoadedPredictor.open(path)


def test_a_predictor_of_the_first_schema_is_to_be_trained_anew(path: Path) -> None:
    """It has neither a digest nor a self-test."""
    retold(path, json.dumps(without("selftest")(metadata_of(path) | {"schema": 1})), sealed=False)
    with pytest.raises(InputError, match="a predictor of schema 1, expected 2: train it anew"):
        LoadedPredictor.open(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"schema": 2'])
def test_metadata_that_are_no_json(path: Path, text: str) -> None:
    retold(path, text)
    with pytest.raises(InputError, match="its metadata is damaged"):
        LoadedPredictor.open(path)


def test_a_predictor_without_a_digest_is_refused(path: Path) -> None:
    retold(path, json.dumps(metadata_of(path)), sealed=False)
    with pytest.raises(InputError, match="no metadata 'esm_onnx_sha256', expected its digest"):
        LoadedPredictor.open(path)


def test_who_does_not_verify_reads_what_was_changed(path: Path) -> None:
    model = onnx.load(path)
    model.producer_name = "another"
    onnx.save(model, path)
    with pytest.raises(
        InputError, match=r"p.onnx: its SHA-256 is .*, expected .*: it was changed after it was written"
    ):
        LoadedPredictor.open(path)
    loaded = LoadedPredictor.open(path, verify=False)
    assert loaded.session.get_modelmeta().producer_name == "another"
    assert loaded.test() <= 1e-6


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_time_of_a_call_is_the_median(path: Path, batch: int) -> None:
    ticks = iter([0.0, 0.001, 1.0, 1.009, 2.0, 2.002])
    loaded = LoadedPredictor.open(path, threads=1)
    assert loaded.call_ms(batch, calls=3, clock=lambda: next(ticks)) == pytest.approx(2)
