"""Subnets: architectures written as ONNX files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from esm_onnx.architectures import Architecture, Space, to_genome
from esm_onnx.errors import InputError, WorkError
from esm_onnx.export.pool import Allotment, grow
from esm_onnx.export.quantized import quantiser, write_quantized
from esm_onnx.export.settings import EXPORT_VERSION, ExportSettings
from esm_onnx.export.torch_writer import find_supernet, source_digest
from esm_onnx.export.writers import WRITERS, export_of, find_writer
from esm_onnx.files import replacing

USUAL = ExportSettings()


@dataclass(frozen=True, slots=True)
class Subnet:
    """The ONNX file of one architecture. Unless its weights are embedded, it needs the pool files of its folder."""

    architecture: Architecture
    path: Path


def write_subnet(
    space: Space,
    architecture: Architecture,
    folder: Path,
    settings: ExportSettings = USUAL,
    *,
    seed: int = 0,
    name: str | None = None,
) -> Subnet:
    """Writes an architecture as `folder/subnet_name(…)`, and makes the weight pool beside it as large as it needs.

    The file appears whole or not at all, and only after onnx.checker has passed it.

    Args:
        seed: of the weights. A folder holds the subnets of one seed: those of another would take the same names.
        name: file name; None takes `subnet_name(…)`.

    Raises:
        InputError: the architecture is not of this space, or the space or the folder is not fit for it.
        ExportError: this architecture cannot be written.
        WorkError: the disk failed.
    """
    path = folder / (name or subnet_name(space, architecture, settings))
    drawn = "fp32" if settings.quantised else settings.precision
    allotment = Allotment(seed, embed=settings.embed_weights, precision=drawn)
    model = find_writer(space)(space, architecture, settings, allotment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made a folder for subnets: {error.strerror}", file=folder) from None
    try:
        if not settings.embed_weights:
            grow(folder, seed, allotment.ends, drawn)
        with replacing(path) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            if settings.quantised:
                write_quantized(temporary, temporary, activations=settings.precision, seed=seed)
            onnx.checker.check_model(str(temporary), full_check=True)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from error
    except onnx.checker.ValidationError as error:
        raise WorkError(f"{path.name}: onnx.checker refuses what was written: {error}") from error
    return Subnet(architecture, path)


def subnet_name(space: Space, architecture: Architecture, settings: ExportSettings) -> str:
    """The file name of a subnet: the same for the same architecture, space and settings, another for any other.

    Raises:
        InputError: the architecture is not of this space.
    """
    identity = {
        "version": EXPORT_VERSION,
        "space": space.table(export=True),
        "genome": to_genome(space, architecture),
        "settings": asdict(settings),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    return f"{space.name}-{digest[:16]}.onnx"


def export_facts(space: Space, settings: ExportSettings) -> dict[str, str | int]:
    """What a latency depends on in the way its subnet was written: flat, for the facts of a target.

    Raises:
        InputError: the space has no [export].
    """
    export = export_of(space)
    ours = export.writer in WRITERS
    pooled = ours and not settings.embed_weights and not settings.quantised
    source = {} if ours else {"writer_source": source_digest(find_supernet(export.writer, ours=tuple(WRITERS)))}
    quantised = {"quantiser": quantiser(settings.precision)} if settings.quantised else {}
    return {
        **source,
        **quantised,
        "writer": export.writer,
        "writer_settings": json.dumps(dict(export.settings), sort_keys=True, default=str),
        "batch": settings.batch,
        "opset": settings.opset,
        "precision": settings.precision,
        "weights": "pool" if pooled else "embedded",
        "export_version": EXPORT_VERSION,
    }
