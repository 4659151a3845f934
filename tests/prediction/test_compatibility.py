"""Where predictor.onnx runs, and what it makes of rows that are no genomes: every surrogate, as it is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction.predictors import KINDS, SPACES, file_of, thousand

from esm_onnx.architectures import Space, from_genome, genome_length
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import LATENCY
from esm_onnx.prediction.loaded import LoadedPredictor, session_of

OLD = Path(os.environ.get("ESM_ONNX_OLD_ORT", Path(__file__).parents[2] / "build/onnxruntime-1.17"))
"""A folder with onnxruntime 1.17 and the numpy that it needs: `pip install --target`."""
PREDICT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy, onnxruntime
print(onnxruntime.__version__)
for path in Path(sys.argv[2]).glob("*.onnx"):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(["latency_ms", "lower_ms", "upper_ms"], {"genome": numpy.load(path.with_suffix(".npy"))})
    numpy.save(path.with_suffix(".found.npy"), numpy.stack(outputs))
"""
ODD = [sign * (2**power + d) for power in (8, 16, 24, 31, 32, 53) for d in (-1, 0, 1) for sign in (1, -1)]
"""Where a number is rounded, cut or overflows in a narrower type: no float32 holds 2²⁴ + 1."""
EXTREMES = [-(2**63), 2**63 - 1]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# where it runs


@pytest.mark.skipif(not OLD.is_dir(), reason=f"the oldest ONNX Runtime is not installed: no {OLD}")
def test_onnx_runtime_1_17_predicts_the_same(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / f"{kind}.onnx").write_bytes(file_of(kind))
        genomes = thousand(kind).copy()
        genomes[::50, 0] = 99
        np.save(tmp_path / f"{kind}.npy", genomes)
    done = subprocess.run(
        [sys.executable, "-I", "-c", PREDICT, str(OLD), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1.17.")
    for kind in KINDS:
        found = np.load(tmp_path / f"{kind}.found.npy")
        expected = LoadedPredictor.open(tmp_path / f"{kind}.onnx").predict(np.load(tmp_path / f"{kind}.npy"))
        assert np.isnan(found).sum() == 60
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_its_operators_are_those_of_onnx_runtime_1_17(kind: str) -> None:
    """Which knows opset 20, IR 9 and version 4 of the trees, says ONNX's table of versions; ours are older yet."""
    model = onnx.load_from_string(file_of(kind))
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    assert opsets.pop("") == 17
    assert opsets.pop("ai.onnx.ml", 1) <= 3
    assert not opsets
    assert model.ir_version == 8
    assert not model.functions
    assert not model.graph.sparse_initializer


def test_onnx_runtime_has_nothing_to_say_of_it(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No constant that nobody reads, no type that it has to guess."""
    onnxruntime.InferenceSession(file_of(kind), providers=["CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")


def test_its_interface_is_int64_in_float32_out_in_any_batch(kind: str) -> None:
    session = session_of(file_of(kind))
    takes = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    assert takes == [("genome", "tensor(int64)", ["batch", genome_length(SPACES[kind])])]
    gives = [(value.name, value.type, value.shape) for value in session.get_outputs()]
    assert gives == [(name, "tensor(float)", ["batch"]) for name in LATENCY.outputs]


@pytest.mark.parametrize("batch", [0, 1, 100_000])
def test_any_batch_has_as_many_outputs(kind: str, batch: int) -> None:
    """The first rows of a huge batch and the last are as they are alone."""
    session, few = session_of(file_of(kind)), thousand(kind)[:100]
    outputs = session.run(None, {"genome": np.resize(few, (batch, few.shape[1]))})
    expected = session.run(None, {"genome": few})
    for found, alone in zip(outputs, expected, strict=True):
        assert (found.shape, found.dtype) == ((batch,), np.float32)
        np.testing.assert_allclose(found[:100], alone[:batch], rtol=1e-5)
        np.testing.assert_allclose(found[-100:], alone[:batch], rtol=1e-5)


# rows that are no genomes


def is_genome(space: Space, row: np.ndarray) -> bool:
    try:
        from_genome(space, row.tolist())
    except InputError:
        return False
    return True


def assert_judged(kind: str, rows: np.ndarray) -> None:
    """NaN in all three exactly where a row is no genome."""
    valid = [is_genome(SPACES[kind], row) for row in rows]
    for values in session_of(file_of(kind), threads=1).run(None, {"genome": rows}):
        assert (~np.isnan(values)).tolist() == valid
        assert (values[valid] > 0).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_integers_of_the_whole_range_are_refused(kind: str, seed: int) -> None:
    length = genome_length(SPACES[kind])
    rows = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, (100, length), endpoint=True)
    assert_judged(kind, rows)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_single_place_with_any_other_integer_is_refused(kind: str, data: st.DataObject) -> None:
    rows = thousand(kind)[:40].copy()
    for row in rows:
        place = data.draw(st.integers(0, len(row) - 1))
        row[place] = data.draw(st.integers(*EXTREMES) | st.sampled_from(ODD))
    assert_judged(kind, rows)


def test_every_place_refuses_every_odd_integer(kind: str) -> None:
    genomes, odd = thousand(kind), [*ODD, *EXTREMES, -2, 9]
    rows = np.repeat(genomes[np.argmax((genomes >= 0).sum(axis=1))][None], len(odd) * genomes.shape[1], axis=0)
    for i, row in enumerate(rows):
        row[i // len(odd)] = odd[i % len(odd)]
    for values in session_of(file_of(kind)).run(None, {"genome": rows}):
        assert np.isnan(values).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float32, np.float64, np.bool_, np.str_])
def test_another_type_is_a_named_error(kind: str, dtype: type) -> None:
    with pytest.raises(Exception, match="Unexpected input data type"):
        session_of(file_of(kind)).run(None, {"genome": thousand(kind)[:3].astype(dtype)})


@pytest.mark.parametrize("longer", [-1, 1, 40])
def test_another_length_is_a_named_error(kind: str, longer: int) -> None:
    length = genome_length(SPACES[kind])
    for shape in ((3, length + longer), (0, length + longer), (length,), (1, 1, length)):
        with pytest.raises(Exception, match=r"Got invalid dimensions for input: genome|Invalid rank for input: genome"):
            session_of(file_of(kind)).run(None, {"genome": np.zeros(shape, np.int64)})
