"""The page as a document, and single charts as files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report.conftest import Files

from esm_onnx.architectures import find_space
from esm_onnx.errors import InputError
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.report.drawing import FORMATS, VARIABLES, save
from esm_onnx.report.material import Material, Measured
from esm_onnx.report.page import SHOWN_ROWS, write_page
from esm_onnx.report.sections import KINDS, charts_of

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "link", "br", "img"}


class Document(HTMLParser):
    """Elements with their attributes; tags must be closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def values(self, name: str) -> Iterator[str]:
        for _, attributes in self.elements:
            if attributes.get(name):
                yield str(attributes[name])


def written(material: Material, folder: Path, title: str = "A report") -> str:
    write_page(material, folder / "report.html", title=title, now=NOW)
    return (folder / "report.html").read_text()


@pytest.fixture(scope="session")
def text(material: Material, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(material, tmp_path_factory.mktemp("page"))


def test_the_page_is_whole_and_refers_to_nothing_outside(text: str) -> None:
    document = Document(text)
    assert len(text) < 2_000_000
    assert not re.search(r"<script|@import|@font-face|javascript:", text)
    for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
        for value in document.values(name):
            assert value.startswith(("#", "data:")), value
    assert all(found.startswith("#") for found in re.findall(r"url\(['\"]?([^)'\"]+)", text))
    identities = list(document.values("id"))
    assert len(identities) == len(set(identities))
    referred = [value for name in ("aria-labelledby", "aria-describedby") for value in document.values(name)]
    referred += [value[1:] for name in ("href", "xlink:href") for value in document.values(name) if value[0] == "#"]
    referred += re.findall(r"url\(#([^)]+)\)", text)
    assert {word for value in referred for word in value.split()} <= set(identities)


def test_every_chart_has_its_words_and_its_numbers(text: str, material: Material) -> None:
    figures = re.findall(r"<figure .*?</figure>", text, re.DOTALL)
    charts = [chart for kind in KINDS for chart in charts_of(kind, material)]
    assert len(figures) == len(charts)
    for figure in figures:
        assert figure.count("<svg") == 1
        assert 'role="img"' in figure
        assert "<summary>" in figure
        (svg,) = re.findall(r"<svg.*</svg>", figure, re.DOTALL)
        ElementTree.fromstring(svg)
        assert not any(colour in svg for colour in VARIABLES)  # or it would not follow light and dark
        assert figure.count("<tr>") <= sum(SHOWN_ROWS + 1 for _ in range(figure.count("<table>")))


def test_the_same_material_gives_the_same_page(text: str, material: Material, tmp_path: Path) -> None:
    assert written(material, tmp_path) == text


def test_what_a_stranger_named_is_only_text(material: Material, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"'&\x24x^2\x24"
    spoiled = tuple(replace(each, target=Target(name, {**each.target.facts, name: name})) for each in material.measured)
    text = written(replace(material, measured=spoiled), tmp_path, title=name)
    assert "<img" not in text
    assert not any(name.startswith("on") for _, attributes in Document(text).elements for name in attributes)


def test_a_section_without_data_is_left_out(files: Files, material: Material, tmp_path: Path) -> None:
    text = written(files.read(predictors=[], comparisons=[], searches=[]), tmp_path)
    assert "What was measured" in text
    assert "Predictions" not in text
    text = written(Material(compared=material.compared), tmp_path)
    assert re.findall(r"<h2[^>]*>([^<]*)", text) == ["Encodings, surrogates, rounds"]
    with pytest.raises(InputError, match="nothing to draw"):
        write_page(Material(), tmp_path / "report.html", title="", now=NOW)
    assert written(Material(compared=material.compared), tmp_path) == text  # the last one is still there


@pytest.mark.parametrize("count", [1, 2, 10_000])
def test_few_and_many_measurements_make_a_page(count: int, tmp_path: Path) -> None:
    space, rng = find_space("ofa-mobilenetv3"), np.random.default_rng(0)
    genomes = np.concatenate([rng.integers(0, 33, (count, 1)), rng.integers(0, 3, (count, 40))], axis=1)
    dataset = Dataset(space, genomes, rng.uniform(1, 100, count), {"name": "somewhere", "facts": {}})
    measured = Measured(space, Target("somewhere", {}), (), (), dataset, ("measured",))
    text = written(Material(measured=(measured,)), tmp_path)
    Document(text)
    assert len(text) < 2_000_000


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_chart_is_a_file_for_a_paper(kind: str, material: Material, tmp_path: Path) -> None:
    chart = charts_of(kind, material)[0]
    for suffix in FORMATS:
        path = tmp_path / f"{kind}.{suffix}"
        save(chart, path)
        first = path.read_bytes()
        assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
        save(chart, path)
        assert path.read_bytes() == first
        lines = (tmp_path / f"{kind}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(chart.numbers.rows)
        assert lines[0].count(",") >= len(chart.numbers.columns) - 1
    with pytest.raises(InputError, match="expected a file that ends in"):
        save(chart, tmp_path / "chart.gif")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".pdf", ".png", ".svg"]
