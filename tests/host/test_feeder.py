"""The feeder with senders that read: writes, their number, idle time, flushes, answers."""

from __future__ import annotations

import threading

import pytest

from atotelemetry.host import child as child_module
from atotelemetry.host import transport as transport_module
from atotelemetry.host.child import ENDED, FEEDING, GONE, STARTING
from atotelemetry.host.transport import FEEDER_IDLE
from support_feeder import END, HELLO, PATIENCE, PipeSender, event, events, told, wait_until


@pytest.fixture
def writes(monkeypatch):
    """Return the list of writes to senders, one entry for each system call."""
    made: list[bytes] = []
    write = PipeSender.write

    def counting(sender: PipeSender, data: memoryview) -> int:
        written = write(sender, data)
        made.append(bytes(data)[:written])
        return written

    monkeypatch.setattr(PipeSender, "write", counting)
    return made


# The stream


def test_nothing_is_started_before_the_first_event(feeder, spawner, threads):
    """Making a feeder, and flushing an empty one, start neither thread nor sender."""
    assert feeder.flush(0)
    assert feeder.flush(0, delivered=True)
    assert feeder.flush(0, stop=True)
    assert (spawner.calls, threads()) == (0, 0)


def test_a_stream_is_hello_then_events_in_order_then_end(feeder, spawner):
    """The sender reads one hello, every event in the order it was put, one end, and then the end of the pipe."""
    lines = events(100)
    assert all(feeder.put(line) for line in lines)
    assert feeder.flush(PATIENCE)
    assert feeder.counts.handed_over == 100
    assert spawner.sender(1).read_to_end() == [HELLO, *lines, END]
    assert spawner.calls == 1


def test_an_event_is_written_without_a_flush(feeder, spawner):
    """The sender has an event as soon as the feeder gets to it: nothing waits for more events or for the end."""
    feeder.put(event(1))
    assert spawner.sender(1).read(event(1)) == [HELLO, event(1)]
    feeder.put(event(2))
    assert spawner.sender(1).read(event(2)) == [HELLO, event(1), event(2)]
    wait_until(lambda: feeder.counts.handed_over == 2)


def test_events_queued_meanwhile_are_one_write(feeder, spawner, writes):
    """Events that came while the feeder was busy wake the sender once."""
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)
    for number in range(1, 200):
        feeder.put(event(number))
    spawner.may_go_on.set()
    assert feeder.flush(PATIENCE)
    assert [data.count(b"\n") for data in writes] == [2, 199, 1]


@pytest.mark.posix("the size of a write")
def test_a_write_gathers_about_a_pipes_capacity(feeder, spawner, writes):
    """More is left in the queue, which refuses events when it is full."""
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)
    lines = [event(number, 10_000) for number in range(1, 40)]
    for line in lines:
        feeder.put(line)
    spawner.may_go_on.set()
    wait_until(lambda: sum(map(len, writes)) > 60_000)  # the pipe is full
    assert feeder.qsize() > 20
    assert told(spawner.sender(1).read(lines[-1])) == told([HELLO, event(0), *lines])


def test_a_line_larger_than_the_pipe_arrives_whole(feeder, spawner):
    """A pipe takes it in parts, as the sender reads them."""
    line = event(1, 700_000)
    feeder.put(line)
    feeder.put(event(2))
    assert told(spawner.sender(1).read(event(2))) == told([HELLO, line, event(2)])


def test_the_next_stream_has_its_own_hello(feeder, spawner):
    """After a flush the next event goes to another sender, with a hello and an end like the first."""
    for number in (1, 2):
        feeder.put(event(number))
        assert feeder.flush(PATIENCE)
        assert spawner.sender(number).read_to_end() == [HELLO, event(number), END]
    assert feeder.counts.handed_over == 2


# The queue


def test_a_full_queue_says_no_and_never_waits(new_feeder, spawner):
    """While the feeder is busy, `put` takes as many events as the queue holds and refuses the rest at once."""
    feeder = new_feeder(queue_size=5)
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)  # the feeder has taken one and is busy
    assert [feeder.put(event(number)) for number in range(1, 9)] == [True] * 5 + [False] * 3
    spawner.may_go_on.set()
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, *events(6), END]


def test_a_slow_sender_fills_the_queue_and_then_it_goes_on(new_feeder, spawner):
    """Backpressure: a full pipe stops the feeder, not `put`. Once it is read, every queued event arrives."""
    feeder = new_feeder(queue_size=20)
    kept = [line for line in events(200, 5000) if feeder.put(line)]
    while feeder.put(event(-1)):
        kept.append(event(-1))
    assert not feeder.flush(0.05)
    assert told(spawner.sender(1).read_to_end()) == told([HELLO, *kept, END])
    assert feeder.flush(PATIENCE)
    assert feeder.counts.handed_over == len(kept)
    assert feeder.counts.dropped == {}, "a refused event is for the caller of `put` to count"


