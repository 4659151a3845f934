"""`profile --fleet` and `build --fleet` as a user types them, on a cluster of this machine."""

from __future__ import annotations

import json

import onnxruntime
from fleet.conftest import Site, free_port

from esm_onnx.measurement.store import Store
from esm_onnx.testing import tiny_space

BUILD = ("build", "--space", "tiny.toml", "--runtime", "dry", "--fleet", "local", "--device", "a=gpu", "--json")
QUICK = ("--surrogate", "boosted", "--threshold", "80%", "--initial", "30", "--overall", "--out", "p.onnx")


def test_build_on_two_devices_of_one_target_writes_a_predictor(site: Site) -> None:
    with site.command(*BUILD, "--device", "b=gpu", *QUICK) as build:
        out, err = build.communicate()
    assert build.returncode == 0, err
    built = json.loads(out)
    assert built["reached"] is True
    onnxruntime.InferenceSession(site.folder / "p.onnx")
    assert boards_by_target(site) == {"dry gpu": {"a@127.0.0.1", "b@127.0.0.1"}}
    with Store(site.folder / "esm.db") as store:
        assert store.contents()[0].measurements == built["rounds"][-1]["measurements"]


def test_build_refuses_devices_that_are_several_targets(site: Site) -> None:
    with site.command(*BUILD, "--device", "b=cpu", *QUICK) as build:
        out, err = build.communicate()
    assert build.returncode == 2
    assert err.splitlines() == [
        "error: the devices are several targets ('dry gpu', 'dry cpu'), expected one: a predictor is of one"
    ]
    assert not out
    assert not (site.folder / "p.onnx").exists()
    assert site.rows("SELECT * FROM measurements") == []


def test_boards_of_one_kind_whose_speeds_differ_are_kept_apart(site: Site) -> None:
    port = str(free_port())
    kinds = ("--device", "apart", "--device", "alike")
    site.node(*kinds, "--node-name", "one", "--port", port)
    slower = json.dumps({"x": 1.1, "y": 1.009})
    site.node(*kinds, "--node-name", "two", "--address", f"127.0.0.1:{port}", SLOWER=slower)
    devices: dict[str, str | None] = {"apart": "x", "alike": "y"}
    options = ("--runtime", "paced", "--runs", "20", "--references", "2")
    apart = {"paced x": {"apart@one"}, "paced x apart@two": {"apart@two"}, "paced y": {"alike@one", "alike@two"}}
    told = [
        "apart@two: its references differ by more than 3 % from those of 'paced x', so it is a target of its own, "
        "'paced x apart@two'"
    ]
    for count, expected in ((40, told), (80, [])):  # the later command knows it from the store
        with site.profile(devices, count, *options, address=f"127.0.0.1:{port}") as head:
            out, err = head.communicate()
        assert head.returncode == 0, err
        assert [line for line in err.splitlines() if "differ" in line] == expected
        assert {each["target"] for each in json.loads(out)} == apart.keys()
        assert boards_by_target(site) == apart
    site.assert_each_stands_once(80)


def boards_by_target(site: Site) -> dict[str, set[str]]:
    """Which boards have measured on each target of the store."""
    with Store(site.folder / "esm.db") as store:
        return {
            content.target.name: {how["board"] for _, how in store.measured_how(tiny_space(), content.target)}
            for content in store.contents()
        }
