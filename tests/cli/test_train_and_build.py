"""`train` and `build` as a user types them: what is judged, what is asked for, and what presets set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from cli.calls import Run, error_of

from esm_onnx.architectures import Space
from esm_onnx.cli import building
from esm_onnx.errors import InputError
from esm_onnx.loop import Plan, Round
from esm_onnx.measurement.store import Store
from esm_onnx.prediction import mlp
from esm_onnx.prediction.loaded import LoadedPredictor

QUICK = ["--runs", "10", "--warmup", "1", "--references", "2"]


@pytest.fixture
def measured(esm: Run) -> Run:
    """`esm-onnx` in a folder with a store of 40 subnets of the tiny space on an imaginary device."""
    esm("sample", "--space", "tiny.toml", "--strategy", "balanced", "--count", 40, "--out", "a.jsonl")
    esm("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl", *QUICK)
    return esm


def test_train_judges_all_rows_unless_told_otherwise(measured: Run, tmp_path: Path) -> None:
    told = json.loads(measured("train", "--out", "p.onnx", "--json").stdout)
    assert (told["measurements"], told["overall"]["count"]) == (40, 40)
    assert told["overall"]["accuracy"] > 90
    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert (metadata["surrogate"], metadata["encoding"]["name"]) == ("hybrid", "cost+counts")
    assert metadata["measurements"] == {"trained": 40, "calibrated": 40}
    assert metadata["accuracy"]["overall"] == told["overall"]
    nothing_left = error_of(measured("evaluate", "p.onnx", code=2))
    assert "p.onnx: trained on all 40 measurements, expected others too: measure more" in nothing_left

    measured("sample", "--space", "tiny.toml", "--count", 12, "--exclude", "a.jsonl", "--out", "more.jsonl")
    measured("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "more.jsonl", *QUICK)
    evaluated = json.loads(measured("evaluate", "p.onnx", "--json").stdout)
    assert (evaluated["trained_on"], evaluated["measurements"]) == (40, 12)
    assert evaluated["overall"]["accuracy"] > 90
    assert 50 < evaluated["coverage"]["measured"] <= 100


def test_train_does_as_it_is_told(measured: Run, tmp_path: Path) -> None:
    def trained(*options: object) -> tuple[dict[str, Any], dict[str, Any]]:
        told = json.loads(measured("train", "--out", "p.onnx", "--json", *options).stdout)
        return told, dict(LoadedPredictor.open(tmp_path / "p.onnx").metadata)

    quick = ("--surrogate", "linear", "--encoding", "fc+statistical")
    told, metadata = trained(*quick, "--coverage", "70%", "--bins", 2)
    assert (metadata["surrogate"], metadata["encoding"]["name"]) == ("linear", "fc+statistical")
    assert (metadata["interval"]["coverage"], len(metadata["interval"]["widths"]), len(told["bins"])) == (0.7, 2, 2)
    told, metadata = trained(*quick, "--held-out", "25%")
    assert metadata["measurements"] == {
        "trained": 40 - told["overall"]["count"],
        "calibrated": told["overall"]["count"],
    }
    assert 8 <= told["overall"]["count"] <= 12
    accuracies = {
        trained(*quick, *options)[0]["overall"]["accuracy"]
        for options in ((), ("--folds", 2), ("--split", "time"), ("--seed", 1))
    }
    assert len(accuracies) == 4
    assert trained(*quick, "--seed", 1)[0]["overall"]["accuracy"] in accuracies


def test_train_is_judged_by_a_test_set_of_its_own(measured: Run, tmp_path: Path) -> None:
    measured("data", "export", "--out", "all.jsonl")
    rows = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "first.jsonl").write_text("\n".join(rows[:25]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[25:]))
    measured("data", "import", "first.jsonl", "--space", "tiny.toml", "--target", "x", "--store", "first.db")
    train = ["train", "--store", "first.db", "--surrogate", "linear", "--out", "p.onnx"]
    told = json.loads(measured(*train, "--test", "test.jsonl", "--json").stdout)
    assert (told["measurements"], told["overall"]["count"]) == (25, 15)
    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert metadata["measurements"] == {"trained": 25, "calibrated": 25}
    assert metadata["accuracy"]["overall"] == told["overall"]
    (tmp_path / "test.jsonl").write_text("\n".join(rows[24:]))
    both = error_of(measured(*train, "--test", "test.jsonl", code=2))
    assert "1 architectures are both trained on and held out, expected none" in both
    assert "absent.jsonl" in error_of(measured(*train, "--test", "absent.jsonl", code=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoding", "fcd"], "encoding 'fcd', expected one of one-hot, feature"),
        (["--encoding", "fc+"], "encoding 'fc+', expected one of"),
        (["--surrogate", "oracle"], "'oracle' is not one of 'hybrid', 'mlp'"),
        (["--folds", "1"], "1 is not in the range"),
        (["--split", "by-day"], "'by-day' is not one of 'random', 'time'"),
        (["--held-out", "0"], "'0' is no share"),
        (["--held-out", "20"], "'20' is no share"),
        (["--bins", "9"], "N_Bins is 9, but space 'tiny' has 7 depths"),
    ],
)
def test_wrong_training_is_one_line(measured: Run, tmp_path: Path, options: list[str], message: str) -> None:
    done = measured("train", "--out", "p.onnx", *options, code=2)
    assert message in error_of(done)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "p.onnx").exists()


BUILD = ["build", "--space", "tiny.toml", "--runtime", "dry", "--device", "cpu", *QUICK]
LOOP = ["--initial", 30, "--step", 10, "--evaluation", 15, "--extend", "bins", "--out", "p.onnx", "--store", "esm.db"]


def test_build_reaches_its_threshold(esm: Run, tmp_path: Path) -> None:
    built = json.loads(esm(*BUILD, *LOOP, "--threshold", "0.8", "--json").stdout)
    assert built["reached"] is True
    assert built["overall"]["accuracy"] > 80
    onnxruntime.InferenceSession(tmp_path / "p.onnx")


def test_build_ends_with_3_when_the_budget_is_spent_and_goes_on_where_it_was(esm: Run, tmp_path: Path) -> None:
    short = [*BUILD, *LOOP, "--threshold", "99.99%", "--json", "--max-measurements"]
    done = esm(*short, 50, code=3)
    first = json.loads(done.stdout)
    assert first["reached"] is False
    assert [turn["measurements"] for turn in first["rounds"]] == [45, 50]
    assert "--max-measurements" in error_of(done)
    best = max(first["rounds"], key=lambda turn: min(part["accuracy"] for part in turn["bins"]))
    assert first["bins"] == best["bins"]
    onnxruntime.InferenceSession(tmp_path / "p.onnx")
    with Store(tmp_path / "esm.db") as store:
        before = store.contents()[0].measurements

    second = json.loads(esm(*short, 55, code=3).stdout)
    with Store(tmp_path / "esm.db") as store:
        after = store.contents()[0].measurements
    assert (before, after) == (50, 55)
    same = [[{k: turn[k] for k in ("rows", "below", "overall")} for turn in both["rounds"]] for both in (first, second)]
    # the same round again, from the store, and then more; the budget had cut the first command's last round short
    assert same[1][0] == same[0][0]
    assert [[turn["rows"] for turn in both] for both in same] == [[30, 35], [30, 40]]


def test_build_starts_with_tens_and_judges_what_it_measured(esm: Run, tmp_path: Path) -> None:
    built = json.loads(esm(*BUILD, "--threshold", "0.9", "--out", "p.onnx", "--json").stdout)
    assert built["reached"] is True
    first, *_, last = [*built["rounds"], built["rounds"][-1]]
    assert first["measurements"] == 30
    assert last["rows"] == last["measurements"] == last["overall"]["count"]
    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert metadata["measurements"] == {"trained": last["rows"], "calibrated": last["rows"]}
    with Store(tmp_path / "esm.db") as store:
        assert store.contents()[0].measurements == last["measurements"]
    text = esm(*BUILD, "--threshold", "0.9", "--out", "p.onnx").stdout
    assert f"{last['measurements']} architectures asked for, none of them only to evaluate" in text


def test_build_goes_on_where_it_was_when_it_asks_for_what_it_knows_least(esm: Run) -> None:
    start = ["--initial", 20, "--step", 10, "--surrogate", "linear", "--out", "p.onnx", "--json"]
    short = [*BUILD, *start, "--threshold", "99.99%", "--max-measurements"]
    first, second = (json.loads(esm(*short, most, code=3).stdout)["rounds"] for most in (38, 45))
    assert [turn["measurements"] for turn in first][-1] == 38
    assert [turn["measurements"] for turn in second][-1] == 45
    for name in ("rows", "below", "overall", "bins"):
        assert [turn[name] for turn in first[:-1]] == [turn[name] for turn in second[: len(first) - 1]]


def test_a_preset_sets_defaults_that_options_override(
    esm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp, "MlpSettings", partial(mlp.MlpSettings, steps=50))
    rare = ["--initial", 20, "--evaluation", 10, "--threshold", "0.01", "--runs", 12]
    built = json.loads(
        esm(
            "build", "--space", "tiny.toml", "--runtime", "dry", "--preset", "paper", *rare, "--out", "p.onnx", "--json"
        ).stdout
    )
    assert (built["rounds"][0]["rows"], built["rounds"][0]["measurements"]) == (20, 30)
    with Store(tmp_path / "esm.db") as store:
        (content,) = store.contents()
        ((_, _, provenance, _),) = store.sessions(content.space, content.target)
    protocol = provenance["protocol"]
    assert (protocol["paired"], protocol["target_error"], protocol["runs"]) == (False, None, 12)
    metadata = LoadedPredictor.open(tmp_path / "p.onnx").metadata
    assert (metadata["surrogate"], metadata["encoding"]["name"]) == ("mlp", "fcc")
    assert metadata["measurements"] == {"trained": 20, "calibrated": 10}
    esm("train", "--preset", "paper", "--encoding", "fc", "--folds", 2, "--out", "q.onnx")
    metadata = LoadedPredictor.open(tmp_path / "q.onnx").metadata
    assert (metadata["surrogate"], metadata["encoding"]["name"]) == ("mlp", "fc")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plan of each `build`, which ends there."""
    seen: list[Plan] = []

    def note(_space: Space, plan: Plan, *_: object) -> Iterator[Round]:
        seen.append(plan)
        raise InputError("noted")

    monkeypatch.setattr(building, "rounds", note)
    return seen


