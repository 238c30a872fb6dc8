"""Events between the thread that reads and the thread that delivers: bounded and in order.

Runs in the sender. The reader puts the messages of a chunk and waits while the buffer is full. The deliverer waits
until a request is full, the input has ended, or enough time was spent gathering. A `hello` goes through the buffer like
an event: its settings hold for the events behind it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from atotelemetry.sender import batch
from atotelemetry.wire import Event, Hello

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BUFFER_BYTES", "Buffer"]

BUFFER_BYTES = 8 * 1024 * 1024

# Memory of a decoded event beside its line. Counted, or a flood of tiny events would fill several times the limit.
_OBJECT_BYTES = 512
_SINGLES = 8  # so many requests of one event each are worth another connection
_FULL_CHECK = 0.1  # how often a reader that may not read looks around


class Buffer:
    """A bounded queue of events, with the settings that hold for them in between."""

    def __init__(self, limit_bytes: int = BUFFER_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[Event | Hello] = deque()
        self._bytes = 0
        self._hellos = 0
        self._changed = threading.Condition()
        self._closed = False
        self._arrived_at = time.monotonic()

    # ---- reader

    def put(self, items: Sequence[Event | Hello], while_full: Callable[[], object]) -> None:
        """Add items in order; wait while the buffer is full, and call `while_full` from time to time.

        If that returns true, the host is gone, and the rest is added without waiting.
        """
        with self._changed:
            hurry: object = False
            for item in items:
                while self._is_full_for(item) and not hurry:
                    self._changed.notify_all()
                    self._changed.wait(_FULL_CHECK)
                    hurry = while_full()
                self._add(item)
            self._changed.notify_all()

    def put_dropping_oldest(self, items: Sequence[Event | Hello]) -> list[Event]:
        """Add items in order; return the oldest events, which had to make room for them."""
        dropped: list[Event] = []
        with self._changed:
            for item in items:
                while self._is_full_for(item) and isinstance(oldest := self._items[0], Event):
                    self._remove()
                    dropped.append(oldest)
                self._add(item)
            self._changed.notify_all()
        return dropped

    def touch(self) -> None:
        """Note that something arrived."""
        self._arrived_at = time.monotonic()

    def close(self) -> None:
        """No more items will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ---- deliverer

    def wait(self, *, gather: float, idle: float | None) -> bool:
        """Wait until a request is due; False when the input has ended, or was idle for too long.

        Waits for the first item until `idle` seconds after the last arrival (None: for ever). Then it waits up to
        `gather` seconds for more, unless the input ends or a request is full.
        """
        with self._changed:
            while not self._items:
                left = None if idle is None else self._arrived_at + idle - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return False
                self._changed.wait(left)
            ends_at = time.monotonic() + gather
            while not (self._closed or self._hellos or self._has_a_request(batch.MAX_REQUEST_EVENTS)):
                left = ends_at - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return True

    def take_hello(self) -> Hello | None:
        """Take the next item if it is a `hello`."""
        with self._changed:
            if not self._items or not isinstance(hello := self._items[0], Hello):
                return None
            self._remove()
            self._changed.notify_all()
            return hello

    def take_events(self, *, endpoint: str, limit_bytes: int, extra_bytes: int) -> list[Event]:
        """Take the events of the next request: as many as `batch.fill` says, none from behind a `hello`.

        `extra_bytes` is the growth of each event over its line before it is sent.
        """
        with self._changed:
            sizes_bytes: list[int] = []
            for item in islice(self._items, batch.MAX_REQUEST_EVENTS):
                if isinstance(item, Hello):
                    break
                sizes_bytes.append(item.size_bytes + extra_bytes)
            if not sizes_bytes:
                return []
            number = batch.fill(sizes_bytes, endpoint=endpoint, limit_bytes=limit_bytes)
            events = [item for item in (self._remove() for _ in range(number)) if isinstance(item, Event)]
            self._changed.notify_all()
            return events

    def waiting(self) -> bool:
        """Whether there is anything to take now."""
        return bool(self._items)

    def closed(self) -> bool:
        """Whether no more items will come."""
        return self._closed

    def wait_for(self, ready: Callable[[bool], bool], *, endpoint: str) -> None:
        """Wait until `ready` returns true. Its argument: whether there is a backlog, a full request or more.

        It is asked again after each change, and after each call of `look_again`.
        """
        with self._changed:
            while not ready(self._has_a_request(_SINGLES if endpoint == "capture" else batch.MAX_REQUEST_EVENTS)):
                self._changed.wait()

    def look_again(self) -> None:
        """Let `wait_for` ask again. Any thread may call this."""
        with self._changed:
            self._changed.notify_all()

    def _is_full_for(self, item: Event | Hello) -> bool:
        return bool(self._items) and self._bytes + _weight(item) > self._limit_bytes

    def _add(self, item: Event | Hello) -> None:
        self._items.append(item)
        self._bytes += _weight(item)
        self._hellos += isinstance(item, Hello)

    def _remove(self) -> Event | Hello:
        item = self._items.popleft()
        self._bytes -= _weight(item)
        self._hellos -= isinstance(item, Hello)
        return item

    def _has_a_request(self, events: int) -> bool:
        return len(self._items) >= events or self._bytes >= batch.MAX_REQUEST_BYTES


def _weight(item: Event | Hello) -> int:
    return _OBJECT_BYTES + (item.size_bytes if isinstance(item, Event) else len(bytes(item.properties)))
