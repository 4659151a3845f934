"""Latencies that others published, as datasets: one architecture a row, in the order of the file.

Below a folder, as gzipped CSV:

    syed_srinivasan_ofa/*.csv.gz             OFA and CompOFA; RhythmSyed/NAS_PerformanceEstimation @ c9bf24c
    help_ofa/help_ofa.csv.gz                 OFA-MobileNetV3; HayeonLee/HELP @ 45f70eb
    help_fbnet/help_fbnet_5000.csv.gz        FBNet, a sum of block latencies; the same
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from esm_onnx.architectures import find_space, to_genome
from esm_onnx.measurement.importers import Reading, read_table
from esm_onnx.measurement.importers_csv import read_csv
from esm_onnx.prediction.dataset import Dataset

SYED, HELP, FBNETS = "syed_srinivasan_ofa/ofa.csv.gz", "help_ofa/help_ofa.csv.gz", "help_fbnet/help_fbnet_5000.csv.gz"
FIXED, ELASTIC = "syed_srinivasan_ofa/compofa_fixed.csv.gz", "syed_srinivasan_ofa/compofa_elastic.csv.gz"
FBNET = Path(__file__).resolve().parents[2] / "tests/data/fbnet.toml"


@dataclass(frozen=True)
class Column:
    """Latencies of one device.

    Attributes:
        file: where they are, below the folder of the data.
        paper_ms: the paper's RMSE with 7,000 measurements; None where there is none.
        aims: number of measurements, and what is aimed at with them: accuracy in %, or RMSE in ms.
    """

    title: str
    file: str
    name: str
    space: str = "ofa-mobilenetv3"
    paper_ms: float | None = None
    aims: tuple[tuple[int, str, float], ...] = ()


P40_AIMS = ((20, "accuracy", 97.7), (50, "rmse_ms", 1.0), (400, "rmse_ms", 0.52), (7000, "rmse_ms", 0.28))
RTX_AIMS = ((20, "accuracy", 97.2), (400, "rmse_ms", 0.36), (7000, "rmse_ms", 0.29))
COLUMNS = {
    "p40": Column("Tesla P40, batch 64", SYED, "tesla_p40_ms", paper_ms=1.18, aims=P40_AIMS),
    "rtx": Column("RTX 2080 Ti, batch 64", SYED, "rtx2080ti_ms", paper_ms=0.385, aims=RTX_AIMS),
    "titan64": Column("Titan Xp, batch 64 (HELP)", HELP, "titan_xp_64_ms"),
    "titan32": Column("Titan Xp, batch 32 (HELP)", HELP, "titan_xp_32_ms"),
    "raspi4": Column("FBNet on Raspberry Pi 4 (HELP)", FBNETS, "raspi4_ms", space=str(FBNET)),
}


def every_column(folder: Path) -> list[Column]:
    """The named ones, and all others of the three files but for the sum of a lookup table."""
    known = {(column.file, column.name) for column in COLUMNS.values()}
    others = []
    for file, space in ((SYED, "ofa-mobilenetv3"), (HELP, "ofa-mobilenetv3"), (FBNETS, str(FBNET))):
        names, _ = read_csv(folder / file)
        latencies = [name for name in names if name.endswith("_ms") and "lut" not in name and (file, name) not in known]
        others += [Column(f"{name} ({Path(file).parent.name})", file, name, space) for name in latencies]
    return [*COLUMNS.values(), *others]


@lru_cache(maxsize=8)
def dataset_of(folder: Path, column: Column) -> Dataset:
    """The rows of one column in the order of the file."""
    space = find_space(column.space)
    rows = list(read_table(folder / column.file, space, Reading(latency=column.name)))
    return Dataset(
        space=space,
        genomes=np.array([to_genome(space, row.architecture) for row in rows], np.int64),
        latency_ms=np.array([row.latency_ms for row in rows]),
        target={"name": column.title, "facts": {"device": column.title}},
    )
