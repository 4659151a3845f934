"""What can be built: spaces, architectures and how to draw them. Standard library only."""

from esm_onnx.architectures.architecture import Architecture, Options
from esm_onnx.architectures.bins import Bins, divide
from esm_onnx.architectures.catalogue import find_space, space_names
from esm_onnx.architectures.genome import Genome, from_genome, to_genome
from esm_onnx.architectures.notation import from_json, read_architectures, to_json
from esm_onnx.architectures.sampling import extend, extension_quotas, sample
from esm_onnx.architectures.space import Export, Feature, Space

__all__ = [
    "Architecture",
    "Bins",
    "Export",
    "Feature",
    "Genome",
    "Options",
    "Space",
    "divide",
    "extend",
    "extension_quotas",
    "find_space",
    "from_genome",
    "from_json",
    "read_architectures",
    "sample",
    "space_names",
    "to_genome",
    "to_json",
]
