"""Networks that fail: hosts leave one alone that did, and a patient host keeps its events until it is back."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from atotelemetry.facts import breaker
from atotelemetry.testing import CaptureServer
from support_hosts import needs_senders

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

SPARE = 6.0 if sys.platform == "win32" else 1.5  # seconds that a host needs for its first event on a busy machine
# Nobody listens there.
DEAD = "http://127.0.0.1:9"

CAPTURE = """
client = new_client(max_retries=0)
client.capture("one", distinct_id="me")
said = client.flush({flush})
say(said, client.stats.dropped_by_reason, client.stats.lost)
"""


def note(hosts: Hosts, address: str, failures: int, ago: float = 0.0) -> Path:
    """Write what senders note about a server; return the file."""
    directory = hosts.cache / "host"
    directory.mkdir(exist_ok=True)
    path = directory / Path(notes_path(hosts, address)).name
    path.write_bytes(breaker.encode(failures, time.time() - ago))
    return path


def notes_path(hosts: Hosts, address: str) -> str:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(hosts.cache)
    try:
        path = breaker.note_of("host", address)
    finally:
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before
    assert path is not None
    return path


@pytest.fixture(autouse=True)
def clean_cache(hosts: Hosts):
    yield
    for path in hosts.cache.rglob("*.json"):
        path.unlink()
    for path in hosts.cache.iterdir():
        path.rmdir()


def test_two_failures_in_a_row_and_no_third_sender(hosts: Hosts) -> None:
    """The first two runs find out; the third starts nothing, and says why at once."""
    for failures in (1, 2):
        hosts.assert_runs(
            CAPTURE.format(flush="20, delivered=True"), environment={"TEST_SERVER": DEAD}, stdout="False {} 1\n"
        )
        hosts.wait_until_no_sender()
        (path,) = hosts.cache.rglob("*.json")
        assert json.loads(path.read_text())["failures"] == failures
    hosts.assert_runs(
        CAPTURE.format(flush=""), environment={"TEST_SERVER": DEAD}, stdout="False {'network down': 1} 0\n"
    )
    assert hosts.senders() == []


@pytest.mark.parametrize(
    ("settings", "flush"),
    [("", "20, delivered=True"), ("patient=True", ""), ("wait_for_delivery=True", "")],
    ids=["delivered", "patient", "wait_for_delivery"],
)
def test_who_insists_tries_regardless_and_a_success_ends_it(hosts: Hosts, settings: str, flush: str) -> None:
    """The server is back before the minute is over: the event arrives, and the note is gone."""
    path = note(hosts, hosts.server.url, 2)
    source = CAPTURE.format(flush=flush).replace("max_retries=0", f"max_retries=0, {settings}")
    hosts.assert_runs(source, stdout="True {} 0\n", arrived=["one"])
    assert not path.exists()


@pytest.mark.parametrize(("failures", "ago"), [(1, 0.0), (2, 61.0), (5, -600.0)])
def test_the_network_is_tried_again(hosts: Hosts, failures: int, ago: float) -> None:
    """After one failure, after a minute, and after a clock that went wrong."""
    note(hosts, hosts.server.url, failures, ago)
    hosts.assert_runs(CAPTURE.format(flush=""), stdout="True {} 0\n", arrived=["one"])


def test_of_two_servers_one_is_dead(hosts: Hosts) -> None:
    """The other one's events arrive."""
    note(hosts, DEAD, 2)
    source = """
dead = atotelemetry.TelemetryClient("phc_test", sys.argv[1], app="host")
dead.capture("lost", distinct_id="me")
client = new_client()
client.capture("one", distinct_id="me")
say(client.flush(20), dead.flush(20), dead.stats.dropped_by_reason)
"""
    hosts.assert_runs(source, DEAD, stdout="True False {'network down': 1}\n", arrived=["one"])


