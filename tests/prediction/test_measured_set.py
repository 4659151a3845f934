"""700 subnets of MobileNetV3 and the 74 blocks of their lookup table, timed for real; see `tests/data/README.md`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from esm_onnx.architectures import divide, find_space
from esm_onnx.measurement.exchange import import_file
from esm_onnx.measurement.store import Store
from esm_onnx.prediction.assembly import assemble
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.comparison_fit import figures_of, fit_once, shuffled
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.lookup import Lookup
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train

DATA = Path(__file__).parents[1] / "data"
TEST = 200


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with Store(tmp_path_factory.mktemp("store") / "esm.db") as store:
        for space, file in (
            ("mobilenetv3", "mobilenetv3_ort_cpu.jsonl.gz"),
            ("mobilenetv3.blocks", "mobilenetv3_blocks_ort_cpu.jsonl.gz"),
        ):
            import_file(store, DATA / file, find_space(space))
        content = next(each for each in store.contents() if each.space.name == "mobilenetv3")
        return assemble(store, content.space, content.target)


def test_the_set_is_whole_and_tells_what_it_was_timed_with(measured: Dataset) -> None:
    assert len(measured) == len(np.unique(measured.genomes, axis=0)) == 700
    assert np.bincount(divide(measured.space).indices(measured.depths)).min() >= 130  # balanced over the depths
    facts = measured.target["facts"]
    assert (facts["runtime"], facts["threads"], facts["batch"], facts["precision"]) == ("ort-cpu", 1, 1, "fp32")
    assert {"onnxruntime", "device", "writer_settings"} <= set(facts)


def test_its_lookup_table_is_of_the_same_target(measured: Dataset) -> None:
    assert isinstance(measured.lookup, Lookup)


@pytest.mark.parametrize(
    ("surrogate", "encoding", "least"), [("hybrid", "cost+counts", 95), ("lut-bias", "entries", 90)]
)
def test_fifty_real_latencies_predict_the_others(
    measured: Dataset, surrogate: str, encoding: str, least: float
) -> None:
    known, unseen = shuffled(measured, TEST, 0)
    bins = divide(measured.space)
    fit = fit_once((surrogate, encoding), known.select(slice(50)), unseen, bins=bins, seed=0, coverage=0.9)
    assert figures_of(fit, unseen, bins).accuracy > least


def test_twenty_latencies_move_the_predictor_to_another_runtime(measured: Dataset, tmp_path: Path) -> None:
    """From ONNX Runtime to OpenVINO, on the same processor: better than either the base or the twenty alone."""
    predictor, _ = train(measured, TrainSettings(held_out=0.1))
    write_predictor(predictor, tmp_path / "base.onnx", check=measured)
    base = Base.open(tmp_path / "base.onnx")
    with Store(tmp_path / "esm.db") as store:
        import_file(store, DATA / "mobilenetv3_openvino.jsonl.gz", measured.space)
        (content,) = store.contents()
        whole = assemble(store, content.space, content.target)
    assert (len(whole), whole.target["facts"]["runtime"]) == (96, "openvino")
    found: dict[str, list[float]] = {"moved": [], "alone": [], "base": []}
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(whole))
        known, unseen = whole.select(order[:20]), whole.select(order[20:])
        moved, alone = (train(known, TrainSettings(), bases=bases)[0] for bases in ([base], []))
        found["base"].append(np.abs(base.predict(unseen.genomes) / unseen.latency_ms - 1).mean())
        for name, each in (("moved", moved), ("alone", alone)):
            found[name].append(np.abs(each.predict(unseen.genomes)[0] / unseen.latency_ms - 1).mean())
    assert np.mean(found["moved"]) < min(np.mean(found["alone"]), np.mean(found["base"]), 0.04)
