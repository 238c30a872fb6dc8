"""Counts events: captured, handed over, dropped and why.

Runs in the host, on any thread, in signal handlers and finalizers. So no lock protects a count; adding one is a single
step of the interpreter.
"""

from __future__ import annotations

from itertools import count

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
        return int(repr(self._count)[6:-1])  # "count(7)": the one way to look without counting


class Stats:
    """What became of the events so far: `captured == handed_over + dropped + queued`, always.

    `captured` counts every `capture` of an enabled client that was given an event, `handed_over` those written into a
    sender's pipe, `dropped` those lost in the host (`dropped_by_reason` says why), `queued` those on their way.
    """

    __slots__ = ("captured", "dropped", "dropped_by_reason", "handed_over", "queued")

    def __init__(self, captured: int, handed_over: int, dropped_by_reason: dict[str, int]) -> None:
        self.captured = captured
        self.handed_over = handed_over
        self.dropped_by_reason = dropped_by_reason
        self.dropped = sum(dropped_by_reason.values())
        self.queued = captured - handed_over - self.dropped

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Stats({fields})"


class Counts:
    """One client's counts in this process, except those that its feeder keeps."""

    def __init__(self) -> None:
        self._captured = Counter()
        self._dropped: dict[str, Counter] = {}
        self.capture = self._captured.add
        """Count one captured event."""

    def drop(self, reason: str) -> bool:
        """Count one dropped event; True for the first of its reason."""
        counter = self._dropped.get(reason)
        if counter is not None:
            counter.add()
            return False
        self._dropped.setdefault(reason, Counter()).add()
        return True

    def stats(self, handed_over: int) -> Stats:
        """Return the counts, with the feeder's, which must have been read before the call."""
        dropped = {reason: counter.value for reason, counter in list(self._dropped.items())}
        return Stats(self._captured.value, handed_over, dropped)
