"""Once-for-All on MobileNetV3, at width multiplier 1.2.

Source: Cai et al. 2020, *Once-for-All*, Section 3.2 (units, depths, kernels, expansions) and the released supernet
`ofa_mbv3_d234_e346_k357_w1.2` (channels, strides, squeeze-excite, activations). The paper has resolutions 128 to 224;
here are some more on either side.
"""

from esm_onnx.architectures.space import Export, Feature, Space

SETTINGS = {
    "stem": 24,
    "first": 24,
    "widths": [32, 48, 96, 136, 192],
    "strides": [2, 2, 2, 1, 2],
    "se": [0, 1, 0, 1, 1],
    "hswish": [0, 0, 1, 1, 1],
    "head": [1152, 1536],
    "classes": 1000,
}

OFA_MOBILENETV3 = Space(
    name="ofa-mobilenetv3",
    depths=((2, 3, 4),) * 5,
    block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))),
    network=(Feature("resolution", tuple(range(112, 241, 4))),),
    export=Export("mobilenetv3", SETTINGS),
)
