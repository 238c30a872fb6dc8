"""SIGTERM to everything that is left, right after the host's exit: systemd's `control-group` kill, CI agents."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from support_hosts import PATIENCE, needs_proc
from support_processes import marked

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = [needs_proc, pytest.mark.posix("SIGTERM")]

# On a busy machine a sender may take the whole drain to start. One that the signal ends is never quick enough.
ATTEMPTS = 4

HOST = """
client = new_client()
client.capture("first", distinct_id="me")
client.capture("last", distinct_id="me")
"""


def terminate_all(hosts: Hosts) -> int:
    """Send SIGTERM to every process of this test; return to how many."""
    count = 0
    for pid, _ in list(marked(hosts.mark)):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        count += 1
    return count


def test_a_sender_that_is_just_starting_delivers_all_the_same(hosts: Hosts) -> None:
    """The signal waits until it can be met with a short drain."""
    for _ in range(ATTEMPTS):
        done = hosts.run(HOST)
        # A look at the moment in which it forks meets neither process.
        assert any(terminate_all(hosts) for _ in range(100))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        hosts.wait_until_no_sender()
        if hosts.server.events:
            break
    hosts.assert_arrived_once("first", "last")


def test_host_and_sender_are_terminated_together(hosts: Hosts) -> None:
    """What the host captures while it shuts down arrives, too."""
    host = hosts.start(
        """
client = new_client()
def stop(*_):
    client.capture("stopped", distinct_id="me")
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
hand_over_one(client, "started")
"""
    )
    assert host.hear() == "ready"
    hosts.server.wait_for_events(1, timeout=PATIENCE)
    assert terminate_all(hosts) >= 2
    assert host.finish().returncode == 3
    hosts.assert_arrived_once("started", "stopped")