def test_the_paper_s_preset_is_the_paper_s_loop(esm: Run, plans: list[Plan]) -> None:
    build = [*BUILD, "--out", "p.onnx"]
    esm(*build, code=2)
    esm(*build, "--preset", "paper", code=2)
    esm(*build, "--preset", "paper", "--extend", "uncertainty", "--evaluation", 0, "--surrogate", "gp", code=2)
    ours, papers, mixed = plans
    assert ours == Plan()
    assert (papers.strategy, papers.extend, papers.bins) == ("balanced", "bins", 5)
    assert (papers.initial, papers.step, papers.evaluation) == (300, 100, 100)
    assert (papers.train.surrogate, papers.train.encoding) == ("mlp", "fcc")
    assert (mixed.extend, mixed.evaluation, mixed.train.surrogate, mixed.initial) == ("uncertainty", 0, "gp", 300)


def test_the_ofa_paper_s_preset_is_its_predictor_on_7000(esm: Run, plans: list[Plan]) -> None:
    esm(*BUILD, "--out", "p.onnx", "--preset", "ofa-paper", code=2)
    (plan,) = plans
    assert (plan.strategy, plan.initial, plan.evaluation) == ("random", 7000, 1500)
    assert (plan.train.surrogate, plan.train.encoding) == ("mlp-ofa", None)


