"""`sender/answers.py`: a sender tells its host that it reads, and what became of the events."""

import time

import pytest

from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import AnswerDecoder, Outcome, Ready
from support_hosts import needs_proc
from support_sender import END, RunningSender, event, events, hello, run_sender


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


def test_it_says_nothing_but_answers(server):
    """Its exit code is 0 whatever happens, and stderr stays empty: nobody looks there."""
    server.respond(Answer(status=500))
    done = run_sender(hello(server.url, max_retries=0), b"bad\n", event("e"), END, detached=True)
    lost = {"server error (500)": 1, "unreadable line": 1}
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.answers == [Ready(), Outcome(dropped=lost), Outcome(dropped=lost, last=True)]


def test_events_that_nobody_could_send_are_not_counted_as_anything():
    """Without settings a sender reads no further; the host counts what it handed over and hears nothing of."""
    done = run_sender(event("e"), detached=True)
    assert (done.exit_code, done.answers) == (0, [Ready(), Outcome(last=True)])


def test_it_is_ready_when_it_reads_and_tells_each_fate(server):
    """While its input is open, too."""
    decoder = AnswerDecoder()
    with RunningSender(detached=True) as sender:
        assert sender.read_answers(decoder) == [Ready()]  # before it was given anything
        sender.write(hello(server.url), event("first", 1))
        assert sender.read_answers(decoder) == [Outcome(delivered=1)]
        server.script(Answer(status=401))
        sender.write(event("second", 2))
        assert sender.read_answers(decoder) == [Outcome(delivered=1, dropped={"refused (401)": 1})]
        sender.finish()


def test_answers_are_few_however_many_events_there_are(server):
    """While more are on their way, nobody needs to know sooner than a moment later."""
    begun_at = time.monotonic()
    done = run_sender(hello(server.url, endpoint="capture"), events(300), END, detached=True)
    seconds = time.monotonic() - begun_at
    assert done.outcome == Outcome(delivered=300, last=True)
    assert len(done.answers) <= 4 + seconds / 0.1
    counts = [answer.delivered for answer in done.answers[1:]]
    assert counts == sorted(counts)


@needs_proc
def test_a_host_that_reads_no_answers_holds_up_nothing(server):
    """The pipe is full: each event is delivered all the same."""
    with RunningSender(detached=True) as sender:
        sender.fill_stdout()
        sender.write(hello(server.url), events(20), END)
        server.wait_for_events(20)
        sender.finish()


@needs_proc
def test_the_last_words_wait_a_moment_for_room(server):
    """A host that reads now learns the whole truth, though the pipe was full before."""
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url), event("e"))
        server.wait_for_events(1)
        sender.fill_stdout()
        sender.write(END)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=1, last=True)


def test_a_host_that_died_costs_nothing(server):
    """Nobody reads the answers any more."""
    with RunningSender(detached=True) as sender:
        sender.process.stdout.close()
        sender.process.stdout = None
        sender.write(hello(server.url), event("first", 1))
        server.wait_for_events(1)
        sender.write(event("second", 2))
        sender.finish()
    assert [event["event"] for event in server.events] == ["first", "second"]


def test_a_library_that_prints_answers_nothing(server):
    """Its stdout is not the answer pipe."""
    patch = """
import atotelemetry.sender.batch as batch
prepare = batch.prepare
def print_and_prepare(*arguments, **fields):
    print('{"type":"outcome","delivered":99,"last":true}', flush=True)
    return prepare(*arguments, **fields)
batch.prepare = print_and_prepare
"""
    done = run_sender(hello(server.url), event("e"), END, detached=True, patch=patch)
    assert [answer.delivered for answer in done.answers[1:]] == [1, 1]


def test_the_watchdog_has_last_words_too():
    """Whatever the sender is stuck in, the host learns what was lost."""
    patch = """
import threading
import atotelemetry.sender.delivery as delivery
delivery.Delivery.post = lambda *arguments: threading.Event().wait()
"""
    for deadline in (2.0, 4.0, 8.0):  # a fraction of it is kept for the last words, and the machine may be busy
        stream = [hello("http://127.0.0.1:1", sender_deadline=deadline), events(3), END]
        done = run_sender(*stream, detached=True, patch=patch)
        if len(done.answers) > 1:
            break
    assert done.outcome == Outcome(dropped={"deadline": 3}, last=True)


def test_a_bug_of_ours_has_last_words_too():
    """The events are lost, and counted."""
    patch = """
import atotelemetry.sender.loop as loop
def fail(self):
    raise KeyError("a bug")
loop.Sender._deliver_some = fail
"""
    done = run_sender(hello("http://127.0.0.1:1"), events(3), END, detached=True, patch=patch)
    assert done.outcome == Outcome(dropped={"sender failed": 3}, last=True)
