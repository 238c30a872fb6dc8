"""`stats` adds up at every moment, whatever happens to the events: captured = handed over + dropped + queued."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from support_hosts import needs_senders
from support_processes import kill

if TYPE_CHECKING:
    from pathlib import Path

    from support_hosts import Hosts

pytestmark = needs_senders

# Looks at the counts as fast as it can, from a thread of its own; threads take turns far more often than usual.
SAMPLER = """
sys.setswitchinterval(1e-6)
class Sampler(threading.Thread):
    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.wrong, self.samples, self.on = client, [], 0, True
        self.start()
    def run(self):
        before = self.client.stats
        while self.on:
            now = self.client.stats
            self.samples += 1
            if (
                now.captured != now.handed_over + now.dropped + now.queued
                or now.dropped != sum(now.dropped_by_reason.values())
                or now.queued < 0
                or now.captured < before.captured
                or now.handed_over < before.handed_over
                or now.dropped < before.dropped
            ):
                self.wrong.append((before, now))
            before = now
            time.sleep(0)
    def finish(self):
        self.on = False
        self.join()
        assert not self.wrong, self.wrong[:3]
        assert self.samples > 10

def storm(client, threads=4, count=500):
    def work(thread):
        for number in range(count):
            client.capture("storm", distinct_id="me", properties={"thread": thread, "odd": object if number % 3 else 1})
    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for thread in running: thread.start()
    for thread in running: thread.join()
    return threads * count

"""

ADDS_UP = """
sampler.finish()
stats = client.stats
assert stats.captured == captured and stats.queued == 0, (stats, captured)
say(stats.handed_over)
"""


def test_full_queue(hosts: Hosts) -> None:
    """Several threads capture more than a small queue takes; what was not dropped arrives."""
    source = """
client = new_client(queue_size=5)
sampler = Sampler(client)
captured = storm(client)
assert client.flush(20)
assert client.stats.dropped_by_reason.keys() <= {"queue full"}
"""
    done = hosts.assert_runs(SAMPLER + source + ADDS_UP, stdout=None)
    hosts.server.wait_for_events(int(done.stdout))
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"storm": int(done.stdout)}


@pytest.mark.posix("SIGALRM")
def test_interrupted_captures(hosts: Hosts) -> None:
    """A signal handler raises in the middle of thousands of captures: none of them counts as waiting for ever."""
    source = """
client = new_client(queue_size=100_000)
client.capture("tick", distinct_id="me")
armed = False
def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
for number in range(4000):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 40 * 1e-6)
        client.capture("tick", distinct_id="me", properties={"number": number})
        armed = False
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert not client.flush(30, delivered=True), "interrupted events are lost"
stats = client.stats
assert stats.queued == 0 and stats.captured == stats.delivered + stats.dropped, stats
assert set(stats.dropped_by_reason) == {"interrupted"}, stats
say(stats.delivered)
"""
    done = hosts.run(source)
    assert (done.returncode, done.stderr) == (0, "")
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"tick": int(done.stdout)}


def test_killed_sender(hosts: Hosts) -> None:
    """The sender is killed in the middle of a storm: what it had been handed may be lost, and was counted once."""
    source = """
client = new_client(queue_size=1000)
sampler = Sampler(client)
captured = storm(client, count=100)
handed_over(client, 1)
say("kill")
hear()
captured += storm(client, count=100)
assert client.flush(20)
"""
    host = hosts.start(SAMPLER + source + ADDS_UP)
    assert host.hear() == "kill"
    (sender,) = hosts.wait_for_senders()
    kill(sender)
    host.tell()
    done = host.assert_ends(stdout=None)
    hosts.wait_until_no_sender()
    assert 0 < hosts.arrived()["storm"] <= int(done.stdout)


def test_giving_up(hosts: Hosts) -> None:
    """No sender can be started: every event that was waiting is counted as dropped."""
    source = """
client = new_client(queue_size=50)
sys.executable = sys._base_executable = "/nowhere/python"
sampler = Sampler(client)
storm(client, count=50)
def gave_up():
    client.capture("late", distinct_id="me")
    return "gave up" in client.stats.dropped_by_reason
