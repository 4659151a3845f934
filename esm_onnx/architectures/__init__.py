"""What can be built: spaces, architectures and how to draw them. Standard library only."""

from esm_onnx.architectures.architecture import Architecture, Options
from esm_onnx.architectures.bins import Bins, divide
from esm_onnx.architectures.catalogue import find_space, space_names
from esm_onnx.architectures.genome import Genome, from_genome, genome_columns, genome_length, to_genome
from esm_onnx.architectures.notation import from_json, read_architectures, read_json_lines, to_json
from esm_onnx.architectures.ofa_notation import to_ofa
from esm_onnx.architectures.sampling import extend, extension_quotas, left_in_bins, sample
from esm_onnx.architectures.space import Coupled, Export, Feature, Space
from esm_onnx.architectures.toml_space import read_space, space_from_table

__all__ = [
    "Architecture",
    "Bins",
    "Coupled",
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
    "genome_columns",
    "genome_length",
    "left_in_bins",
    "read_architectures",
    "read_json_lines",
    "read_space",
    "sample",
    "space_from_table",
    "space_names",
    "to_genome",
    "to_json",
    "to_ofa",
]
