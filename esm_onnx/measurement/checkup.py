"""A short check of this machine before a long session: its state, its noise, and what may be expected of it."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from esm_onnx.architectures import Space
from esm_onnx.errors import WorkError
from esm_onnx.export import ExportSettings, write_subnet
from esm_onnx.measurement.calibration import establish
from esm_onnx.measurement.doctor import Advice, advise
from esm_onnx.measurement.machine import ProcessLoad, Share, busiest, read_machine, read_processes, read_usage
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.record import REFERENCE, Measurement, as_measurement
from esm_onnx.measurement.references import choose_calibration, draw_references
from esm_onnx.measurement.runtime import RuntimeSettings, find_runtime
from esm_onnx.measurement.session import written_for
from esm_onnx.measurement.worker import Lost, Worker

IDLE_S = 2.0
"""Seconds of sleep in which others are watched."""
MANY_DROPPED = 0.2
"""Share of contaminated runs from which on they are worth a note: more than trimming would bear at one end."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What repeated measurements of the references show.

    Attributes:
        rounds: how often each reference was measured.
        plain_spread, paired_spread: relative standard deviation of the trimmed mean and of the paired latency of one
            reference, pooled over the references, as shares.
        error: median half-width of the 95 % intervals, as a share; None where there were too few runs for one.
        speeds: least and greatest speed of the device, of 1 for the calibration subnet's nominal latency.
        contaminated: share of the runs that were left out.
        dropped: share of them that were for each reason, as `Reason.words`; a run may have more than one.
        unknown: measurements that had too few clean runs.
        seconds: mean time of one measurement, export and loading included, in s.
    """

    rounds: int
    plain_spread: float | None
    paired_spread: float | None
    error: float | None
    speeds: tuple[float, float]
    contaminated: float
    dropped: Mapping[str, float]
    unknown: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that the doctor found, as `esm-onnx doctor` prints it."""

    target: str
    advice: tuple[Advice, ...]
    noise: Noise

    def hours(self, subnets: int, protocol: Protocol) -> float:
        """How long so many subnets will take, in hours, references included."""
        rounds = 2 * -(-subnets // protocol.session_size) + subnets / protocol.reference_every
        return self.noise.seconds * (subnets + rounds * protocol.references) / 3600

    def as_json(self) -> dict[str, Any]:
        """The findings as JSON data."""
        return asdict(self)


def check_up(
    space: Space,
    runtime: str,
    *,
    folder: Path,
    settings: RuntimeSettings,
    export: ExportSettings,
    protocol: Protocol,
    seconds: float,
    report: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Checkup:
    """Looks at the machine, then measures the references again and again until the time is over.

    Raises:
        WorkError: a reference or the calibration subnet cannot be measured.
    """
    end = clock() + seconds
    runtime = find_runtime(runtime).name
    settings, export = replace(settings, folder=str(folder)), written_for(runtime, settings, export)
    for reference in draw_references(space, protocol):  # a wrong [export] is told before a process is started
        write_subnet(space, reference, folder, export)
    with Worker(runtime, settings, memory_bytes=protocol.memory_bytes) as worker:
        report("watching what else runs")
        share, loads = watch_others(sleep, ignore=(os.getpid(), worker.process_id))
        findings = advise(read_machine(), share, loads, settings.threads)
        report("measuring references")
        measurements = list(_measure(worker, space, folder, export, protocol, clock, end))
        device = worker.facts["device"]
    noise = summarise(measurements)
    findings += judge_noise(noise, protocol)
    return Checkup(f"{runtime} {device}", tuple(findings), noise)


def watch_others(sleep: Callable[[float], None], *, ignore: tuple[int, ...]) -> tuple[Share | None, list[ProcessLoad]]:
    """How others use this machine while this process sleeps."""
    usage, processes = read_usage(), read_processes()
    sleep(IDLE_S)
    later, afterwards = read_usage(), read_processes()
    share = later.since(usage) if usage is not None and later is not None else None
    loads = busiest(processes, afterwards, ignore=ignore) if processes is not None and afterwards is not None else []
    return share, loads


def _measure(
    worker: Worker,
    space: Space,
    folder: Path,
    export: ExportSettings,
    protocol: Protocol,
    clock: Callable[[], float],
    end: float,
) -> list[Measurement]:
    """Rounds of the references, paired with the calibration subnet; two at least."""
    references = draw_references(space, protocol)
    architecture = choose_calibration(space)
    beside = write_subnet(space, architecture, folder, export).path
    time_beside = partial(worker.time, warmup=protocol.warmup, deadline_s=protocol.deadline_s, calibration=beside)
    subnets = [write_subnet(space, reference, folder, export).path for reference in references]
    calibration = establish(worker, architecture, beside, subnets, protocol, time.time())
    found: list[Measurement] = []
    while len(found) < 2 * len(references) or clock() < end:
        for reference in references:
            start = clock()
            reply = time_beside(
                write_subnet(space, reference, folder, export).path,
                runs=protocol.runs,
                target_error=protocol.target_error,
                nominal_ns=1e6 * calibration.nominal_ms,
            )
            if isinstance(reply, Lost):
                raise WorkError(f"a reference cannot be measured ({reply.kind}): {reply.message}")
            elapsed_s = clock() - start
            found.append(as_measurement(reference, REFERENCE, reply, calibration, time.time(), elapsed_s))
    return found


def summarise(measurements: list[Measurement]) -> Noise:
    """The noise that measurements of references show."""
    known = [measurement for measurement in measurements if measurement.is_known]
    runs = sum(len(measurement.runs_ms) for measurement in measurements)
    dropped: Counter[str] = Counter()
    for measurement in measurements:
        dropped.update({reason.words: count for reason, count in measurement.reasons.items()})
    error = median(measurement.error for measurement in measurements)
    speeds = [measurement.speed for measurement in measurements]
    return Noise(
        rounds=len(measurements) // len({measurement.architecture for measurement in measurements}),
        plain_spread=noise_floor([m.plain() for m in measurements]),
        paired_spread=noise_floor(known),
        error=error if math.isfinite(error) else None,
        speeds=(min(speeds), max(speeds)),
        contaminated=sum(bits != 0 for measurement in measurements for bits in measurement.dropped) / runs,
        dropped={reason: count / runs for reason, count in dropped.most_common()},
        unknown=len(measurements) - len(known),
        seconds=sum(measurement.elapsed_s for measurement in measurements) / len(measurements),
    )


def judge_noise(noise: Noise, protocol: Protocol) -> list[Advice]:
    """What the noise means for a session."""
    found = []
    tolerance = f"{100 * protocol.tolerance:g} %"
    if noise.paired_spread is None:
        found.append(Advice("warning", "noise", "no reference had enough clean runs twice", "Stop what else computes."))
    elif noise.paired_spread > protocol.tolerance / 2:
        found.append(
            Advice(
                "warning",
                "noise",
                f"repeated measurements scatter by {100 * noise.paired_spread:.1f} %, tolerated is {tolerance} for the "
                f"mean of {protocol.references}",
                "Expect subjects to be measured again; more --references, or a greater --tolerance, make it rarer.",
            )
        )
    else:
        found.append(Advice("ok", "noise", f"repeated measurements agree within {100 * noise.paired_spread:.1f} %"))
    wanted = protocol.target_error
    if noise.error is not None and wanted is not None and noise.error > wanted:
        finding = f"half of the measurements are not known within {100 * wanted:g} % after {protocol.runs} runs"
        found.append(Advice("note", "exactness", finding, "Ask for less with --target-error, or allow more --runs."))
    if noise.plain_spread is not None and noise.plain_spread > protocol.tolerance:
        finding = f"plain timing scatters by {100 * noise.plain_spread:.1f} %, tolerated is {tolerance}"
        found.append(
            Advice("note", "plain timing", finding, "Stay with paired timing; --preset paper would fail here.")
        )
    if noise.contaminated > MANY_DROPPED:
        reasons = ", ".join(f"{reason} {100 * share:.0f} %" for reason, share in noise.dropped.items())
        found.append(Advice("note", "contaminated runs", reasons, "They are left out; it costs time."))
    return found
