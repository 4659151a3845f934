"""CITATION.cff and CHANGELOG.md, as they say of themselves that they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from esm_onnx import __version__

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: pip install 'esm-onnx[import]'")
ROOT = Path(__file__).parents[1]
if not (ROOT / "CITATION.cff").is_file():
    pytest.skip("the repository's own files are not installed with the package", allow_module_level=True)
PAPERS = {
    "https://arxiv.org/abs/2508.01505": "ESM: A Framework for Building Effective Surrogate Models",
    "https://arxiv.org/abs/2101.00732": "Generalized Latency Performance Estimation for Once-For-All",
}


def test_the_citation_has_what_its_format_asks_for_and_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"] == "esm-onnx"
    assert citation["authors"]
    assert citation["type"] == "software"
    assert citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text()
    references = {reference["url"]: reference for reference in citation["references"]}
    assert references.keys() == PAPERS.keys()
    for url, beginning in PAPERS.items():
        reference = references[url]
        assert reference["title"].startswith(beginning)
        assert {"type", "authors", "year"} <= reference.keys()
        assert all({"family-names", "given-names"} <= author.keys() for author in reference["authors"])


def test_the_changelog_tells_of_this_version() -> None:
    assert __version__ in (ROOT / "CHANGELOG.md").read_text()
