"""`sender/buffer.py`: what waits between the reader and the deliverer."""

import threading

import pytest

from atotelemetry.sender.buffer import Buffer
from atotelemetry.wire import Event, Hello

PATIENCE = 20.0


def an_event(name, size_bytes=100):
    return Event(event=name, size_bytes=size_bytes)


def a_hello(host="http://a"):
    return Hello(protocol=1, api_key="k", host=host)


def names(events):
    return [event.event for event in events]


def take(buffer, **changes):
    return buffer.take_events(**{"endpoint": "auto", "limit_bytes": 10**6, "extra_bytes": 0, **changes})


def test_events_come_out_in_order():
    """First in, first out."""
    buffer = Buffer()
    buffer.put([an_event("a"), an_event("b")], lambda: None)
    buffer.put([an_event("c")], lambda: None)
    assert names(take(buffer)) == ["a", "b", "c"]
    assert take(buffer) == []


def test_a_hello_holds_for_the_events_behind_it_only():
    """No request mixes events from before and after one."""
    buffer = Buffer()
    buffer.put([a_hello(), an_event("a"), an_event("b"), a_hello("http://b"), an_event("c")], lambda: None)
    assert take(buffer) == []
    assert buffer.take_hello() == a_hello()
    assert buffer.take_hello() is None
    assert names(take(buffer)) == ["a", "b"]
    assert buffer.take_hello() == a_hello("http://b")
    assert names(take(buffer)) == ["c"]


def test_what_an_event_gains_counts_towards_a_request():
    """The limit is about what is sent, not about what was read."""
    buffer = Buffer()
    buffer.put([an_event(str(number), 1000) for number in range(10)], lambda: None)
    assert len(take(buffer, limit_bytes=10_000, extra_bytes=1000)) == 4
    assert len(take(buffer, limit_bytes=10_000)) == 6


def test_a_full_buffer_stops_the_reader_until_there_is_room():
    """Backpressure; meanwhile the reader looks around from time to time."""
    buffer = Buffer(limit_bytes=5000)
    looked = threading.Event()
    added = threading.Event()

    def add():
        buffer.put([an_event(str(number), 1000) for number in range(6)], looked.set)
        added.set()

    thread = threading.Thread(target=add)
    thread.start()
    assert looked.wait(PATIENCE)
    assert not added.is_set()
    taken = names(take(buffer))
    assert added.wait(PATIENCE)
    thread.join()
    assert taken + names(take(buffer)) == ["0", "1", "2", "3", "4", "5"]


def test_an_event_larger_than_the_buffer_still_passes():
    """An empty buffer takes anything."""
    buffer = Buffer(limit_bytes=10)
    buffer.put([an_event("large", 1000)], lambda: None)
    assert names(take(buffer)) == ["large"]


def test_tiny_events_count_for_more_than_their_bytes():
    """A million short lines would be hundreds of megabytes of objects."""
    buffer = Buffer(limit_bytes=10_000)
    stopped = threading.Event()
    thread = threading.Thread(target=lambda: buffer.put([an_event("tiny", 1)] * 100, stopped.set))
    thread.start()
    assert stopped.wait(PATIENCE)
    while thread.is_alive() or take(buffer):
        take(buffer)
    thread.join()


def test_waiting_ends_with_the_input():
    """A closed buffer first gives what it holds, then says that this was all."""
    buffer = Buffer()
    buffer.put([an_event("a")], lambda: None)
    buffer.close()
    assert buffer.wait(gather=1000, idle=None)
    take(buffer)
    assert not buffer.wait(gather=1000, idle=None)


def test_waiting_ends_when_nothing_comes():
    """An idle input counts as ended."""
    assert not Buffer().wait(gather=1000, idle=0.01)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([an_event("e", 10)] * 1000, id="a thousand events"),
        pytest.param([an_event("e", 900_000)] * 5, id="four mebibytes"),
        pytest.param([a_hello()], id="a hello"),
        pytest.param([an_event("e"), a_hello()], id="the end of a stream"),
    ],
)
def test_no_gathering_when_there_is_enough(items):
    """A full request, or one that nothing can be added to, goes at once."""
    buffer = Buffer()
    buffer.put(items, lambda: None)
    assert buffer.wait(gather=1000, idle=None)


def test_gathering_ends_when_the_request_is_full():
    """A deliverer that waits for more is woken by the event that fills the request."""
    buffer = Buffer()
    ready = threading.Event()
    buffer.put([an_event("first")], lambda: None)

    def wait():
        buffer.wait(gather=1000, idle=None)
        ready.set()

    thread = threading.Thread(target=wait)
    thread.start()
    buffer.put([an_event("e", 10)] * 1000, lambda: None)
    assert ready.wait(PATIENCE)
    thread.join()


def test_a_buffer_that_nobody_else_fills_takes_the_rest():
    """The host is gone: the little that is left in its pipe may hold the news that all is to be dropped."""
    buffer = Buffer(limit_bytes=5000)
    asked = []
    buffer.put([an_event(str(number), 1000) for number in range(10)], lambda: asked.append(1) or True)
    assert len(asked) == 1
    assert len(take(buffer)) == 10


def test_the_oldest_make_room():
    """For a patient host, which is not to be held up by an outage."""
    buffer = Buffer(limit_bytes=5000)
    assert buffer.put_dropping_oldest([an_event(str(number), 1000) for number in range(3)]) == []
    dropped = buffer.put_dropping_oldest([an_event(str(number), 1000) for number in range(3, 6)])
    assert names(dropped) == ["0", "1", "2"]
    assert names(take(buffer)) == ["3", "4", "5"]


def test_settings_never_make_room():
    """The events behind them would go to the wrong server."""
    buffer = Buffer(limit_bytes=2000)
    buffer.put_dropping_oldest([a_hello()])
    assert buffer.put_dropping_oldest([an_event(str(number), 1000) for number in range(3)]) == []
    assert buffer.take_hello() == a_hello()
    assert names(take(buffer)) == ["0", "1", "2"]
