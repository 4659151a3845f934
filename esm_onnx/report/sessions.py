"""What was measured, and whether it can be believed: time, drift of the references, runs that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.session_report import ReferencePoint, SessionReport
from esm_onnx.report.chart import Chart, Row, Table, counted, percent
from esm_onnx.report.drawing import BLUE, FAINT, INK, colour_of, count_along, dots, legend_above, marker_of, one_plot
from esm_onnx.report.material import Material

HATCHES = ("", "////", "----", "xxxx")  # of lines: each dot of a dotted one is a path of its own
PURPOSES = ("subjects", "references", "calibration", "rest")


def time_spent(material: Material) -> Iterator[Chart]:
    """Where the time went, with the protocol and the failures beside it; of what was measured here."""
    for measured in material.measured:
        sessions = [session for session in measured.sessions if session.protocol]
        spent = sum((Counter(session.spent_s) for session in sessions), Counter[str]())
        total = spent.total()
        if not total:
            continue
        purpose, seconds = spent.most_common(1)[0]
        failed = sum(sum(session.failures.values()) for session in sessions)
        stand = counted(len(measured.dataset), "architecture stands", "architectures stand")
        yield Chart(
            "time",
            measured.name,
            f"{stand} from {counted(len(sessions), 'session')}, {counted(failed, 'failure')}; "
            f"{percent(seconds / total, 0)} of {_duration(total)} went into {_of(purpose)}.",
            Table(
                "Sessions",
                ("session", "status", "subjects", "stand", "failures", *(f"{purpose}, s" for purpose in PURPOSES)),
                [_session_row(session) for session in sessions],
            ),
            one_plot(partial(_draw_time, sessions)),
            tuple(_tables(sessions)),
            height=0.5,
        )


def _of(purpose: str) -> str:
    return {
        "subjects": "timed runs of subjects",
        "references": "timed runs of references",
        "calibration": "runs of the calibration subnet",
        "rest": "export, loading and untimed runs",
    }[purpose]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _session_row(session: SessionReport) -> Row:
    spent = (round(session.spent_s.get(purpose, 0.0), 3) for purpose in PURPOSES)
    failures = sum(session.failures.values())
    return session.number, session.status, session.subjects, session.standing, failures, *spent


def _tables(sessions: Sequence[SessionReport]) -> Iterator[Table]:
    protocols = {str(session.protocol): session.protocol for session in sessions}
    for number, protocol in enumerate(protocols.values(), 1):
        caption = "Protocol" if len(protocols) == 1 else f"Protocol {number}"
        yield Table(caption, ("setting", "value"), [(k, _plain(v)) for k, v in sorted(protocol.items())])
    failures = sum((Counter(session.failures) for session in sessions), Counter[str]())
    if failures:
        yield Table("Failures by kind", ("kind", "count"), list(failures.most_common()))


def _plain(value: object) -> str | int | float | None:
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _draw_time(sessions: Sequence[SessionReport], axes: Axes) -> None:
    names = [purpose for purpose in PURPOSES if any(session.spent_s.get(purpose) for session in sessions)]
    below, edges = np.zeros(len(sessions)), np.arange(len(sessions) + 1) + 0.5
    for place, name in enumerate(names):
        above = below + [session.spent_s.get(name, 0.0) for session in sessions]
        colour, hatch = colour_of(place), HATCHES[place]
        axes.stairs(above, edges, baseline=below, fill=True, label=name, fc=colour, ec="white", hatch=hatch, lw=0)
        below = above
    axes.set(xlabel="session", ylabel="seconds", xlim=(0.5, len(sessions) + 0.5))
    count_along(axes.xaxis)
    axes.grid(axis="x", visible=False)
    legend_above(axes, 2)


def drift(material: Material) -> Iterator[Chart]:
    """Each reference through the sessions (ESM, Fig. 6)."""
    for measured in material.measured:
        points = _placed(measured.sessions)
        numbers = {point.reference for _, _, point in points}
        if len(points) < 2 * max(len(numbers), 1):  # one round shows no drift
            continue
        known = {number: _level(points, number) for number in numbers}
        moved = [
            (at, session, point, 100 * (point.latency_ms / known[point.reference] - 1)) for at, session, point in points
        ]
        tolerances = {s.protocol["tolerance"] for s in measured.sessions if "tolerance" in s.protocol}
        tolerance = 100 * tolerances.pop() if len(tolerances) == 1 else None
        yield Chart(
            "drift",
            measured.name,
            _drift_sentence(moved, tolerance),
            Table(
                "References",
                ("minutes", "session", "reference", "depth", "latency, ms", "off, %", "speed", "stands"),
                [
                    (
                        at,
                        session,
                        p.reference,
                        p.depth,
                        p.latency_ms,
                        off,
                        p.speed,
                        "yes" if p.stands else "no",
                    )
                    for at, session, p, off in moved
                ],
            ),
            one_plot(partial(_draw_drift, moved, tolerance)),
        )


Placed = tuple[float, int, ReferencePoint]
"""Minutes, number of the session, and what was measured."""
Moved = tuple[float, int, ReferencePoint, float]
"""The same, and how far it is off the reference's median, in %."""


