"""No hardware: a virtual clock moved by a cost formula, so the whole pipeline runs exactly and in no time.

The formula, for each node of the subnet in turn:

    arithmetic   multiply-adds over the device's rate; a convolution's output channels and pixels are first rounded up
                 to whole tiles (tile waste), and a grouped convolution runs at a lower rate
    traffic      bytes of inputs, outputs and weights over the bandwidth, which drops by a step where the node's
                 working set no longer fits the cache
    execution    the greater of the two
    launch       the host starts a node every `launch_us`; a node begins when it is started and the one before has
                 ended, so starts hide behind execution, and small nodes wait for the host (launch overlap)

The latency is the end of the last node. None of the steps is additive over blocks, on purpose: real devices are not.
A run takes the latency × (1 + noise): log-normal of the device's sigma, and one run in a hundred up to 1.5 times as
long. The noise of a subnet depends on the seed, the subnet and how often it was loaded, and on nothing else.

The energy of an inference, in mJ, without noise:

    arithmetic   multiply-adds times `mac_pj`
    traffic      bytes of inputs, outputs and weights times `byte_pj`
    idle         the latency that the formula gives times `watts`

The memory is that of all weights, and of the inputs and outputs of the node that has most.

Two of the devices are disturbed, as real ones are: `shared` is the cpu with neighbours (`Disturbance`), `hot` the board
without a fan. What they do depends on the seed and on the virtual time.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import shape_inference

from esm_onnx.errors import InputError
from esm_onnx.measurement.conditions import Counters
from esm_onnx.measurement.energy import EnergyCounter
from esm_onnx.measurement.runtime import Inference, Runtime, RuntimeSettings
from esm_onnx.measurement.target import Fact

FORMULA = 1
"""Version of the formula: a fact, so latencies of two formulas are never mixed."""

BYTES = 4


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What goes on around a device, in seconds of its virtual clock and shares of a latency.

    Attributes:
        levels: greatest slow-down of a level; levels last `level_s` on average.
        ramp: greatest slow-down by heat, which rises and falls once in `ramp_s`.
        bursts: share of the time in which another process computes on the same core, in bursts of `burst_s` on average;
            every run in a burst is preempted for one time slice of `SLICE_S` or more.
        spikes: share of runs that take up to five times as long, for reasons that nothing counts.
    """

    levels: float = 0.0
    level_s: float = 1.0
    ramp: float = 0.0
    ramp_s: float = 1.0
    bursts: float = 0.0
    burst_s: float = 1.0
    spikes: float = 0.0


CALM = Disturbance()
SLICE_S = 0.003


class Surroundings:
    """A disturbance as it goes: how much longer a run takes that begins now."""

    def __init__(self, disturbance: Disturbance, rng: np.random.Generator) -> None:
        self._of, self._rng = disturbance, rng
        self._level, self._level_ends_s = 1.0, 0.0
        self._bursting, self._burst_ends_s = True, 0.0
        self.switches = 0

    def lengthen(self, seconds: float, now_s: float) -> float:
        """The duration of a run of `seconds` that begins at `now_s`."""
        of, rng = self._of, self._rng
        if of == CALM:
            return seconds
        while now_s >= self._level_ends_s:
            self._level = 1 + of.levels * rng.random()
            self._level_ends_s += of.level_s * rng.exponential()
        while now_s >= self._burst_ends_s:
            self._bursting = not self._bursting
            share = of.bursts if self._bursting else 1 - of.bursts
            self._burst_ends_s += of.burst_s * max(share, 1e-9) / max(of.bursts, 1e-9) * rng.exponential()
        heat = 1 + of.ramp * (1 - math.cos(2 * math.pi * now_s / of.ramp_s)) / 2
        seconds *= self._level * heat
        if rng.random() < of.spikes:
            seconds *= rng.uniform(1, 5)
        if self._bursting and of.bursts:
            self.switches += 1
            seconds += SLICE_S * rng.uniform(1, 3)
        return seconds


@dataclass(frozen=True, slots=True)
class Device:
    """Numbers of an imaginary device: rates in 10⁹ multiply-adds and 10⁹ bytes a second."""

    rate: float
    grouped: float
    tile_channels: int
    tile_pixels: int
    bandwidth: float
    cache_bandwidth: float
    cache_bytes: int
    launch_us: float
    sigma: float
    mac_pj: float
    byte_pj: float
    watts: float
    disturbance: Disturbance = CALM


DEVICES = {
    "gpu": Device(12000, 0.08, 64, 128, 700, 2500, 32 << 20, 5.0, 0.004, 2.0, 15.0, 60.0),
    "cpu": Device(250, 0.25, 16, 1, 20, 120, 2 << 20, 2.0, 0.01, 20.0, 40.0, 10.0),
    "board": Device(12, 0.35, 8, 1, 3, 12, 1 << 20, 4.0, 0.008, 30.0, 100.0, 1.5),
}
DEVICES["shared"] = replace(
    DEVICES["cpu"], disturbance=Disturbance(levels=0.4, level_s=4, bursts=0.2, burst_s=0.8, spikes=0.02)
)
DEVICES["hot"] = replace(DEVICES["board"], disturbance=Disturbance(ramp=0.5, ramp_s=300, spikes=0.01))


