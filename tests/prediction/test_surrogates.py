"""What every surrogate holds, on every encoding: it fits, predicts, and its file predicts the same.

Networks and trees are cut short: what is asked for here does not take good ones.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from prediction.made_up import drawn, rows, session_of

from esm_onnx.architectures import Feature, Space, find_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.prediction import ensemble, mlp, ofa_paper, trees
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.encodings import ENCODINGS, encoding_names, find_encoding
from esm_onnx.prediction.ensemble import EnsembleSettings
from esm_onnx.prediction.loaded import LoadedPredictor
from esm_onnx.prediction.mlp import Mlp, MlpSettings
from esm_onnx.prediction.ofa_paper import Hyperparameters, fit_ofa
from esm_onnx.prediction.predictor_onnx import build_model, write_predictor
from esm_onnx.prediction.surrogate import Examples, Matrix, Vector
from esm_onnx.prediction.surrogates import SURROGATES, find_surrogate, usual_encoding
from esm_onnx.prediction.training import TrainSettings, train

KINDS = [name for name, entry in SURROGATES.items() if entry.encoding in encoding_names()]
"""Those that stand on any encoding; a lookup table stands on its entries alone."""

WRITTEN = space_from_table(
    {
        "name": "written",
        "units": 2,
        "depth": [1, 2, 3],
        "block": {"kernel": [3, 5], "expansion": ["1/2", 1, "5/3"]},
        "network": {"resolution": [32, 36, 40, 44, 48, 64]},
        "export": {"writer": "mobilenetv3", "widths": [8, 16], "ratio": 4, "stem": 8, "head": [32, 32], "classes": 10},
    }
)
"""Our writer draws it, at several resolutions, so it has costs."""
UNWRITTEN = Space(
    "unwritten",
    ((2, 4), (1, 3, 6)),
    block=(Feature("kernel", (0.1, 0.3, 7)), Feature("op", ("conv", "pool"))),
    unit=(Feature("expansion", (0.5, 1)),),
    network=(Feature("resolution", (160, 192, 224)), Feature("stem", ("a", "b"))),
)
PLACES = [
    *((find_space("resnet"), encoding) for encoding in ("statistical", "fcc", "cost+counts")),
    *((WRITTEN, encoding) for encoding in (*encoding_names(), "cost+counts", "cost+fcc-first")),
    *((UNWRITTEN, encoding) for encoding in (*ENCODINGS, "statistical+one-hot")),
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "MlpSettings", partial(MlpSettings, steps=40))
    monkeypatch.setattr(ofa_paper, "fit_ofa", partial(fit_ofa, hyperparameters=Hyperparameters(0.01), epochs=6))
    monkeypatch.setattr(ensemble, "EnsembleSettings", partial(EnsembleSettings, least_epochs=1, greatest_epochs=2))
    monkeypatch.setattr(trees, "TREES", 50)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "MlpSettings", partial(MlpSettings, steps=250))
    monkeypatch.setattr(ofa_paper, "fit_ofa", partial(fit_ofa, hyperparameters=Hyperparameters(0.01), epochs=60))


@cache
def genomes_of(space: Space, count: int, seed: int = 0) -> np.ndarray:
    return rows(space, drawn(space, count, seed))


def measured(space: Space, count: int, seed: int = 0) -> Dataset:
    """Architectures with latencies of 10 to 20 ms: a made-up price for each option in each place, and 1 % of noise."""
    genomes = genomes_of(space, count, seed)
    x = find_encoding("one-hot").encode(space, genomes)
    rng = np.random.default_rng(7)
    work = x @ rng.uniform(0, 1, x.shape[1])
    noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal(len(x))
    return Dataset(space, genomes, (10 + 10 * work / x.sum(axis=1)) * noise, {"name": "somewhere", "facts": {}})


def predict_both(kind: str, encoding: str, whole: Dataset, genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latencies [n] from a file that was trained on `whole`, and from Python; bounds are compared at once."""
    predictor, _ = train(whole, TrainSettings(surrogate=kind, encoding=encoding, held_out=0.2))
    given = session_of(build_model(predictor)).run(["latency_ms", "lower_ms", "upper_ms"], {"genome": genomes})
    expected = predictor.predict(genomes)
    for bound, wanted in zip(given[1:], expected[1:], strict=True):
        np.testing.assert_allclose(bound, wanted, rtol=1e-4)
    return given[0], expected[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("space", "encoding"), PLACES, ids=lambda value: getattr(value, "name", value))
