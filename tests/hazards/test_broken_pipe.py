"""The sender is killed under the host's hands, and the host has SIGPIPE set to its deadly default.

Command-line programs set SIGPIPE to default so that `cli | head` ends quietly. Then each write to a pipe without a
reader kills the process: ours must not.
"""

from __future__ import annotations

import signal

import pytest

from support_hosts import needs_senders, program_that_exits, wait_for_end
from support_processes import kill

pytestmark = needs_senders

DEADLY = """
if os.name == "posix":  # elsewhere there is no such signal
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    "disposition", [pytest.param(DEADLY, marks=pytest.mark.posix("SIGPIPE")), ""], ids=["SIG_DFL", "SIG_IGN"]
)
def test_a_killed_sender_is_replaced(hosts, disposition):
    """Somebody kills the sender, twice: the host lives on, and the next events reach a new sender."""
    host = hosts.start(
        disposition
        + """
client = new_client()
number = 0
while hear() == "capture":
    client.capture(f"event {number}", distinct_id="me")
    number += 1
    handed_over(client, number)
    say("captured")
"""
    )
    for number in range(3):
        host.tell("capture")
        assert host.hear() == "captured"
        hosts.server.wait_for_events(number + 1)
        if number < 2:
            (sender,) = hosts.wait_for_senders()
            kill(sender)
            assert wait_for_end(sender, 10)
    host.tell("end")
    host.assert_ends()
    hosts.assert_arrived_once("event 0", "event 1", "event 2")


def test_a_sender_killed_in_full_stride_costs_only_what_it_had(hosts):
    """Killed in the middle of a stream, with a write under way: the host lives, the rest arrives, nothing twice."""
    host = hosts.start(
        DEADLY
        + """
client = new_client()
say("ready")
hear()
number = 0
ends_at = time.monotonic() + 1.0
while time.monotonic() < ends_at:
    number += client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 5000}) is not None
client.flush(20)
client.capture("last", distinct_id="me")
stats = client.stats
client.flush(20)
say(stats.captured == stats.handed_over + stats.dropped + stats.queued, set(stats.dropped_by_reason) <= {"queue full"})
"""
    )
    assert host.hear() == "ready"
    host.tell()
    first = hosts.wait_for_senders()
    hosts.server.wait_for_events(1)
    kill(first[0])
    host.assert_ends(stdout="True True\n")
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    assert max(arrived.values()) == 1
    assert arrived["last"] == 1


WITHOUT_THREADS = """
from atotelemetry.host import feeder
def start_new_thread(*_):
    raise RuntimeError("can't start new thread at interpreter shutdown")
feeder.start_new_thread = start_new_thread
"""


@pytest.mark.parametrize("threads", ["", WITHOUT_THREADS], ids=["feeder", "inline"])
def test_a_sender_that_dies_at_once_does_not_kill_an_exiting_host(hosts, threads):
    """The sender cannot even start: also at exit, on the host's own thread, the broken pipe kills nobody."""
    broken = program_that_exits(hosts.directory / "python-that-dies")
    hosts.assert_runs(
        DEADLY
        + threads
        + """
client = new_client()
sys.executable = sys._base_executable = sys.argv[1]
for number in range(100):
    client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 4000})  # more than a pipe holds
import atexit
atexit._run_exitfuncs()
stats = client.stats
say(stats.handed_over + stats.dropped == 100, client.disabled)
""",
        broken,
        stdout="True True\n",
    )


@pytest.mark.posix("SIGPIPE")
def test_the_hosts_own_broken_pipe_stays_deadly(hosts):
    """After all of ours, SIGPIPE does to the host's own writes what the host has chosen, on every thread."""
    hosts.assert_runs(
        DEADLY
        + WITHOUT_THREADS
        + """
client = new_client()
client.capture("one", distinct_id="me")
client.flush()
say(signal.getsignal(signal.SIGPIPE).name, signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, []))
read_end, write_end = os.pipe()
os.close(read_end)
os.write(write_end, b"x")
""",
        returncode=-signal.SIGPIPE,
        stdout="SIG_DFL False\n",
        arrived=["one"],
    )
