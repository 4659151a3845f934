"""Lookup tables: from a store, the parts of a space that were measured as its architectures were; from a file, the
layers that Once-for-All measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from esm_onnx.architectures import Architecture, Export, Options, Space, divide
from esm_onnx.architectures.blocks import FIRST, HEAD, PART, REST, STEM, block_space, is_block_space, table_entries
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.export import ExportSettings, export_facts
from esm_onnx.measurement.importers_csv import few
from esm_onnx.measurement.importers_lut import LookupTable
from esm_onnx.measurement.layers import WITHIN_NETWORKS
from esm_onnx.measurement.record import SUBJECT
from esm_onnx.measurement.store import Content, Store
from esm_onnx.measurement.target import Fact, Target
from esm_onnx.prediction.conformal import Interval
from esm_onnx.prediction.lookup_encoding import ENTRIES, Lookup
from esm_onnx.prediction.lut import lut_of
from esm_onnx.prediction.predictor import Predictor


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
                f"{target.name!r} are missing{failures}: measure them with `esm-onnx profile --lookup-table --space "
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


def table_of_layers(table: LookupTable, space: Space) -> tuple[Space, Lookup]:
    """The lookup table of a space from the layers that a file holds.

    Returns:
        The space with those resolutions alone that are in the file, and its table. Each entry is taken from a network
        whose blocks all have its options.

    Raises:
        InputError: the file lacks a layer of that space, or all of its resolutions.
    """
    space = _with_resolutions(space, {resolution for resolution, _ in table.entries_ms})
    parts_ms: dict[tuple[Options, Options], dict[str, float]] = {}
    latencies = []
    for entry in table_entries(space):
        (block,) = entry.units[0]
        options = Options({feature.name: block[feature.name] for feature in space.features})
        if (options, entry.network) not in parts_ms:
            host = Architecture(space.name, tuple((options,) * slots for slots in space.slots), entry.network)
            parts_ms[options, entry.network] = table.parts_ms(space, host)
        latencies.append(parts_ms[options, entry.network][_place(str(block[PART]))])
    columns = tuple(ENTRIES.columns(space))
    options_of_network = sum(len(feature.options) for feature in space.network)
    return space, Lookup(columns, np.array(latencies).reshape(-1, len(columns) - options_of_network), 0.0)


def _place(part: str) -> str:
    """The block of the network that an entry is taken from: a unit's first or second."""
    return part if part in (STEM, HEAD) else part.replace(FIRST, "b1").replace(REST, "b2")


def _with_resolutions(space: Space, held: Collection[int]) -> Space:
    """The space with no other resolutions than these; as it is where they are no option."""
    network = tuple(
        replace(feature, options=tuple(option for option in feature.options if option in held))
        if feature.name == "resolution"
        else feature
        for feature in space.network
    )
    if not all(feature.options for feature in network):
        there = few([str(resolution) for resolution in sorted(held)])
        raise InputError(f"resolutions are {there}, expected some of space {space.name!r}: it is another's table")
    return replace(space, network=network)


def measured_table(store: Store, space: Space | None, target: str | None) -> tuple[Space, Target, Lookup]:
    """The one table that is meant of those in a store, with the space that it is for, and what it was measured on.

    Args:
        space: None where the store holds one table only.
        target: its name, or the beginning of its digest; None where there is one only.

    Raises:
        InputError: nothing fits, more than one table does, or entries are missing.
    """
    there = {
        (whole.fingerprint, json.dumps(dict(alike.facts), sort_keys=True)): (whole, alike)
        for content in store.contents()
        if is_block_space(content.space) and content.matches(None, target) and content.measurements
        for whole, alike in [_what_it_is_for(content)]
        if space is None or whole.fingerprint == space.fingerprint
    }
    if len(there) == 1:
        ((whole, alike),) = there.values()
        return whole, alike, read_table(store, whole, alike)
    found = "; ".join(f"{whole.name} on {alike.name!r}" for whole, alike in there.values())
    if found:
        raise InputError(f"more than one lookup table, choose with --space and --target: {found}", file=store.path)
    raise InputError(
        "no lookup table of that space and target: measure one with `esm-onnx profile --lookup-table`", file=store.path
    )


def _what_it_is_for(content: Content) -> tuple[Space, Target]:
    """The space whose parts were measured, and the target as its architectures would have it."""
    whole = space_from_table(content.space.export.settings["of"] if content.space.export else None)
    written = export_facts(whole, ExportSettings())
    facts = {name: fact for name, fact in content.target.facts.items() if name not in WITHIN_NETWORKS}
    own = {name: written[name] for name in ("writer", "writer_settings")}
    return whole, Target(content.target.name, {**facts, **own})


def predictor_of(space: Space, lookup: Lookup, target: Target) -> Predictor:
    """A lookup table as a predictor: nothing is fitted, so nothing is known of its accuracy, and it promises no
    bounds."""
    content = hashlib.sha256(space.fingerprint.encode() + np.ascontiguousarray(lookup.latency_ms, "<f8").tobytes())
    return Predictor(
        space=space,
        encoding=ENTRIES.name,
        surrogate=lut_of(lookup),
        interval=Interval.boundless(divide(space)),
        target={"name": target.name, "facts": dict(target.facts)},
        trained=(),
        calibrated=(),
        dataset=content.hexdigest(),
        evaluation=None,
    )


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
