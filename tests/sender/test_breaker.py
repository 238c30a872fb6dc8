"""`sender/breaker.py`: senders note that the network to a server failed, and that it works."""

import os
import time
from pathlib import Path

import pytest

from atotelemetry.facts import breaker
from atotelemetry.sender.breaker import Breaker
from atotelemetry.sender.outcome import DELIVERED, REJECTED, RETRY, STALE, Outcome
from atotelemetry.testing import Answer, CaptureServer
from support_sender import END, RunningSender, Staller, closed_port, event, events, hello, run_sender, silence, to

FAILED = Outcome(RETRY, "no", cause="network: timeout")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def failures(address, app="tool"):
    """Return the count of the note, None where there is none."""
    path = breaker.note_of(app, address)
    return breaker.read(path)[0] if os.path.exists(path) else None


def run(address, *lines, **settings):
    """Run a detached sender with short times on an event."""
    greeting = hello(address, app="tool", max_retries=0, **settings)
    return run_sender(greeting, *(lines or [event("e")]), END, detached=True)


def test_each_sender_that_meets_a_dead_network_counts_one(cache):
    """Until one gets an answer, which takes the note away."""
    begun_at = time.time()
    with CaptureServer() as server:
        address = server.url
    for count in (1, 2, 3):
        run(address)
        assert failures(address) == count
    failed_at = breaker.read(breaker.note_of("tool", address))[1]
    assert begun_at <= failed_at <= time.time()
    assert [path.name for path in (cache / "tool").iterdir()] == [Path(breaker.note_of("tool", address)).name]


def test_a_success_takes_the_note_away(cache):
    """The network works again."""
    with CaptureServer() as server:
        Breaker("tool", server.url).note(FAILED)
        assert failures(server.url) == 1
        run(server.url)
    assert failures(server.url) is None


def test_a_server_that_answers_has_a_network(cache):
    """An HTTP answer, whatever it says, is no failure of the network."""
    with CaptureServer() as server:
        server.respond(Answer(status=503))
        run(server.url)
        assert failures(server.url) is None
        Breaker("tool", server.url).note(FAILED)
        run(server.url)
        assert failures(server.url) is None


def test_a_server_that_hangs_counts(cache):
    """The very case: each run would leave a sender behind for its whole deadline."""
    with Staller(silence) as server:
        run(server.url(), request_timeout=0.3)
        assert failures(server.url()) == 1


def test_only_the_first_attempt_counts(cache):
    """A sender that worked for hours is no sign of a dead network, and retries count no more than once."""
    noted = Breaker("tool", "http://h")
    noted.note(Outcome(RETRY, "stale", cause="network: broken")._replace(kind=STALE))
    assert failures("http://h") is None
    noted.note(FAILED)
    noted.note(FAILED)
    assert failures("http://h") == 1
    noted.note(Outcome(DELIVERED))
    noted.note(FAILED)
    assert failures("http://h") is None


def test_a_backlog_on_a_dead_network_counts_one(cache):
    """Its requests fail side by side."""
    address = f"http://127.0.0.1:{closed_port()}"
    run(address, events(300), endpoint="capture")
    assert failures(address) == 1


def test_what_is_not_about_the_network_is_not_noted(cache):
    """A library that is broken, for example."""
    Breaker("tool", "http://h").note(Outcome(REJECTED, "ImportError", cause="not sendable"))
    assert not cache.exists()


def test_two_servers_have_two_notes(cache):
    """One of them is dead."""
    with CaptureServer() as server:
        dead = f"http://127.0.0.1:{closed_port()}"
        run(dead)
        run(server.url)
        assert (failures(dead), failures(server.url)) == (1, None)


def test_a_sender_by_hand_leaves_no_note(cache):
    """A person tries what they like."""
    address = f"http://127.0.0.1:{closed_port()}"
    run_sender(event("e"), arguments=to(address, app="tool"))
    assert not cache.exists()


def test_without_a_place_for_it_there_is_no_note(cache):
    """A file stands where the folder should be; the events are sent all the same."""
    cache.write_text("not a folder")
    with CaptureServer() as server:
        assert run(server.url).outcome.delivered == 1
    Breaker("tool", "http://h").note(FAILED)
    assert cache.read_text() == "not a folder"


@pytest.mark.posix("owners of files")
def test_somebody_elses_cache_stays_as_it_is(cache, monkeypatch):
    """As root in a user's home."""
    cache.mkdir()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    Breaker("tool", "http://h").note(FAILED)
    assert list(cache.iterdir()) == []


def test_many_senders_at_once_leave_one_whole_note(cache):
    """It is replaced as a whole; a count may be lost, no more."""
    address = f"http://127.0.0.1:{closed_port()}"
    with RunningSender(detached=True) as first, RunningSender(detached=True) as second:
        for sender in (first, second):
            sender.write(hello(address, app="tool", max_retries=0), event("e"), END)
        for sender in (first, second):
            sender.finish()
    assert failures(address) in (1, 2)
    assert len(list((cache / "tool").iterdir())) == 1
