"""`sender/lanes.py`: how many requests are on their way at once, and on which threads."""

from __future__ import annotations

import threading

import pytest

from atotelemetry.sender import lanes as lanes_module
from atotelemetry.sender.batch import MAX_REQUEST_BYTES, Prepared
from atotelemetry.sender.lanes import MAX_IN_FLIGHT, Channel, Lanes

PATIENCE = 20.0


class FakeDispatcher:
    """Delivers when the test lets it."""

    def __init__(self, world: World) -> None:
        self.limit_bytes = MAX_REQUEST_BYTES
        self._world = world

    def deliver(self, events: list[Prepared]) -> None:
        names = [event.name for event in events]
        self._world.started.append((self, threading.current_thread().name, names))
        self._world.changed.set()
        assert self._world.may_finish.acquire(timeout=PATIENCE)


class FakeDelivery:
    """Only counts."""

    def __init__(self) -> None:
        self.warmed = self.closed = 0

    def warm_up(self) -> None:
        self.warmed += 1

    def close(self) -> None:
        self.closed += 1


class World:
    """Lanes whose requests end when the test says so."""

    def __init__(self, **options: int) -> None:
        self.channels: list[Channel] = []
        self.started: list[tuple[FakeDispatcher, str, list[str]]] = []
        self.changed = threading.Event()
        self.may_finish = threading.Semaphore(0)
        self.lanes = Lanes(self._make, on_free=self.changed.set, **options)

    def _make(self) -> Channel:
        self.channels.append(Channel(FakeDispatcher(self), FakeDelivery()))
        return self.channels[-1]

    def deliver(self, *names: str, size_bytes: int = 10) -> None:
        self.lanes.deliver([Prepared("", name, b"x" * size_bytes) for name in names])

    def wait_until(self, condition) -> None:
        while not condition():
            assert self.changed.wait(PATIENCE), "waited in vain"
            self.changed.clear()

    def wait_for_starts(self, count: int) -> None:
        self.wait_until(lambda: len(self.started) >= count)

    def finish(self, count: int = 1) -> None:
        self.may_finish.release(count)


@pytest.fixture
def world():
    made = World()
    yield made
    made.finish(100)
    made.wait_until(made.lanes.idle)
    made.lanes.close()


def test_without_a_backlog_one_request_waits_for_the_other(world):
    """The ordinary run has one connection."""
    assert world.lanes.have_room(backlog=False)
    world.deliver("a")
    assert not world.lanes.have_room(backlog=False)
    assert not world.lanes.idle()
    world.finish()
    world.wait_until(world.lanes.idle)
    assert world.lanes.have_room(backlog=False)
    world.deliver("b")
    world.wait_for_starts(2)
    assert len(world.channels) == 1


def test_a_backlog_opens_lanes_up_to_the_limit(world):
    """Each has a connection and a thread of its own; the one after the last has to wait."""
    for number in range(MAX_IN_FLIGHT):
        assert world.lanes.have_room(backlog=True)
        world.deliver(str(number))
    world.wait_for_starts(MAX_IN_FLIGHT)
    assert not world.lanes.have_room(backlog=True)
    assert len(world.channels) == len({id(dispatcher) for dispatcher, *_ in world.started}) == MAX_IN_FLIGHT
    world.finish()
    world.wait_until(lambda: world.lanes.have_room(backlog=True))
    world.deliver("next")
    world.wait_for_starts(MAX_IN_FLIGHT + 1)
    assert len(world.channels) == MAX_IN_FLIGHT  # a lane that became free is used again


def test_what_is_on_its_way_is_bounded_in_bytes(world):
    """Large requests go one after another, so that the sender stays small."""
    world.deliver("small", size_bytes=MAX_REQUEST_BYTES // 2 - 1)
    assert world.lanes.have_room(backlog=True)
    world.deliver("large", size_bytes=MAX_REQUEST_BYTES)
    assert not world.lanes.have_room(backlog=True)
    world.finish(2)
    world.wait_until(lambda: world.lanes.have_room(backlog=True))


def test_the_least_limit_of_any_lane_holds_for_the_next_request(world):
    """What the server told one lane (413), the others need not ask."""
    world.deliver("a")
    world.deliver("b")
    world.wait_for_starts(2)
    world.channels[1].dispatcher.limit_bytes = 1000
    assert world.lanes.limit_bytes == 1000


def test_without_threads_the_caller_sends(world, monkeypatch):
    """A system that has no thread for us now costs no event."""

    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lanes_module.threading.Thread, "start", refuse)
    world.finish()
    world.deliver("a")
    assert world.lanes.idle()
    assert [(thread, names) for _, thread, names in world.started] == [(threading.current_thread().name, ["a"])]


def test_connections_are_warmed_up_once_and_closed_all(world):
    """Only the first is opened before there is a request; none stays open."""
    world.lanes.warm_up()
    world.deliver("a")
    world.deliver("b")
    world.wait_for_starts(2)
    world.finish(2)
    world.wait_until(world.lanes.idle)
    world.lanes.close()
    assert [channel.delivery.warmed for channel in world.channels] == [1, 0]
    assert [channel.delivery.closed for channel in world.channels] == [1, 1]
