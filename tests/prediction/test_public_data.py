"""The paper's MLP on latencies that others measured: OFA-MobileNetV3 on a Tesla P40 at batch 64.

Syed and Srinivasan, NAS_PerformanceEstimation @ c9bf24c, Apache-2.0; the README beside the data tells more.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from esm_onnx.architectures import Architecture, Feature, Options, Space, to_genome
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.training import TrainSettings, train

DATA = Path(__file__).parents[3] / "shared/data/syed_srinivasan_ofa/ofa.csv.gz"

OFA = Space(
    "ofa-mobilenetv3",
    depths=((2, 3, 4),) * 5,
    block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))),
    network=(Feature("resolution", (160, 176, 192, 208, 224)),),
)


def architecture(row: dict[str, str]) -> Architecture:
    """Digit i of `ks` and `e` is block i % 4 of unit i // 4, there only when i % 4 is below digit i // 4 of `d`."""
    places = [[(4 * unit + block) for block in range(int(depth))] for unit, depth in enumerate(row["d"])]
    units = tuple(
        tuple(Options({"kernel": int(row["ks"][i]), "expansion": int(row["e"][i])}) for i in blocks)
        for blocks in places
    )
    return Architecture(OFA.name, units, Options({"resolution": int(row["r"])}))


@pytest.mark.skipif(not DATA.is_file(), reason=f"the public data are not beside the repository: no {DATA}")
def test_the_papers_mlp_on_fcc_reaches_97_percent_on_a_tesla_p40() -> None:
    """With 2,000 rows it is about 98 %, by whatever seed."""
    with gzip.open(DATA, "rt", newline="") as file:
        table = list(csv.DictReader(file))[:3500]
    whole = Dataset(
        OFA,
        np.array([to_genome(OFA, architecture(row)) for row in table], np.int64),
        np.array([float(row["tesla_p40_ms"]) for row in table]),
        {"name": "Tesla P40", "facts": {"device": "Tesla P40", "batch": 64}},
    )
    predictor, evaluation = train(whole.select(slice(2000)), TrainSettings(), held_out=whole.select(slice(2000, None)))
    assert (predictor.encoding, len(predictor.trained), evaluation.overall.count) == ("fcc", 2000, 1500)
    assert evaluation.overall.accuracy >= 97
    assert evaluation.overall.spearman is not None
    assert evaluation.overall.spearman > 0.98
    assert evaluation.coverage is not None
    assert evaluation.coverage.measured == pytest.approx(90, abs=4)  # five standard deviations of 1,500 yes-or-no
