"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from esm_onnx.architectures import Space, find_space
from esm_onnx.errors import InputError
from esm_onnx.measurement.quantities import LATENCY, QUANTITIES, find_quantity
from esm_onnx.measurement.runtime import SWITCHES

Command = TypeVar("Command", bound=Callable[..., Any])


class SpaceType(click.ParamType[Space]):
    """The name of a space, or the path of a TOML file."""

    name = "name|file.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Space:
        return value if isinstance(value, Space) else find_space(value)


class Share(click.ParamType[float]):
    """A share, as 0.03 or 3%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0 < share <= 10 or (share > 1 and not text.endswith("%")):
            self.fail(f"{text!r} is no share, expected for example 0.03 or 3%", param, ctx)
        return share


class ShareOrNone(Share):
    """A share, or "none"."""

    name = "share|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:  # type: ignore[override]
        if str(value).strip() == "none":
            return None
        share = super().convert(value, param, ctx)
        if share >= 1:
            self.fail(f"{value!r} is too much, expected less than 100%, or none", param, ctx)
        return share


class Quantities(click.ParamType[tuple[str, ...]]):
    """Names of quantities with commas: latency,energy."""

    name = "|".join(QUANTITIES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        try:
            return tuple(find_quantity(part.strip()).name for part in str(value).split(","))
        except InputError as error:
            self.fail(str(error), param, ctx)


def _joined(_context: click.Context, _parameter: click.Parameter, given: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Each once, in the order given."""
    return tuple(dict.fromkeys(name for names in given for name in names))


def quantities_option(text: str) -> Callable[[Command], Command]:
    """`--quantity`, several times or with commas: what to measure; `text` says what else it decides."""
    return click.option(
        "--quantity",
        "quantities",
        type=Quantities(),
        multiple=True,
        callback=_joined,
        help=text + "  [default: latency]",
    )


def quantity_option() -> Callable[[Command], Command]:
    """`--quantity`: the one that is predicted."""
    return click.option(
        "--quantity",
        type=click.Choice(list(QUANTITIES)),
        default=LATENCY.name,
        callback=lambda _context, _parameter, name: find_quantity(name),
        help="What is predicted, of what was measured.",
    )


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


class WritablePath(click.ParamType[Path]):
    """A file or folder that will be written; checked before any work is done."""

    def __init__(self, *, folder: bool) -> None:
        self.name = "folder" if folder else "file"
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if str(path) == "-" and not self._folder:
            return path
        if path.exists() and path.is_dir() != self._folder:
            self.fail(f"{path} is a {'file' if self._folder else 'folder'}, expected a {self.name}", param, ctx)
        if path.is_file() and _is_database(path):
            self.fail(f"{path} is a store, expected a file that may be replaced", param, ctx)
        there = next(part for part in (path, *path.absolute().parents) if part.is_dir() or part.exists())
        holder = there if there.is_dir() else there.parent
        if not os.access(holder, os.W_OK) or (there != path and not there.is_dir()):
            self.fail(f"{path} cannot be written: {there} is no folder to write in", param, ctx)
        return path


SPACE = SpaceType()
OUT = WritablePath(folder=False)
FOLDER = WritablePath(folder=True)
SHARE, SHARE_OR_NONE = Share(), ShareOrNone()
FILE = click.Path(path_type=Path)


def space_option(*, required: bool = True, default: str | None = None) -> Callable[[Command], Command]:
    """`--space`: a name or a TOML file; without `default` it must be given where it is `required`."""
    text = "A space by name, or the path of a TOML file."
    must = required and default is None
    return click.option("--space", type=SPACE, required=must, default=default, show_default=True, help=text)


def store_option() -> Callable[[Command], Command]:
    """`--store`: the file of all records."""
    return click.option("--store", "store_path", type=FILE, default=Path("esm.db"), help="The store, an SQLite file.")


