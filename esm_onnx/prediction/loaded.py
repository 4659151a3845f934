"""predictor.onnx as Python uses it: onnxruntime and numpy, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from esm_onnx.architectures import Space, genome_length
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import LATENCY, Quantity, quantity_of
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.dataset import row_digests

SCHEMA = 1
METADATA = "esm_onnx"
OUTPUTS = LATENCY.outputs
"""Of a predictor of latencies."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LoadedPredictor:
    """A predictor read from its file.

    Attributes:
        space: whose genomes it takes.
        metadata: what the file says of itself.
    """

    path: Path
    space: Space
    metadata: Mapping[str, Any]
    session: Any

    @staticmethod
    def open(path: Path | str) -> LoadedPredictor:
        """Reads a predictor.

        Raises:
            InputError: it is no ONNX file, no predictor of esm-onnx, or one of another schema.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("no such file, expected a predictor.onnx", file=path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class of its own for each kind of damage
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"not an ONNX file that ONNX Runtime can load: {reason}", file=path) from None
        return LoadedPredictor(path, *_read(session, path), session)

    def predict(self, genomes: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """The quantity and the bounds of its interval, each [n], of genomes [n, genome length]; NaN for an invalid one.

        They are the three outputs that `quantity` names: latency_ms, lower_ms and upper_ms in most predictors.

        Raises:
            InputError: the array is not of integers, or of another shape.
        """
        length = genome_length(self.space)
        if genomes.ndim != 2 or genomes.shape[1] != length or not np.issubdtype(genomes.dtype, np.integer):
            raise InputError(
                f"genomes are {genomes.dtype} of shape {list(genomes.shape)}, expected integers of shape [n, {length}]"
            )
        latency, lower, upper = self.session.run(
            list(self.quantity.outputs), {"genome": genomes.astype(np.int64, copy=False)}
        )
        return latency, lower, upper

    @property
    def quantity(self) -> Quantity:
        """What it predicts."""
        return quantity_of(self.metadata["quantity"])

    @property
    def target(self) -> Target:
        """What its measurements were made on."""
        return Target(self.metadata["target"]["name"], self.metadata["target"]["facts"])

    def trained_on(self, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows it was trained on."""
        return self._known("trained_on", genomes)

    def calibrated_on(self, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows set the width of its interval."""
        return self._known("calibrated_on", genomes)

    def _known(self, key: str, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
        known = set(self.metadata[key].split())
        return np.array([digest in known for digest in row_digests(genomes)], bool)

    def check_space(self, space: Space) -> None:
        """Makes sure that the predictor is for this space.

        Raises:
            InputError: it is for another.
        """
        if space.fingerprint != self.space.fingerprint:
            raise InputError(
                f"a predictor for space {self.space.name!r} ({self.space.fingerprint}), expected one for "
                f"{space.name!r} ({space.fingerprint})",
                file=self.path,
            )


def _read(session: Any, path: Path) -> tuple[Space, dict[str, Any]]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise InputError(f"an ONNX file without the metadata {METADATA!r}, expected a predictor of esm-onnx", file=path)
    try:
        metadata = json.loads(text)
        if metadata["schema"] != SCHEMA:
            raise InputError(f"a predictor of schema {metadata['schema']!r}, expected {SCHEMA}: train it anew")
        space = space_from_table(metadata["space"])
        takes = [(value.name, value.shape[1:]) for value in session.get_inputs()]
        if metadata["fingerprint"] != space.fingerprint or takes != [("genome", [genome_length(space)])]:
            raise InputError("its metadata is of another space than its graph: train it anew")
        outputs = quantity_of(metadata["quantity"]).outputs
        if not set(outputs) <= {value.name for value in session.get_outputs()}:
            raise InputError(f"its graph lacks an output, expected {', '.join(outputs)}: train it anew")
        for name in ("name", "facts"):
            metadata["target"][name]
        metadata["trained_on"].split(), metadata["calibrated_on"].split()
        return space, metadata
    except InputError as error:
        raise error.at(path) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"its metadata is damaged ({type(error).__name__}: {error}): train it anew", file=path
        ) from None
