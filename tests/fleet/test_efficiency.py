"""How much of what several devices could do together they do."""

from __future__ import annotations

from collections import Counter

import pytest
from fleet.conftest import Site

from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

TIMED = """
import time
from contextlib import contextmanager
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.runtime import Runtime


class Timed(Runtime):
    name = "timed"
    now = 0

    def facts(self):
        return {"device": self.settings.device}

    @contextmanager
    def load(self, subnet):
        run_ms = int(self.settings.device)

        def infer():
            time.sleep(run_ms / 1000)
            self.now += 1_000_000 * run_ms

        yield infer

    def clock(self):
        return self.now

    def counters(self):
        return Counters()
"""

RUNS_MS: dict[str, str | None] = {"a": "33", "b": "42", "c": "55", "d": "67"}
INFERENCES = 6
"""Of each measurement: five runs, and one before them whose outputs are looked at."""


def test_four_devices_of_different_speed_are_kept_busy(site: Site) -> None:
    """Devices of 198 to 402 ms a measurement, which is long beside what the head and the machine add to it.

    Without any pause they would measure as many in the time of the busiest as their rates sum up to. What is compared
    with that has its references among it: two for each device, a round at the beginning and one at the end, which no
    other could measure for it. They are eight of 188; not counted as work, the efficiency is 4 % lower. Equal shares
    would give 0.69. No clock but the devices' own is looked at.
    """
    site.install("timed", TIMED)
    protocol = {"runs": INFERENCES - 1, "warmup": 0, "reference_every": 1000, "session_size": 1000}
    with site.head(RUNS_MS, count=180, runtime="timed", **protocol) as head:
        found = site.ended(head)
    assert (found["left"], found["lost"]) == (0, {})
    assert len(site.assert_each_stands_once(180)) == 4
    measured, device_s = Counter[str](), dict[str, float]()
    with Store(site.folder / "esm.db") as store:
        for content in store.contents():
            for record in store.measurements(tiny_space(), content.target):
                device = str(content.target.facts["device"])
                measured[device] += 1
                device_s[device] = INFERENCES * record.latency_ms / 1000
    assert device_s == pytest.approx({run_ms: INFERENCES * int(run_ms or 0) / 1000 for run_ms in RUNS_MS.values()})
    assert measured.total() == 180 + 2 * 4
    busiest_s = max(measured[device] * device_s[device] for device in measured)
    assert measured.total() / (busiest_s * sum(1 / each for each in device_s.values())) >= 0.9
