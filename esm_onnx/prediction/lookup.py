"""From a store to a lookup table: the parts of a space that were measured as its architectures were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from esm_onnx.architectures import Architecture, Export, Space
from esm_onnx.architectures.blocks import block_space, table_entries
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, export_facts
from esm_onnx.measurement.layers import WITHIN_NETWORKS
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import Store
from esm_onnx.measurement.target import Fact, Target
from esm_onnx.prediction.lookup_encoding import ENTRIES, Lookup


def read_table(store: Store, space: Space, target: Target) -> Lookup:
    """The lookup table of a space for a target: the mean of each entry's accepted measurements.

    Its entries were measured on the same device, by the same runtime and with the same settings: all facts of their
    target are this one's, but for the writer, whose settings say that it wrote parts of these very networks. Where not
    all of them were timed by themselves, those that were timed within networks (`layers`) will do if they are whole.

    Raises:
        InputError: entries are missing, with their number and the command that measures them; or the target's
            architectures were not written by a writer of ours.
    """
    space = _as_measured(space, target)
    blocks = block_space(space)
    written = export_facts(blocks, ExportSettings())
    facts = {**target.facts, **{name: written[name] for name in ("writer", "writer_settings")}}
    entries = table_entries(space)
    timed = _read(store, blocks, facts)
    if missing := [entry for entry in entries if entry not in timed.latencies]:
        within = _read(store, blocks, {**facts, **WITHIN_NETWORKS})
        if not within.latencies.keys() >= set(entries):
            failures = f", {count} of them failed" if (count := len(timed.failed.intersection(missing))) else ""
            raise InputError(
                f"{len(missing)} of the {len(entries)} entries of the lookup table of {space.name!r} on "
                f"{target.name!r} are missing{failures}: measure them with `esm-onnx profile --blocks --space "
                f"{space.name} --runtime {facts.get('runtime')} --store {store.path}` and the options that the "
                "architectures were measured with"
            )
        timed = within
    columns = tuple(ENTRIES.columns(space))
    options = sum(len(feature.options) for feature in space.network)
    table = np.array([np.mean(timed.latencies[entry]) for entry in entries])
    return Lookup(columns, table.reshape(-1, len(columns) - options), timed.seconds)


@dataclass(frozen=True)
class _Timed:
    """What a store holds of the blocks on targets of some facts: latencies in ms, failures, and the time it took."""

    latencies: dict[Architecture, list[float]]
    failed: set[Architecture]
    seconds: float


def _read(store: Store, blocks: Space, facts: Mapping[str, Fact]) -> _Timed:
    latencies: dict[Architecture, list[float]] = {}
    failed: set[Architecture] = set()
    seconds = 0.0
    for found in _targets(store, blocks, facts):
        seconds += measuring_time_s(store, blocks, found)
        failed |= {failure.architecture for failure in store.failures(blocks, found)}
        for measurement in store.measurements(blocks, found, role=SUBJECT):
            latencies.setdefault(measurement.architecture, []).append(measurement.latency_ms)
    return _Timed(latencies, failed, seconds)


def find_table(store: Store, space: Space, target: Target) -> Lookup | str:
    """The lookup table, or why there is none: what `read_table` says."""
    try:
        return read_table(store, space, target)
    except InputError as error:
        return error.message


def measuring_time_s(store: Store, space: Space, target: Target) -> float:
    """What it took to measure a space on a target, in seconds: export, loading and runs of subjects and of references.

    Sessions that were rejected, or are not finished, count too. 0 for what was imported: nobody knows.
    """
    sessions = [number for number, *_ in store.sessions(space, target)]
    return sum(record.elapsed_s for number in sessions for record in store.measurements(space, session=number))


def _as_measured(space: Space, target: Target) -> Space:
    """The space with the [export] that the target's facts tell of: it may have been another than now."""
    try:
        export = Export(str(target.facts["writer"]), dict(json.loads(str(target.facts["writer_settings"]))))
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"the facts of {target.name!r} do not tell how its architectures were written, so their blocks cannot be "
            f"measured alike: a lookup table needs architectures that `esm-onnx profile` measured"
        ) from None
    return replace(space, export=export)


def _targets(store: Store, blocks: Space, facts: Mapping[str, Fact]) -> list[Target]:
    """The targets of these facts, whatever they are called."""
    contents = [content for content in store.contents() if content.matches(blocks, None)]
    return [content.target for content in contents if content.target.facts == facts]