def test_without_torch_training_says_what_to_install_and_the_rest_works(esm_process: Run, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")  # hides the real one
    esm_process("sample", "--space", "tiny.toml", "--count", 30, "--out", "a.jsonl")
    esm_process("profile", "--space", "tiny.toml", "--runtime", "dry", "--architectures", "a.jsonl", *QUICK)
    for command in (["train", "--out", "p.onnx"], [*BUILD, "--out", "p.onnx"]):
        assert "pip install 'esm-onnx[train]'" in error_of(esm_process(*command, "--surrogate", "mlp", code=2))
    known = ["--target", "dry gpu"]
    esm_process("train", *known, "--out", "p.onnx")  # so few rows need no networks
    assert (tmp_path / "p.onnx").exists()
    (tmp_path / "sklearn.py").write_text("raise ImportError('No module named sklearn')")
    for surrogate in ("hybrid", "linear"):
        done = esm_process("train", *known, "--surrogate", surrogate, "--out", "q.onnx", code=2)
        assert "scikit-learn is needed to train" in error_of(done)
    assert not (tmp_path / "q.onnx").exists()


def test_a_build_without_one_latency_says_so_and_goes_on_later(esm: Run, tmp_path: Path) -> None:
    command = ("build", "--space", "tiny.toml", "--runtime", "dry", *QUICK, "--surrogate", "linear", "--out", "p.onnx")
    limits = ("--initial", 20, "--max-measurements", 20, "--threshold", "50%")
    told = error_of(esm(*command, *limits, "--max-minutes", 1e-9, code=3))
    assert "no latency of 20 architectures stands after 0.0 minutes: the same command goes on where it was" in told
    assert not (tmp_path / "p.onnx").exists()
    esm(*command, *limits)
    assert LoadedPredictor.open(tmp_path / "p.onnx").metadata["measurements"]["trained"] == 20
