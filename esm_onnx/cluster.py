"""Ray: a cluster of this machine alone, or one that is running.

What is started here listens on this machine alone, asks for a token that nobody else knows, tells nobody of its use,
and is gone in the end, with its files.
"""

from __future__ import annotations

import importlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esm_onnx.errors import InputError, WorkError

HERE = "local"
"""In place of an address: a cluster of this machine, for as long as the work takes."""

AUTO = "auto"
"""In place of an address: the cluster that runs on this machine, or one like `HERE`."""

STORE_BYTES = 256 * 2**20
"""Of Ray's object store."""

ANSWER_S = 10.0
"""Seconds in which a head takes a connection."""

EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one says nothing when it is told to
}
NODE = {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
"""Of every node: nobody without the token, and what measures is not put behind other processes."""
ALONE = {
    **NODE,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: no cluster of several machines, so the loopback will do
}
"""Environment that Ray reads when it is imported and started."""


@contextmanager
def connected(
    address: str,
    folder: Path,
    *,
    option: str,
    extra: str,
    processes: int = 1,
    resources: Mapping[str, float] | None = None,
) -> Iterator[Any]:
    """The module `ray`, connected; what was started for it is shut down in the end.

    Args:
        address: of a running cluster, which must ask for a token; HERE starts one.
        folder: for the files of a cluster that is started.
        option: of the command line, that asks for Ray.
        extra: the module of Ray that is needed beside it.
        processes, resources: cores and custom resources of a cluster that is started.

    Raises:
        InputError: Ray is not installed, or in use in this process.
        WorkError: nothing answers, or Ray gave up.
    """
    started = {**ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)} if address == HERE else {}
    asking = {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_MODE": "token"}
    with _environment({**asking, **EVERYWHERE, **started}):
        try:
            ray = importlib.import_module("ray")
            importlib.import_module(extra)
        except ImportError as error:
            what = "Ray Tune" if extra == "ray.tune" else "Ray"
            step = f"pip install 'esm-onnx[ray]', or leave out {option}"
            raise InputError(f"{what} is needed ({error}): {step}") from None
        if ray.is_initialized():
            raise InputError("Ray is in use in this process, expected to connect it ourselves: call ray.shutdown()")
        quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        try:
            if address == HERE:
                limits = {"num_cpus": processes, "num_gpus": 0, "object_store_memory": STORE_BYTES}
                files = {"include_dashboard": False, "_temp_dir": str(folder / "ray")}
                ray.init("local", resources=dict(resources or {}), **limits, **files, **quiet)
                _demand_loopback(ray.util.get_node_ip_address())
            else:
                _demand_answer(address)
                ray.init(address, **quiet)
            yield ray
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise WorkError(f"Ray: {' '.join(str(error).split())[:200]}") from None
        finally:
            ray.shutdown()


def running() -> str | None:
    """How Ray finds the cluster that runs on this machine, or that the environment names; None where there is none."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    return "auto" if Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").exists() else None


def prepare_token(*, make: bool) -> Path:
    """The file of the token, which nobody but its owner can read afterwards.

    Args:
        make: where it is absent.

    Raises:
        InputError: there is none, or it is empty or cannot be protected.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        if make and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        if not path.read_text().strip():
            raise InputError("an empty token: delete the file on the head, and start that again", file=path)
        path.chmod(0o600)
    except OSError as error:
        raise InputError(f"no token ({error.strerror}), expected a copy of the head's file", file=path) from None
    return path


def _demand_answer(address: str) -> None:
    """Makes sure that something listens, as Ray itself would try for minutes; an address of another form is Ray's to
    judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isascii() and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise WorkError(f"nothing answers at {address} ({error}): is the head started?") from None


def _demand_loopback(address: str) -> None:
    if not address.startswith("127."):
        raise WorkError(
            f"Ray listens on {address}, expected this machine alone: it was imported before; work in another process"
        )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables while it lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
