"""Counts of the events: read, delivered, dropped by reason.

Runs in the sender. The reader counts reads and the lanes count the rest. Counts change only under `Tally.lock`: a
reader that holds it sees each event exactly once.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from atotelemetry.facts.text import shortened
from atotelemetry.sender import reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from atotelemetry.sender.journal import Journal

__all__ = ["Tally", "counted"]

_NAME_LENGTH = 80
_MOST_REASONS = 50


class Tally:
    """The counts of one sender. `on_change` is called when the fate of events is known, under the lock."""

    def __init__(self, journal: Journal, on_change: Callable[[Tally], object] = bool) -> None:
        self._journal = journal
        self.lock = threading.Lock()
        self.read = 0
        self.added = 0
        """How many of those that were read are the sender's own reports."""
        self.delivered = 0
        self.dropped: dict[str, int] = {}
        """Number of events by reason, in the words of the journal."""
        self.lost: dict[str, int] = {}
        """The same events, by one of `reasons`."""
        self.bad_lines = 0
        self.unread = False
        """Whether input was left unread."""
        self.delivered_is_called = "delivered"
        self._on_change = on_change

    def deliver(self, count: int) -> None:
        """Count events that the server accepted."""
        self.delivered += count
        self._on_change(self)

    def drop(self, events: list[str] | int, reason: str, cause: str) -> None:
        """Give up on events, given by their names or their number; `cause` is one of `reasons`."""
        count, names = (events, "") if isinstance(events, int) else (len(events), f" ({_listed(events)})")
        _add(self.dropped, reason, count, "other reasons")
        _add(self.lost, cause, count, reasons.OTHER)
        self._on_change(self)
        self._journal.problem(f"dropped {counted(count)}{names}: {reason}")

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not (self.dropped or self.bad_lines or self.unread or self.undecided)

    @property
    def undecided(self) -> int:
        """How many events were read and are not counted as anything else yet."""
        return self.read - self.delivered - sum(self.lost.values())

    def __str__(self) -> str:
        lost = sum(self.dropped.values())
        text = f"{counted(self.read)} read, {self.delivered} {self.delivered_is_called}, {lost} dropped"
        if self.dropped:
            text += " (" + "; ".join(f"{count} x {reason}" for reason, count in self.dropped.items()) + ")"
        if self.bad_lines:
            text += f", {self.bad_lines} bad line{'s' if self.bad_lines != 1 else ''}"
        if self.unread:
            text += ", input left unread"
        return text


def counted(events: int) -> str:
    """Return "1 event", "2 events"."""
    return f"{events} event{'s' if events != 1 else ''}"


def _add(counts: dict[str, int], reason: str, count: int, otherwise: str) -> None:
    # A server that says something new each time must not fill our memory.
    if reason not in counts and len(counts) >= _MOST_REASONS:
        reason = otherwise
    counts[reason] = counts.get(reason, 0) + count


def _listed(names: Iterable[str]) -> str:
    """Return every name once, with how often it occurs."""
    counts = Counter(shortened(name, _NAME_LENGTH) for name in names)
    return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in counts.items())
