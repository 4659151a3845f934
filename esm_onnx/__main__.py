"""The command `esm-onnx`, as `python -m esm_onnx` too."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Runs one command. Ctrl-C while Python imports ends it at once: a library cannot be stopped in the middle."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from esm_onnx import cli

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _leave(_number: int, _frame: object) -> None:
    os.write(2, b"error: interrupted; nothing was begun\n")
    os._exit(130)


if __name__ == "__main__":
    main()
