"""A fleet on a real cluster of this machine, whose processes are killed."""

from __future__ import annotations

import json
import os
import signal
import stat

import pytest
from fleet.conftest import Site, free_port, parent_of

DRY: dict[str, str | None] = {"a": "gpu", "b": "cpu", "c": "board", "d": "hot"}


def test_four_devices_measure_each_architecture_once_though_the_head_is_killed(site: Site) -> None:
    options = ["--runtime", "dry", "--runs", "20", "--session-size", "15", "--references", "1"]
    with site.profile(DRY, 100, *options) as head:
        site.await_subjects(30)
        head.kill()
    site.wait_for(lambda: not site.measuring())  # they end with the head
    site.kill_all()  # agents of Ray do not always
    with site.profile(DRY, 100, *options) as head:
        out, err = head.communicate()
    assert head.returncode == 0, err
    found = {each["target"]: each for each in json.loads(out)}
    assert found.keys() == {f"dry {device}" for device in DRY.values()}
    assert not any(each["failures"] for each in found.values())
    boards = site.assert_each_stands_once(100)
    assert boards.keys() == {f"{name}@127.0.0.1" for name in DRY}
    site.assert_all_have_ended()


def test_killed_and_hanging_processes_lose_nothing(site: Site) -> None:
    devices: dict[str, str | None] = {name: name for name in "abcd"}
    patience = {"start_s": 40, "answer_s": 3, "losses": 2}
    with site.head(devices, count=160, deadline_s=2, session_size=15, patience=patience) as head:
        site.await_subjects(80)  # each is in its second session
        os.kill(site.hang("a"), signal.SIGKILL)  # the process that measures
        site.unhang("a")
        site.hang("d")  # which its own machine finds
        actor = parent_of(site.hang("b"))
        os.kill(actor, signal.SIGKILL)
        site.unhang("b")
        actor = parent_of(site.hang("c"))
        os.kill(actor, signal.SIGSTOP)  # nothing there finds it
        site.wait_for(lambda: ("deadline",) in site.rows("SELECT kind FROM failures"))
        site.unhang("d")
        site.unhang("c")
        found = site.ended(head)
    assert found["left"] == 0
    assert "b@127.0.0.1 was lost" in site.told
    assert "c@127.0.0.1 did not answer within 5 s; begun anew" in site.told
    assert set(site.rows("SELECT kind FROM failures")) == {("crash",), ("deadline",)}
    assert site.assert_each_stands_once(160).keys() == {f"{name}@127.0.0.1" for name in devices}


@pytest.mark.parametrize("paired", [True, False])  # hanging while calibrated, or while compared with the other
def test_an_accident_before_the_first_subject_costs_no_device(site: Site, paired: bool) -> None:
    devices: dict[str, str | None] = {"a": "twin", "b": "twin"}
    (site.folder / "hang-twin").touch()  # from the beginning
    with site.head(devices, count=20, deadline_s=2, paired=paired) as head:
        process = site.hang("twin")
        actor = parent_of(process)
        os.kill(process, signal.SIGKILL)
        site.wait_for(lambda: actor in map(parent_of, site.hanging("twin")))  # its second attempt
        os.kill(actor, signal.SIGKILL)
        site.unhang("twin")
        found = site.ended(head)
    assert (found["left"], found["lost"]) == (0, {})
    site.assert_each_stands_once(20)


def test_a_node_that_dies_leaves_its_work_to_others_and_strangers_are_refused(site: Site) -> None:
    port = free_port()
    site.node("--device", "kind", "--node-name", "one", "--port", str(port), PACED="one")
    token = site.folder / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    site.node("--device", "kind", "--node-name", "two", "--address", f"127.0.0.1:{port}", PACED="two")
    patience = {"start_s": 60, "answer_s": 3, "losses": 1}
    address = f"127.0.0.1:{port}"
    with site.head({"kind": None}, count=60, deadline_s=2, patience=patience, address=address) as head:
        site.await_subjects(6)
        actor = parent_of(site.hang("two"))
        os.kill(parent_of(actor), signal.SIGKILL)  # the raylet: all that runs on the node ends with it
        found = site.ended(head)
    assert found["left"] == 0
    assert found["measured"] == {"paced one": 60}  # both are one target
    assert list(found["lost"]) == ["kind@two"]
    assert site.assert_each_stands_once(60)["kind@one"] > 30
    site.environment["RAY_AUTH_TOKEN"] = "0" * 64
    with site.head({"kind": None}, address=address) as head:
        assert head.wait(timeout=60) == 1
    assert "error: " in site.told