def _drift_sentence(moved: Sequence[Moved], tolerance: float | None) -> str:
    standing = [abs(off) for _, _, point, off in moved if point.stands]
    limit = "" if tolerance is None else f" (tolerance {tolerance:g} %)"
    fallen = len(moved) - len(standing)
    rest = f"; {fallen} of {counted(len(moved), 'measurement')} of references do not stand" if fallen else ""
    return (
        f"References that stand wander by {max(standing):.1f} % at most{limit}{rest}."
        if standing
        else (f"None of {counted(len(moved), 'measurement')} of references stands{limit}.")
    )


def _placed(sessions: Sequence[SessionReport]) -> list[Placed]:
    """Every measurement of a reference with the minutes of measuring before it, breaks between sessions left out."""
    placed: list[Placed] = []
    before = 0.0
    for session in sessions:
        placed += [(before + point.at_s / 60, session.number, point) for point in session.references]
        before = placed[-1][0] if placed else 0.0
    return placed


def _level(points: Sequence[Placed], reference: int) -> float:
    """The median of a reference, of its measurements that stand where there are any."""
    own = [point for _, _, point in points if point.reference == reference]
    return float(np.median([point.latency_ms for point in own if point.stands] or [point.latency_ms for point in own]))


def _draw_drift(moved: Sequence[Moved], tolerance: float | None, axes: Axes) -> None:
    if tolerance is not None:
        axes.axhspan(-tolerance, tolerance, color=BLUE, alpha=0.12, linewidth=0)
    starts = [at for (at, session, *_), (_, before, *_) in zip(moved[1:], moved, strict=False) if session != before]
    for at in starts[:40]:
        axes.axvline(at, color=FAINT, linewidth=0.6, linestyle=":")
    for number in sorted({point.reference for _, _, point, _ in moved}):
        own = [(at, off, point) for at, _, point, off in moved if point.reference == number]
        look = {"colour": colour_of(number - 1), "marker": marker_of(number - 1)}
        for stands in (True, False):
            shown = [(at, off) for at, off, point in own if point.stands is stands]
            label = f"depth {own[0][2].depth}" if stands else None
            x, y = [at for at, _ in shown], [off for _, off in shown]
            dots(axes, x, y, **look, size=4, opacity=0.9, hollow=not stands, label=label)
    worst = max(abs(off) for *_, off in moved)
    reach = max(1.25 * worst, min(1.15 * (tolerance or 0), 3 * worst)) or 1  # a wide tolerance shall hide nothing
    axes.set(xlabel="minutes of measuring", ylabel="off its median, %", ylim=(-reach, reach))
    legend_above(axes, 4)


def dropped_runs(material: Material) -> Iterator[Chart]:
    """Contaminated runs by reason, and the noise that is left."""
    for measured in material.measured:
        dropped = sum((Counter(session.dropped) for session in measured.sessions), Counter[str]())
        runs = sum(session.runs for session in measured.sessions)
        if not dropped or not any(session.protocol for session in measured.sessions):
            continue
        floor = noise_floor(measured.records)
        rows: list[Row] = [(reason, count, 100 * count / runs) for reason, count in dropped.most_common()]
        first, share = rows[0][0], dropped.most_common(1)[0][1] / runs
        yield Chart(
            "dropped",
            measured.name,
            f"{percent(share)} of {runs:,} runs are contaminated as {first}, more than for any other reason"
            + (
                f"; repeated measurements still differ by {percent(floor)} (noise floor)." if floor is not None else "."
            ),
            Table("Contaminated runs; a run may have several reasons", ("reason", "runs", "share, %"), rows),
            one_plot(partial(_draw_dropped, rows)),
            height=0.2 + 0.07 * len(rows) + 0.1,
        )


def _draw_dropped(rows: Sequence[Row], axes: Axes) -> None:
    names = [str(row[0]) for row in rows][::-1]
    shares = [float(row[2] or 0) for row in rows][::-1]
    axes.barh(names, shares, 0.6, color=BLUE)
    for place, share in enumerate(shares):
        axes.annotate(f" {share:.2g} %", (share, place), va="center", fontsize=7.5, color=INK)
    axes.set(xlabel="share of all runs, %", xlim=(0, 1.2 * max(shares)))
    axes.grid(axis="y", visible=False)
