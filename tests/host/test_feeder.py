"""The feeder: what it writes, to whom, when it starts and ends senders, and what it does when they fail.

The senders here are pipes that the test reads, so that it decides when one is slow, when it dies and what it exits
with. What is true of real ones is tested in `test_client.py`, `test_spawn.py` and `hazards/`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import threading
import time
import types

import pytest

from atotelemetry.host import attempts as attempts_module
from atotelemetry.host import child as child_module
from atotelemetry.host import feeder as feeder_module
from atotelemetry.host.attempts import MAX_FAILURES
from atotelemetry.host.child import ENDED, FEEDING, GONE, STARTING, Sender
from atotelemetry.host.feeder import FEEDER_IDLE, QUEUE_FULL, Feeder
from atotelemetry.host.spawn import CannotSpawn
from atotelemetry.wire import Outcome, Ready, encode

PATIENCE = 20.0
HELLO = b'{"hello":1}'
END = b'{"end":1}'


class PipeSender(Sender):
    """A sender without a process: the test holds the other ends of its pipes."""

    def __init__(self, number: int) -> None:
        self.read_end, pipe = os.pipe()
        answers, self.answer_end = os.pipe()
        os.set_blocking(pipe, False)
        os.set_blocking(answers, False)
        super().__init__(number, pipe, answers)
        self.answers_itself = True
        self.received = b""

    def close(self) -> None:
        super().close()
        if self.answers_itself and self.read_end >= 0:
            self.answer(ready=True, delivered=self.given, last=True)

    def _reap(self) -> None:
        self.left_alone = self.reaped = True

    # ---- what the test does with it

    def answer(self, *, ready: bool = False, **outcome: object) -> None:
        """Say that it reads, or what became of its events."""
        lines = [encode(Ready())] * ready + [encode(Outcome(**outcome))] * bool(outcome)
        os.write(self.answer_end, b"".join(line + b"\n" for line in lines))

    def read(self, until: bytes) -> list[bytes]:
        """Read until the input ends with a line; return all lines so far."""
        while not self.received.endswith(until + b"\n"):
            data = os.read(self.read_end, 65536)
            assert data, f"the input ended with {self.received[-100:]!r}"
            self.received += data
        return self.received.splitlines()

    def read_to_end(self) -> list[bytes]:
        """Read until the pipe is closed; return all lines."""
        while data := os.read(self.read_end, 65536):
            self.received += data
        return self.received.splitlines()

    def is_full(self) -> bool:
        """Whether the pipe takes no more now."""
        return not select.select([], [self.pipe], [], 0)[1]

    def die(self) -> None:
        """Close everything, as a process that was killed does."""
        if self.read_end >= 0:
            os.close(self.read_end)
            os.close(self.answer_end)
            self.read_end = -1


class Spawner:
    """Stands in for `start_sender`: starts what the test planned."""

    def __init__(self) -> None:
        self.senders: list[PipeSender] = []
        self.fed_at_once: list[int] = []
        self.calls = 0
        self.plan: list[Exception | str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.called = threading.Event()

    def __call__(self, *, urgent: bool) -> PipeSender:
        self.urgent = urgent
        self.calls += 1
        self.called.set()
        assert self.may_go_on.wait(PATIENCE)
        step = self.plan.pop(0) if self.plan else "serve"
        if isinstance(step, Exception):
            raise step
        self.fed_at_once.append(1 + sum(sender.pipe >= 0 for sender in self.senders))
        sender = PipeSender(len(self.senders) + 1)
        self.senders.append(sender)
        if step == "die":
            sender.die()
        if step == "serve":
            sender.answer(ready=True)
        return sender

    def sender(self, number: int) -> PipeSender:
        """Wait for the sender with this number, from 1."""
        wait_until(lambda: len(self.senders) >= number)
        return self.senders[number - 1]


def wait_until(condition) -> None:
    """Wait for what another thread does."""
    ends_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.002)


def event(number: int, size_bytes: int = 0) -> bytes:
    return json.dumps({"n": number, "x": "x" * size_bytes}, separators=(",", ":")).encode()


def events(count: int, size_bytes: int = 0) -> list[bytes]:
    return [event(number, size_bytes) for number in range(count)]


def told(lines: list[bytes]) -> list[tuple[bytes, int]]:
    """Make long lines comparable without a failure that fills the screen."""
    return [(line[:20], len(line)) for line in lines]


@pytest.fixture
def spawner(monkeypatch):
    made = Spawner()
    monkeypatch.setattr(attempts_module, "start_sender", made)
    monkeypatch.setattr(feeder_module, "_RETRY_SPAWN", 0.001)
    monkeypatch.setattr(feeder_module, "_LOOK_INTERVAL", 0.005)
    yield made
    for sender in made.senders:
        sender.die()
        sender.close()


@pytest.fixture
def new_feeder(spawner):
    """Return a maker of feeders; after the test their threads end."""
    made: list[Feeder] = []

    def make(
        queue_size: int = 1000, hello=lambda: HELLO, end=lambda *_, **__: END, holds=lambda: True, **options
    ) -> Feeder:
        stream = types.SimpleNamespace(hello=hello, end=end, holds=holds, network_pause=lambda: 0.0)
        feeder = Feeder(queue_size=queue_size, stream=stream, **options)
        made.append(feeder)
        return feeder

    yield make
    spawner.may_go_on.set()
    for sender in spawner.senders:
        sender.die()
    spawner.plan = [CannotSpawn("the test is over")] * 10
    for feeder in made:
        feeder.flush(PATIENCE, stop=True)
        wait_until(feeder.is_over)


@pytest.fixture
def feeder(new_feeder):
    return new_feeder()


@pytest.fixture
def writes(monkeypatch, spawner):
    """Return the list of what is written to senders, one entry for each system call."""
    made: list[bytes] = []
    write = os.write

    def counting(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        if any(sender.pipe == descriptor for sender in spawner.senders):
            made.append(bytes(data)[:written])
        return written

    monkeypatch.setattr(feeder_module.os, "write", counting)
    return made


# The stream


def test_nothing_is_started_before_the_first_event(feeder, spawner):
    """Making a feeder, and flushing an empty one, start neither thread nor sender."""
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    assert feeder.flush(0)
    assert feeder.flush(0, delivered=True)
    assert feeder.flush(0, stop=True)
    assert spawner.calls == 0
    assert not feeder._running
    assert threads == (len(os.listdir("/proc/self/task")) if threads else 0)


def test_a_stream_is_hello_then_events_in_order_then_end(feeder, spawner):
    """The sender reads one hello, every event in the order it was put, one end, and then the end of the pipe."""
    lines = events(100)
    assert all(feeder.put(line) for line in lines)
    assert feeder.flush(PATIENCE)
    assert feeder.handed_over == 100
    assert spawner.sender(1).read_to_end() == [HELLO, *lines, END]
    assert spawner.calls == 1


def test_an_event_is_written_without_a_flush(feeder, spawner):
    """The sender has an event as soon as the feeder gets to it: nothing waits for more events or for the end."""
    feeder.put(event(1))
    assert spawner.sender(1).read(event(1)) == [HELLO, event(1)]
    feeder.put(event(2))
    assert spawner.sender(1).read(event(2)) == [HELLO, event(1), event(2)]
    wait_until(lambda: feeder.handed_over == 2)


def test_what_was_queued_meanwhile_is_one_write(feeder, spawner, writes):
    """However many events came while the feeder was busy, it wakes the sender once for them."""
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)
    for number in range(1, 200):
        feeder.put(event(number))
    spawner.may_go_on.set()
    assert feeder.flush(PATIENCE)
    assert [data.count(b"\n") for data in writes] == [2, 199, 1]


def test_a_write_gathers_about_a_pipes_capacity(feeder, spawner, writes):
    """What would not fit into the pipe anyway is left in the queue, where a full queue still counts it."""
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
    """After a flush the next event goes to another sender, which is greeted and ended like the first."""
    for number in (1, 2):
        feeder.put(event(number))
        assert feeder.flush(PATIENCE)
        assert spawner.sender(number).read_to_end() == [HELLO, event(number), END]
    assert feeder.handed_over == 2


# The queue


def test_a_full_queue_says_no_and_never_waits(new_feeder, spawner):
    """With the feeder held up, `put` takes as many as the queue holds and refuses the rest at once."""
    feeder = new_feeder(queue_size=5)
    spawner.may_go_on.clear()
    feeder.put(event(0))
    assert spawner.called.wait(PATIENCE)  # the feeder has taken one and is busy
    assert [feeder.put(event(number)) for number in range(1, 9)] == [True] * 5 + [False] * 3
    spawner.may_go_on.set()
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, *events(6), END]


def test_a_slow_sender_fills_the_queue_and_then_it_goes_on(new_feeder, spawner):
    """Backpressure: a full pipe holds up the feeder, not who captures; once it is read, everything kept arrives."""
    feeder = new_feeder(queue_size=20)
    kept = [line for line in events(200, 5000) if feeder.put(line)]
    while feeder.put(event(-1)):
        kept.append(event(-1))
    assert not feeder.flush(0.05)
    assert told(spawner.sender(1).read_to_end()) == told([HELLO, *kept, END])
    assert feeder.flush(PATIENCE)
    assert feeder.handed_over == len(kept)
    assert feeder.counts.dropped == {}, "a refused event is for the caller of `put` to count"


# Idle


def test_an_idle_sender_is_ended_and_the_next_event_starts_another(feeder, spawner, monkeypatch):
    """A sender that was fed nothing for FEEDER_IDLE reads `end`; the feeder stays and goes on when there is more."""
    assert FEEDER_IDLE == 10.0
    monkeypatch.setattr(feeder_module, "FEEDER_IDLE", 0.05)
    feeder.put(event(1))
    assert spawner.sender(1).read_to_end() == [HELLO, event(1), END]
    assert feeder._running
    feeder.put(event(2))
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), END]
    assert spawner.calls == 2


def test_a_sender_that_is_fed_is_not_idle(feeder, spawner, monkeypatch):
    """Idle time counts from the last event, not from the sender's start."""
    now = 1000.0
    monkeypatch.setattr(feeder_module, "monotonic", lambda: now)
    monkeypatch.setattr(feeder_module, "FEEDER_IDLE", 0.05)
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


