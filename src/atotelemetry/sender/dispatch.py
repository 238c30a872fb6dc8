"""What becomes of events on their way: delivered, tried again, halved, or dropped with a reason.

Runs in the sender, on the thread of a lane. It has no network and no clock of its own: `post` makes one attempt, the
countdown knows how much time is left and waits, and a test puts its own in their place. The rule it keeps: every event
ends either delivered or dropped, once, and is counted as what it became.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from atotelemetry.sender import batch
from atotelemetry.sender.outcome import DELIVERED, REFUSED, RETRY, STALE, TOO_LARGE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from atotelemetry.sender.batch import Prepared, Request
    from atotelemetry.sender.journal import Journal
    from atotelemetry.wire import Hello

__all__ = ["RETRY_DELAY", "Dispatcher", "Tally", "TimeLeft", "backoff", "counted", "drop", "retry_pause", "utc_now"]

RETRY_DELAY = 0.5
"""Before the first retry; doubled for each further one."""

_JITTER = 0.25
_SMALLEST_LIMIT_BYTES = 64 * 1024
_NAME_LENGTH = 80
_MOST_REASONS = 50


class TimeLeft(Protocol):
    """What the dispatcher asks of a clock; `watchdog.Countdown` is one."""

    def left(self) -> float | None:
        """Seconds left for work; None while there is no limit."""

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the time that is left."""


def backoff(attempt: int, retry_after: float | None, spread: float) -> float:
    """Return the seconds to wait before retry number `attempt` (from 0).

    `RETRY_DELAY`, doubling, longer by up to a quarter (`spread` is 0 to 1) so that many senders do not come back as
    one; a server's `retry_after` wins when it is longer.
    """
    delay: float = RETRY_DELAY * 2.0 ** min(attempt, 100) * (1 + _JITTER * spread)
    return delay if retry_after is None else max(delay, retry_after)


def retry_pause(attempt: int, outcome: Outcome, *, max_retries: int, time_left: float, spread: float) -> float | None:
    """Return the seconds to wait before trying again, or None when this outcome is final.

    `attempt` counts the retries made so far; a retry that would only come after `time_left` is not waited for.
    """
    if outcome.kind != RETRY or attempt >= max_retries:
        return None
    pause = backoff(attempt, outcome.retry_after, spread)
    return pause if pause < time_left else None


class Tally:
    """What became of everything that was read. The reader counts what it read, the lanes the rest, under one lock."""

    def __init__(self) -> None:
        self.read = 0
        self.delivered = 0
        self.dropped: dict[str, int] = {}
        """How many events, by reason."""
        self.bad_lines = 0
        self.unread = False
        """Whether input was left unread."""
        self.delivered_is_called = "delivered"

    def drop(self, count: int, reason: str) -> None:
        """Count events that will not be delivered."""
        if reason not in self.dropped and len(self.dropped) >= _MOST_REASONS:
            reason = "other reasons"  # a server that says something new each time must not fill our memory
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not (self.dropped or self.bad_lines or self.unread or self.undecided)

    @property
    def undecided(self) -> int:
        """How many events were read and are not counted as anything else yet."""
        return self.read - self.delivered - sum(self.dropped.values())

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


