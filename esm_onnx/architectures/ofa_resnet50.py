"""Once-for-All on ResNet50: each unit chooses its width, each block its expansion, and the stem is elastic too.

Source: the released supernet `ofa_resnet50`, whose file is called `ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0`
(Cai et al. 2020, *Once-for-All*). Units have 2, 2, 4 and 2 blocks, and up to two more. The expansion is a share of the
block's own width, the width a share of ResNet50's. Of the stem's three convolutions the one in the middle may be left
out (`stem_block`); what leads up to the last has its share of 32 channels (`stem_middle`), the last of 64
(`stem_width`). Channels are rounded to multiples of 8: the two smaller shares of 32 are the same 24. The supernet's
tutorial searches resolutions 128 to 256.
"""

from esm_onnx.architectures.space import Export, Feature, Space

_SHARES = (0.65, 0.8, 1)

OFA_RESNET50 = Space(
    name="ofa-resnet50",
    depths=tuple((least, least + 1, least + 2) for least in (2, 2, 4, 2)),
    block=(Feature("expansion", (0.2, 0.25, 0.35)),),
    unit=(Feature("width", _SHARES),),
    network=(
        Feature("resolution", tuple(range(128, 257, 16))),
        Feature("stem_block", (0, 1)),
        Feature("stem_middle", _SHARES),
        Feature("stem_width", _SHARES),
    ),
    export=Export(
        "ofa-resnet50",
        {"widths": [256, 512, 1024, 2048], "strides": [1, 2, 2, 2], "stem": 64, "classes": 1000},
    ),
)
