"""Writers by name: ours, one for each family and one for parts of them, and a user's own torch supernet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from esm_onnx.architectures import Architecture, Export, Space
from esm_onnx.architectures.blocks import BLOCK_WRITER
from esm_onnx.errors import InputError
from esm_onnx.export.blocks import Writer, write_block
from esm_onnx.export.densenet import draw_densenet
from esm_onnx.export.graph import Graph, Tensor
from esm_onnx.export.mobilenetv3 import draw_mobilenetv3
from esm_onnx.export.ofa_resnet50 import draw_ofa_resnet50
from esm_onnx.export.pool import Allotment
from esm_onnx.export.proxyless import draw_proxyless
from esm_onnx.export.resnet import draw_resnet
from esm_onnx.export.settings import ExportSettings
from esm_onnx.export.torch_writer import find_supernet, write_module


def _drawn(draw: Callable[[Graph, Space, Architecture], Tensor]) -> Writer:
    """A writer from a function that draws an architecture into a graph and returns the graph's output."""

    def write(
        space: Space, architecture: Architecture, settings: ExportSettings, allotment: Allotment
    ) -> onnx.ModelProto:
        graph = Graph(allotment, settings.batch)
        return graph.model(draw(graph, space, architecture), space.name, settings.opset)

    return write


FAMILIES: dict[str, Writer] = {
    "resnet": _drawn(draw_resnet),
    "mobilenetv3": _drawn(draw_mobilenetv3),
    "densenet": _drawn(draw_densenet),
    "ofa-resnet50": _drawn(draw_ofa_resnet50),
    "proxyless": _drawn(draw_proxyless),
}
"""The writers that draw a whole network, each node named after its block."""

WRITERS: dict[str, Writer] = {**FAMILIES, BLOCK_WRITER: partial(write_block, FAMILIES)}
"""The writers that build graphs directly, with weights from the pool."""


def export_of(space: Space) -> Export:
    """The space's export table.

    Raises:
        InputError: it has none.
    """
    if space.export is None:
        raise InputError(
            f"space {space.name!r} has no [export], so it cannot be written as ONNX: add [export] with "
            f'writer = "…" ({", ".join(FAMILIES)}, or "module:function") and its settings, such as widths'
        )
    return space.export


def find_writer(space: Space) -> Writer:
    """The writer of a space: ours by its name, else a torch supernet.

    Raises:
        InputError: no [export], or a writer that is unknown or cannot be loaded.
    """
    name = export_of(space).writer
    if name in WRITERS:
        return WRITERS[name]
    supernet = find_supernet(name, ours=tuple(FAMILIES))

    def write(
        space: Space, architecture: Architecture, settings: ExportSettings, allotment: Allotment
    ) -> onnx.ModelProto:
        if settings.precision == "fp16":
            raise InputError(
                "precision is 'fp16', expected 'fp32', 'int8' or 'uint8': torch supernets are exported in fp32"
            )
        return write_module(supernet, space, architecture, settings, seed=allotment.seed)

    return write
