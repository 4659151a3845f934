"""What a lint finds in latencies that others measured; the README beside the data tells what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from esm_onnx.prediction.lint import lint
from esm_onnx.prediction.lint_reading import read_tables

DATA = Path(__file__).parents[3] / "shared/data"
OFA, COMPOFA = DATA / "syed_srinivasan_ofa/ofa.csv.gz", DATA / "syed_srinivasan_ofa/compofa_fixed.csv.gz"
HELP, FBNET = DATA / "help_ofa/help_ofa.csv.gz", DATA / "help_fbnet/help_fbnet_5000.csv.gz"
HAT = tuple(DATA / f"hat_npu/{name}_wmt14ende_npu.csv.gz" for name in ("run", "test0", "test1"))

pytestmark = pytest.mark.skipif(not OFA.is_file(), reason=f"the public data are not beside the repository: no {DATA}")


def test_a_clean_session_of_ten_thousand_measurements_gives_no_finding() -> None:
    assert lint(read_tables([OFA], latency="tesla_p40_ms")) == []


@pytest.mark.parametrize(
    ("paths", "latency", "expected"),
    [
        ([COMPOFA], "tesla_p40_ms", {"cached measurements": "10000 rows hold 243 measurements", "leak": ""}),
        ([OFA], "rtx2080ti_ms", {"drift": "-1.8 -1.2 %"}),
        ([OFA], "note10_lut_ms", {"sums": "combinations of options in blocks"}),
        ([HELP], "2080ti_1_ms", {"no effect": "hardly depends on r (from 128 to 224"}),
        ([HELP], "titan_xp_1_ms", {"no effect": "hardly depends on r (from 128 to 224"}),
        ([HELP], "2080ti_32_ms", {"drift": "mean residual of each tenth +1"}),
        (HAT, "latency_mean_decoder", {"sessions": "37.36 ms in run_wmt14ende_npu.csv.gz, 18.46 ms in test0"}),
        ([FBNET], "raspi4_ms", {"sums": "over options of features"}),
        ([FBNET], "eyeriss_ms", {"sums": "over options of features"}),
        ([FBNET], "pixel2_ms", {"coarse clock": "whole multiples of 1 ms", "drift": ""}),
    ],
)
def test_the_known_defects_of_public_data_are_found(paths: list[Path], latency: str, expected: dict[str, str]) -> None:
    found = {finding.kind: finding.message for finding in lint(read_tables(paths, latency=latency))}
    for kind, text in expected.items():
        assert text in found[kind]
