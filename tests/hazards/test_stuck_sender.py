"""The sender is stopped (SIGSTOP, a debugger, a frozen container): its pipe fills, the host does not wait for it."""

from __future__ import annotations

import time

import pytest

from support_hosts import needs_senders
from support_processes import SLOWER, go_on, stop

pytestmark = needs_senders

STUCK = """
client = new_client(queue_size=50)
hand_over_one(client)
slowest = 0.0
accepted = 1
for number in range(1, 500):
    started = time.perf_counter()
    taken = client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 4000})
    slowest = max(slowest, time.perf_counter() - started)
    accepted += taken is not None
"""


def test_captures_stay_fast_and_are_dropped_and_counted(hosts):
    """With pipe and queue full, `capture` returns None at once, and the event is counted."""
    host = hosts.start(
        STUCK
        + """
stats = client.stats
say(slowest < 0.25, 50 <= accepted < 150)
say(stats.captured == 500, stats.captured == stats.handed_over + stats.dropped + stats.queued)
say(stats.dropped == 500 - accepted, stats.dropped_by_reason == {"queue full": stats.dropped})
hear()
say(client.flush(20))
say(client.stats.handed_over == accepted)
"""
    )
    sender = hosts.stop_the_sender(host)
    for _ in range(3):
        assert host.hear() == "True True"
    # Thawed, it takes the queued events: none of them is lost.
    go_on(sender)
    host.tell()
    host.assert_ends(stdout="True\nTrue\n")
    hosts.wait_until_no_sender()
    assert max(hosts.arrived().values()) == 1


def test_flush_says_no_in_time(hosts):
    """`flush` waits as long as it was told to, not longer, and says that the events are not handed over."""
    host = hosts.start(
        STUCK
        + """
for options in ({}, {"delivered": True}):
    started = time.monotonic()
    flushed = client.flush(0.3, **options)
    say(flushed, 0.25 < time.monotonic() - started < 1.5 * slower)
os._exit(0)
"""
    )
    hosts.stop_the_sender(host)
    host.assert_ends(stdout="False True\nFalse True\n")


def test_exit_costs_the_flush_timeout_at_most_and_what_was_handed_over_arrives(hosts):
    """A CLI with a stuck sender ends two seconds later than it would, not more; the thawed sender delivers its part."""
    host = hosts.start(
        STUCK
        + """
say(client.stats.handed_over)
say(time.monotonic())
"""
    )
    sender = hosts.stop_the_sender(host)
    handed_over, leaving_at = int(host.hear()), float(host.hear())
    done = host.finish()
    took = time.monotonic() - leaving_at
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert 1.5 < took < 3.5, took
    go_on(sender)
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    assert max(arrived.values()) == 1
    assert handed_over <= len(arrived) <= handed_over + 20  # the pipe may take more after the last look


def test_two_clients_with_stuck_senders_cost_one_flush_timeout(hosts):
    """However many clients a host has, its exit costs `FLUSH_TIMEOUT` once."""
    host = hosts.start(
        """
clients = [new_client(queue_size=50) for _ in range(3)]
for client in clients:
    client.capture("one", distinct_id="me")
    handed_over(client, 1)
say("ready")
hear()
for client in clients:
    for _ in range(200):
        client.capture("two", distinct_id="me", properties={"padding": "x" * 4000})
say(time.monotonic())
"""
    )
    assert host.hear() == "ready"
    for sender in hosts.wait_for_senders(3):
        stop(sender)
    host.tell()
    leaving_at = float(host.hear())
    host.assert_ends()
    assert time.monotonic() - leaving_at < 3.5 * SLOWER


@pytest.mark.posix("a signal that a process sends itself")
def test_an_impatient_ctrl_c_during_the_wait_at_exit_is_quiet(hosts):
    """Ctrl-C while the exit waits for a stuck sender: the wait ends, without a traceback of ours."""
    host = hosts.start(
        STUCK
        + """
signal.signal(signal.SIGINT, signal.default_int_handler)
main = threading.get_ident()
def waits_at_exit():
    frame = sys._current_frames()[main]
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names >= {"flush_all_at_exit", "hand_over"}
def press():
    wait_until(waits_at_exit)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
say(time.monotonic())
"""
    )
    hosts.stop_the_sender(host)
    leaving_at = float(host.hear())
    host.assert_ends()
    assert time.monotonic() - leaving_at < 1.5
