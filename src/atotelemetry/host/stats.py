"""Counts events: captured, dropped and why, handed over, delivered, lost and why.

Runs in the host, on any thread, in signal handlers and finalizers. So no lock protects a count; adding one is a single
step of the interpreter.
"""

from __future__ import annotations

from itertools import count

from atotelemetry.host.debug import debug

__all__ = ["FILTERED", "Counter", "Counts", "Lost", "Stats"]

FILTERED = "before_send"
"""The reason of an event that was dropped on purpose; it does not count as lost."""


class Lost(Exception):
    """An event that cannot be queued; `reason` is counted, `error` explains it."""

    def __init__(self, reason: str, error: BaseException | None = None) -> None:
        super().__init__(reason, error)
        self.reason = reason
        self.error = error


class Counter:
    """A number that any thread, signal handler or finalizer may add one to."""

    def __init__(self) -> None:
        # `next` on an `itertools.count` is one step of the interpreter, where `+= 1` is three.
        self._count = count()
        self.add = self._count.__next__

    @property
    def value(self) -> int:
        """How often `add` was called."""
        return int(repr(self._count)[6:-1])  # "count(7)": looks without counting


class Stats:
    """The fate of the events so far.

    `captured` counts every `capture` of an enabled client that was given an event. Always `captured == queued + dropped
    + handed_over`: waiting in the host, dropped there (`dropped_by_reason`), or written into a sender's pipe. Always
    `handed_over == delivered + lost + on_the_way`: accepted by the server, lost in a sender (`lost_by_reason`), or not
    answered for yet.
    """

    __slots__ = (
        *("captured", "queued", "dropped", "handed_over", "delivered", "lost", "on_the_way"),
        *("dropped_by_reason", "lost_by_reason"),
    )

    def __init__(
        self,
        captured: int,
        handed_over: int,
        dropped_by_reason: dict[str, int],
        delivered: int = 0,
        lost_by_reason: dict[str, int] | None = None,
    ) -> None:
        self.handed_over = handed_over
        self.dropped_by_reason = dropped_by_reason
        self.dropped = sum(dropped_by_reason.values())
        # An event is counted as captured last. Ctrl-C may come just before.
        self.captured = max(captured, handed_over + self.dropped)
        self.queued = self.captured - handed_over - self.dropped
        self.delivered = delivered
        self.lost_by_reason = lost_by_reason or {}
        self.lost = sum(self.lost_by_reason.values())
        self.on_the_way = handed_over - delivered - self.lost

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Stats({fields})"


class Counts:
    """One client's counts in this process, without its senders'."""

    def __init__(self) -> None:
        self._captured = Counter()
        self._dropped: dict[str, Counter] = {}
        self.capture = self._captured.add
        """Count one captured event."""
        self.handed_over = 0
        """Number of events that a pipe took as a whole; only the thread that feeds it counts them."""

    @property
    def captured(self) -> int:
        """Number of captured events."""
        return self._captured.value

    @property
    def dropped(self) -> dict[str, int]:
        """Number of events dropped in the host, by reason."""
        return {reason: counter.value for reason, counter in list(self._dropped.items())}

    @property
    def losses(self) -> dict[str, int]:
        """Number of events lost in the host, by reason; `before_send` drops on purpose."""
        return {reason: count for reason, count in self.dropped.items() if reason != FILTERED}

    def drop(self, reason: str, count: int = 1, error: BaseException | None = None) -> None:
        """Count dropped events; log only the first of a reason."""
        is_first = reason not in self._dropped
        counter = self._dropped.setdefault(reason, Counter())
        for _ in range(count):
            counter.add()
        if is_first and error is None:
            debug("dropped an event (%s); any more are only counted", reason)
        elif is_first:
            debug("dropped an event (%s): %r; any more are only counted", reason, error)
