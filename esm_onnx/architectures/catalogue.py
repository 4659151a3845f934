"""Spaces by name; the path of a TOML file anywhere a name is taken."""

from __future__ import annotations

import os
from pathlib import Path

from esm_onnx.architectures.blocks import SUFFIX, block_space
from esm_onnx.architectures.compofa import COMPOFA_ELASTIC, COMPOFA_FIXED
from esm_onnx.architectures.densenet import DENSENET
from esm_onnx.architectures.mobilenetv3 import MOBILENETV3
from esm_onnx.architectures.ofa import OFA_MOBILENETV3
from esm_onnx.architectures.ofa_proxyless import OFA_PROXYLESS
from esm_onnx.architectures.ofa_resnet50 import OFA_RESNET50
from esm_onnx.architectures.resnet import RESNET
from esm_onnx.architectures.space import Space
from esm_onnx.architectures.toml_space import read_space
from esm_onnx.errors import InputError, shown

SPACES = {
    space.name: space
    for space in (
        RESNET,
        MOBILENETV3,
        DENSENET,
        OFA_MOBILENETV3,
        OFA_RESNET50,
        OFA_PROXYLESS,
        COMPOFA_FIXED,
        COMPOFA_ELASTIC,
    )
}


def space_names() -> list[str]:
    """Names of the spaces that are built in."""
    return list(SPACES)


def find_space(name: str | Path) -> Space:
    """The space that is built in under a name, or the one that a TOML file describes; `….blocks` is that of its parts.

    Raises:
        InputError: neither a name nor a file.
    """
    name = str(name)
    if name in SPACES:
        return SPACES[name]
    if name.endswith(".toml") or os.path.isfile(name):
        return read_space(name)
    if name.endswith(SUFFIX):
        return block_space(find_space(name.removesuffix(SUFFIX)))
    raise InputError(f"no space {shown(name)}, expected one of {', '.join(SPACES)}, or the path of a TOML file")