# Failures


def test_a_sender_that_died_is_replaced(feeder, spawner, monkeypatch):
    """What the dead one did not take goes to its successor, once; nothing is dropped."""
    feeder.put(event(1))
    spawner.sender(1).read(event(1))
    spawner.sender(1).die()
    feeder.put(event(2))
    feeder.put(event(3))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), event(3), END]
    wait_until(lambda: feeder.fate() == (2, {"sender died": 1}))
    assert (feeder.handed_over, feeder.counts.dropped) == (3, {})


def test_a_line_that_a_dying_sender_took_in_part_goes_to_the_next(feeder, spawner, monkeypatch):
    """Half a line is worth nothing to who died with it: the successor gets all of it, and the ones before only once."""
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
    wait_until(lambda: feeder.handed_over == 3)
    assert feeder.counts.dropped == {}


def test_a_sender_that_cannot_be_started_is_tried_again(feeder, spawner):
    """A process limit may be a moment's: the event waits and goes to the one that starts."""
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
    """Then telemetry is over for this process: all events are counted as dropped, those that come later, too."""
    assert MAX_FAILURES == 3
    spawner.plan = list(plan)
    feeder.put(event(1))
    wait_until(lambda: feeder.refusal == "gave up")
    assert not feeder.put(event(2))
    assert not feeder.flush(PATIENCE)
    assert feeder.counts.dropped == {"no sender": 1}
    assert (spawner.calls, feeder.handed_over) == (3, 0)


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_shortage_is_tried_again_after_a_while(feeder, spawner, monkeypatch, shortage):
    """No descriptors, no processes, no memory: the event waits, and telemetry is not over."""
    monkeypatch.setattr(attempts_module, "_SHORTAGE_PAUSE", 0.05)
    spawner.plan = [OSError(shortage, "none left")] * 7
    feeder.put(event(1))
    assert spawner.sender(1).read(event(1)) == [HELLO, event(1)]
    assert (spawner.calls, feeder.refusal, feeder.counts.dropped) == (8, QUEUE_FULL, {})


