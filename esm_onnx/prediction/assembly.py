"""From a store to a dataset: the accepted sessions of one space on one target."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from esm_onnx.architectures import Architecture, Space, genome_length, to_genome
from esm_onnx.architectures.blocks import is_block_space
from esm_onnx.errors import InputError
from esm_onnx.measurement.quality import noise_floor
from esm_onnx.measurement.quantities import LATENCY, Quantity
from esm_onnx.measurement.record import SUBJECT, Measurement
from esm_onnx.measurement.store import Content, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.dataset import Dataset
from esm_onnx.prediction.lookup import find_table
from esm_onnx.prediction.lookup_encoding import NO_TABLE, Lookup

NO_SUM = "lookup tables are of latencies, and what is predicted is {}"


def choose(
    store: Store, *, space: Space | None = None, target: str | None = None, quantity: Quantity = LATENCY
) -> Content:
    """The one space and target of a store that are meant.

    Args:
        space: None where the store holds one space only, not counting the blocks of lookup tables.
        target: its name, or the beginning of its digest; None where the store holds one target only.
        quantity: what must have been measured; nothing else counts.

    Raises:
        InputError: nothing fits, or more than one pair does; the message lists what there is.
    """
    counted = store.contents(fields_beside(quantity))
    contents = [c for c in counted if c.measurements and (space is not None or not is_block_space(c.space))]
    fitting = [content for content in contents if content.matches(space, target)]
    fitting = [content for content in fitting if content.target.name == target] or fitting
    if len(fitting) == 1:
        return fitting[0] if space is None else replace(fitting[0], space=space)
    there = "; ".join(
        f"{c.space.name} on {c.target.name!r} ({c.target.digest[:8]}): {c.measurements}" for c in fitting or contents
    )
    if not contents and quantity != LATENCY:
        raise InputError(
            f"no accepted measurement has {quantity.field}: measure with `esm-onnx profile --quantity {quantity.name}`",
            file=store.path,
        )
    if not contents:
        raise InputError("no accepted measurement: measure with `esm-onnx profile`, or `data import`", file=store.path)
    asked = (f"space {space.name!r}" if space else "any space") + (f" on target {target!r}" if target else "")
    problem = "more than one set of measurements" if fitting else "no measurements"
    raise InputError(
        f"{problem} of {asked}; choose with --space, and --target NAME or the digits in brackets. There are {there}",
        file=store.path,
    )


def assemble(
    store: Store,
    space: Space,
    target: Target,
    *,
    only: Collection[Architecture] | None = None,
    quantity: Quantity = LATENCY,
) -> Dataset:
    """The dataset of a space on a target: one row for each architecture, the mean of its accepted measurements.

    Args:
        only: take no other architectures, and those in this order; None takes all in the order of measuring.
        quantity: what is to be predicted; measurements without it are left out.
    """
    lookup = find_table(store, space, target) if quantity == LATENCY else NO_SUM.format(quantity.name)
    return dataset_of(store.measurements(space, target), space, target, only=only, quantity=quantity, lookup=lookup)


def dataset_of(
    records: Iterable[Measurement],
    space: Space,
    target: Target,
    *,
    only: Collection[Architecture] | None = None,
    quantity: Quantity = LATENCY,
    lookup: Lookup | str = NO_TABLE,
) -> Dataset:
    """The dataset of measurements that stand, subjects and references; see `assemble`."""
    measured = [found for each in records if (found := each.of(quantity.field)) is not None]
    latencies: dict[Architecture, list[float]] = {}
    for measurement in measured:
        if measurement.role == SUBJECT:
            latencies.setdefault(measurement.architecture, []).append(measurement.latency_ms)
    rows = list(latencies) if only is None else [architecture for architecture in only if architecture in latencies]
    genomes = np.array([to_genome(space, row) for row in rows], dtype=np.int64).reshape(len(rows), genome_length(space))
    return Dataset(
        space=space,
        genomes=genomes,
        latency_ms=np.array([np.mean(latencies[row]) for row in rows], dtype=np.float64),
        target={"name": target.name, "facts": dict(target.facts)},
        noise_floor=noise_floor(measured),
        lookup=lookup,
        quantity=quantity.field,
    )


def fields_beside(quantity: Quantity) -> tuple[str, ...]:
    """What a measurement must hold beside its latency for that quantity."""
    return () if quantity == LATENCY else (quantity.field,)
