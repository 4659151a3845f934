"""A fleet whose nodes are joined by a cable of their own that a test cuts: two network namespaces of this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest
from fleet.conftest import Site, has_ended, parent_of

IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
HEAD, FAR = "192.0.2.1", "192.0.2.2"
"""Of a network that RFC 5737 keeps for examples; they exist within the namespaces alone."""
PORT = "6379"
SESSION = 5
"""Subjects of a session: some are closed before the cut."""


class Cable:
    """Two network namespaces that reach each other and nothing else.

    Attributes:
        near, far: runs a command in one of them.
    """

    def __init__(self) -> None:
        word = secrets.token_hex(4)
        self._spaces = (f"ef-{word}-near", f"ef-{word}-far")
        self.near, self.far = ((IP, "netns", "exec", name) for name in self._spaces)

    def lay(self) -> None:
        near, far = self._spaces
        for name in self._spaces:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", near, "type", "veth", "peer", "name", "cable", "netns", far)
        for name, address in zip(self._spaces, (HEAD, FAR), strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")

    def cut(self) -> None:
        """At the far end, so that here nothing is told of it: packets just find no answer."""
        _ip("-n", self._spaces[1], "link", "set", "cable", "down")

    def mend(self) -> None:
        _ip("-n", self._spaces[1], "link", "set", "cable", "up")

    def remove(self) -> None:
        for name in self._spaces:
            subprocess.run([IP, "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run([IP, *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def cable() -> Iterator[Cable]:
    if not IP:
        pytest.skip("the command ip is not installed (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces are root's to make")
    made = Cable()
    try:
        try:
            made.lay()
        except OSError as error:
            pytest.skip(f"network namespaces are refused here: {error}")
        yield made
    finally:
        made.remove()


def start_both(site: Site, cable: Cable, *near: str, **environment: str) -> None:
    """The head of the cluster at the near end, which a head of measuring can join, and a device `far` at the other."""
    site.node(*near, "--node-name", "near", "--ip", HEAD, within=cable.near, PACED="near", **environment)
    start_far(site, cable)


def start_far(site: Site, cable: Cable) -> None:
    options = ("--device", "kind", "--node-name", "far", "--ip", FAR, "--address", f"{HEAD}:{PORT}")
    site.node(*options, within=cable.far, PACED="far")


def head(site: Site, cable: Cable, count: int, **patience: float) -> subprocess.Popen[str]:
    """A head whose own deadline is 5 s: Ray itself needs a minute to find that a node does not answer."""
    address = f"{HEAD}:{PORT}"
    waits = {"start_s": 60, "answer_s": 3, **patience}
    protocol = {"deadline_s": 2, "session_size": SESSION}
    return site.head({"kind": None}, within=cable.near, count=count, patience=waits, address=address, **protocol)


def cut_in_the_middle(site: Site, cable: Cable) -> int:
    """Cuts while the far device measures, which then finishes: the cable alone keeps its answer. Gives its actor."""
    actor = parent_of(site.hang("far"))
    cable.cut()
    site.unhang("far")
    return actor


def sessions_far(site: Site) -> list[int]:
    """How many subjects the far device has measured in each of its sessions."""
    sessions = "SELECT id FROM sessions WHERE json_extract(provenance, '$.board') = 'kind@far'"
    subjects = f"SELECT count(*) FROM measurements WHERE role = 'subject' AND session IN ({sessions})"
    return [count for (count,) in site.rows(f"{subjects} GROUP BY session ORDER BY session")]


def assert_nothing_lost_or_doubled(site: Site, count: int) -> Counter[str]:
    """A cut is no failure of a subnet either; gives how many each board has measured."""
    assert site.rows("SELECT count(*) FROM measurements WHERE role = 'subject'") == [(count,)]
    assert site.rows("SELECT * FROM failures") == []
    return site.assert_each_stands_once(count)


def test_what_a_node_beyond_a_cut_was_measuring_goes_to_another(cable: Cable, site: Site) -> None:
    start_both(site, cable, "--device", "kind")
    with head(site, cable, 60, losses=1) as process:
        site.await_subjects(20)
        cut_in_the_middle(site, cable)
        kept = sum(sessions_far(site))
        found = site.ended(process)
    assert found["left"] == 0
    assert found["lost"] == {"kind@far": "kind@far did not answer within 5 s"}
    assert assert_nothing_lost_or_doubled(site, 60) == {"kind@far": kept, "kind@near": 60 - kept}


def test_a_node_goes_on_when_the_cable_is_mended(cable: Cable, site: Site) -> None:
    start_both(site, cable, "--device", "kind", PACE_S="0.01")  # so that there is something left when the other is back
    with head(site, cable, 150) as process:
        site.await_subjects(20)
        cut_in_the_middle(site, cable)
        kept = sum(sessions_far(site))
        site.wait_for(lambda: "kind@far did not answer within 5 s; begun anew" in site.told)
        cable.mend()  # its late answer arrives now, and nobody reads it
        found = site.ended(process)
    assert (found["left"], found["lost"]) == (0, {})
    assert assert_nothing_lost_or_doubled(site, 150)["kind@far"] > kept
    assert set(sessions_far(site)[:-1]) == {SESSION}  # the one that was cut off went on


def test_without_another_device_the_result_is_partial_and_the_same_command_completes_it(
    cable: Cable, site: Site
) -> None:
    start_both(site, cable)
    with head(site, cable, 40, losses=1) as process:
        site.await_subjects(20)
        cut_in_the_middle(site, cable)
        found = site.ended(process)
    kept = sum(sessions_far(site))
    assert found["left"] == 40 - kept > 0
    assert found["lost"] == {"kind@far": "kind@far did not answer within 5 s"}
    cable.mend()
    with head(site, cable, 40) as process:
        found = site.ended(process)
    assert (found["left"], found["measured"]) == (0, {"paced one": 40 - kept})
    assert assert_nothing_lost_or_doubled(site, 40) == {"kind@far": 40}


def test_a_node_that_ray_gave_up_comes_back_under_its_name(cable: Cable, site: Site) -> None:
    quickly = {"initial_delay_ms": "0", "period_ms": "500", "timeout_ms": "500", "failure_threshold": "3"}
    ray = {f"RAY_health_check_{name}": value for name, value in quickly.items()}
    start_both(site, cable, "--device", "kind", PACE_S="0.01", **ray)
    with head(site, cable, 250) as process:
        site.await_subjects(20)
        raylet = parent_of(cut_in_the_middle(site, cable))
        kept = sum(sessions_far(site))
        site.wait_for(lambda: "kind@far was lost" in site.told)
        cable.mend()
        site.wait_for(lambda: has_ended(raylet))  # as Ray no longer knows it
        start_far(site, cable)
        found = site.ended(process)
    assert (found["left"], found["lost"]) == (0, {})
    assert assert_nothing_lost_or_doubled(site, 250)["kind@far"] > kept