def test_a_flush_in_a_shortage_tries_once_more(feeder, spawner):
    """Three attempts, then it is False, and what it was about is dropped; the next flush may have more luck."""
    spawner.plan = [OSError(errno.EMFILE, "none left")] * 6
    feeder.put(event(1))
    wait_until(lambda: spawner.calls == 3)
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.counts.dropped) == (6, {"no sender": 1})
    feeder.put(event(2))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(1).read_to_end() == [HELLO, event(2), END]


def test_a_pause_keeps_a_bounded_number_of_events(new_feeder, spawner):
    """While no sender can be started, as many events wait as the queue holds; more are dropped, with the reason."""
    feeder = new_feeder(queue_size=5)
    spawner.plan = [OSError(errno.EAGAIN, "none left")] * 6
    for number in range(40):
        while not feeder.put(event(number)):
            time.sleep(0.001)
        wait_until(lambda: not feeder.qsize() or spawner.calls < 3)
    assert not feeder.flush(PATIENCE)
    assert feeder.counts.dropped == {"no sender": 40}


def test_failures_are_only_counted_in_a_row(feeder, spawner):
    """A sender that was fed to its end wipes out the failures before it."""
    for number in (1, 2, 3):
        spawner.plan = [OSError("no"), OSError("no")]
        feeder.put(event(number))
        assert feeder.flush(PATIENCE)
        assert spawner.sender(number).read_to_end() == [HELLO, event(number), END]
    assert (spawner.calls, feeder.refusal) == (9, QUEUE_FULL)


