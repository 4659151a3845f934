"""The verdict on a session, as the store keeps it."""

from __future__ import annotations

from collections.abc import Iterator

from esm_onnx.architectures import Architecture, Space
from esm_onnx.measurement.protocol import Protocol
from esm_onnx.measurement.quality import Level, Quality, judge, level_of
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Measurement
from esm_onnx.measurement.store import ACCEPTED, OPEN, REJECTED, Store
from esm_onnx.measurement.target import Target

BOARD = "board"
"""In a session's provenance: which of several devices of one kind measured."""


def known_level(store: Store, space: Space, target: Target, board: str | None = None) -> Level | None:
    """What the references of a board have shown in accepted sessions: with pairing, as plain ones have another level.

    None where there were none. No open session changes it.
    """
    return level_of(record for record in _references(store, space, target, board) if record.pairing is not None)


def close_session(
    store: Store, space: Space, target: Target, session: int, protocol: Protocol, board: str | None = None
) -> tuple[Quality, str]:
    """Judges a session, beside what the references of its board have been before, and writes the verdict."""
    known = known_level(store, space, target, board)
    quality = judge(list(store.measurements(space, session=session)), protocol, known)
    status = ACCEPTED if quality.accepted else REJECTED
    store.close_session(
        session,
        status=status,
        verdict=str(quality),
        fallen=[i for i, stands in enumerate(quality.stands) if not stands] if quality.accepted else (),
        shifts={i: shift for i, shift in enumerate(quality.shifts) if shift != 1.0},
    )
    return quality, status


def standing_subjects(
    store: Store, space: Space, target: Target, session: int, protocol: Protocol
) -> set[Architecture]:
    """What stands of a closed session, and holds the quantities that a protocol asks for."""
    records = store.measurements(space, target, session=session, role=SUBJECT)
    return {record.architecture for record in records if record.quantities.keys() >= set(protocol.fields)}


def open_sessions(store: Store, space: Space, target: Target) -> list[tuple[int, Protocol, str | None]]:
    """Number, protocol and board of each session that an interrupted command left open."""
    return [
        (session, Protocol.from_json(provenance["protocol"]), provenance.get(BOARD))
        for session, status, provenance, _ in store.sessions(space, target)
        if status == OPEN and "protocol" in provenance
    ]


def _references(store: Store, space: Space, target: Target, board: str | None) -> Iterator[Measurement]:
    if board is None:
        yield from store.measurements(space, target, role=REFERENCE)
        return
    for session, _, provenance, _ in list(store.sessions(space, target)):
        if provenance.get(BOARD) == board:
            yield from store.measurements(space, target, session=session, role=REFERENCE)
