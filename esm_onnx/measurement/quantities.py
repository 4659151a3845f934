"""What is measured of a subnet: its latency always, energy and memory where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from esm_onnx.errors import InputError, shown


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that can be measured and predicted.

    Attributes:
        name: as it is asked for.
        field: name with unit, in records, files and predictors.
        unit: as people read it; 1 MB is 10⁶ bytes.
    """

    name: str
    field: str
    unit: str

    @property
    def outputs(self) -> tuple[str, str, str]:
        """What a predictor's outputs are called: the quantity, and the bounds of its interval."""
        return self.field, f"lower_{self._suffix}", f"upper_{self._suffix}"

    def named(self, figures: Any) -> Any:
        """JSON data with this quantity's unit in the names of its figures: `rmse_ms` becomes `rmse_mj`."""
        if isinstance(figures, dict):
            names = {key: key.replace("rmse_ms", f"rmse_{self._suffix}") for key in figures}
            return {names[key]: self.named(value) for key, value in figures.items()}
        return [self.named(each) for each in figures] if isinstance(figures, list) else figures

    @property
    def _suffix(self) -> str:
        return self.field.rpartition("_")[2]


LATENCY = Quantity("latency", "latency_ms", "ms")
ENERGY = Quantity("energy", "energy_mj", "mJ")
MEMORY = Quantity("memory", "memory_mb", "MB")
QUANTITIES = MappingProxyType({quantity.name: quantity for quantity in (LATENCY, ENERGY, MEMORY)})
"""By the name that they are asked for with."""
COPY = "copy_ms"
"""Copies of inputs to a device and of outputs back: measured where a runtime does them apart, and never predicted."""
GPU_STATE = ("gpu_clock_mhz", "gpu_power_state", "gpu_throttle_reasons", "gpu_processes")
"""What NVML says of a GPU right after the runs (`nvml.Gpu.state`)."""
HOST_STATE = ("temperature_c", "pi_throttle")
"""What this machine tells right after the runs, where its processors compute (`processor.processor_state`): its hottest
place, and the bits of `PiThrottle`."""
SPENT = (COPY, ENERGY.field, MEMORY.field)
"""What inference takes beside time."""
BESIDE = (*SPENT, *GPU_STATE, *HOST_STATE)
"""What a measurement may hold beside its latency."""


class Unmeasurable(InputError):
    """A quantity was asked for that cannot be measured here."""


def find_quantity(name: str) -> Quantity:
    """The quantity of that name.

    Raises:
        InputError: there is none.
    """
    if name not in QUANTITIES:
        raise InputError(f"quantity {shown(name)}, expected one of {', '.join(QUANTITIES)}")
    return QUANTITIES[name]


def quantity_of(field: object) -> Quantity:
    """The quantity that a field of a record or an output of a predictor holds.

    Raises:
        InputError: none does.
    """
    fields = {quantity.field: quantity for quantity in QUANTITIES.values()}
    if not isinstance(field, str) or field not in fields:
        raise InputError(f"quantity {shown(field)}, expected one of {', '.join(fields)}")
    return fields[field]
