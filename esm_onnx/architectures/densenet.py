"""DenseNet: units of densely connected layers, with one kernel for a whole unit.

Sources: ESM, Section III and Table I (units, depths, kernels, size); Huang et al. 2017 (layer, growth 32, bottleneck
128, transitions that halve the channels).
"""

from esm_onnx.architectures.space import Export, Feature, Space

DENSENET = Space(
    name="densenet",
    depths=(tuple(range(1, 21)),) * 5,
    block=(),
    unit=(Feature("kernel", (1, 3, 5, 7, 9)),),
    export=Export("densenet", {"growth": 32, "bottleneck": 128, "stem": 64, "classes": 1000, "resolution": 224}),
)