class Dry(Runtime):
    """The fake: devices gpu, cpu, board, shared and hot."""

    name = "dry"

    def __init__(self, settings: RuntimeSettings) -> None:
        super().__init__(settings)
        self.device = settings.device or next(iter(DEVICES))
        if self.device not in DEVICES:
            raise InputError(f"device {self.device!r} on dry, expected one of {', '.join(DEVICES)}")
        self._now_ns, self._energy_mj = 0, 0.0
        rng = np.random.default_rng([settings.seed, *self.device.encode()])
        self._surroundings = Surroundings(DEVICES[self.device].disturbance, rng)
        self._loads: Counter[str] = Counter()

    def facts(self) -> Mapping[str, Fact]:
        return {"device": self.device, "formula": FORMULA, "threads": self.settings.threads}

    def clock(self) -> int:
        return self._now_ns

    def counters(self) -> Counters:
        return Counters(switches=self._surroundings.switches)

    def state(self) -> dict[str, float]:
        return {}

    def energy_counter(self) -> EnergyCounter:
        return EnergyCounter("formula", lambda: self._energy_mj, window_s=0.0)

    @contextmanager
    def load(self, subnet: Path) -> Iterator[Callable[[], object]]:
        content = subnet.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        device = DEVICES[self.device]
        model = onnx.load_model_from_string(content)
        graph, shapes = model.graph, shapes_of(model)
        latency_ms = latency_of(graph, shapes, device) / self.settings.threads
        per_inference_mj = work_mj(graph, shapes, device) + latency_ms * device.watts
        self._loads[digest] += 1
        rng = np.random.default_rng([self.settings.seed, int(digest[:16], 16), self._loads[digest]])

        def infer() -> None:
            run_s = 1e-3 * latency_ms * noise(device, rng)
            self._now_ns += round(1e9 * self._surroundings.lengthen(run_s, 1e-9 * self._now_ns))
            self._energy_mj += per_inference_mj

        yield Inference(infer, memory_bytes=lambda: memory_bytes(graph, shapes))


def noise(device: Device, rng: np.random.Generator) -> float:
    """The factor by which one run differs from the formula."""
    slow = rng.uniform(1, 1.5) if rng.random() < 0.01 else 1.0
    return math.exp(rng.normal(0, device.sigma)) * slow


def cost_ms(subnet: onnx.ModelProto, device: Device) -> float:
    """The latency in ms that the formula gives, without noise."""
    return latency_of(subnet.graph, shapes_of(subnet), device)


Shapes = Mapping[str, list[int]]
"""Of each tensor of a graph, weights included."""


def latency_of(graph: onnx.GraphProto, shapes: Shapes, device: Device) -> float:
    """The same for a graph whose shapes are known."""
    host = ended = 0.0
    for node in graph.node:
        host += device.launch_us * 1e-6
        moved = _bytes(node, shapes)
        bandwidth = device.cache_bandwidth if moved <= device.cache_bytes else device.bandwidth
        seconds = max(_arithmetic_s(node, shapes, device), moved / (bandwidth * 1e9))
        ended = max(host, ended) + seconds
    return 1e3 * ended


def work_mj(graph: onnx.GraphProto, shapes: Shapes, device: Device) -> float:
    """The energy of arithmetic and traffic in mJ."""
    macs = sum(_macs(node, shapes) for node in graph.node)
    moved = sum(_bytes(node, shapes) for node in graph.node)
    return 1e-9 * (macs * device.mac_pj + moved * device.byte_pj)


def memory_bytes(graph: onnx.GraphProto, shapes: Shapes) -> int:
    """The memory that inference takes."""
    weights = {tensor.name for tensor in graph.initializer}
    others = {name: shape for name, shape in shapes.items() if name not in weights}
    of_weights = BYTES * sum(math.prod(shapes[name]) for name in weights)
    return of_weights + max((_bytes(node, others) for node in graph.node), default=0)


def shapes_of(subnet: onnx.ModelProto) -> Shapes:
    """The shapes of a subnet's graph."""
    graph = shape_inference.infer_shapes(subnet).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    return shapes


def _bytes(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Bytes of those inputs and outputs of a node whose shapes are given."""
    return BYTES * sum(math.prod(shapes[name]) for name in (*node.input, *node.output) if name in shapes)


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    weight, output = shapes[node.input[1]], shapes[node.output[0]]
    return math.prod(weight) * output[0] * (math.prod(output[2:]) if node.op_type == "Conv" else 1)


def _arithmetic_s(node: onnx.NodeProto, shapes: Shapes, device: Device) -> float:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0.0
    weight, output = shapes[node.input[1]], shapes[node.output[0]]
    pixels = output[0] * math.prod(output[2:])
    if node.op_type != "Conv":
        return math.prod(weight) * output[0] / (device.rate * 1e9)
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    inner = math.prod(weight[1:])
    if group > 1:
        return weight[0] * inner * pixels / (device.rate * device.grouped * 1e9)
    tiles = _whole(weight[0], device.tile_channels) * _whole(pixels, device.tile_pixels)
    return tiles * inner / (device.rate * 1e9)


def _whole(count: int, tile: int) -> int:
    return -(-count // tile) * tile
