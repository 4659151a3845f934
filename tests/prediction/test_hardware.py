"""Hardware numbers of GPUs, and what they say of one that nobody measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_onnx.errors import InputError
from esm_onnx.prediction.hardware import EXPONENTS, GPUS, Gpu, find_gpu, generalise

CHIPS = {
    "GTX 1080 Ti": (28, 128, 352, 11),
    "TITAN X (Pascal)": (28, 128, 384, 10),
    "TITAN Xp": (30, 128, 384, 11.4),
    "TITAN RTX": (72, 64, 384, 14),
    "Tesla P4": (20, 128, 256, 6),
    "Tesla P40": (30, 128, 384, 7.2),
    "Tesla P100": (56, 64, 4096, 1.43),
    "Tesla T4": (40, 64, 256, 10),
    "Tesla V100": (80, 64, 4096, 1.755),
    "Tesla V100 32GB": (80, 64, 4096, 1.755),
    "RTX 2070": (36, 64, 256, 14),
    "RTX 2080": (46, 64, 256, 14),
    "RTX 2080 Ti": (68, 64, 352, 14),
    "RTX 3060": (28, 128, 192, 15),
    "RTX 3080": (68, 128, 320, 19),
    "RTX 3090": (82, 128, 384, 19.5),
    "RTX 4070": (46, 128, 192, 21),
    "RTX 4090": (128, 128, 384, 21),
    "RTX A6000": (84, 128, 384, 16),
    "A100": (108, 64, 5120, 2.43),
    "A100 80GB": (108, 64, 5120, 3.186),
    "L4": (58, 128, 192, 12.5),
    "H100": (132, 128, 5120, 5.23),
    "H100 PCIe": (114, 128, 5120, 3.186),
    "H200": (132, 128, 6144, 6.25),
}
"""Multiprocessors, CUDA cores in each, width of the memory's bus in bits, and its Gbit/s a pin: NVIDIA's white papers
of Pascal, Volta, Turing, Ampere, Ada and Hopper."""
GENOMES = 40


def level(gpu: Gpu, exponents: tuple[float, float, float]) -> float:
    return float(np.prod(gpu.numbers ** np.array(exponents)))


def predictions(gpus: list[Gpu], exponents: tuple[float, float, float]) -> np.ndarray:
    """What GPUs take whose latencies follow their numbers by these exponents, [GENOMES, GPUs]."""
    work = np.random.default_rng(0).uniform(100, 900, GENOMES)
    return np.outer(work, [level(gpu, exponents) for gpu in gpus])


@pytest.mark.parametrize("name", GPUS)
def test_cores_and_bandwidth_are_those_of_its_chip(name: str) -> None:
    multiprocessors, cores, bits, gbit = CHIPS[name]
    assert GPUS[name].cores == multiprocessors * cores
    assert GPUS[name].bandwidth_gbs == pytest.approx(bits * gbit / 8, rel=0.005)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
        ("NVIDIA GeForce RTX 2080", "RTX 2080"),
        ("GeForce GTX 1080 Ti", "GTX 1080 Ti"),
        ("Tesla P40", "Tesla P40"),
        ("Tesla P4", "Tesla P4"),
        ("NVIDIA TITAN Xp", "TITAN Xp"),
        ("NVIDIA TITAN X (Pascal)", "TITAN X (Pascal)"),
        ("NVIDIA TITAN RTX", "TITAN RTX"),
        ("Tesla V100-SXM2-16GB", "Tesla V100"),
        ("Tesla V100-SXM3-32GB", "Tesla V100 32GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA L4", "L4"),
        ("rtx 2080 ti", "RTX 2080 Ti"),
        ("RTX 2080 Ti, batch 64", "RTX 2080 Ti"),
    ],
)
def test_a_gpu_is_found_by_its_drivers_name_or_a_shorter_one(name: str, expected: str) -> None:
    assert find_gpu(name) is GPUS[expected]


@pytest.mark.parametrize("name", GPUS)
def test_each_is_found_by_its_own_name(name: str) -> None:
    assert find_gpu(name) is GPUS[name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "GTX",
        "cpu",
        "NVIDIA GeForce RTX 3080 Laptop GPU",  # 6144 cores, not 8704
        "NVIDIA GeForce RTX 2070 with Max-Q Design",
        "NVIDIA GeForce RTX 3080 Ti",
        "NVIDIA GeForce RTX 2080 SUPER",
        "NVIDIA GeForce RTX 4070 Ti SUPER",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 NVL",
        "NVIDIA L40",
        "Tesla P100-PCIE-12GB",
        "NVIDIA RTX 6000 Ada Generation",
    ],
)
def test_a_gpu_that_is_like_one_in_the_table_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(InputError, match=r"^GPU .* expected one of GTX 1080 Ti, TITAN X"):
        find_gpu(name)


# from measured GPUs to a new one


@pytest.mark.parametrize("name", ["Tesla P40", "H200"])
def test_a_gpu_alone_speaks_for_its_equal_as_for_itself(name: str) -> None:
    predicted = predictions([GPUS[name]], (-0.9, 0.3, -0.2))
    found = generalise([GPUS[name]], predicted, GPUS[name])
    np.testing.assert_allclose(found.predict(predicted), predicted[:, 0], rtol=1e-12)


@given(st.sampled_from(sorted(GPUS)), st.lists(st.sampled_from(sorted(GPUS)), min_size=1, max_size=6, unique=True))
def test_it_is_exact_where_latencies_follow_the_numbers_as_expected(new: str, others: list[str]) -> None:
    gpus, exponents = [GPUS[other] for other in others], tuple(EXPONENTS)
    predicted = predictions(gpus, exponents)
    found = generalise(gpus, predicted, GPUS[new])
    np.testing.assert_allclose(found.exponents, EXPONENTS, atol=1e-9)
    np.testing.assert_allclose(found.predict(predicted), predictions([GPUS[new]], exponents)[:, 0], rtol=1e-9)
    assert found.shares.sum() == pytest.approx(1)


def test_the_exponents_are_learned_from_many_gpus() -> None:
    """And nearer to the truth from many than from two."""
    true = (-0.9, 0.0, -0.1)
    new, errors = GPUS["RTX 4090"], []
    for others in (("GTX 1080 Ti", "RTX 2080 Ti"), tuple(sorted(set(GPUS) - {"RTX 4090"}))):
        gpus = [GPUS[other] for other in others]
        predicted = predictions(gpus, true)
        found = generalise(gpus, predicted, new)
        errors.append(abs(np.log(found.predict(predicted) / predictions([new], true)[:, 0])).max())
    assert errors[1] < 0.05 < errors[0]
    np.testing.assert_allclose(found.exponents, true, atol=0.05)


def test_they_are_least_squares_with_a_normal_prior() -> None:
    """Over all pairs: the minimum of |slower − apart · α|² / 0.3² + |α − expected|² / 0.25², by hand."""
    gpus = [GPUS[name] for name in ("Tesla P40", "RTX 2080 Ti", "TITAN Xp")]
    predicted = predictions(gpus, (-0.7, -0.1, -0.4))
    logs, levels = np.log([gpu.numbers for gpu in gpus]), np.log(predicted).mean(axis=0)
    rows, y = [], []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        rows.append((logs[i] - logs[j]) / 0.3)
        y.append((levels[i] - levels[j]) / 0.3)
    expected, *_ = np.linalg.lstsq(np.vstack([rows, np.eye(3) / 0.25]), np.append(y, EXPONENTS / 0.25), rcond=None)
    np.testing.assert_allclose(generalise(gpus, predicted, GPUS["H200"]).exponents, expected, rtol=1e-9)


@given(
    st.lists(st.sampled_from(sorted(GPUS)), min_size=1, max_size=5, unique=True),
    st.tuples(*[st.floats(-4, 4)] * 3),
)
def test_twice_the_cores_neither_slow_down_nor_more_than_halve(
    others: list[str], exponents: tuple[float, float, float]
) -> None:
    """Whatever was measured: a GPU that waits for its host is no faster for its cores."""
    gpus = [GPUS[other] for other in others]
    predicted = predictions(gpus, exponents)
    found = generalise(gpus, predicted, GPUS["A100"])
    assert (found.exponents >= -1).all()
    assert (found.exponents <= 0).all()
    if len(gpus) == 1:
        alone, twice = (
            generalise(gpus, predicted, Gpu(cores, 40, 1555)).predict(predicted) for cores in (6912, 2 * 6912)
        )
        assert (twice <= alone * (1 + 1e-12)).all()
        assert (twice >= alone / 2 * (1 - 1e-12)).all()


def test_gpus_that_are_alike_count_more() -> None:
    gpus = [GPUS[name] for name in ("TITAN Xp", "H200")]
    near, far = generalise(gpus, predictions(gpus, (-0.5, 0, -0.5)), GPUS["GTX 1080 Ti"]).shares
    assert near > 0.9
    assert near + far == pytest.approx(1)


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_units_scale_predictions_and_change_nothing_else(factor: float) -> None:
    gpus = [GPUS[name] for name in ("Tesla P40", "RTX 2080 Ti")]
    predicted = predictions(gpus, (-0.7, -0.1, -0.4))
    plain, scaled = (generalise(gpus, each, GPUS["L4"]).predict(each) for each in (predicted, factor * predicted))
    np.testing.assert_allclose(scaled, factor * plain, rtol=1e-12)


def test_without_a_gpu_there_is_nothing_to_say() -> None:
    with pytest.raises(InputError, match="no GPU was measured, expected at least one"):
        generalise([], np.empty((3, 0)), GPUS["L4"])