def test_a_no_does_not_wait_for_a_full_pipe(feeder, spawner):
    """The events behind it are dropped at once; the sender reads a part of a line that ends, and the end."""
    feeder.put(event(0, 700_000))
    wait_until(spawner.sender(1).is_full)
    feeder.put(event(1))
    feeder.discard()
    wait_until(lambda: feeder.counts.dropped == {"disabled": 1})
    assert feeder.counts.handed_over == 1, "the sender answers for the line that it cannot read"
    hello, part, end = spawner.sender(1).read_to_end()
    assert (hello, part[:4], part[-1:], end) == (HELLO, event(0)[:4], b"\xff", END)


# Idle


def test_an_idle_sender_is_ended_and_the_next_event_starts_another(feeder, spawner, monkeypatch, threads):
    """A sender that was fed nothing for FEEDER_IDLE reads `end`; the feeder stays and goes on when there is more."""
    assert FEEDER_IDLE == 10.0
    monkeypatch.setattr(transport_module, "FEEDER_IDLE", 0.05)
    feeder.put(event(1))
    assert spawner.sender(1).read_to_end() == [HELLO, event(1), END]
    assert threads() == 1
    feeder.put(event(2))
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), END]
    assert spawner.calls == 2


def test_a_sender_that_is_fed_is_not_idle(feeder, spawner, monkeypatch):
    """Idle time counts from the last event, not from the sender's start."""
    now = 1000.0
    monkeypatch.setattr(child_module, "monotonic", lambda: now)
    monkeypatch.setattr(transport_module, "FEEDER_IDLE", 0.05)
    for number in range(20):
        feeder.put(event(number))
        spawner.sender(1).read(event(number))
        now += 0.04

    def ended() -> bool:
        nonlocal now
        now += 0.04
        return spawner.sender(1).pipe < 0

    wait_until(ended)
    assert spawner.sender(1).read_to_end() == [HELLO, *events(20), END]
    assert spawner.calls == 1


def test_at_most_one_sender_is_fed(feeder, spawner, monkeypatch):
    """Through flushes, idle ends and deaths, a new sender is started only when the pipe of the one before is closed."""
    for number in range(1, 10):
        feeder.put(event(number))
        sender = spawner.sender(number)
        sender.read(event(number))
        if number % 2:
            feeder.flush(PATIENCE)
        else:
            sender.die()
    assert spawner.fed_at_once == [1] * 9


# Flush


def test_flush_waits_for_everything_put_before_it(feeder, spawner):
    """When it returns, every earlier event is in the pipe; also when many threads flush at once."""
    results: list[bool] = []

    def work() -> None:
        for number in range(20):
            feeder.put(event(number))
            results.append(feeder.flush(PATIENCE))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 100
    assert feeder.counts.handed_over == 100
    read = [line for sender in spawner.senders for line in sender.read_to_end()]
    assert len([line for line in read if line not in (HELLO, END)]) == 100
    assert spawner.fed_at_once == [1] * len(spawner.senders)


def test_delivered_waits_for_the_last_answer(feeder, spawner):
    """With `delivered` a flush also waits for the sender's last answer; it is False when its time is up before."""
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.answers_itself = False
    assert not feeder.flush(0.05, delivered=True)
    assert sender.read_to_end()[-1] == END
    sender.answer(delivered=1)
    assert not feeder.flush(0.05, delivered=True)
    sender.answer(delivered=1, last=True)
    assert feeder.flush(PATIENCE, delivered=True)


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        ({"dropped": {"status 400": 1}, "last": True}, (0, {"status 400": 1})),
        ({"delivered": 1, "dropped": {"status 400": 1}, "last": True}, (1, {"status 400": 1})),
        ({"last": True}, (0, {"not read": 1})),
        ({}, (0, {"sender died": 1})),
    ],
    ids=["dropped", "one more than it was given", "not read", "died"],
)
def test_delivered_is_false_when_a_sender_lost_an_event(feeder, spawner, answer, fate):
    """The sender says so, or does not account for an event. The next flush speaks of later events."""
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.answers_itself = False
    wait_until(lambda: feeder.counts.handed_over == 1)
    if answer:
        sender.answer(**answer)
    else:
        sender.die()
    assert not feeder.flush(PATIENCE, delivered=True)
    wait_until(lambda: feeder.fate() == fate)
    feeder.put(event(2))
    assert feeder.flush(PATIENCE, delivered=True)


