"""A predictor for a GPU that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from measurement.made_up_nvml import make_nvml

from esm_onnx.architectures import find_space, sample, to_genome
from esm_onnx.cli import commands
from esm_onnx.errors import InputError
from esm_onnx.measurement import nvml
from esm_onnx.prediction.base import Base
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.hardware import GPUS, generalise
from esm_onnx.prediction.predictor_onnx import write_predictor
from esm_onnx.prediction.training import TrainSettings, train
from esm_onnx.prediction.unmeasured import gpu_here, predictor_for

SPACE = find_space("resnet")
GENOMES = np.array([to_genome(SPACE, a) for a in sample(SPACE, 60, strategy="balanced", rng=Random(0))], np.int64)
DEPTHS = (GENOMES[:, ::2] >= 0).sum(axis=1)


def base(folder: Path, device: str, factor: float, **facts: object) -> Path:
    """A predictor of a GPU that takes so many ms a block."""
    dataset = Dataset(SPACE, GENOMES, factor * DEPTHS, {"name": f"my {device}", "facts": {"device": device, **facts}})
    predictor, _ = train(dataset, TrainSettings("linear", encoding="fc", held_out=0.2))
    path = folder / f"{device} {facts}.onnx"
    write_predictor(predictor, path, check=dataset)
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bases")
    return [base(folder, "NVIDIA GeForce RTX 2080 Ti", 1.0, batch=64), base(folder, "Tesla P40", 2.0, batch=64)]


def test_the_file_says_what_the_numbers_say(bases: list[Path], tmp_path: Path) -> None:
    """By hand: each base's logarithm, shifted by the numbers, in the shares of `generalise`."""
    out = tmp_path / "p.onnx"
    given = ["transfer", *(f"--base={path}" for path in bases), "--gpu", "Titan Xp", "--out", str(out), "--json"]
    done = CliRunner().invoke(commands, given, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["gpu"] == {"name": "Titan Xp", "cores": 3840, "memory_gb": 12, "bandwidth_gbs": 548}
    asked = [Base.open(path).predict(GENOMES) for path in bases]
    expected = sum(
        each["weight"] * np.log(each["factor"] * said) for each, said in zip(told["bases"], asked, strict=True)
    )
    session = onnxruntime.InferenceSession(out)
    latency, lower, upper = session.run(None, {"genome": GENOMES})
    np.testing.assert_allclose(latency, np.exp(expected), rtol=1e-4)
    assert (lower == 0).all()
    assert np.isinf(upper).all()
    damaged = GENOMES[:1].copy()
    damaged[0, 0] = 99
    assert np.isnan(session.run(None, {"genome": damaged})).all()
    assert CliRunner().invoke(commands, ["check", str(out)]).exit_code == 0


def test_it_is_what_hardware_numbers_alone_give(bases: list[Path]) -> None:
    opened = [Base.open(path) for path in bases]
    predictor = predictor_for(GPUS["TITAN Xp"], "new", opened)
    assert predictor.evaluation is None
    assert predictor.target == {"name": "new", "facts": {"device": "new", "batch": 64}}
    gpus, columns = [GPUS["RTX 2080 Ti"], GPUS["Tesla P40"]], np.column_stack([b.predict(GENOMES) for b in opened])
    found = generalise(gpus, columns, GPUS["TITAN Xp"]).predict(columns)
    # exponents are fitted on other architectures than these, on all of which one GPU takes twice the other's time
    np.testing.assert_allclose(predictor.predict(GENOMES)[0], found, rtol=0.01)


def test_bases_of_another_batch_or_of_no_known_gpu_are_refused(bases: list[Path], tmp_path: Path) -> None:
    other, unknown = base(tmp_path, "Tesla P40", 1.0, batch=1), base(tmp_path, "a toaster", 1.0, batch=64)
    with pytest.raises(InputError, match="its batch is 1, expected 64"):
        predictor_for(GPUS["L4"], "L4", [Base.open(bases[0]), Base.open(other)])
    with pytest.raises(InputError, match=r"GPU 'my a toaster', expected one of .*RTX 2080 Ti"):
        predictor_for(GPUS["L4"], "L4", [Base.open(unknown)])


def test_the_numbers_of_this_machines_gpu_come_from_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = make_nvml(tmp_path)
    monkeypatch.setattr(nvml, "find_gpu", lambda index: nvml.Gpu(index, library))
    name, gpu = gpu_here()
    assert (name, gpu.cores, gpu.memory_gb) == ("NVIDIA GeForce RTX 2080 Ti", 4352, 11)
    assert gpu.bandwidth_gbs == pytest.approx(616)
    (tmp_path / "cores").write_text("0")  # an older NVML: the table knows it
    assert gpu_here()[1] == GPUS["RTX 2080 Ti"]
    monkeypatch.setattr(nvml, "find_gpu", lambda _index: None)
    with pytest.raises(InputError, match="no NVIDIA GPU here"):
        gpu_here()


def test_a_gpu_to_generalise_to_is_asked_for_alone(bases: list[Path], tmp_path: Path) -> None:
    given = ["transfer", f"--base={bases[0]}", "--gpu", "L4", "--suggest", "3", "--out", str(tmp_path / "p.onnx")]
    done = CliRunner().invoke(commands, given)
    assert done.exit_code == 2
    assert "expected neither --store nor --suggest" in done.output