def test_senders_that_die_at_once_end_telemetry_though_their_pipes_took_everything(feeder, spawner):
    """The next event may come much later, and a pipe takes what nobody will read: so somebody looks after them."""
    spawner.plan = ["live"] * 9
    for number in range(1, MAX_FAILURES + 1):
        feeder.put(event(number))
        sender = spawner.sender(number)
        sender.read(event(number))
        wait_until(lambda number=number: feeder.handed_over == number)
        sender.die()
        wait_until(lambda sender=sender: sender.life == GONE)
    wait_until(lambda: feeder.refusal == "gave up")
    wait_until(lambda: feeder.fate() == (0, {"sender died": 3}))
    assert not feeder.flush(PATIENCE, delivered=True)


def test_a_sender_that_reads_wipes_out_the_failures_before_it(feeder, spawner):
    """Failures far apart are not failures in a row, also where the server accepts nothing in between."""
    for number in (1, 2, 3):
        spawner.plan = [OSError("no"), OSError("no")]
        feeder.put(event(number))
        sender = spawner.sender(number)
        sender.answers_itself = False
        sender.read(event(number))
        wait_until(lambda number=number: feeder.handed_over == number)
        sender.die()
        wait_until(lambda: feeder._attempts._failures == 0)
    assert (spawner.calls, feeder.refusal) == (9, QUEUE_FULL)


def test_a_process_that_can_never_have_a_sender_is_not_asked_again(feeder, spawner):
    """`CannotSpawn` ends it at the first attempt."""
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


# Flush


def test_flush_waits_for_everything_put_before_it(feeder, spawner):
    """When it returns, every event put before it is in the pipe; also when many threads flush at once."""
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
    assert feeder.handed_over == 100
    read = [line for sender in spawner.senders for line in sender.read_to_end()]
    assert len([line for line in read if line not in (HELLO, END)]) == 100
    assert spawner.fed_at_once == [1] * len(spawner.senders)


def test_delivered_waits_for_the_last_answer(feeder, spawner):
    """With `delivered` a flush also waits for the sender's last words, and is False when its time is up before."""
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
    """It says so, or does not account for one; the flush after it speaks of what came since."""
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.answers_itself = False
    wait_until(lambda: feeder.handed_over == 1)
    if answer:
        sender.answer(**answer)
    else:
        sender.die()
    assert not feeder.flush(PATIENCE, delivered=True)
    wait_until(lambda: feeder.fate() == fate)
    feeder.put(event(2))
    assert feeder.flush(PATIENCE, delivered=True)


def test_counts_are_cumulative_and_the_last_line_decides(feeder, spawner):
    """A line that a full pipe swallowed changes nothing; nor does an end of file that somebody holds back."""
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
    wait_until(feeder._senders.are_settled)
    wait_until(lambda: feeder.fate() == (3, {"status 500": 2}))


def test_a_sender_has_a_life(feeder, spawner):
    """Starting, feeding once it reads, ended when its input is, gone when it has said all."""
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
    """`on_error` hears each reason with the number of new losses; what it raises is not heard of."""
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
    wait_until(lambda: feeder.handed_over == 5)
    sender.answer(dropped={"status 400": 1})
    wait_until(lambda: len(heard) == 1)
    sender.answer(delivered=1, dropped={"status 400": 3})
    wait_until(lambda: len(heard) == 2)
    feeder.counts.drop("queue full")
    wait_until(lambda: len(heard) == 3)
    assert heard == [("status 400", 1, False), ("status 400", 2, False), ("queue full", 1, False)]


