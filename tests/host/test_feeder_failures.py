"""A feeder whose senders die, cannot be started, or never answer."""

from __future__ import annotations

import errno
import os
import time

import pytest

from atotelemetry.host import transport as transport_module
from atotelemetry.host.child import GONE
from atotelemetry.host.feeder import QUEUE_FULL
from atotelemetry.host.spawn import CannotSpawn
from atotelemetry.host.transport import MAX_FAILURES
from support_feeder import END, HELLO, PATIENCE, event, told, wait_until

# Failures


def test_a_sender_that_died_is_replaced(feeder, spawner, monkeypatch):
    """Its successor gets the events that the dead sender did not take, once; nothing is dropped."""
    feeder.put(event(1))
    spawner.sender(1).read(event(1))
    spawner.sender(1).die()
    feeder.put(event(2))
    feeder.put(event(3))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), event(3), END]
    wait_until(lambda: feeder.fate() == (2, {"sender died": 1}))
    assert (feeder.counts.handed_over, feeder.counts.dropped) == (3, {})


def test_a_line_that_a_dying_sender_took_in_part_goes_to_the_next(feeder, spawner, monkeypatch):
    """The successor gets the whole line, and no line that the dead sender took as a whole."""
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)
    feeder.put(event(1))
    large = event(2, 700_000)
    feeder.put(large)
    spawner.may_go_on.set()
    first = spawner.sender(1)
    while len(first.received) < 200_000:
        first.received += os.read(first.read_end, 65536)
    first.die()
    assert told(spawner.sender(2).read(large)) == told([HELLO, large])
    wait_until(lambda: feeder.counts.handed_over == 3)
    assert feeder.counts.dropped == {}


def test_a_sender_that_cannot_be_started_is_tried_again(feeder, spawner):
    """A process limit may be a moment's: the event waits for a sender that starts."""
    spawner.plan = [OSError("no processes left"), BlockingIOError("still none")]
    feeder.put(event(1))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, event(1), END]
    assert (spawner.calls, feeder.refusal) == (3, QUEUE_FULL)


@pytest.mark.parametrize(
    "plan",
    [[OSError("no interpreter")] * 9, ["die"] * 9, ["die", OSError("odd"), "die"]],
    ids=["cannot be started", "die at once", "both"],
)
def test_three_failures_in_a_row_are_the_end(feeder, spawner, plan):
    """Then telemetry is over for this process: all events are dropped and counted, later ones, too."""
    assert MAX_FAILURES == 3
    spawner.plan = list(plan)
    feeder.put(event(1))
    wait_until(lambda: feeder.refusal == "gave up")
    assert not feeder.put(event(2))
    assert not feeder.flush(PATIENCE)
    assert feeder.counts.dropped == {"no sender": 1}
    assert (spawner.calls, feeder.counts.handed_over) == (3, 0)


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_shortage_is_tried_again_after_a_while(feeder, spawner, monkeypatch, shortage):
    """No descriptors, no processes, no memory: the event waits, and telemetry is not over."""
    monkeypatch.setattr(transport_module, "_SHORTAGE_PAUSE", 0.05)
    spawner.plan = [OSError(shortage, "none left")] * 7
    feeder.put(event(1))
    assert spawner.sender(1).read(event(1)) == [HELLO, event(1)]
    assert (spawner.calls, feeder.refusal, feeder.counts.dropped) == (8, QUEUE_FULL, {})


def test_a_flush_in_a_shortage_tries_once_more(feeder, spawner):
    """After three attempts it is False, and its events are dropped. The next flush tries again."""
    spawner.plan = [OSError(errno.EMFILE, "none left")] * 6
    feeder.put(event(1))
    wait_until(lambda: spawner.calls == 3)
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.counts.dropped) == (6, {"no sender": 1})
    feeder.put(event(2))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, event(2), END]


def test_a_pause_keeps_a_bounded_number_of_events(new_feeder, spawner):
    """While no sender can be started, as many events wait as the queue holds; others are dropped with the reason."""
    feeder = new_feeder(queue_size=5)
    spawner.plan = [OSError(errno.EAGAIN, "none left")] * 6
    for number in range(40):
        while not feeder.put(event(number)):
            time.sleep(0.001)
        wait_until(lambda: not feeder.qsize() or spawner.calls < 3)
    assert not feeder.flush(PATIENCE)
    assert feeder.counts.dropped == {"no sender": 40}


def test_failures_are_only_counted_in_a_row(feeder, spawner):
    """A sender that worked to its end wipes out the failures before it."""
    for number in (1, 2, 3):
        spawner.plan = [OSError("no"), OSError("no")]
        feeder.put(event(number))
        assert feeder.flush(PATIENCE)
        assert spawner.sender(number).read_to_end() == [HELLO, event(number), END]
    assert (spawner.calls, feeder.refusal) == (9, QUEUE_FULL)


def test_senders_that_die_at_once_end_telemetry_though_their_pipes_took_everything(feeder, spawner):
    """The feeder notices without a further event: a pipe takes events that nobody will read."""
    spawner.plan = ["live"] * 9
    for number in range(1, MAX_FAILURES + 1):
        feeder.put(event(number))
        sender = spawner.sender(number)
        sender.read(event(number))
        wait_until(lambda number=number: feeder.counts.handed_over == number)
        sender.die()
        wait_until(lambda sender=sender: sender.life == GONE)
    wait_until(lambda: feeder.refusal == "gave up")
    wait_until(lambda: feeder.fate() == (0, {"sender died": 3}))
    assert not feeder.flush(PATIENCE, delivered=True)


def test_a_sender_that_reads_wipes_out_the_failures_before_it(feeder, spawner):
    """Also if it is killed before the server has accepted anything."""
    for number in (1, 2, 3):
        spawner.plan = [OSError("no"), OSError("no")]
        feeder.put(event(number))
        sender = spawner.sender(number)
        sender.answers_itself = False
        sender.read(event(number))
        wait_until(lambda number=number: feeder.counts.handed_over == number)
        sender.die()
        wait_until(lambda sender=sender: sender.pipe < 0)
    assert (spawner.calls, feeder.refusal) == (9, QUEUE_FULL)


def test_a_process_that_can_never_have_a_sender_is_not_asked_again(feeder, spawner):
    """`CannotSpawn` ends telemetry at the first attempt."""
    spawner.plan = [CannotSpawn("frozen")]
    feeder.put(event(1))
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.refusal, feeder.counts.dropped) == (1, "gave up", {"no sender": 1})


def test_a_hello_that_cannot_be_made_is_a_failure_like_others(new_feeder, spawner):
    """A bug of ours ends telemetry; it neither hangs a flush nor prints a traceback."""

    def broken() -> bytes:
        raise RuntimeError("bug")

    feeder = new_feeder(hello=broken)
    feeder.put(event(1))
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.refusal, feeder.counts.dropped) == (0, "gave up", {"no sender": 1})