class Dispatcher:
    """Delivers events to one server, as its settings say.

    Args:
        settings: key, endpoint mode, retries and times.
        post: makes one attempt with a request of so many events, in at most so many seconds (None: its own limit).
        time: how much is left.
        journal: told of each retry, split and drop.
        tally: told what became of each event.
        deciding: held while the fate of events is put on record, so that each has exactly one.

    """

    def __init__(
        self,
        settings: Hello,
        *,
        post: Callable[[Request, int, float | None], Outcome],
        time: TimeLeft,
        journal: Journal,
        tally: Tally,
        deciding: threading.Lock | None = None,
    ) -> None:
        self._settings = settings
        self._post = post
        self._time = time
        self._journal = journal
        self._tally = tally
        self._deciding = deciding or threading.Lock()
        self._undecided: list[list[Prepared]] = []  # a stack: the next to be sent is on top
        self.limit_bytes = batch.MAX_REQUEST_BYTES
        """What a request should not exceed; lowered when the server says so (413)."""

    def deliver(self, events: list[Prepared]) -> None:
        """Deliver events in order; halve what is refused as a whole until the bad event is alone."""
        self._undecided = [events] if events else []
        while self._undecided:
            part = self._undecided[-1]
            try:
                outcome = self._send(part)
            except Exception as error:
                outcome = Outcome("", f"{type(error).__name__}: {error}")  # a bug of ours costs these events, no others
            if outcome.kind in (REFUSED, TOO_LARGE) and len(part) > 1:
                self._split(part, outcome)
                continue
            with self._deciding:
                self._undecided.pop()
                if outcome.kind == DELIVERED:
                    self._tally.delivered += len(part)
                else:
                    drop([event.name for event in part], outcome.reason, self._tally, self._journal)

    def undecided_names(self) -> list[str]:
        """Return the names of the events whose fate is open, for the last words of a stuck process."""
        return [event.name for part in reversed(self._undecided) for event in part]

    def _split(self, part: list[Prepared], outcome: Outcome) -> None:
        first, second = batch.halve(part)
        if outcome.kind == TOO_LARGE:
            # What is too much now is too much for the next full request, too.
            size_bytes = sum(len(event.body) for event in part)
            self.limit_bytes = min(self.limit_bytes, max(size_bytes // 2, _SMALLEST_LIMIT_BYTES))
        self._journal.detail(f"{outcome.reason}: trying {len(first)} and {len(second)} events")
        self._undecided[-1:] = [second, first]

    def _send(self, events: list[Prepared]) -> Outcome:
        """Post one request, as often as it makes sense; return the last outcome."""
        settings = self._settings
        attempt = 0
        was_stale = False
        outcome = Outcome(RETRY, "")
        while True:
            left = self._time.left()
            if left is not None and left <= 0:
                return Outcome(RETRY, "; ".join(filter(None, (outcome.reason, "no time left before the deadline"))))
            request = batch.request(events, api_key=settings.api_key, endpoint=settings.endpoint, sent_at=utc_now())
            outcome = self._post(request, len(events), left)
            if outcome.kind == STALE:
                # The server had closed the kept connection: no attempt of ours, but only once for each.
                if not was_stale:
                    was_stale = True
                    continue
                outcome = Outcome(RETRY, outcome.reason)
            left = self._time.left()
            pause = retry_pause(
                attempt,
                outcome,
                max_retries=settings.max_retries,
                time_left=settings.sender_deadline if left is None else left,
                spread=os.urandom(1)[0] / 255,
            )
            if pause is None:
                if outcome.kind == RETRY and attempt < settings.max_retries:
                    return Outcome(RETRY, f"{outcome.reason}; no time left for a retry")
                return outcome
            attempt += 1
            was_stale = False
            self._journal.detail(f"retry {attempt} of {settings.max_retries} in {pause:.2f} s")
            self._time.pause(pause)


def drop(names: list[str], reason: str, tally: Tally, journal: Journal, *, unnamed: int = 0) -> None:
    """Give up on events, named where their names are known."""
    count = len(names) + unnamed
    tally.drop(count, reason)
    listed = ", ".join(filter(None, (_listed(names), f"{unnamed} unnamed" if unnamed else "")))
    journal.problem(f"dropped {counted(count)} ({listed}): {reason}")


def utc_now() -> str:
    """Return the time as PostHog takes it: UTC, ISO 8601, microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def counted(events: int) -> str:
    """Return "1 event", "2 events"."""
    return f"{events} event{'s' if events != 1 else ''}"


def _listed(names: Iterable[str]) -> str:
    """Return every name once, with how often it occurs."""
    counts = Counter(name if len(name) <= _NAME_LENGTH else name[:_NAME_LENGTH] + "…" for name in names)
    return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in counts.items())
