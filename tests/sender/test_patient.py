"""A patient host's sender: it keeps events through an outage for as long as the host lives."""

import signal
import threading

import pytest

from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import Outcome
from support_sender import END, PATIENCE, RunningSender, event, events, hello

SMALL_BUFFER = """
import atotelemetry.sender.buffer as buffer
buffer.Buffer.__init__.__defaults__ = (20_000,)
"""
SHORT_IDLE = """
import atotelemetry.sender.loop
atotelemetry.sender.loop.SENDER_IDLE = 0.3
"""


class Outage:
    """Answers 503, or nothing useful at all, until it is over."""

    def __init__(self, answer=None):
        self.over = threading.Event()
        self._answer = answer or Answer(status=503)

    def __call__(self, _):
        return Answer() if self.over.is_set() else self._answer


@pytest.fixture
def server():
    """Run a server."""
    with CaptureServer() as running:
        yield running


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(reset=True)], ids=["503", "reset"])
def test_nothing_is_lost_in_an_outage(server, answer):
    """Whatever `max_retries` and the deadline say: they are about a host that has ended."""
    outage = Outage(answer)
    server.respond(outage)
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url, patient=True, max_retries=0, sender_deadline=1.0), events(3))
        server.wait_for_requests(3)  # at 0, 0.5 and 1.5 s
        sender.write(events(2, "later"))
        outage.over.set()
        server.wait_for_events(5)
        sender.write(END)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=5, last=True)


def test_in_an_outage_the_oldest_make_room(server):
    """The sender goes on reading, so the host's queue never fills; each loss is counted."""
    outage = Outage()
    server.respond(outage)
    with RunningSender(detached=True, patch=SMALL_BUFFER) as sender:
        sender.write(hello(server.url, patient=True), event("first"))
        server.wait_for_requests(1)
        sender.write(events(300))  # more than a pipe and the buffer hold
        server.wait_for_requests(2)
        outage.over.set()
        sender.write(END)
        done = sender.finish()
    assert done.outcome.delivered + done.outcome.dropped["buffer full"] == 301
    assert set(done.outcome.dropped) == {"buffer full"}
    arrived = [event["event"] for event in server.events]
    assert arrived[0] == "first"  # on its way already
    assert arrived[1:] == [f"e{number}" for number in range(301 - done.outcome.delivered, 300)]


def test_a_silent_host_does_not_end_a_sender_that_holds_events(server):
    """It would give up what it keeps; with nothing to keep it ends as always."""
    outage = Outage()
    server.respond(outage)
    with RunningSender(detached=True, patch=SHORT_IDLE) as sender:
        sender.write(hello(server.url, patient=True, sender_deadline=0.5), event("e"))
        server.wait_for_requests(3)  # its third attempt is later than the idle time and the deadline
        outage.over.set()
        assert sender.wait().outcome == Outcome(delivered=1, last=True)


def test_the_deadline_starts_at_the_hosts_end(server):
    """A long pause of the outage is cut short, and what cannot be delivered by then is dropped."""
    server.respond(Outage())
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url, patient=True, sender_deadline=3.0), event("e"))
        server.wait_for_requests(3)  # the pause is two seconds now
        sender.write(END)
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"server error (503)": 1}, last=True)
    assert len(server.requests) >= 5  # at once, and half a second later
    assert done.seconds < 3.0 + PATIENCE / 4


def test_a_patient_sender_that_is_terminated_drains_shortly(server):
    """The machine stops: the pause of an outage does not go on."""
    server.respond(Outage())
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url, patient=True), event("e"))
        server.wait_for_requests(3)
        sender.send(signal.SIGTERM)
        done = sender.wait()
    assert done.outcome == Outcome(dropped={"server error (503)": 1}, last=True)
    assert done.seconds < 2.0 + PATIENCE / 4
