"""MobileNetV3: units of inverted residuals with h-swish, squeeze-excite in the later units.

Sources: ESM, Section III and Table I (units, depths, kernels, expansions, size); Howard et al. 2019 (the block). The
expansion is a share of the full ratio 6, so the middle of a block is 3, 4 or 6 times its input, as in Once-for-All.
"""

from fractions import Fraction

from esm_onnx.architectures.space import Export, Feature, Space

MOBILENETV3 = Space(
    name="mobilenetv3",
    depths=(tuple(range(1, 8)),) * 4,
    block=(
        Feature("kernel", (3, 5, 7)),
        Feature("expansion", (Fraction(1, 2), Fraction(2, 3), 1)),
    ),
    export=Export(
        "mobilenetv3",
        {
            "widths": [16, 32, 64, 128],
            "strides": [2, 2, 2, 2],
            "se": [0, 0, 1, 1],
            "ratio": 6,
            "stem": 16,
            "head": [768, 1280],
            "classes": 1000,
            "resolution": 224,
        },
    ),
)