def json_option() -> Callable[[Command], Command]:
    """`--json`: for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of a table.")


def _one_of_two(context: click.Context, parameter: click.Parameter, given: bool) -> bool:
    other = "as_json" if parameter.name == "json_lines" else "json_lines"
    if given and context.params.get(other):
        raise click.UsageError("--json and --json-lines, expected one of them")
    return given


def output_options(command: Command) -> Command:
    """`--json` and `--json-lines` of a command that takes its time."""
    return together(
        click.option(
            "--json", "as_json", is_flag=True, callback=_one_of_two, help="Print one JSON value instead of a table."
        ),
        click.option(
            "--json-lines",
            is_flag=True,
            callback=_one_of_two,
            help="Print what happens as it happens, a JSON object a line: progress, message, round, generation, and "
            "result in the end, with what --json prints; see docs/live.md.",
        ),
    )(command)


def seed_option() -> Callable[[Command], Command]:
    """`--seed`."""
    return click.option(
        "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, help="Seed of everything that is drawn."
    )


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


switch_options = tuple(
    click.option(f"--{name}/--no-{name}", default=None, help=f"Whether {meaning}.  [default: as the runtime does]")
    for name, meaning in SWITCHES.items()
)
"""What is on or off; a runtime says which of them it has."""

runtime_option = click.option("--runtime", required=True, help="Name or alias; `esm-onnx runtimes` lists them.")

fleet_option = click.option(
    "--fleet",
    metavar="auto|local|ADDRESS",
    help="Measure on the devices of a Ray cluster: the running one, one of this machine alone, or that at ADDRESS.",
)


def _one_or_all(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> str | tuple[str, ...] | None:
    """A fleet has several devices; all others have one."""
    return given[0] if len(given) == 1 else given or None


measuring_options = together(
    click.option(
        "--device",
        multiple=True,
        callback=_one_or_all,
        help="Device, in the runtime's own words; with --fleet NAME[=DEVICE], once a kind.  [default: its first]",
    ),
    click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of one inference."),
    click.option("--precision", default="fp32", help="Number format."),
    *switch_options,
    click.option("--batch", type=click.IntRange(min=1), default=1, help="Images of one inference."),
    click.option("--opset", type=int, default=17, help="ONNX operator set."),
    click.option("--embed-weights", is_flag=True, help="Weights inside each file instead of one shared pool."),
    click.option("--target", help="What the target shall be called.  [default: runtime and device]"),
    click.option(
        "--paired/--plain", default=True, help="Alternate with a calibration subnet, or the paper's way: by itself."
    ),
    click.option("--runs", type=click.IntRange(min=1), default=150, help="Timed runs of a measurement at most."),
    click.option(
        "--target-error",
        type=SHARE_OR_NONE,
        default="2%",
        help="Fewer runs will do once the 95 % interval of a latency is within ± this; `none` for all runs.",
    ),
    click.option("--warmup", type=click.IntRange(min=0), default=5, help="Untimed runs before them."),
    click.option("--references", type=click.IntRange(min=1), default=3, help="Number of reference architectures."),
    click.option(
        "--reference-every", type=click.IntRange(min=1), default=20, help="Subjects between their rounds, on average."
    ),
    click.option("--session-size", type=click.IntRange(min=1), default=100, help="Subjects of a session at most."),
    click.option("--tolerance", type=SHARE, default="3%", help="How far references may wander."),
    click.option(
        "--attempts", type=click.IntRange(min=1), default=3, help="Rejected sessions in a row before giving up."
    ),
    click.option(
        "--deadline", type=click.FloatRange(0, 1e6, min_open=True), default=300.0, help="Seconds for a subnet."
    ),
    click.option(
        "--memory", type=click.FloatRange(0.25, 1e6), help="GiB for a subnet.  [default: 80 % of the machine's]"
    ),
    click.option("--retry-failed", is_flag=True, help="Try again what failed in earlier commands."),
    click.option("--folder", type=FOLDER, help="Where subnets and weights are written.  [default: the user's cache]"),
)
"""What decides how `profile` and `build` measure."""
