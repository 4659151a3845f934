"""The page as people see it: in Chromium, narrow and wide, light and dark, and judged by axe."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esm_onnx.report.material import Material
from esm_onnx.report.page import write_page

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "browser"
KEPT = ROOT / "build" / "report"
"""Screenshots stay here."""
GRAVE = ("serious", "critical")
LEAST_WIDTH, LEAST_TEXT = 250, 4
"""Pixels: of a chart on a phone, and of the narrowest letters on it (an upright 1)."""


@pytest.mark.skipif(not (PACKAGES / "node_modules").is_dir(), reason="no playwright-core: tools/install fetches it")
@pytest.mark.skipif(not shutil.which("node"), reason="no node: install Node.js")
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: apt-get install chromium")
def test_a_browser_shows_every_chart_and_asks_for_nothing(material: Material) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    page = KEPT / "report.html"
    count = write_page(material, page, title="A report", now=datetime(2026, 1, 2, tzinfo=UTC))
    command = ["node", str(Path(__file__).parent / "browse.mjs"), shutil.which("chromium"), str(page), str(KEPT)]
    done = subprocess.run([str(part) for part in command], cwd=PACKAGES, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["console"] == []
    assert set(found["requests"]) == {page.as_uri()}
    assert [(view["width"], view["colorScheme"]) for view in found["views"]] == [
        (width, scheme) for scheme in ("light", "dark") for width in (390, 1440)
    ]
    for view in found["views"]:
        assert view["pageWidth"] <= view["width"]  # nothing to scroll sideways
        assert [fault for fault in view["faults"] if fault["impact"] in GRAVE] == []
        assert len(view["charts"]) == count
        for chart in view["charts"]:
            assert chart["left"] >= 0, chart
            assert chart["right"] <= view["width"], chart
            assert chart["width"] >= LEAST_WIDTH, chart
            assert chart["height"] >= LEAST_WIDTH / 4, chart
            assert chart["texts"] > 0, chart
            assert chart["least"] >= LEAST_TEXT, chart
            assert chart["outside"] == 0, chart
    papers = {view["colorScheme"]: view["paper"] for view in found["views"]}
    assert papers["light"] != papers["dark"]
    for name in ("390-light.png", "390-dark.png", "1440-light.png", "1440-dark.png", "print.pdf"):
        assert (KEPT / name).stat().st_size > 10_000
