"""Latency predictors for neural architecture search: from a supernet to one `predictor.onnx`.

The folders are the pipeline, in alphabetical order: architectures, export, measurement, prediction.
`esm_onnx.loop` composes them; `esm_onnx.cli` puts them on the command line.
"""

import os

# ONNX Runtime starts a telemetry thread on import, which also writes to the user's cache: not beside a measurement.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
