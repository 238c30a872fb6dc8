"""A sender that is to stop before its time: terminated with everything around it, or because the person said no."""

import signal
import time

import pytest

from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import AnswerDecoder, Outcome, Ready
from support_sender import END, PATIENCE, RunningSender, Staller, event, events, hello, one_at_work, silence

ATTEMPTS = 4


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


# ---- a request to terminate


def within_the_drain(run):
    """Return the last words of a terminated sender; on a busy machine two seconds may be too short for any work."""
    for _ in range(ATTEMPTS):
        outcome = run()
        if not outcome.dropped:
            break
    return outcome


def test_a_request_to_terminate_is_met_with_a_short_drain(server):
    """Every process of a unit is ended at once, by systemd or a CI agent: what is on its way is still delivered."""
    server.respond(Answer(delay=0.5))

    def run():
        with RunningSender(detached=True) as sender:
            before = len(server.requests)
            sender.write(hello(server.url), event("e"), END)
            server.wait_for_requests(before + 1)
            sender.send(signal.SIGTERM)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=1, last=True)


def test_a_drain_ends_after_two_seconds():
    """A server that hangs does not delay the end of the machine."""
    with Staller(silence) as server, RunningSender(detached=True) as sender:
        sender.write(hello(server.url(), request_timeout=1000, sender_deadline=1000), event("e"), END)
        assert server.arrived.wait(PATIENCE)
        begun_at = time.monotonic()
        sender.send(signal.SIGTERM)
        done = sender.finish()
        seconds = time.monotonic() - begun_at
    assert 1.0 < seconds < 2.0 + PATIENCE / 4  # the machine may be busy
    assert done.outcome == Outcome(dropped={"deadline": 1}, last=True)


def test_a_host_that_is_terminated_too_may_still_capture(server):
    """Its last event comes a moment after the signal, which both got."""

    def run():
        with one_at_work(server) as sender:
            sender.send(signal.SIGTERM)
            sender.write(event("last", 2), END)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=2, last=True)


def test_a_drain_does_not_wait_for_a_slow_git(server):
    """The event matters more than what is worked out about its run."""
    patch = """
import threading
import atotelemetry.facts.run as run
def work_slowly(*arguments, **options):
    threading.Event().wait()
run.run_properties = work_slowly
"""

    def run():
        with RunningSender(detached=True, patch=patch) as sender:
            sender.write(hello(server.url, run_properties=["email"]), event("e"), END)
            assert sender.read_answers(AnswerDecoder()) == [Ready()]
            sender.send(signal.SIGTERM)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=1, last=True)


def test_a_host_that_lives_on_does_not_keep_a_terminated_sender(server):
    """It is gone after the drain, though its input is open."""
    with one_at_work(server) as sender:
        sender.send(signal.SIGTERM)
        assert sender.wait().outcome == Outcome(delivered=1, last=True)


# ---- a no


def test_after_a_no_everything_that_was_not_posted_is_dropped(server):
    """The person disabled telemetry while events waited."""
    server.respond(Answer(status=503))
    stream = [hello(server.url, max_retries=50, endpoint="capture"), events(5)]
    with RunningSender(detached=True) as sender:
        sender.write(*stream)
        server.wait_for_requests(1)
        sender.write(b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 5}, last=True)
    assert len(server.requests) <= 5


def test_a_no_that_comes_before_the_connection_is_in_time(server):
    """While the sender loads its libraries, or waits for a name server, nothing is posted yet."""
    patch = """
import socket, sys, time
resolve = socket.getaddrinfo
def resolve_slowly(*arguments, **options):
    sys.stderr.write("resolving\\n")
    sys.stderr.flush()
    time.sleep(1.0)
    return resolve(*arguments, **options)
socket.getaddrinfo = resolve_slowly
"""
    with RunningSender(detached=True, patch=patch) as sender:
        sender.write(hello(server.url, max_retries=3), event("e"))
        sender.read_stderr_until("resolving")
        sender.write(b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 1}, last=True)
    assert server.requests == []


def test_a_no_is_heard_behind_a_full_buffer(server):
    """The sender has no room to read on, and the host is gone: the rest of the pipe is read all the same."""
    patch = """
import atotelemetry.sender.buffer as buffer
buffer.Buffer.__init__.__defaults__ = (20_000,)
"""
    server.respond(Answer(hang=True))
    with RunningSender(detached=True, patch=patch) as sender:
        sender.write(hello(server.url, request_timeout=1.0, max_retries=0), event("first"))
        server.wait_for_requests(1)
        sender.write(events(100, properties={"p": "x" * 500}), b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 100, "network: timeout": 1}, last=True)
