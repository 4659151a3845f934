"""Searches with pymoo, a generation a call: python with_pymoo.py predictor.onnx

Prints the front: latency in ms, capacity, genome.
"""

import sys

from described import Described
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

predictor = Described(sys.argv[1])


class Architectures(Problem):
    def __init__(self):
        super().__init__(n_var=len(predictor.sizes), n_obj=2, xl=0, xu=predictor.sizes - 1, vtype=int)

    def _evaluate(self, x, out, *_args, **_named):
        out["F"] = predictor.objectives(predictor.genomes(x))


search = NSGA2(
    100,
    sampling=IntegerRandomSampling(),
    crossover=TwoPointCrossover(),
    mutation=PolynomialMutation(vtype=float, repair=RoundingRepair()),
)
front = minimize(Architectures(), search, ("n_gen", 50), seed=0)
for (latency_ms, capacity), choice in zip(front.F, front.X, strict=True):
    print(latency_ms, -capacity, predictor.genomes(choice[None])[0].tolist())
