"""A user's own torch supernet: a callable that makes the torch module of an architecture.

It is named in the space's [export], as an entry point of the group `esm_onnx.writers` or as "module:function". The
module goes through `torch.onnx.export`, and from there takes the same road as our own graphs, with its own weights
inside the file. torch is imported here only, when a supernet is written.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from esm_onnx.architectures import Architecture, Space
from esm_onnx.errors import ExportError, InputError
from esm_onnx.export.graph import INPUT, OUTPUT
from esm_onnx.export.settings import ExportSettings
from esm_onnx.export.space_reader import SpaceReader

if TYPE_CHECKING:
    import torch

GROUP = "esm_onnx.writers"
SETTINGS = ("input", "resolution")

NEWER_EXPORTER = 18
"""Least opset of torch's exporter that builds on torch.export; older ones only its predecessor can write."""

Supernet = Callable[[Architecture], Any]


def find_supernet(name: str, *, ours: tuple[str, ...]) -> Supernet:
    """The callable that a space's writer names.

    Args:
        ours: names of the writers that are built in, for the message.

    Raises:
        InputError: it is no such name, or cannot be loaded; with the reason.
    """
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    place = installed.get(name, name)
    module_name, colon, attribute = place.partition(":")
    if not colon or not module_name or not attribute:
        known = ", ".join((*ours, *installed))
        raise InputError(f'no writer {name!r}, expected one of {known}, or "module:function" of a torch supernet')
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a supernet often lies where the work is done
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a stranger's module may do anything
        raise InputError(f"writer {name!r} cannot be loaded from module {module_name!r}: {_reason(error)}") from error
    if not callable(found):
        raise InputError(f"writer {name!r} is {type(found).__name__}, expected a function architecture → torch module")
    return found  # type: ignore[no-any-return]


def source_digest(supernet: Supernet) -> str:
    """Sixteen hexadecimal digits of the file that the supernet is written in; "unknown" where there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(supernet))
        return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):
        return "unknown"


def write_module(
    supernet: Supernet, space: Space, architecture: Architecture, settings: ExportSettings, *, seed: int
) -> onnx.ModelProto:
    """The ONNX model of the torch module that the supernet makes, in eval mode, with a static input.

    Settings: input, the shape of one image (3 × resolution × resolution); resolution (the network's feature, or 224).

    Args:
        seed: of torch's generator while the supernet makes the module, whose weights may be random.

    Raises:
        InputError: torch is missing, or the supernet gives something else than a module.
        ExportError: the supernet or the exporter fails; with the reason.
    """
    shape = [settings.batch, *_input_shape(space, architecture)]
    try:
        import torch
    except ImportError as error:
        raise InputError(f"torch cannot be imported ({error}): pip install esm-onnx[supernet]") from None
    where = f"space {space.name!r}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = supernet(architecture)
        except (Exception, SystemExit) as error:
            raise ExportError(f"{where}: the supernet failed: {_reason(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{where}: the supernet gave {type(module).__name__}, expected a torch.nn.Module")
    module.eval()
    parameter = next(module.parameters(), torch.empty(0))
    try:
        with _muted(), torch.no_grad():
            model = _export(module, torch.zeros(shape, device=parameter.device), settings.opset)
    except Exception as error:
        raise ExportError(f"{where}: torch.onnx.export failed: {_reason(error)}") from error
    return _tidied(model, settings.opset, where)


def _input_shape(space: Space, architecture: Architecture) -> list[int]:
    reader = SpaceReader(space, features=None, settings=SETTINGS)
    if "resolution" in architecture.network and reader.sets("input"):
        raise InputError(f"space {space.name!r}: the setting 'input' and the feature 'resolution' contradict: drop one")
    side = reader.resolution(architecture)
    return reader.numbers("input", 3, [3, side, side])


def _export(module: torch.nn.Module, image: torch.Tensor, opset: int) -> onnx.ModelProto:
    import torch

    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
    if opset >= NEWER_EXPORTER:
        program = torch.onnx.export(module, (image,), dynamo=True, external_data=False, verbose=False, **names)
        if program is None:
            raise RuntimeError("no program came back")
        return program.model_proto
    buffer: Any = io.BytesIO()
    torch.onnx.export(module, (image,), buffer, dynamo=False, **names)
    return onnx.load_from_string(buffer.getvalue())


def _tidied(model: onnx.ModelProto, opset: int, where: str) -> onnx.ModelProto:
    """The same model for the oldest runtimes its opset allows, without the exporter's notes on its source."""
    written = {item.domain: item.version for item in model.opset_import}
    if written.get("") != opset:
        raise InputError(f"{where}: torch wrote opset {written.get('')}, expected {opset}: choose another opset")
    if [item.name for item in model.graph.input] != [INPUT] or [item.name for item in model.graph.output] != [OUTPUT]:
        raise InputError(f"{where}: the module must take one tensor and give one tensor")
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.producer_version = ""
    del model.graph.value_info[:]
    for item in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    return model


@contextmanager
def _muted() -> Iterator[None]:
    """Without the exporter's warnings and progress, which would drown the command line's own."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """The error in one line; an error of the exporter hides its cause beneath it."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