def test_the_file_predicts_what_python_does(kind: str, space: Space, encoding: str) -> None:
    others = genomes_of(space, 1000, seed=1)
    given, expected = predict_both(kind, encoding, measured(space, 60), others)
    assert given.dtype == expected.dtype == np.float32
    assert (expected > 1).all()
    assert (expected < 100).all()
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(given, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_change_nothing_of_that(kind: str) -> None:
    """Rows enough for every stage of a hybrid, and for branches at every number that a column holds."""
    others = genomes_of(WRITTEN, 5000, seed=1)
    given, expected = predict_both(kind, "cost+fcc-first", measured(WRITTEN, 1000), others)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_predictor_is_read_back(kind: str, tmp_path: Path) -> None:
    whole = measured(UNWRITTEN, 50)
    predictor, _ = train(whole, TrainSettings(surrogate=kind, held_out=0.2))
    write_predictor(predictor, tmp_path / "p.onnx", check=whole)
    loaded = LoadedPredictor.open(tmp_path / "p.onnx")
    assert loaded.metadata["surrogate"] == kind
    assert loaded.metadata["encoding"]["name"] == usual_encoding(kind, UNWRITTEN)
    for found, expected in zip(loaded.predict(whole.genomes), predictor.predict(whole.genomes), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    for found in (*loaded.predict(whole.genomes[:0]), *predictor.predict(whole.genomes[:0])):
        assert found.shape == (0,)
    onnx.checker.check_model(onnx.load(tmp_path / "p.onnx"), full_check=True)


def test_only_trees_need_more_than_the_plain_operators() -> None:
    domains = {}
    for kind in KINDS:
        predictor, _ = train(measured(UNWRITTEN, 30), TrainSettings(surrogate=kind, encoding="fc", held_out=0.2))
        domains[kind] = {node.domain for node in build_model(predictor).graph.node}
    trees_alone = {kind: {"", "ai.onnx.ml"} if kind in ("tree", "boosted") else {""} for kind in KINDS}
    assert domains == trees_alone


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_file(kind: str) -> None:
    whole = measured(WRITTEN, 250)
    settings = TrainSettings(surrogate=kind, encoding="fcc", held_out=0.1, seed=3)
    one, other = (build_model(train(whole, settings)[0]).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", KINDS)
def test_what_every_kind_can_represent_is_learned(kind: str) -> None:
    """The depth of one unit, which is 2 or 4, is both a line and a step; the mean is off by a quarter."""
    genomes = genomes_of(UNWRITTEN, 400)
    x = find_encoding("statistical").encode(UNWRITTEN, genomes)
    columns = tuple(find_encoding("statistical").columns(UNWRITTEN))
    y = x[:, columns.index("u1.depth")] * 5.0
    assert set(y) == {10.0, 20.0}
    surrogate = find_surrogate(kind).fit(Examples(x[:300], y[:300], columns))
    off = np.abs(surrogate.predict(x[300:]) / y[300:] - 1)
    assert np.abs(y[:300].mean() / y[300:] - 1).mean() > 0.2
    assert off.mean() < 0.05


# what it is fitted on


def made_up(count: int, columns: int = 6, seed: int = 0) -> tuple[Matrix, Vector, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (count, columns)).astype(float)
    return x, 10 + x @ np.arange(1, columns + 1), tuple(f"c{i}" for i in range(columns))


def assert_predicts(kind: str, examples: Examples, x: Matrix) -> np.ndarray:
    surrogate = find_surrogate(kind).fit(examples)
    predicted = surrogate.predict(x)
    assert surrogate.name == kind  # as in the table; a file tells it
    assert predicted.dtype == np.float32
    assert predicted.shape == (len(x),)
    assert np.isfinite(predicted).all()
    return predicted


@pytest.mark.parametrize("count", [2, 3, 7, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_are_enough(kind: str, count: int) -> None:
    """For folds too, of which each leaves a single row where there are two."""
    x, y, columns = made_up(count)
    assert_predicts(kind, Examples(x, y, columns), made_up(50, seed=1)[0])
    fitted = SURROGATES[kind].with_folds(Examples(x, y, columns), np.arange(count) % 3)
    assert np.isfinite(fitted.out_of_fold).all()
    assert np.isfinite(fitted.surrogate.predict(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_not_too_many(kind: str) -> None:
    x, y, columns = made_up(10_000)
    predicted = assert_predicts(kind, Examples(x, y, columns), x)
    assert np.abs(predicted / y - 1).mean() < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_never_change_do_no_harm(kind: str) -> None:
    x, y, columns = made_up(40)
    blocks = np.random.default_rng(0).integers(1, 8, 40)
    wider = np.hstack([np.zeros((40, 1)), x, np.full((40, 1), 1e8 / 7), (blocks * 0.1 / blocks)[:, None]])
    predicted = assert_predicts(kind, Examples(wider, y, ("zero", *columns, "great", "rounded")), wider)
    assert np.abs(predicted / y - 1).max() < 1


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latency_ms", [0.1, 4.2, 3000.0])
def test_latencies_that_never_change_are_predicted(kind: str, latency_ms: float) -> None:
    x, _, columns = made_up(30)
    predicted = assert_predicts(kind, Examples(x, np.full(30, latency_ms), columns), x)
    wandering_ms = 0.1 if kind == "mlp-ofa" else 0.0  # its steps have a size of their own
    np.testing.assert_allclose(predicted, latency_ms, rtol=0.3, atol=wandering_ms)  # more steps bring a network nearer


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_alike_are_predicted(kind: str) -> None:
    x, _, columns = made_up(1)
    twenty = np.repeat(x, 20, axis=0)
    y = np.linspace(9, 11, 20)
    predicted = assert_predicts(kind, Examples(twenty, y, columns), twenty)
    np.testing.assert_allclose(predicted, 10, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_wrong_by_far_spoils_no_other_kind_of_row(kind: str) -> None:
    x, y, columns = made_up(60)
    y[7] *= 100
    assert_predicts(kind, Examples(x, y, columns), x)


# by name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="surrogate 'oracle', expected one of hybrid, mlp"):
        find_surrogate("oracle")


def test_the_ofa_papers_mlp_has_two_layers_of_400() -> None:
    x, y, columns = made_up(20)
    surrogate = find_surrogate("mlp-ofa").fit(Examples(x, y, columns))
    assert isinstance(surrogate, Mlp)
    assert [weight.shape for weight, _ in surrogate.layers] == [(400, 6), (400, 400), (1, 400)]
    assert (usual_encoding("mlp-ofa", WRITTEN), usual_encoding("mlp-ofa", UNWRITTEN)) == ("ofa", "one-hot")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_predicted_out_of_their_fold_were_not_fitted_on(kind: str) -> None:
    x, y, columns = made_up(60)
    folds = np.arange(60) % 3
    fitted = SURROGATES[kind].with_folds(Examples(x, y, columns), folds)
    changed = SURROGATES[kind].with_folds(Examples(x, np.where(folds == 1, 2 * y, y), columns), folds)
    assert fitted.out_of_fold.shape == (60,)
    if kind != "hybrid":  # whose stages learn from each other's folds
        np.testing.assert_allclose(fitted.out_of_fold[folds == 1], changed.out_of_fold[folds == 1], rtol=1e-6)
    assert (fitted.out_of_fold[folds == 0] != changed.out_of_fold[folds == 0]).any()
