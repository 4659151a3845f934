"""A predictor of another device as a part of this one's file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from prediction.test_surrogates import WRITTEN, genomes_of
from prediction.transfers import as_base, base_of, few_and_unseen, measured_on, written

from esm_onnx.architectures import Space, find_space, from_genome, genome_length
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import ENERGY, LATENCY
from esm_onnx.prediction.base import SURVEYED, Base, check_bases, surveyed_genomes
from esm_onnx.prediction.base_stage import Shifted
from esm_onnx.prediction.first_stage import FirstStage
from esm_onnx.prediction.hybrid import Hybrid
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.predictor import Predictor
from esm_onnx.prediction.predictor_onnx import build_model, write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.testing import tiny_space

KINDS = ("hybrid", "mlp", "linear", "tree", "boosted", "gp")
COMPOFA = find_space("compofa-fixed")


def of_kind(kind: str) -> Base:
    return base_of("gpu", WRITTEN, kind)


def predictor_from(*bases: Base) -> Predictor:
    """A predictor in which all of them count, whatever the measurements say of them."""
    known, _ = few_and_unseen("board", 12, 0, WRITTEN)
    predictor, _ = train(known, TrainSettings(), bases=bases)
    assert isinstance(predictor.surrogate, Hybrid)
    cost, share = predictor.surrogate.first.cost, 1 / (len(bases) + 1)
    weights = np.linspace(-1e-6, 1e-6, len(cost.weights), dtype=np.float32)
    shifts = [
        (i, Shifted(weights, np.float32(0.001), np.float32(0.1), np.float32(0.2 * i), f"base{i + 1}"))
        for i in range(len(bases))
    ]
    first = FirstStage(cost, tuple(shifts), (share,) * (len(bases) + 1))
    return replace(predictor, surrogate=replace(predictor.surrogate, first=first))


def assert_as_in_python(path: Path, predictor: Predictor) -> LoadedPredictor:
    """On random genomes, and NaN exactly where a row is none."""
    loaded = LoadedPredictor.open(path)
    genomes = genomes_of(WRITTEN, 300, seed=3).copy()
    np.testing.assert_allclose(loaded.predict(genomes), predictor.predict(genomes), rtol=1e-4)
    genomes[::3, 1] = 9
    for values in loaded.predict(genomes):
        assert np.isnan(values[::3]).all()
        assert np.isfinite(np.delete(values, np.s_[::3])).all()
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_of_any_surrogate_is_drawn_into_the_file(kind: str, tmp_path: Path) -> None:
    """Its own file is long gone."""
    base = of_kind(kind)
    assert not base.loaded.path.exists()
    predictor = predictor_from(base)
    write_predictor(predictor, tmp_path / "predictor.onnx", check=measured_on("board", WRITTEN))
    loaded = assert_as_in_python(tmp_path / "predictor.onnx", predictor)
    assert loaded.metadata["bases"] == [
        {"target": "dry gpu", "dataset": base.loaded.metadata["dataset"], "sha256": base.loaded.digest}
    ]


def test_several_bases_from_one_file_and_of_all_kinds_stand_side_by_side(tmp_path: Path) -> None:
    predictor = predictor_from(*map(of_kind, KINDS), of_kind("mlp"))
    write_predictor(predictor, tmp_path / "predictor.onnx", check=measured_on("board", WRITTEN))
    assert_as_in_python(tmp_path / "predictor.onnx", predictor)


def test_a_predictor_with_bases_is_a_base_itself(tmp_path: Path) -> None:
    whole = measured_on("board", WRITTEN)
    second = written(predictor_from(of_kind("hybrid"), of_kind("tree")), whole, tmp_path / "second.onnx")
    third = predictor_from(second, of_kind("hybrid"), second)
    write_predictor(third, tmp_path / "third.onnx", check=whole)
    (tmp_path / "second.onnx").unlink()
    assert_as_in_python(tmp_path / "third.onnx", third)


def test_only_what_leads_to_the_outputs_is_taken_from_a_base() -> None:
    """Neither its bounds, nor a base that was left out."""
    predictor = predictor_from(of_kind("hybrid"), of_kind("mlp"))
    assert isinstance(predictor.surrogate, Hybrid)
    first = predictor.surrogate.first
    alone = replace(predictor.surrogate, first=replace(first, bases=first.bases[:1], weights=(0.3, 0.7)))
    graph = build_model(replace(predictor, surrogate=alone)).graph
    names = {node.name for node in graph.node} | {constant.name for constant in graph.initializer}
    assert any(name.startswith("base1.") for name in names)
    assert not any(name.startswith("base2.") for name in names)
    assert not any("lower_ms" in name or "upper_ms" in name for name in names if name.startswith("base1."))
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {name for node in graph.node for name in node.output} <= read
    assert {constant.name for constant in graph.initializer} <= read


def test_operator_sets_of_other_versions_are_told_apart(tmp_path: Path) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(of_kind("boosted").content)
    for opset in other.opset_import:
        if opset.domain:
            opset.version += 1
    mixed = Base(of_kind("boosted").loaded, other)
    predictor = predictor_from(of_kind("tree"), mixed)
    with pytest.raises(InputError, match=r"it stands on ai\.onnx\.ml \d, expected \d: train it anew"):
        write_predictor(predictor, tmp_path / "predictor.onnx", check=measured_on("board", WRITTEN))
    assert not (tmp_path / "predictor.onnx").exists()


def test_a_base_predicts_what_its_file_does(tmp_path: Path) -> None:
    whole = measured_on("gpu", WRITTEN)
    predictor, _ = train(whole.select(slice(30)), TrainSettings("linear"))
    base = written(predictor, whole, tmp_path / "base.onnx")
    found = base.predict(whole.genomes)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, predictor.predict(whole.genomes)[0], rtol=1e-4)
    assert base.name == "dry gpu"


# what is no base


def test_a_base_of_another_space_is_refused() -> None:
    check_bases([of_kind("hybrid")], WRITTEN, LATENCY.field)
    with pytest.raises(InputError, match=r"a predictor for space 'resnet'.*expected one for 'written'"):
        check_bases([of_kind("hybrid"), base_of("gpu")], WRITTEN, LATENCY.field)
    with pytest.raises(InputError, match="'resnet'"):
        train(few_and_unseen("board", 12, 0, WRITTEN)[0], TrainSettings(), bases=[base_of("gpu")])


def test_a_base_of_another_quantity_is_refused() -> None:
    energy = as_base(replace(measured_on("gpu", WRITTEN), quantity=ENERGY.field).select(slice(60)), "linear")
    with pytest.raises(InputError, match="it predicts energy_mj, expected a predictor of latency_ms"):
        check_bases([of_kind("hybrid"), energy], WRITTEN, LATENCY.field)
    with pytest.raises(InputError, match="it predicts latency_ms, expected a predictor of energy_mj"):
        check_bases([of_kind("hybrid")], WRITTEN, ENERGY.field)
    few = replace(few_and_unseen("board", 8, 0, WRITTEN)[0], quantity=ENERGY.field)
    predictor, _ = train(few, TrainSettings(), bases=[energy])
    assert predictor.bases == (energy,)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no predictor", "absent"])
def test_a_damaged_base_is_noticed_when_it_is_opened(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "base.onnx"
    predictor, _ = train(measured_on("gpu", WRITTEN).select(slice(30)), TrainSettings("linear"))
    written(predictor, measured_on("gpu", WRITTEN), path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "no predictor":
        shutil.copy(__file__, path)
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"base\.onnx: "):
        Base.open(path)


# architectures that nobody measured


@pytest.mark.parametrize("space", [tiny_space(), COMPOFA, WRITTEN], ids=lambda space: space.name)
def test_as_many_architectures_are_surveyed_as_there_are_up_to_a_thousand(space: Space) -> None:
    genomes = surveyed_genomes(space, 0)
    assert genomes.shape == (min(SURVEYED, space.size), genome_length(space))
    assert len(np.unique(genomes, axis=0)) == len(genomes)
    for genome in genomes[:50]:
        from_genome(space, genome.tolist())
    np.testing.assert_array_equal(genomes, surveyed_genomes(space, 0))
