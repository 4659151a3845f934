"""Whether an ONNX file from outside may be given to a runtime.

Loading is what a hostile file attacks: external data that names any file of the machine (or, for ONNX Runtime, an
address in memory), operators of vendors that open files themselves, chains of model-local functions that overflow the
stack. What a file may still do is take all time and memory, and crash what reads it: so it is checked, and loaded, in
a measuring process with a deadline and a limit on memory, never in its parent.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from esm_onnx.errors import InputError, shown

GREATEST_BYTES = 2**31 - 1
"""Where protobuf ends."""

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""Operators that are the standard's: com.microsoft's EPContext, for one, names a file to be loaded."""

TENSOR = onnx.TensorProto
NUMBERS = {
    *(TENSOR.FLOAT, TENSOR.FLOAT16, TENSOR.DOUBLE, TENSOR.BOOL),
    *(TENSOR.INT8, TENSOR.INT16, TENSOR.INT32, TENSOR.INT64),
    *(TENSOR.UINT8, TENSOR.UINT16, TENSOR.UINT32, TENSOR.UINT64),
}

_POOL_FILE = re.compile(r"pool-[0-9]+-([0-9]+|positive)\.f32")
_PLACE = re.compile(r"[0-9]{1,18}")


def check_untrusted(path: Path) -> None:
    """Checks that a file is ONNX, of standard operators only, and reads nothing but itself and a pool beside it.

    Raises:
        InputError: it is not; one line.
    """
    try:
        whole = _parsed(_content(path))
        if whole.functions:
            raise InputError(f"has {len(whole.functions)} model-local functions, expected none: inline them first")
        for message in _messages(whole):
            _check_message(message, path.parent)
        given = {tensor.name for tensor in whole.graph.initializer}
        for value in whole.graph.input:
            if value.name not in given:
                _check_input(value)
        _check_rules(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except InputError as error:
        raise error.at(path) from None


def _content(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError("is no regular file, expected an ONNX file")
    if found.st_size > GREATEST_BYTES:
        raise InputError(f"has {found.st_size} bytes, expected at most {GREATEST_BYTES}")
    return path.read_bytes()


def _parsed(content: bytes) -> onnx.ModelProto:
    try:
        whole: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own error, which is none of Python's
        raise InputError(f"is no ONNX file: {_short(error)}") from None
    return whole


def _messages(root: Any) -> Iterator[Any]:
    """Every message inside another, wherever the format has a place for it, now or later; without recursion."""
    left = [root]
    while left:
        message = left.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                left.extend([value] if hasattr(value, "ListFields") else value)


def _check_message(message: Any, folder: Path) -> None:
    if isinstance(message, onnx.NodeProto) and message.domain not in DOMAINS:
        operator = shown(f"{message.domain}.{message.op_type}")
        raise InputError(f"has the operator {operator}, expected only those of ai.onnx and ai.onnx.ml")
    if isinstance(message, TENSOR) and (message.data_location == TENSOR.EXTERNAL or message.external_data):
        _check_external(message, folder)


def _check_external(tensor: onnx.TensorProto, folder: Path) -> None:
    """External data must lie inside a file of our own pool, beside the model."""
    name = f"the values of {shown(tensor.name)}"
    keys = [entry.key for entry in tensor.external_data]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if len(keys) != len(entries) or not _POOL_FILE.fullmatch(location):
        raise InputError(
            f"takes {name} from {shown(location)}, expected them inside the file or in a weight pool of esm-onnx "
            "beside it: save it with its weights inside"
        )
    places = [entries.get(key, "") for key in ("offset", "length")]
    if not set(keys) <= {"location", "offset", "length"} or not all(map(_PLACE.fullmatch, places)):
        raise InputError(f"takes {name} from {shown(entries)}, expected a location, an offset and a length")
    try:
        found = (folder / location).lstat()
    except OSError as error:
        raise InputError(f"takes {name} from {location}, which cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"takes {name} from {location}, which is no regular file")
    if sum(map(int, places)) > found.st_size:
        raise InputError(f"takes {name} from beyond the {found.st_size} bytes of {location}")


def _check_input(value: onnx.ValueInfoProto) -> None:
    """An input must be numbers of a known shape; its first axis, the batch, may be free and is then 1."""
    name, tensor = shown(value.name), value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in NUMBERS:
        raise InputError(f"the input {name} is no tensor of floats or integers")
    if not tensor.HasField("shape"):
        raise InputError(f"the input {name} has no shape, expected a fixed one")
    for number, axis in enumerate(tensor.shape.dim):
        if axis.HasField("dim_value"):
            if axis.dim_value < 1:
                raise InputError(f"axis {number} of the input {name} is {axis.dim_value}, expected at least 1")
        elif number:
            raise InputError(f"axis {number} of the input {name} is free, expected a number: fix the shape first")


def _check_rules(path: Path) -> None:
    """The rules of the ONNX standard, shapes included."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # of checker, shape inference and schema, all their own
        raise InputError(f"onnx.checker refuses it: {_short(error)}") from None


def _short(error: Exception) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__
