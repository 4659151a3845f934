"""Options and architectures as values."""

from __future__ import annotations

import copy
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, spaces

from esm_onnx.architectures import Architecture, Options, Space


def test_options_read_like_a_mapping() -> None:
    options = Options({"kernel": 3, "expansion": Fraction(2, 3)})
    assert options["kernel"] == 3
    assert dict(options) == {"kernel": 3, "expansion": Fraction(2, 3)}
    assert list(options) == ["kernel", "expansion"]
    assert len(options) == 2
    assert repr(options) == "Options(kernel=3, expansion=2/3)"
    with pytest.raises(KeyError):
        options["depth"]
    with pytest.raises(TypeError):
        options["kernel"] = 5  # type: ignore[index]


def test_options_keep_no_tie_to_what_they_were_made_from() -> None:
    source = {"kernel": 3}
    options = Options(source)
    source["kernel"] = 5
    assert options["kernel"] == 3


def test_options_are_equal_by_value_whatever_the_order_or_spelling() -> None:
    one = Options({"kernel": 3, "expansion": Fraction(1, 2)})
    other = Options({"expansion": 0.5, "kernel": 3.0})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Options({"kernel": 3})
    assert one != {"kernel": 3, "expansion": Fraction(1, 2)}


@given(st.data(), spaces())
def test_equal_architectures_are_one_in_a_set(data: st.DataObject, space: Space) -> None:
    one = data.draw(architectures(space))
    same = copy.deepcopy(one)
    assert same == one
    assert len({one, same}) == 1
    assert one.depth == sum(1 for unit in one.units for _ in unit)


def test_options_sent_to_a_process_with_another_hash_seed_are_still_found_in_a_set() -> None:
    script = (
        "import sys; from esm_onnx.architectures import Options\n"
        "import multiprocessing.reduction as r\n"
        "o = Options({'op': 'skip', 'kernel': 3})\n"
        "if sys.argv[1] == 'send': sys.stdout.buffer.write(bytes(r.ForkingPickler.dumps(o)))\n"
        "else: print(o in {r.ForkingPickler.loads(sys.stdin.buffer.read())})\n"
    )
    sent = _run(script, "send", "1", b"")
    assert _run(script, "receive", "2", sent).strip() == b"True"


def _run(script: str, argument: str, seed: str, data: bytes) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", script, argument],
        input=data,
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
    ).stdout


def test_an_architecture_has_no_network_options_unless_given() -> None:
    assert Architecture("toy", ((Options({"kernel": 3}),),)).network == Options()
