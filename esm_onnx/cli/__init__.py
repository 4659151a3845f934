"""The command line: it parses, calls one function and prints one value.

Exit codes: 0 done, 1 failed, 2 misuse, 3 a threshold was not met, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

import click

from esm_onnx import __version__
from esm_onnx.cli.building import build
from esm_onnx.cli.checking import check
from esm_onnx.cli.choosing import genome, sample, spaces
from esm_onnx.cli.comparing import compare
from esm_onnx.cli.data import data
from esm_onnx.cli.doctoring import doctor
from esm_onnx.cli.exporting import cost, export
from esm_onnx.cli.fleeting import fleet
from esm_onnx.cli.interrupting import Interrupted, interruptible
from esm_onnx.cli.measuring import profile, runtimes, time_files
from esm_onnx.cli.predicting import evaluate, predict, train
from esm_onnx.cli.reporting import plot, report
from esm_onnx.cli.searching import search
from esm_onnx.cli.tabulating import lookup_table
from esm_onnx.cli.transferring import transfer
from esm_onnx.cli.tuning import tune
from esm_onnx.errors import EsmError

TRACEBACK = "ESM_ONNX_TRACEBACK"


class Commands(click.Group):
    """The commands, each of which can be interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        with interruptible():
            return super().invoke(ctx)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(__version__, package_name="esm-onnx")
def commands() -> None:
    """Latency predictors for neural architecture search: from a supernet to one predictor.onnx."""


for command in (
    spaces,
    runtimes,
    sample,
    genome,
    export,
    cost,
    doctor,
    profile,
    fleet,
    time_files,
    data,
    train,
    evaluate,
    predict,
    check,
    compare,
    build,
    transfer,
    tune,
    lookup_table,
    search,
    report,
    plot,
):
    commands.add_command(command)


def main() -> None:
    """Runs one command; an error is one line and an exit code, never a traceback."""
    _open_streams()
    try:
        commands.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        hint = f"; see {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
        _fail(" ".join(error.format_message().split()).rstrip(".") + hint, error.exit_code)
    except (Interrupted, click.Abort, KeyboardInterrupt) as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one shall not spoil the line with a traceback
        click.echo("\r" if sys.stderr.isatty() else "", err=True, nl=False)  # over the ^C of the terminal
        _fail(str(error) or "interrupted", Interrupted.exit_code)
    except EsmError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, sqlite3.Error) as error:
        where = "" if isinstance(error, sqlite3.Error) or error.filename else "a file or standard output: "
        _fail(where + " ".join(str(error).split()), 1)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        _fail(f"internal: {type(error).__name__}: {' '.join(str(error).split())}; {TRACEBACK}=1 shows where", 1)


def _open_streams() -> None:
    """Standard streams that whoever started us has closed are empty ones; what an encoding cannot say is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