def test_a_sender_that_never_answers_is_given_up(feeder, spawner, monkeypatch):
    """After a long time, or when there are too many of them: each costs the host a descriptor."""
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
    """An event that was refused, as its client counts it, was not delivered."""
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
    """A stopped feeder holds nothing, and is not broken by an event that comes late."""
    feeder.put(event(1))
    assert feeder.flush(PATIENCE, stop=True)
    wait_until(feeder.is_over)
    assert feeder.is_over()
    feeder.put(event(2))
    assert feeder.flush(PATIENCE)
    assert spawner.sender(2).read_to_end() == [HELLO, event(2), END]


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
    """With a sender that does not read it gives up at its timeout, and counts what it had taken as dropped."""
    lines = events(100, 10_000)
    for line in lines:
        feeder.put(line)
    started = time.monotonic()
    assert not feeder.flush(0.1)
    assert 0.09 < time.monotonic() - started < 2
    arrived = spawner.sender(1).read_to_end()
    whole = [line for line in arrived[1:] if line in lines]
    assert feeder.handed_over == len(whole)
    assert set(feeder.counts.dropped) == {"flush timed out"}
    queued = feeder.qsize() - 1  # the flush itself still waits, too
    assert feeder.handed_over + sum(feeder.counts.dropped.values()) + queued == 100


@pytest.mark.usefixtures("no_threads")
def test_without_threads_or_a_sender_a_flush_says_so(feeder, spawner):
    """Three failures end it here, too."""
    spawner.plan = [OSError("no")] * 5
    feeder.put(event(1))
    assert not feeder.flush(PATIENCE)
    assert (spawner.calls, feeder.counts.dropped, feeder.refusal) == (3, {"no sender": 1}, "gave up")


# Forks


def test_a_fork_waits_for_what_is_queued_and_finds_no_thread(feeder, spawner):
    """At the moment of a fork everything is in the pipe and the thread has ended; the next event starts another."""
    lines = events(500)
    for line in lines:
        feeder.put(line)
    feeder.before_fork()
    assert (feeder.handed_over, feeder._running) == (500, False)
    feeder.after_fork_in_parent()
    feeder.put(event(500))
    assert spawner.sender(1).read(event(500)) == [HELLO, *lines, event(500)]


@pytest.mark.parametrize("may_start", [True, False])
def test_a_parent_that_captures_nothing_more_still_ends_its_sender(feeder, spawner, monkeypatch, may_start):
    """Where Python does not count the threads after the fork, the feeder goes on at once; else with the next event."""
    monkeypatch.setattr(feeder_module, "_MAY_START_AFTER_FORK", may_start)
    monkeypatch.setattr(feeder_module, "FEEDER_IDLE", 0.5)
    feeder.put(event(1))
    sender = spawner.sender(1)
    sender.read(event(1))
    feeder.before_fork()
    feeder.after_fork_in_parent()
    assert feeder._running == may_start
    if not may_start:
        feeder.put(event(2))
    assert sender.read_to_end()[-1] == END


def test_a_fork_stops_the_thread_in_the_middle_of_a_line(feeder, spawner):
    """A full pipe holds up no fork; afterwards the line goes on where it was, and nothing is sent twice or lost."""
    lines = [event(0, 700_000), *events(20, 10_000)]
    for line in lines:
        feeder.put(line)
    wait_until(spawner.sender(1).is_full)
    feeder.before_fork()
    assert not feeder._running
    assert (feeder.handed_over, feeder._outbox._written > 0, feeder._waiting()) == (0, True, True)
    feeder.after_fork_in_parent()
    feeder.put(event(99))
    assert told(spawner.sender(1).read(event(99))) == told([HELLO, *lines, event(99)])
    wait_until(lambda: feeder.handed_over == 22)


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
    """A flush that waits for a full pipe is not forgotten because a fork ended the thread that worked on it."""
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


def test_an_end_that_a_full_pipe_refuses_waits_for_the_fork(feeder, spawner):
    """The sender is told its `end` after the fork, once, and not in the middle of anything."""
    feeder.put(event(0))
    sender = spawner.sender(1)
    sender.read(event(0))
    wait_until(lambda: feeder.handed_over == 1)
    ballast = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            ballast += os.write(sender.pipe, b"\n" * 4096)
    flushed: list[bool] = []
    flushing = threading.Thread(target=lambda: flushed.append(feeder.flush(PATIENCE)))
    flushing.start()
    wait_until(lambda: not feeder.qsize())
    feeder.before_fork()
    assert not feeder._running
    feeder.after_fork_in_parent()
    assert [line for line in sender.read_to_end() if line] == [HELLO, event(0), END]
    flushing.join()
    assert (flushed, ballast > 0) == ([True], True)


def test_a_child_forgets_what_its_parent_was_writing(feeder, spawner):
    """After a fork the child has no line, no sender and no queue; the parent's pipe has one holder less."""
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
    assert not feeder._waiting()
    feeder.put(event(2))
    assert spawner.sender(2).read(event(2)) == [HELLO, event(2)]
