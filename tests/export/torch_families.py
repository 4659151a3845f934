"""The families again as torch modules, written from the papers and not from our graphs.

Submodules are called as the ONNX initializers, so weights are loaded by name, and a name or a shape that does not
agree is an error.
"""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812


def eight(number: float) -> int:
    """The multiple of 8 next to a number, upwards at a tie, never 0."""
    return max(8, 8 * int((number + 4) // 8 + 1e-9))


def same(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups)


def named(**modules: nn.Module) -> nn.Module:
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


class Network(nn.Module):
    """Blocks under `u1.b1` and so on, called in order."""

    def add(self, u: int, j: int, block: nn.Module) -> None:
        if not hasattr(self, f"u{u}"):
            self.add_module(f"u{u}", nn.Module())
        getattr(self, f"u{u}").add_module(f"b{j}", block)

    def blocks(self, x: torch.Tensor) -> torch.Tensor:
        for name, unit in self.named_children():
            if name.startswith("u"):
                for block in unit.children():
                    x = block(x)
        return x


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, kernel: int, expansion: float, first: bool) -> None:
        super().__init__()
        middle = eight(width * expansion / 4)
        self.conv1 = same(inputs, middle, 1)
        self.conv2 = same(middle, middle, kernel, stride)
        self.conv3 = same(middle, width, 1)
        self.shortcut = same(inputs, width, 1, stride) if first else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class ResNet(Network):
    def __init__(self, architecture, widths, strides, stem, classes, **_) -> None:
        super().__init__()
        self.stem = named(conv=nn.Conv2d(3, stem, 7, 2, 3))
        width = stem
        for u, blocks in enumerate(architecture.units):
            for j, block in enumerate(blocks):
                kernel, expansion = block["kernel"], float(block["expansion"])
                stride = strides[u] if j == 0 else 1
                self.add(u + 1, j + 1, Bottleneck(width, widths[u], stride, kernel, expansion, j == 0))
                width = widths[u]
        self.head = named(fc=nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.stem.conv(x)), 3, 2, 1)
        return self.head.fc(self.blocks(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, width, stride, kernel, factor, se=False, act=F.hardswish) -> None:
        super().__init__()
        self.act = act
        middle = eight(inputs * factor)
        self.residual = stride == 1 and inputs == width
        self.widens = not (factor == 1 and middle == inputs)
        if self.widens:
            self.expand = same(inputs, middle, 1)
        self.depthwise = same(middle, middle, kernel, stride, groups=middle)
        self.excites = se
        if se:
            hidden = eight(middle / 4)
            self.se = named(reduce=same(middle, hidden, 1), expand=same(hidden, middle, 1))
        self.project = same(middle, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.depthwise(self.act(self.expand(x)) if self.widens else x))
        if self.excites:
            y = y * F.hardsigmoid(self.se.expand(F.relu(self.se.reduce(F.adaptive_avg_pool2d(y, 1)))))
        y = self.project(y)
        return x + y if self.residual else y


class MobileNetV3(Network):
    def __init__(self, architecture, widths, strides, stem, head, classes, se=None, ratio=1, **_) -> None:
        super().__init__()
        self.stem = named(conv=nn.Conv2d(3, stem, 3, 2, 1))
        width = stem
        for u, blocks in enumerate(architecture.units):
            for j, block in enumerate(blocks):
                factor = round(float(block["expansion"]) * ratio, 9)
                excited = bool(block["se"]) if "se" in block else bool(se[u])
                stride = strides[u] if j == 0 else 1
                self.add(u + 1, j + 1, InvertedResidual(width, widths[u], stride, block["kernel"], factor, excited))
                width = widths[u]
        wide, wider = head
        self.head = named(conv1=same(width, wide, 1), conv2=same(wide, wider, 1), fc=nn.Linear(wider, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.hardswish(self.stem.conv(x)))
        x = F.adaptive_avg_pool2d(F.hardswish(self.head.conv1(x)), 1)
        return self.head.fc(F.hardswish(self.head.conv2(x)).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, bottleneck: int, growth: int, kernel: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv1 = same(inputs, bottleneck, 1)
        self.conv2 = same(bottleneck, growth, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv2(F.relu(self.conv1(F.relu(self.bn(x)))))], 1)


class Transition(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = same(inputs, inputs // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(F.relu(self.bn(x)))
        return F.avg_pool2d(x, 2, 2) if x.shape[-1] > 1 else x


class DenseNet(Network):
    def __init__(self, architecture, growth, bottleneck, stem, classes, **_) -> None:
        super().__init__()
        self.stem = named(conv=nn.Conv2d(3, stem, 7, 2, 3))
        width = stem
        for u, blocks in enumerate(architecture.units, 1):
            for j, block in enumerate(blocks, 1):
                self.add(u, j, DenseLayer(width, bottleneck, growth, block["kernel"]))
                width += growth
            if u < len(architecture.units):
                getattr(self, f"u{u}").add_module("transition", Transition(width))
                width //= 2
        self.head = named(bn=nn.BatchNorm2d(width), fc=nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.max_pool2d(F.relu(self.stem.conv(x)), 3, 2, 1))
        return self.head.fc(F.relu(self.head.bn(x)).mean((2, 3)))


class Proxyless(Network):
    def __init__(self, architecture, widths, strides, stem, first, head, classes) -> None:
        super().__init__()
        self.stem = named(conv=same(3, stem, 3, 2))
        self.first = InvertedResidual(stem, first, 1, 3, 1, act=F.relu6)
        width = first
        for u, blocks in enumerate(architecture.units):
            for j, block in enumerate(blocks):
                shape = width, widths[u], strides[u] if j == 0 else 1, block["kernel"], block["expansion"]
                self.add(u + 1, j + 1, InvertedResidual(*shape, act=F.relu6))
                width = widths[u]
        self.head = named(conv=same(width, head, 1), fc=nn.Linear(head, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.first(F.relu6(self.stem.conv(x))))
        return self.head.fc(F.relu6(self.head.conv(x)).mean((2, 3)))


def divisible(number: float) -> int:
    """Once-for-All's channels: a multiple of 8, and no less than 90 % of the number."""
    nearest = max(8, int(number + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * number else nearest


class BottleneckD(nn.Module):
    """With a mean before the convolution of its shortcut (He et al. 2019, Section 4.1)."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: float, first: bool) -> None:
        super().__init__()
        middle = divisible(round(width * expansion))
        self.conv1 = same(inputs, middle, 1)
        self.conv2 = same(middle, middle, 3, stride)
        self.conv3 = same(middle, width, 1)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
        if first:
            self.shortcut = same(inputs, width, 1)
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (self.shortcut(self.pool(x)) if self.first else x))


class OfaResNet50(Network):
    def __init__(self, architecture, widths, strides, stem, classes) -> None:
        super().__init__()
        chosen = architecture.network
        middle = divisible(divisible(stem * chosen["stem_middle"]) // 2)
        width = divisible(stem * chosen["stem_width"])
        self.stem = named(conv1=same(3, middle, 3, 2), conv3=same(middle, width, 3))
        if chosen["stem_block"]:
            self.stem.conv2 = same(middle, middle, 3)
        for u, blocks in enumerate(architecture.units):
            for j, block in enumerate(blocks):
                own = divisible(widths[u] * block["width"])
                stride = strides[u] if j == 0 else 1
                self.add(u + 1, j + 1, BottleneckD(width, own, stride, block["expansion"], j == 0))
                width = own
        self.head = named(fc=nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem.conv1(x))
        if hasattr(self.stem, "conv2"):
            x = x + F.relu(self.stem.conv2(x))
        x = F.max_pool2d(F.relu(self.stem.conv3(x)), 3, 2, 1)
        return self.head.fc(self.blocks(x).mean((2, 3)))


MODULES = {
    "resnet": ResNet,
    "mobilenetv3": MobileNetV3,
    "densenet": DenseNet,
    "proxyless": Proxyless,
    "ofa-resnet50": OfaResNet50,
}
"""By the name of the writer."""

TORCH_NAMES = {"scale": "weight", "mean": "running_mean", "variance": "running_var"}


def load(module: nn.Module, path) -> nn.Module:
    """Loads all weights of an ONNX file into the module, by name: none may be missing and none left over."""
    state = {}
    for tensor in onnx.load(path).graph.initializer:
        if not tensor.dims:  # a bound of Clip
            continue
        name, part = tensor.name.rsplit(".", 1)
        state[f"{name}.{TORCH_NAMES.get(part, part)}"] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, strict=True)
    return module.eval()
