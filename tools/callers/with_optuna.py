"""Searches with Optuna, ask and tell, a generation a call: python with_optuna.py predictor.onnx

Prints the front: latency in ms, capacity, genome.
"""

import sys

import numpy as np
import optuna
from described import Described

predictor = Described(sys.argv[1])
boxes = {str(i): optuna.distributions.IntDistribution(0, int(size) - 1) for i, size in enumerate(predictor.sizes)}
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    directions=["minimize", "minimize"], sampler=optuna.samplers.NSGAIISampler(population_size=50, seed=0)
)
for _ in range(8):
    asked = [study.ask(boxes) for _ in range(50)]
    genomes = predictor.genomes(np.array([list(one.params.values()) for one in asked]))
    for one, genome, values in zip(asked, genomes, predictor.objectives(genomes), strict=True):
        one.set_user_attr("genome", genome.tolist())
        study.tell(one, values.tolist())
for best in study.best_trials:
    print(best.values[0], -best.values[1], best.user_attrs["genome"])
