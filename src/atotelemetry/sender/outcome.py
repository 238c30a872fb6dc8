"""The outcome of one attempt to post a request, and the meaning of each HTTP status.

A leaf, pure. Runs in the sender.
"""

from __future__ import annotations

from typing import NamedTuple

from atotelemetry.sender import reasons

__all__ = [
    "DELIVERED",
    "REFUSED",
    "REJECTED",
    "RETRY",
    "STALE",
    "STOPPED",
    "TOO_LARGE",
    "TOO_LATE",
    "Outcome",
    "judge",
    "parse_retry_after",
]

DELIVERED = "delivered"
RETRY = "retry"
STALE = "stale"
"""The server had closed the kept connection. A new one may work."""
REFUSED = "refused"
"""The server refused the request as a whole (400). It may accept a part of it."""
TOO_LARGE = "too large"
"""As above, because of its size (413)."""
REJECTED = "rejected"
"""Final."""


class Outcome(NamedTuple):
    """The result of an attempt: its kind, its details, and the seconds the server asked us to wait."""

    kind: str
    reason: str = ""
    retry_after: float | None = None
    cause: str = ""
    """One of `reasons`, if the events were lost by this result."""
    status: int = 0
    """HTTP status of the answer; 0 where there was none."""
    body: bytes = b""
    """The answer itself, if the request wanted it (`batch.Request`)."""


STOPPED = Outcome(REJECTED, "telemetry was disabled", cause=reasons.DISABLED)
"""The person said no before the events were posted."""
TOO_LATE = Outcome(REJECTED, "no time left before the deadline", cause=reasons.DEADLINE)


def judge(status: int, retry_after: str | None, text: str, now: float) -> Outcome:
    """Return the outcome of a request by its response: the table of outcomes in one place.

    `retry_after` is the value of that header (RFC 9110, section 10.2.3: seconds or an HTTP date). `now` is the time in
    seconds since the epoch, to compare a date with.
    """
    reason = f"HTTP {status}{': ' + text if text else ''}"
    if 200 <= status < 300:  # the class of success, RFC 9110 section 15.3
        return Outcome(DELIVERED, reason, status=status)
    may_pass = status in (408, 429) or status >= 500  # server errors, section 15.6
    kind = RETRY if may_pass else {400: REFUSED, 413: TOO_LARGE}.get(status, REJECTED)
    pause = parse_retry_after(retry_after, now) if may_pass else None
    return Outcome(kind, reason, pause, reasons.of_status(status), status)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None when it says nothing usable."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    import datetime  # only a date needs them
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # the obsolete form without a zone means UTC (RFC 9110, section 5.6.7)
            date = date.replace(tzinfo=datetime.UTC)
        return max(0.0, date.timestamp() - now)
    except Exception:
        return None  # the parser has more than one way to refuse garbage
