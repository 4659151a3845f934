"""Predicts genomes, a JSON list a line, with nothing but onnxruntime and numpy.

python predict.py predictor.onnx < genomes.jsonl
"""

import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
genomes = np.array([json.loads(line) for line in sys.stdin], np.int64)
latency_ms, lower_ms, upper_ms = session.run(["latency_ms", "lower_ms", "upper_ms"], {"genome": genomes})
for row in zip(latency_ms, lower_ms, upper_ms, strict=True):
    print(*row)  # nan where a row is no genome of the space