wait_until(gave_up)
assert not client.disabled
assert client.flush(5) is False
wait_until(lambda: client.stats.queued == 0)
captured = client.stats.dropped
assert client.stats.dropped_by_reason.keys() <= {"queue full", "no sender", "gave up"}, client.stats
"""
    hosts.assert_runs(SAMPLER + source + ADDS_UP, stdout="0\n")


@pytest.mark.posix("a script as an interpreter")
def test_stuck_sender_at_a_flush_without_a_thread(hosts: Hosts, tmp_path: Path) -> None:
    """The pipe is full and no thread can be started: what the flush could not hand over in time is counted."""
    source = """
ballast = {"ballast": "x" * 20_000}
sys.executable = sys.argv[1]
threading.stack_size(1 << 46)
client = new_client(queue_size=100)
for _ in range(50):
    assert client.capture("ballast", distinct_id="me", properties=ballast)
assert client.flush(0.2) is False
stats = client.stats
assert stats.captured == 50 == stats.handed_over + stats.dropped + stats.queued, stats
assert 0 < stats.handed_over < 10 and stats.dropped_by_reason.keys() == {"flush timed out"}, stats
os._exit(0)  # past our exit hook, which would wait as long as it may
"""
    interpreter, release = tmp_path / "python", tmp_path / "release"
    interpreter.write_text('#!/bin/sh\n# Reads none of its input, and waits to be released.\nread line < "$RELEASE"\n')
    interpreter.chmod(0o755)
    os.mkfifo(release)
    done = hosts.run(source, str(interpreter), environment={"RELEASE": str(release)})
    with open(release, "w") as pipe:
        pipe.write("now\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# None of them is what it is without being set, and the two that a sender's JSON has as lists are lists.
SETTINGS = {
    "app": "another",
    "app_version": "3",
    "endpoint": "batch",
    "compression": False,
    "max_retries": 4,
    "request_timeout": 1.5,
    "sender_deadline": 7.5,
    "run_properties": ["email"],
}


@pytest.mark.posix("a script as an interpreter")
def test_sender_is_told(hosts: Hosts, tmp_path: Path) -> None:
    """The last line of a stream tells the sender what the host counted, the first one where to send."""
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\nexec cat > "$STREAM"\n')
    interpreter.chmod(0o755)
    source = f"""
sys.executable = {str(interpreter)!r}
client = new_client(
    before_send=lambda event: event if event["event"] == "kept" else None,
    **{SETTINGS!r},
)
for name in ("kept", "dropped", "kept", ""):
    client.capture(name, distinct_id="me")
assert client.flush(20)
wait_until(lambda: client.flush(20, delivered=True) is not None and not client.stats.on_the_way)
"""
    hosts.assert_runs(source, environment={"STREAM": str(tmp_path / "stream")})
    hosts.wait_until_no_sender()
    hello, *events, end = map(json.loads, (tmp_path / "stream").read_text().splitlines())
    assert (hello["type"], hello["host"]) == ("hello", hosts.server.url)
    assert (hello["api_key"], hello["cwd"]) == ("phc_test", str(hosts.work))
    assert {name: hello[name] for name in SETTINGS} == SETTINGS
    assert [event["event"] for event in events] == ["kept", "kept"]
    assert end == {"type": "end", "captured": 4, "dropped": 2}


@pytest.mark.posix("hangs are reported")
def test_the_report_of_a_hang_counts_as_an_event(hosts: Hosts) -> None:
    """The sender makes it, while the host lives: `captured`, `handed_over` and `delivered` have it all the same."""
    hosts.assert_runs(
        """
from atotelemetry import Telemetry
telemetry = Telemetry(
    app="host", api_key="key", host=os.environ["TEST_SERVER"], notice=None, in_ci=True, report_hang_after=0.3
)
telemetry.go_by("me")  # no file
telemetry.capture_event("built")
wait_until(lambda: telemetry.stats.delivered == 2)
stats = telemetry.stats
assert (stats.captured, stats.handed_over, stats.on_the_way, stats.queued) == (2, 2, 0, 0), stats
telemetry.shutdown()
assert telemetry.stats.captured == 2
""",
        stdout=None,
    )
