"""`flush(delivered=True)` says True when the server accepted everything, and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from atotelemetry.testing import Answer
from support_hosts import needs_senders
from support_processes import SLOWER, kill, stop

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

# Captures some events and prints what a delivering flush says, and how long that took.
FLUSH = """
for number in range(3):
    client.capture("event", distinct_id="me", properties={"number": number})
started = time.monotonic()
said = client.flush(timeout, delivered=True)
say(said, time.monotonic() - started)
"""


def said(line: str) -> tuple[bool, float]:
    answer, seconds = line.split()
    return answer == "True", float(seconds)


def test_everything_accepted(hosts: Hosts) -> None:
    """The server takes every event: True, and by then they are there; again with the next sender."""
    source = f"client, timeout = new_client(), 20\n{FLUSH}\nhear()\n{FLUSH}"
    host = hosts.start(source)
    assert said(host.hear())[0] is True
    assert hosts.arrived() == {"event": 3}
    host.tell()
    assert said(host.hear())[0] is True
    assert hosts.arrived() == {"event": 6}
    host.assert_ends()


@pytest.mark.parametrize("status", [302, 400, 429, 503])
def test_server_that_refuses(hosts: Hosts, status: int) -> None:
    """The server answers, but takes nothing: False."""
    hosts.server.respond(Answer(status=status))
    done = hosts.assert_runs(f"client, timeout = new_client(max_retries=0), 20\n{FLUSH}", stdout=None)
    assert said(done.stdout)[0] is False


def test_server_that_refuses_some(hosts: Hosts) -> None:
    """The server takes all but one event: False; and True for what comes afterwards."""
    hosts.server.script(Answer(), Answer(status=400), Answer())
    host = hosts.start(f"client, timeout = new_client(endpoint='capture'), 20\n{FLUSH}\nhear()\n{FLUSH}")
    assert said(host.hear())[0] is False
    assert hosts.arrived() == {"event": 2}
    host.tell()
    assert said(host.hear())[0] is True
    host.assert_ends()


def test_server_that_recovers(hosts: Hosts) -> None:
    """The first attempt fails and the retry succeeds: True."""
    hosts.server.script(Answer(status=503))
    done = hosts.assert_runs(f"client, timeout = new_client(max_retries=1), 20\n{FLUSH}", stdout=None)
    assert said(done.stdout)[0] is True
    assert hosts.arrived() == {"event": 3}


def test_server_down(hosts: Hosts) -> None:
    """Nobody listens there: False."""
    hosts.server.stop()
    done = hosts.assert_runs(f"client, timeout = new_client(max_retries=0), 20\n{FLUSH}", stdout=None)
    assert said(done.stdout)[0] is False


def test_server_that_never_answers(hosts: Hosts) -> None:
    """The timeout passes first: False, in time."""
    hosts.server.respond(Answer(hang=True))
    done = hosts.assert_runs(f"client, timeout = new_client(), 0.5\n{FLUSH}", stdout=None)
    answer, seconds = said(done.stdout)
    assert answer is False
    assert 0.4 < seconds < 2 * SLOWER


def test_late_answer(hosts: Hosts) -> None:
    """A flush that timed out said False; a later one that sees the same events accepted may say True."""
    hosts.server.respond(Answer(delay=0.25))
    source = """
client = new_client()
client.capture("event", distinct_id="me")
say(client.flush(0, delivered=True), client.flush(0.001, delivered=True), client.flush(20, delivered=True))
"""
    hosts.assert_runs(source, stdout="False False True\n")
    assert hosts.arrived() == {"event": 1}


def test_handed_over_earlier(hosts: Hosts) -> None:
    """Events of earlier senders count, too: all that was captured since the last such call must be accepted."""
    hosts.server.script(Answer(status=400))
    source = """
client = new_client()
client.capture("refused", distinct_id="me")
assert client.flush(20)
hear()
client.capture("accepted", distinct_id="me")
say(client.flush(20, delivered=True))
say(client.flush(20, delivered=True))
"""
    host = hosts.start(source)
    hosts.server.wait_for_requests(1)
    host.tell()
    assert (host.hear(), host.hear()) == ("False", "True")
    host.assert_ends()
    assert hosts.arrived() == {"accepted": 1}


@pytest.mark.parametrize("loss", ["queue full", "no event name", "before_send raised"])
def test_lost_in_the_host(hosts: Hosts, loss: str) -> None:
    """An event that never left the host was not accepted: False, although the server took all the others."""
    source = f"""
