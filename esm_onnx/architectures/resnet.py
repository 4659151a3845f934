"""ResNet: units of bottleneck blocks.

Sources: ESM, Section III and Table I (units, depths, kernels, expansions, size); He et al. 2016 (the block). The paper
leaves the base of the expansion open: ours makes expansion 1 the ordinary ResNet-50 block, whose middle is a quarter of
the unit's width.
"""

from fractions import Fraction

from esm_onnx.architectures.space import Export, Feature, Space

RESNET = Space(
    name="resnet",
    depths=(tuple(range(1, 8)),) * 4,
    block=(
        Feature("kernel", (3, 5, 7)),
        Feature("expansion", (Fraction(1, 2), Fraction(2, 3), 1)),
    ),
    export=Export(
        "resnet",
        {"widths": [256, 512, 1024, 2048], "strides": [1, 2, 2, 2], "stem": 64, "classes": 1000, "resolution": 224},
    ),
)
