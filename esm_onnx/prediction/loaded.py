"""predictor.onnx as Python uses it: onnxruntime and numpy, no torch."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
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
from esm_onnx.prediction.digest import DIGEST, check_digest
from esm_onnx.prediction.selftest import SelfTest

SCHEMA = 2
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
        selftest: genomes with what was predicted for them when it was written.
    """

    path: Path
    space: Space
    metadata: Mapping[str, Any]
    selftest: SelfTest
    session: Any

    @staticmethod
    def open(path: Path | str, *, verify: bool = True, threads: int = 0) -> LoadedPredictor:
        """Reads a predictor.

        Args:
            verify: makes sure that the file is as it was written, and that it predicts what it did then.
            threads: that one prediction may use; 0 for as many as there are cores.

        Raises:
            InputError: it is no ONNX file, no predictor of esm-onnx, one of another schema, or not as it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("no such file, expected a predictor.onnx", file=path)
        content = path.read_bytes()
        try:
            if verify and DIGEST.encode() in content:  # without one, what it is tells why
                check_digest(content)
            session = session_of(content, threads)
            predictor = LoadedPredictor(path, *_read(session), session)
            if verify:
                predictor.test()
        except InputError as error:
            raise error.at(path) from None
        return predictor

    def test(self) -> float:
        """The greatest deviation of what it predicts for its test genomes, as a share of what it did when written.

        Raises:
            InputError: it is greater than the tolerance.
        """
        return self.selftest.check(partial(run, self.session, self.quantity), self.quantity.unit)

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
        latency, lower, upper = run(self.session, self.quantity, genomes.astype(np.int64, copy=False)).values()
        return latency, lower, upper

    def call_ms(self, batch: int, *, calls: int = 200, clock: Callable[[], float] = perf_counter) -> float:
        """Median time of one prediction of a batch of test genomes, in ms; `clock` gives seconds."""
        genomes = np.resize(self.selftest.genomes, (batch, genome_length(self.space)))
        times = []
        for _ in range(calls):
            start = clock()
            self.predict(genomes)
            times.append(clock() - start)
        return 1000 * median(times)

    @property
    def digest(self) -> str:
        """The SHA-256 that it carries of its file, in hexadecimal."""
        return str(self.session.get_modelmeta().custom_metadata_map[DIGEST])

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

    def out_of_fold(self, genomes: NDArray[np.int64]) -> Floats:
        """[n] what was predicted for each row by surrogates that had not seen it; NaN where that is not known.

        It is known of what was trained on with cross-validation. Of a row that is neither trained nor calibrated on,
        `predict` says the same.
        """
        known = np.frombuffer(base64.b64decode(self.metadata.get("out_of_fold", "")), "<f4")
        by_digest = dict(zip(self.metadata["trained_on"].split(), known.tolist(), strict=False))
        return np.array([by_digest.get(digest, np.nan) for digest in row_digests(genomes)], np.float32)

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


def session_of(content: bytes, threads: int = 0) -> Any:
    """ONNX Runtime's session of a file.

    Raises:
        InputError: it makes none of it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of an error is told once, in ours
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of damage
        reason = " ".join(str(error).split())[:200]
        nor = "" if METADATA.encode() in content else f" by itself, nor a predictor (no metadata {METADATA!r})"
        raise InputError(f"not an ONNX file that ONNX Runtime can load{nor}: {reason}") from None


def run(session: Any, quantity: Quantity, genomes: NDArray[np.int64]) -> dict[str, Floats]:
    """The outputs by name, each [n], of genomes [n, length].

    Raises:
        InputError: ONNX Runtime gives up: the file is damaged.
    """
    names = list(quantity.outputs)
    try:
        return dict(zip(names, session.run(names, {"genome": genomes}), strict=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"ONNX Runtime cannot run it: {reason}") from None


def _read(session: Any) -> tuple[Space, dict[str, Any], SelfTest]:
    try:
        entries = session.get_modelmeta().custom_metadata_map
        if METADATA not in entries:
            raise InputError(f"an ONNX file without the metadata {METADATA!r}, expected a predictor of esm-onnx")
        metadata = json.loads(entries[METADATA])
        if metadata["schema"] != SCHEMA:
            raise InputError(f"a predictor of schema {metadata['schema']!r}, expected {SCHEMA}: train it anew")
        if DIGEST not in entries:
            raise InputError(f"no metadata {DIGEST!r}, expected its digest: copy the file again, or train it anew")
        space = space_from_table(metadata["space"])
        takes = [(value.name, value.shape[1:]) for value in session.get_inputs()]
        if metadata["fingerprint"] != space.fingerprint or takes != [("genome", [genome_length(space)])]:
            raise InputError("its metadata is of another space than its graph: train it anew")
        outputs = quantity_of(metadata["quantity"]).outputs
        if not set(outputs) <= {value.name for value in session.get_outputs()}:
            raise InputError(f"its graph lacks an output, expected {', '.join(outputs)}: train it anew")
        for name in ("name", "facts"):
            metadata["target"][name]
        trained, _ = metadata["trained_on"].split(), metadata["calibrated_on"].split()
        if len(base64.b64decode(metadata.get("out_of_fold", ""), validate=True)) not in (0, 4 * len(trained)):
            raise InputError("its metadata tells of other rows than it was trained on: train it anew")
        return space, metadata, SelfTest.from_json(metadata["selftest"], space, outputs)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"its metadata is damaged ({type(error).__name__}: {error}): train it anew") from None