def before_send(event):
    if event["event"] == "bad":
        raise ValueError
    return event if event["event"] == "good" else [event]
client = new_client(queue_size=1, before_send=before_send)
client.capture("good", distinct_id="me")
handed_over(client, 1)
if {loss!r} == "queue full":
    while not client.stats.dropped:
        client.capture("good", distinct_id="me")
elif {loss!r} == "no event name":
    client.capture("in a list", distinct_id="me")
else:
    client.capture("bad", distinct_id="me")
assert client.stats.dropped_by_reason.keys() == {{{loss!r}}}, client.stats
say(client.flush(20, delivered=True), client.flush(20, delivered=True))
"""
    hosts.assert_runs(source, stdout="False True\n")
    hosts.wait_until_no_sender()
    assert hosts.arrived()["good"] >= 1


@pytest.mark.parametrize("moment", ["while it is fed", "while it delivers"])
def test_sender_killed(hosts: Hosts, moment: str) -> None:
    """The sender is killed with events in its hands: False."""
    if moment == "while it delivers":
        hosts.server.respond(Answer(hang=True))
    source = f"""
client = new_client()
client.capture("lost", distinct_id="me")
handed_over(client, 1)
if {moment!r} == "while it delivers":
    assert client.flush(20)
say("kill")
hear()
say(client.flush(20, delivered=True))
"""
    host = hosts.start(source)
    assert host.hear() == "kill"
    (sender,) = hosts.wait_for_senders()
    if moment == "while it delivers":
        hosts.server.wait_for_requests(1)
    else:
        stop(sender)  # so that it cannot be quicker than the signal
    kill(sender)
    host.tell()
    assert host.hear() == "False"
    host.assert_ends()


def test_nothing_captured(hosts: Hosts) -> None:
    """Nothing was captured: True, at once, without a thread or a sender; also for a disabled client."""
    source = """
started = time.monotonic()
client = new_client()
assert client.flush(20, delivered=True) is True
client.disabled = True
client.capture("ignored", distinct_id="me")
assert client.flush(20, delivered=True) is True
assert atotelemetry.TelemetryClient("", "").flush(20, delivered=True) is True
assert time.monotonic() - started < slower
assert threading.active_count() == 1 and "msgspec" not in sys.modules
"""
    hosts.assert_runs(source)
    assert hosts.server.connection_count == 0


@pytest.mark.posix("forks")
def test_after_a_fork(hosts: Hosts) -> None:
    """Parent and child each hear about their own events only."""
    hosts.server.respond(lambda request: Answer(status=400 if "child" in request.body.decode() else 200))
    source = """
client = new_client()
client.capture("parent", distinct_id="me")
handed_over(client, 1)
pid = os.fork()
if not pid:
    nothing_yet = client.flush(20, delivered=True)
    client.capture("child", distinct_id="me")
    os._exit(10 * nothing_yet + client.flush(20, delivered=True))
child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
say(child, client.flush(20, delivered=True))
"""
    hosts.assert_runs(source, stdout="10 True\n", arrived=["parent"])


@pytest.mark.parametrize("timeout", ["-1", "0", "'soon'", "float('nan')", "object()", "1e300", "float('inf')"])
def test_odd_timeouts(hosts: Hosts, timeout: str) -> None:
    """Whatever somebody takes for a timeout, nothing is raised, and True is only said when it is true."""
    source = f"""
client = new_client()
client.capture("event", distinct_id="me")
said = client.flush({timeout}, delivered=True)
assert said is False or {timeout} > 1e9, said
assert client.flush(20, delivered=True) is True
client.shutdown({timeout})
"""
    hosts.assert_runs(source, arrived=["event"])


@pytest.mark.posix("SIGCHLD")
def test_host_that_reaps_every_child(hosts: Hosts) -> None:
    """A host that ignores SIGCHLD is told the truth: the sender's answers say it, not an exit status."""
    source = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nclient, timeout = new_client(), 20\n" + FLUSH
    done = hosts.assert_runs(source, options=("-X", "dev", "-W", "error"), stdout=None)
    assert said(done.stdout)[0] is True
    assert hosts.arrived() == {"event": 3}
