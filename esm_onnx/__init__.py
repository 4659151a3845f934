"""Latency predictors for neural architecture search: from a supernet to one `predictor.onnx`.

The folders are the pipeline, in alphabetical order: architectures, export, measurement, prediction.
`esm_onnx.loop` composes them; `esm_onnx.cli` puts them on the command line.
"""

__version__ = "0.1.0"
