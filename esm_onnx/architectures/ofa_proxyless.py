"""Once-for-All on ProxylessNAS, at width multiplier 1.3: five units of elastic depth, and a sixth of one block.

Source: the released supernet `ofa_proxyless_d234_e346_k357_w1.3` (Cai et al. 2020, *Once-for-All*). Its widths are 1.3
times 32 (stem), 16 (the fixed first block), 24, 40, 80, 96, 192, 320 and 1280 (head), to multiples of 8. Resolutions as
in the paper.
"""

from esm_onnx.architectures.space import Export, Feature, Space

OFA_PROXYLESS = Space(
    name="ofa-proxyless",
    depths=(*((2, 3, 4),) * 5, (1,)),
    block=(Feature("kernel", (3, 5, 7)), Feature("expansion", (3, 4, 6))),
    network=(Feature("resolution", tuple(range(128, 225, 4))),),
    export=Export(
        "proxyless",
        {
            "stem": 40,
            "first": 24,
            "widths": [32, 56, 104, 128, 248, 416],
            "strides": [2, 2, 2, 1, 2, 1],
            "head": 1664,
            "classes": 1000,
        },
    ),
)