def test_counts_are_cumulative_and_the_last_line_decides(feeder, spawner):
    """An answer that a full pipe lost changes nothing; nor does an end of file that never comes."""
    for number in range(5):
        feeder.put(event(number))
    sender = spawner.sender(1)
    sender.answers_itself = False
    assert feeder.flush(PATIENCE)
    assert (sender.life, feeder.fate()) == (ENDED, (0, {}))
    sender.answer(delivered=2)
    wait_until(lambda: feeder.fate() == (2, {}))
    sender.answer(delivered=3, dropped={"status 500": 1})
    sender.answer(delivered=3, dropped={"status 500": 2}, last=True)
    wait_until(lambda: feeder.fate() == (3, {"status 500": 2}))
    assert sender.life == GONE
    for _ in range(3):
        assert feeder.flush(PATIENCE)  # closes the sender's account
        assert feeder.fate() == (3, {"status 500": 2})


def test_a_sender_has_a_life(feeder, spawner):
    """Starting, feeding once it reads, ended with its input, gone after its last answer."""
    spawner.plan = ["live"]
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.answers_itself = False
    assert sender.life == STARTING
    sender.answer(ready=True)
    wait_until(lambda: sender.life == FEEDING)
    assert feeder.flush(PATIENCE)
    assert sender.life == ENDED
    sender.answer(delivered=1, last=True)
    wait_until(lambda: sender.life == GONE)


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
def test_losses_are_told_on_the_feeders_thread(new_feeder, spawner, raised):
    """`on_error` is told each reason with the number of new losses; its exceptions go nowhere."""
    heard: list[tuple[str, int, bool]] = []
    main = threading.get_ident()

    def on_error(reason: str, count: int) -> None:
        heard.append((reason, count, threading.get_ident() == main))
        raise raised("a host's bug")

    feeder = new_feeder(on_error=on_error)
    for number in range(5):
        feeder.put(event(number))
    sender = spawner.sender(1)
    sender.answers_itself = False
    wait_until(lambda: feeder.counts.handed_over == 5)
    sender.answer(dropped={"status 400": 1})
    wait_until(lambda: len(heard) == 1)
    sender.answer(delivered=1, dropped={"status 400": 3})
    wait_until(lambda: len(heard) == 2)
    feeder.counts.drop("queue full")
    wait_until(lambda: len(heard) == 3)
    assert heard == [("status 400", 1, False), ("status 400", 2, False), ("queue full", 1, False)]


def test_a_sender_that_never_answers_is_given_up(feeder, spawner, monkeypatch):
    """After a long time, or when there are too many: each costs the host a descriptor."""
    monkeypatch.setattr(child_module, "_MAX_UNANSWERED", 2)
    for number in range(1, 5):
        feeder.put(event(number))
        spawner.sender(number).answers_itself = False
        assert feeder.flush(PATIENCE)
    wait_until(lambda: feeder.fate() == (0, {"no answer": 2}))
    monkeypatch.setattr(child_module, "_NO_ANSWER", 0.0)
    wait_until(lambda: feeder.fate() == (0, {"no answer": 4}))
    assert [sender.life for sender in spawner.senders] == [GONE] * 4


def test_too_many_senders_that_are_still_starting_are_no_failures(feeder, spawner, monkeypatch):
    """A host that flushes often on a busy machine is no reason to give up."""
    monkeypatch.setattr(child_module, "_MAX_UNANSWERED", 2)
    spawner.plan = ["live"] * 8
    for number in range(1, 8):
        feeder.put(event(number))
        spawner.sender(number).answers_itself = False
        assert feeder.flush(PATIENCE)
    wait_until(lambda: feeder.fate() == (0, {"no answer": 5}))
    assert feeder.put(event(8))
    assert feeder.flush(PATIENCE)


def test_delivered_is_false_after_a_full_queue(new_feeder, spawner):
    """A refused event, which the client counts, was not delivered."""
    feeder = new_feeder(queue_size=1)
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)
    feeder.put(event(1))
    assert not feeder.put(event(2))
    feeder.counts.drop(feeder.refusal)
    spawner.may_go_on.set()
    assert not feeder.flush(PATIENCE, delivered=True)


def test_stop_ends_the_thread_and_an_event_after_it_starts_another(feeder, spawner):
    """A stopped feeder holds nothing; a late event starts it again."""
    feeder.put(event(1))
    assert feeder.flush(PATIENCE, stop=True)
    wait_until(feeder.is_over)
    assert feeder.is_over()
    feeder.put(event(2))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), END]
