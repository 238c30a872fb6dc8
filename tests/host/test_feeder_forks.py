"""A feeder in a process that forks, and one that can have no thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest

from atotelemetry.host import child as child_module
from atotelemetry.host import feeder as feeder_module
from atotelemetry.host import transport as transport_module
from support_feeder import END, HELLO, PATIENCE, event, events, told, wait_until

# Without a thread of its own


@pytest.fixture
def no_threads(monkeypatch):
    """No more threads can be started, as at the end of an interpreter."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(feeder_module, "start_new_thread", refuse)


@pytest.mark.usefixtures("no_threads")
def test_without_threads_events_wait_for_a_flush(feeder, spawner):
    """`put` takes them, and a flush hands them over on its own thread."""
    lines = events(50)
    assert all(feeder.put(line) for line in lines)
    assert spawner.calls == 0
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, *lines, END]


@pytest.mark.usefixtures("no_threads")
def test_without_threads_a_flush_is_still_over_in_time(feeder, spawner):
    """With a sender that does not read it gives up at its timeout; the events that it took are counted as dropped."""
    lines = events(100, 10_000)
    for line in lines:
        feeder.put(line)
    started = time.monotonic()
    assert not feeder.flush(0.1)
    assert 0.09 < time.monotonic() - started < 2
    arrived = spawner.sender(1).read_to_end()
    whole = [line for line in arrived[1:] if line in lines]
    assert feeder.counts.handed_over == len(whole)
    assert set(feeder.counts.dropped) == {"flush timed out"}
    queued = feeder.qsize() - 1  # the flush itself still waits, too
    assert feeder.counts.handed_over + sum(feeder.counts.dropped.values()) + queued == 100


@pytest.mark.usefixtures("no_threads")
def test_without_threads_or_a_sender_a_flush_says_so(feeder, spawner):
    """Three failures end telemetry here, too."""
    spawner.plan = [OSError("no")] * 5
    feeder.put(event(1))
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.counts.dropped, feeder.refusal) == (3, {"no sender": 1}, "gave up")


# Forks


def test_a_fork_waits_for_the_queue_and_finds_no_thread(feeder, spawner, threads, monkeypatch):
    """At the moment of a fork everything is in the pipe and the thread has ended; the next event starts another."""
    monkeypatch.setattr(feeder_module, "_FORK_PATIENCE", PATIENCE)  # the machine may be busy
    lines = events(500)
    for line in lines:
        feeder.put(line)
    feeder.before_fork()
    assert feeder.counts.handed_over == 500
    wait_until(lambda: not threads())
    feeder.after_fork_in_parent()
    feeder.put(event(500))
    assert spawner.sender(1).read(event(500)) == [HELLO, *lines, event(500)]


@pytest.mark.parametrize("may_start", [True, False])
def test_a_parent_that_captures_nothing_more_still_ends_its_sender(feeder, spawner, monkeypatch, threads, may_start):
    """Where Python counts threads before the fork, the feeder goes on at once; else with the next event."""
    monkeypatch.setattr(feeder_module, "_MAY_START_AFTER_FORK", may_start)
    monkeypatch.setattr(transport_module, "FEEDER_IDLE", 0.5)
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.read(event(1))
    feeder.before_fork()
    wait_until(lambda: not threads())
    feeder.after_fork_in_parent()
    if may_start:
        wait_until(threads)
    else:
        assert not threads()
        feeder.put(event(2))
    assert sender.read_to_end()[-1] == END


def test_a_fork_stops_the_thread_in_the_middle_of_a_line(feeder, spawner, threads):
    """A full pipe delays no fork; afterwards the line goes on where it was, and nothing is sent twice or lost."""
    lines = [event(0, 700_000), *events(20, 10_000)]
    for line in lines:
        feeder.put(line)
    wait_until(spawner.sender(1).is_full)
    feeder.before_fork()
    wait_until(lambda: not threads())
    assert (feeder.counts.handed_over, spawner.sender(1).is_full(), feeder.qsize() > 0) == (0, True, True)
    feeder.after_fork_in_parent()
    feeder.put(event(99))
    assert told(spawner.sender(1).read(event(99))) == told([HELLO, *lines, event(99)])
    wait_until(lambda: feeder.counts.handed_over == 22)


def test_a_line_goes_on_however_long_the_fork_took(feeder, spawner, monkeypatch):
    """A sender that has half a line is not idle."""
    now = 1000.0
    monkeypatch.setattr(child_module, "monotonic", lambda: now)
    line = event(0, 700_000)
    feeder.put(line)
    wait_until(spawner.sender(1).is_full)
    feeder.before_fork()
    now += 100
    feeder.after_fork_in_parent()
    feeder.put(event(1))
    assert told(spawner.sender(1).read(event(1))) == told([HELLO, line, event(1)])


def test_a_sender_that_died_during_a_fork_gets_no_half_line(feeder, spawner):
    """The next one is sent the whole line, with a hello of its own in front."""
    line = event(0, 700_000)
    feeder.put(line)
    wait_until(spawner.sender(1).is_full)
    feeder.before_fork()
    spawner.sender(1).die()
    feeder.after_fork_in_parent()
    feeder.put(event(1))
    assert told(spawner.sender(2).read(event(1))) == told([HELLO, line, event(1)])


def test_a_flush_goes_on_after_a_fork_of_another_thread(feeder, spawner):
    """A flush that waits for a full pipe goes on after a fork has ended the thread that worked on it."""
    line = event(0, 700_000)
    feeder.put(line)
    wait_until(spawner.sender(1).is_full)
    flushed: list[bool] = []
    flushing = threading.Thread(target=lambda: flushed.append(feeder.flush(PATIENCE)))
    flushing.start()
    wait_until(feeder.qsize)
    feeder.before_fork()
    feeder.after_fork_in_parent()
    assert told(spawner.sender(1).read_to_end()) == told([HELLO, line, END])
    flushing.join()
    assert flushed == [True]


@pytest.mark.posix("forks")
def test_an_end_that_a_full_pipe_refuses_waits_for_the_fork(feeder, spawner, threads):
    """The sender is told its `end` after the fork, once, and not in the middle of anything."""
    feeder.put(event(0))
    sender = spawner.sender(1)
    sender.read(event(0))
    wait_until(lambda: feeder.counts.handed_over == 1)
    ballast = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            ballast += os.write(sender.pipe, b"\n" * 4096)
    flushed: list[bool] = []
    flushing = threading.Thread(target=lambda: flushed.append(feeder.flush(PATIENCE)))
    flushing.start()
    wait_until(lambda: not feeder.qsize())
    feeder.before_fork()
    wait_until(lambda: threads() == 1)  # the one that flushes
    feeder.after_fork_in_parent()
    assert [line for line in sender.read_to_end() if line] == [HELLO, event(0), END]
    flushing.join()
    assert (flushed, ballast > 0) == ([True], True)


@pytest.mark.posix("forks")
def test_a_child_forgets_the_events_of_its_parent(feeder, spawner):
    """After a fork the child has no line, no sender and no queue, and does not hold the parent's pipe open."""
    feeder.put(event(0, 700_000))
    wait_until(spawner.sender(1).is_full)
    feeder.put(event(1))
    feeder.before_fork()
    pipe = spawner.sender(1).pipe
    parents = os.dup(pipe)
    spawner.sender(1).answers_itself = False
    feeder.after_fork_in_child()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe)
    os.close(parents)
    assert not feeder.qsize()
    feeder.put(event(2))
    assert spawner.sender(2).read(event(2)) == [HELLO, event(2)]
