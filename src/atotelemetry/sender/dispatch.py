"""Delivers events: retries, halves a refused request, drops with a reason.

Runs in the sender, on the thread of a lane. It has no network and no clock of its own: `post` makes one attempt, and
the countdown knows the time left and waits. Tests replace both. The rule it keeps: every event ends either delivered or
dropped, and is counted once.
"""

from __future__ import annotations

import datetime
import math
import os
import sys
from typing import TYPE_CHECKING

from atotelemetry.sender import batch, reasons
from atotelemetry.sender.outcome import DELIVERED, REFUSED, RETRY, STALE, STOPPED, TOO_LARGE, TOO_LATE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atotelemetry.sender.batch import Exchange, Prepared, Request
    from atotelemetry.sender.endpoints import Endpoints
    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.protocol_v1 import Exchange as ExchangeV1
    from atotelemetry.sender.tally import Tally
    from atotelemetry.sender.watchdog import Countdown
    from atotelemetry.wire import Hello

__all__ = ["RETRY_DELAY", "Dispatcher", "backoff", "utc_now"]

RETRY_DELAY = 0.5
"""Before the first retry; doubled for each further one."""

_LONGEST_DELAY = 30.0
_JITTER = 0.25
_SMALLEST_LIMIT_BYTES = 64 * 1024
_ELSEWHERE = "elsewhere"  # the kind of an outcome: to be sent again, to another endpoint


def backoff(attempt: int, retry_after: float | None, spread: float) -> float:
    """Return the seconds to wait before retry number `attempt` (from 0).

    `RETRY_DELAY`, doubling up to half a minute. Up to a quarter is added (`spread` is 0 to 1), so many senders do not
    return at once. A server's `retry_after` wins when it is longer.
    """
    delay: float = min(RETRY_DELAY * 2.0 ** min(attempt, 100), _LONGEST_DELAY) * (1 + _JITTER * spread)
    return delay if retry_after is None else max(delay, retry_after)


class Dispatcher:
    """Delivers events to one server, as its settings say.

    `post` makes one attempt with a request, its number of events, and a time limit in seconds (None: its own).
    `endpoints` are shared by all dispatchers to the server.
    """

    def __init__(
        self,
        settings: Hello,
        *,
        post: Callable[[Request, int, float | None], Outcome],
        time: Countdown,
        journal: Journal,
        tally: Tally,
        endpoints: Endpoints,
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._post = post
        self._time = time
        self._journal = journal
        self._tally = tally
        self._most_retries = sys.maxsize if settings.patient else settings.max_retries
        self.limit_bytes = batch.MAX_REQUEST_BYTES
        """The size that a request should not exceed; lowered when the server says so (413)."""

    def deliver(self, events: list[Prepared]) -> None:
        """Deliver events in order. A refused request is halved until the bad event is alone."""
        waiting = [events] if events else []  # a stack: the next to be sent is on top
        while waiting:
            part = waiting.pop()
            if len(part) > 1 and self._endpoints.one_by_one:
                waiting.append(part[1:])
                part = part[:1]
            try:
                exchange = self._endpoints.exchange(part, utc_now())
                outcome = self._try(exchange)
                part = exchange.events  # those without a verdict in an earlier answer
            except Exception as error:  # a bug of ours costs these events, no others
                outcome = Outcome("", f"{type(error).__name__}: {error}")
            if outcome.kind == _ELSEWHERE:
                waiting.append(part)
                continue
            if outcome.kind in (REFUSED, TOO_LARGE) and len(part) > 1:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
                if outcome.kind == TOO_LARGE:  # the next full request would be too large, too
                    size_bytes = sum(len(event.body) for event in part)
                    self.limit_bytes = min(self.limit_bytes, max(size_bytes // 2, _SMALLEST_LIMIT_BYTES))
                self._journal.detail(f"{outcome.reason}: trying {middle} and {len(part) - middle} events")
                continue
            if part:
                names = [event.name for event in part]
                is_delivered = outcome.kind == DELIVERED
                dropped = [] if is_delivered else [(names, outcome.reason, outcome.cause or reasons.SENDER_FAILED)]
                self._count(len(part) if is_delivered else 0, dropped)

    def _count(self, accepted: int, dropped: Sequence[tuple[list[str], str, str]]) -> None:
        with self._tally.lock:
            for names, reason, cause in dropped:
                self._tally.drop(names, reason, cause)
            if accepted:
                self._tally.deliver(accepted)

    def _try(self, exchange: Exchange | ExchangeV1) -> Outcome:
        """Post one request, as often as it makes sense; return the last outcome."""
        settings = self._settings
        attempt = 0
        was_stale = False
        host_lives = self._time.left() is None
        outcome = Outcome(RETRY, "")
        while True:
            left = self._time.left()
            if left is not None and left <= 0:
                return self._too_late(outcome)
            request = exchange.request(utc_now(), again=was_stale)
            outcome, accepted, dropped, summary = exchange.judge(self._post(request, len(exchange.events), left))
            if summary:
                self._journal.detail(f"verdicts: {summary}")
            if accepted or dropped:
                self._count(accepted, dropped)
            if self._endpoints.leave(request.path, outcome.status):
                return outcome._replace(kind=_ELSEWHERE)
            if outcome.kind == STALE:
                # The server had closed the kept connection: no attempt of ours, but only once for each.
                if not was_stale:
                    was_stale = True
                    continue
                outcome = outcome._replace(kind=RETRY)
            if settings.patient and host_lives and self._time.left() is not None:
                host_lives = False
                attempt = 0  # little time is left, so the pauses begin anew
            if outcome.kind != RETRY or attempt >= self._most_retries:
                return outcome
            pause = backoff(attempt, outcome.retry_after, os.urandom(1)[0] / 255)
            left = self._time.left()
            if left is None:  # no limit holds yet: without patience the one to come is the measure
                left = math.inf if settings.patient else settings.sender_deadline
            if pause >= left:
                return self._too_late(outcome, "no time left for a retry")
            attempt += 1
            was_stale = False
            of = "" if settings.patient else f" of {settings.max_retries}"
            self._journal.detail(f"retry {attempt}{of} in {pause:.2f} s")
            # A server that asked for more time gets it, also at the host's end.
            self._time.pause(pause, until_limited=settings.patient and outcome.retry_after is None)

    def _too_late(self, outcome: Outcome, reason: str = TOO_LATE.reason) -> Outcome:
        """Return the final outcome of events without time left, after the last attempt's `outcome`."""
        if self._time.stopped():
            return STOPPED
        reason = "; ".join(filter(None, (outcome.reason, reason)))
        return TOO_LATE._replace(reason=reason, cause=outcome.cause or TOO_LATE.cause)


def utc_now() -> str:
    """Return the time as PostHog takes it: UTC, ISO 8601, microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
