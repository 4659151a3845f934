"""How subnets are written."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from esm_onnx.errors import InputError
from esm_onnx.export.quantized import KINDS

EXPORT_VERSION = 1
"""Raised when the same architecture and settings give another graph: latencies from before do not mix with new ones."""

QUANTISED = tuple(KINDS)
PRECISIONS = ("fp32", "fp16", *QUANTISED)
"""Those that are written: tf32 is what a runtime does with fp32."""

LEAST_OPSET = 14
"""The first with HardSwish."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What an ONNX file is written with.

    Attributes:
        batch: images of one inference; the input's shape is static.
        opset: version of the operator set `ai.onnx`, from 14 to the newest that the installed onnx knows.
        precision: number format of weights and activations, one of `PRECISIONS`; of input and output too, but for those
            of `QUANTISED`, whose weights are both in int8 and which differ in the activations (`quantized.py`).
        embed_weights: weights stand inside the file, not in the pool beside it; quantised ones always do.

    Raises:
        InputError: a value out of range.
    """

    batch: int = 1
    opset: int = 17
    precision: str = "fp32"
    embed_weights: bool = False

    def __post_init__(self) -> None:
        newest = onnx.defs.onnx_opset_version()
        if not _is_whole(self.batch) or self.batch < 1:
            raise InputError(f"batch is {self.batch!r}, expected a whole number from 1")
        if not _is_whole(self.opset) or not LEAST_OPSET <= self.opset <= newest:
            raise InputError(f"opset is {self.opset!r}, expected {LEAST_OPSET} to {newest}, the newest that onnx knows")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")

    @property
    def quantised(self) -> bool:
        return self.precision in QUANTISED


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