def test_an_idle_host_costs_nothing_when_the_minute_is_over(hosts: Hosts) -> None:
    """A flush dropped what waited; then nobody looks at the time again and again."""
    path = note(hosts, hosts.server.url, 2)
    source = f"""
import time
client = new_client()
at = time.time() - {breaker.PAUSE - SPARE}
with open(sys.argv[1], "w") as file:
    file.write(f'{{{{"failures": 2, "at": {{at}}}}}}')
client.capture("one", distinct_id="me")
said = client.flush(20)
while time.time() < at + {breaker.PAUSE + 0.1}:
    time.sleep(0.1)
whole, own = time.process_time(), time.thread_time()
while time.thread_time() < own + 0.3:
    pass  # so that this thread and another one get the same share of a busy machine
own = time.thread_time() - own
say(said, client.stats.dropped_by_reason, time.process_time() - whole - own < 0.1)
"""
    hosts.assert_runs(source, str(path), stdout="False {'network down': 1} True\n")


def test_an_event_waits_for_the_end_of_the_minute(hosts: Hosts) -> None:
    """A host that lives on keeps it, and sends it then, without another event."""
    note(hosts, hosts.server.url, 2, ago=58.5)
    source = 'client = new_client()\nclient.capture("one", distinct_id="me")\nsay("captured")\nhear()\n'
    host = hosts.start(source)
    assert host.hear() == "captured"
    assert hosts.server.connection_count == 0
    hosts.server.wait_for_events(1, timeout=30)
    host.assert_ends()
    hosts.assert_arrived_once("one")


@pytest.mark.parametrize(
    "spoiled",
    [
        "read-only",
        pytest.param("somebody else's", marks=pytest.mark.posix("owners of files")),
        "not a note",
        "a directory",
    ],
)
def test_a_cache_that_cannot_be_used(hosts: Hosts, spoiled: str) -> None:
    """There is no breaker then: every run tries, and nothing is said."""
    path = note(hosts, DEAD, 2)
    environment = {"TEST_SERVER": DEAD}
    if spoiled == "not a note":
        path.write_text("{]")
    elif spoiled == "a directory":
        path.unlink()
        path.mkdir()
    elif spoiled == "somebody else's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(hosts.cache, 12345, -1)
    else:
        # Also for root; where there is none, not even the directory can be made.
        environment["XDG_CACHE_HOME"] = "/proc" if os.path.isdir("/proc") else "Q:\\cache"
    try:
        hosts.assert_runs(CAPTURE.format(flush="20, delivered=True"), environment=environment, stdout="False {} 1\n")
    finally:
        if spoiled == "somebody else's":
            os.chown(hosts.cache, os.geteuid(), -1)
        if path.is_dir():
            path.rmdir()
    hosts.wait_until_no_sender()


def test_a_patient_host_loses_nothing_in_an_outage(hosts: Hosts) -> None:
    """The server is gone for some seconds, with an event every half second: all arrive, once, and all is accounted."""
    source = """
client = new_client(patient=True)
say("ready")
number = 0
while hear() == "capture":
    client.capture(f"event {number}", distinct_id="me")
    number += 1
    say(client.stats.lost)
say(client.flush(20, delivered=True), client.stats.delivered == number, client.stats.lost)
"""
    host = hosts.start(source)
    assert host.hear() == "ready"
    captured = 0

    def capture(count: int) -> None:
        nonlocal captured
        for _ in range(count):
            host.tell("capture")
            assert host.hear() == "0"
            captured += 1
            time.sleep(0.25)

    capture(3)
    hosts.server.wait_for_events(3)
    first = dict(hosts.arrived())
    port = int(hosts.server.url.rpartition(":")[2])
    hosts.server.stop()
    capture(16)
    with CaptureServer(port=port) as back:
        capture(3)
        host.tell("end")
        assert host.hear() == "True True 0"
        host.assert_ends()
        hosts.wait_until_no_sender()
        later = [event["event"] for event in back.events]
    arrived = [*first, *later]
    assert sorted(arrived) == sorted(f"event {number}" for number in range(captured))
