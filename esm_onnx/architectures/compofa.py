"""CompOFA on MobileNetV3: Once-for-All's space with the expansion of a unit coupled to its depth.

Source: Sahni et al. 2021, *CompOFA: Compound Once-For-All Networks for Faster Multi-Platform Deployment*, Section 3
(depth 2, 3, 4 with expansion 3, 4, 6; the kernel fixed for each unit, or elastic for each block). The rest is
Once-for-All's; the fixed kernels are those of MobileNetV3 (Howard et al. 2019, Table 1), one for each unit.
"""

from dataclasses import replace

from esm_onnx.architectures.ofa import OFA_MOBILENETV3, SETTINGS
from esm_onnx.architectures.space import Coupled, Export, Feature

_KERNEL = Feature("kernel", (3, 5, 7))
_EXPANSION = Coupled.of("expansion", {2: 3, 3: 4, 4: 6})

COMPOFA_ELASTIC = replace(OFA_MOBILENETV3, name="compofa-elastic", block=(_KERNEL,), coupled=(_EXPANSION,))

COMPOFA_FIXED = replace(
    COMPOFA_ELASTIC,
    name="compofa-fixed",
    block=(),
    export=Export("mobilenetv3", {**SETTINGS, "kernels": [3, 5, 3, 3, 5]}),
)
