"""Architectures as ONNX files: graphs built directly, weights that all subnets of a folder share."""

from esm_onnx.export.settings import EXPORT_VERSION, ExportSettings
from esm_onnx.export.subnet import Subnet, export_facts, subnet_name, write_subnet

__all__ = [
    "EXPORT_VERSION",
    "ExportSettings",
    "Subnet",
    "export_facts",
    "subnet_name",
    "write_subnet",
]
