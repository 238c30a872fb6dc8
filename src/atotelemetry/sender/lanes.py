"""Several requests on their way at once, while a backlog waits.

Runs in the sender. Each lane is a thread with a connection of its own. It sends one request at a time and makes all its
attempts. An ordinary run needs one lane: events that come while it is busy make the next request. With one lane, a slow
server would cost a backlog one round trip after another, and the rest at the deadline. So a backlog opens more lanes,
up to a limit in number and in bytes.
"""

from __future__ import annotations

import threading
from _queue import SimpleQueue  # `queue` loads more than that
from typing import TYPE_CHECKING, NamedTuple

from atotelemetry.sender.batch import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.sender.batch import Prepared
    from atotelemetry.sender.delivery import Delivery
    from atotelemetry.sender.dispatch import Dispatcher

__all__ = ["MAX_IN_FLIGHT", "Channel", "Lanes"]

MAX_IN_FLIGHT = 4
"""Requests on their way at once, at most."""

# With more than this on its way nothing joins it. Each request is in memory as its events and as a body, perhaps twice.
_IN_FLIGHT_BYTES = MAX_REQUEST_BYTES // 2


class Channel(NamedTuple):
    """The parts of a lane: a dispatcher, and its connection."""

    dispatcher: Dispatcher
    delivery: Delivery | None
    """None where nothing is sent."""


class Lanes:
    """All lanes to one server. Used by the thread that fills requests.

    `on_free` is called on a lane's thread when it becomes free.
    """

    def __init__(self, make_channel: Callable[[], Channel], *, on_free: Callable[[], None]) -> None:
        self._make_channel = make_channel
        self._on_free = on_free
        self._lanes = [_Lane(make_channel(), on_free)]
        self._most = MAX_IN_FLIGHT if self._lanes[0].delivery is not None else 1

    @property
    def limit_bytes(self) -> int:
        """The size that a request should not exceed: the least that the server asked any lane for."""
        return min(lane.dispatcher.limit_bytes for lane in self._lanes)

    def warm_up(self) -> None:
        """Open the first lane's connection, while the caller goes on."""
        if self._lanes[0].delivery is not None:
            self._lanes[0].delivery.warm_up()

    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not any(lane.in_flight_bytes for lane in self._lanes)

    def have_room(self, *, backlog: bool) -> bool:
        """Whether `deliver` may be called now. A second request may start only while a backlog waits."""
        in_flight_bytes = [lane.in_flight_bytes for lane in self._lanes]
        if not any(in_flight_bytes):
            return True
        return backlog and sum(map(bool, in_flight_bytes)) < self._most and sum(in_flight_bytes) < _IN_FLIGHT_BYTES

    def deliver(self, events: list[Prepared]) -> None:
        """Give the events of a request to a free lane, when there is room."""
        lane = next((lane for lane in self._lanes if not lane.in_flight_bytes), None)
        if lane is None:
            lane = _Lane(self._make_channel(), self._on_free)
            self._lanes.append(lane)
        lane.take(events)

    def close(self) -> None:
        """Close every connection, when nothing is on its way."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """A channel and its thread, which the first request starts."""

    def __init__(self, channel: Channel, on_free: Callable[[], None]) -> None:
        self.dispatcher, self.delivery = channel
        self.in_flight_bytes = 0
        """Size of the events on their way; 0 when the lane is free."""
        self._on_free = on_free
        self._requests: SimpleQueue[list[Prepared] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, events: list[Prepared]) -> None:
        """Deliver these events; on the caller's thread if the system has no other now."""
        self.in_flight_bytes = sum(len(event.body) for event in events)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="lane", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._send(events)
                return
            self._thread = thread
        self._requests.put(events)

    def close(self) -> None:
        """End the thread, close the connection."""
        self._requests.put(None)
        if self.delivery is not None:
            self.delivery.close()

    def _work(self) -> None:
        while (events := self._requests.get()) is not None:
            self._send(events)

    def _send(self, events: list[Prepared]) -> None:
        try:
            self.dispatcher.deliver(events)
        finally:
            self.in_flight_bytes = 0
            self._on_free()
