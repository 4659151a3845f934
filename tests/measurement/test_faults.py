"""A session among faults: what can be measured is, what cannot is tried twice, and nothing is left behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from plugins import choose_faults, install_faulty, loads_of, started_in

from esm_onnx.architectures import Architecture, Space, sample
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.runtime import RuntimeSettings
from esm_onnx.measurement.session import Outcome, Profiler, Progress
from esm_onnx.measurement.store import Store

PROTOCOL = Protocol(runs=10, warmup=1, references=2, reference_every=25, deadline_s=1)

KINDS = {
    "load": ("load", 12),
    "run": ("run", 11),
    "nan": ("nan", 11),
    "memory": ("memory", 4),
    "segfault": ("crash", 3),
    "segfault with a grandchild": ("crash", 1),
    "abort": ("crash", 3),
    "exit": ("exit", 3),
    "hang": ("deadline", 1),
    "hang with a grandchild": ("deadline", 1),
}
"""For each fault the kind of its failure, and how many subnets shall have it: 50 in all."""


def faults_of(space: Space, architectures: list[Architecture], plugin: Path, folder: Path) -> dict[str, str]:
    """Gives the architectures the faults above, in no order; by digest of their subnets."""
    faults = [fault for fault, (_, count) in KINDS.items() for _ in range(count)]
    Random(1).shuffle(faults)
    subnets = [write_subnet(space, architecture, folder, ExportSettings()).path for architecture in architectures]
    return choose_faults(plugin, dict(zip(subnets, faults, strict=True)))


def profile(
    space: Space, store: Store, folder: Path, architectures: list[Architecture], *, stop_at: int | None = None
) -> Outcome:
    def report(progress: Progress) -> None:
        if progress.done == stop_at:
            raise KeyboardInterrupt

    settings = RuntimeSettings(device="chosen")
    with Profiler(
        space, store, "faulty", folder=folder, settings=settings, protocol=PROTOCOL, report=report
    ) as profiler:
        return profiler.profile(architectures)


def test_fifty_faults_among_a_hundred_subnets_leave_fifty_measurements_and_fifty_failures(
    tiny: Space, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, folder = tmp_path / "plugin", tmp_path / "subnets"
    plugin.mkdir()
    install_faulty(plugin, monkeypatch)
    settings = RuntimeSettings(device="chosen")
    choose_faults(plugin, {})
    with Profiler(tiny, store, "faulty", folder=folder, settings=settings, protocol=PROTOCOL) as profiler:
        spared = set(profiler.references)
    # Only deep ones fail: what watches a session, and a calibration subnet, must not.
    drawn = [a for a in sample(tiny, 140, strategy="random", rng=Random(0)) if a not in spared and a.depth > 3][:100]
    bad = faults_of(tiny, drawn[::2], plugin, folder)
    assert len(drawn) == 100
    assert len(bad) == 50

    with pytest.raises(KeyboardInterrupt):
        profile(tiny, store, folder, drawn, stop_at=30)
    assert started_in(plugin) == []
    outcome = profile(tiny, store, folder, drawn)
    assert started_in(plugin) == []

    assert (outcome.measured + outcome.already_measured, len(outcome.failures)) == (50, 50)
    assert {failure.architecture for failure in outcome.failures} == set(drawn[::2])
    kinds: Counter[str] = Counter()
    for kind, count in KINDS.values():
        kinds[kind] += count
    assert Counter(failure.kind for failure in outcome.failures) == kinds

    again = profile(tiny, store, folder, drawn)
    assert (again.measured, again.already_measured, len(again.failures)) == (0, 50, 50)
    loads = Counter(loads_of(plugin))
    assert {digest: loads[digest] for digest in bad} == dict.fromkeys(bad, 2)
