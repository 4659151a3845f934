"""Energy of an inference from a counter that the system keeps; where there is none, there is no energy.

Counters tick: RAPL's every millisecond, NVML's every 20 to 100 ms. So inferences are repeated back to back from one
tick to another, for a second and for twenty ticks at least, and the difference is divided by their number. What the
device takes while it idles is in it, and so is what anything else takes that runs on it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esm_onnx.errors import InputError
from esm_onnx.measurement.nvml import Gpu
from esm_onnx.measurement.quantities import Unmeasurable

WINDOW_S = 1.0
TICKS = 20
LOOK_NS = 5_000_000
"""Inferences go on for so long between two looks at the counter, which take time and energy themselves."""
STUCK_NS = 10_000_000_000
"""A counter that did not move for so long while the device computed does not count."""
POWERCAP = "sys/class/powercap"
WITHOUT = "or measure without --quantity energy"


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """A counter of the energy that a device takes.

    Attributes:
        name: what it is.
        read_mj: energy since some moment in the past, in mJ; never goes back.
        window_s: how long inferences are repeated at least, in s of the runtime's clock.
    """

    name: str
    read_mj: Callable[[], float]
    window_s: float = WINDOW_S


def energy_per_inference_mj(
    infer: Callable[[], object], counter: EnergyCounter, clock: Callable[[], int], *, ticks: int = TICKS
) -> float:
    """Energy of one inference, in mJ: idle power is not subtracted.

    Args:
        clock: gives ns.
        ticks: how often the counter must move meanwhile, at least.

    Raises:
        Unmeasurable: the counter stands still.
    """

    def until_it_moves(reading: float) -> tuple[float, int]:
        """Infers until the counter differs from `reading`; gives what it says then, and the number of inferences."""
        count, start = 0, clock()
        while clock() - start <= STUCK_NS:
            look = clock() + LOOK_NS
            infer()
            count += 1
            while clock() < look:
                infer()
                count += 1
            if (now := counter.read_mj()) != reading:
                return now, count
        raise Unmeasurable(f"{counter.name} stood still for {STUCK_NS / 1e9:g} s of inferences: see to it, {WITHOUT}")

    before, _ = until_it_moves(counter.read_mj())  # from one tick on, so that no part of one is counted
    reading, count, moves, start = before, 0, 0, clock()
    while moves < ticks or clock() - start < 1e9 * counter.window_s:
        reading, more = until_it_moves(reading)
        count, moves = count + more, moves + 1
    return (reading - before) / count


class RaplDomain:
    """RAPL's counter of one package (Linux powercap), which starts again from 0 at the end of its range."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text().strip()
        self._counter = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj, self._total_uj = self._read(), 0

    def total_uj(self) -> int:
        """Energy since this was made, in µJ; right if it is asked more often than the range is passed."""
        now = self._read()
        self._total_uj += now - self._last_uj + (self._range_uj if now < self._last_uj else 0)
        self._last_uj = now
        return self._total_uj

    def _read(self) -> int:
        return int(self._counter.read_text())


def rapl_counter(root: Path = Path("/")) -> EnergyCounter:
    """The energy of all processor packages of this machine, through RAPL.

    Args:
        root: folder that holds `sys`.

    Raises:
        InputError: there is no such counter, or it may not be read.
    """
    folder = root / POWERCAP
    if not folder.is_dir():
        raise InputError(
            f"no energy counter: {folder} is absent (a virtual machine?): measure where RAPL is, {WITHOUT}"
        )
    try:
        # psys counts the packages once more, and the parts of a package have numbers of their own behind its number
        packages = [zone for zone in folder.glob("intel-rapl:*") if _name(zone).startswith("package")]
        domains = sorted((RaplDomain(zone) for zone in packages), key=lambda domain: domain.name)
    except PermissionError as error:
        raise InputError(
            f"no energy counter: {error.filename} may not be read: run as root, `sudo chmod a+r {error.filename}`, "
            f"{WITHOUT}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"no energy counter: RAPL in {folder} cannot be used ({error}): see to it, {WITHOUT}"
        ) from None
    if not domains:
        raise InputError(f"no energy counter: no package of RAPL in {folder}: measure where one is, {WITHOUT}")
    name = "RAPL " + " + ".join(domain.name for domain in domains)
    return EnergyCounter(name, lambda: sum(domain.total_uj() for domain in domains) / 1e3)


def _name(zone: Path) -> str:
    return (zone / "name").read_text().strip()


def gpu_counter(gpu: Gpu) -> EnergyCounter:
    """The energy of a whole GPU board, through NVML.

    Raises:
        InputError: the GPU does not tell it.
    """

    def read_mj() -> float:
        if (energy_mj := gpu.energy_mj()) is None:
            raise InputError(
                f"no energy counter: NVML does not tell this GPU's total energy (Volta and newer do): take another, "
                f"{WITHOUT}"
            )
        return energy_mj

    read_mj()
    return EnergyCounter("NVML total energy", read_mj)


def find_counter(gpu_index: int | None, *, on_cpu: bool) -> EnergyCounter:
    """The counter of what computes: the GPU of that number, or the processors.

    Args:
        on_cpu: the processors compute, if no GPU is named.

    Raises:
        InputError: there is none; the message says why.
    """
    if gpu_index is None and on_cpu:
        return rapl_counter()
    if gpu_index is None:
        raise InputError(
            "no energy counter: the processors do not compute, and NVML does not know the device that does: "
            f"measure on a CPU or where NVML knows the GPU, {WITHOUT}"
        )
    try:
        return gpu_counter(Gpu(gpu_index))
    except OSError as error:
        raise InputError(f"no energy counter: {' '.join(str(error).split())}: see to NVML, {WITHOUT}") from None
