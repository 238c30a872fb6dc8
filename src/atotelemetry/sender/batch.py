"""The events of the next request, and its body.

Pure: no I/O and no clock of its own; runs on the sender's delivery thread. An event is encoded once, when it is
prepared. Every attempt sends the same bytes. Only `sent_at` is new each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from atotelemetry.sender.repair import mend_integers
from atotelemetry.wire import Event, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atotelemetry.sender.outcome import Outcome

__all__ = [
    "BATCH_PATH",
    "CAPTURE_PATH",
    "MADE_UP_BYTES",
    "MAX_REQUEST_BYTES",
    "MAX_REQUEST_EVENTS",
    "V1_PATH",
    "Exchange",
    "Prepared",
    "Request",
    "Verdicts",
    "fill",
    "prepare",
]

CAPTURE_PATH, BATCH_PATH, V1_PATH = "/capture/", "/batch/", "/i/v1/analytics/events"

MAX_REQUEST_EVENTS = 1000
MAX_REQUEST_BYTES = 4 * 1024 * 1024

MADE_UP_BYTES = 256
"""The most that `prepare` adds to a line beside the common properties: ids, timestamp and one property of its own."""

_ENVELOPE_BYTES = 1024  # of a request: key, time, brackets

_decode_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Prepared(NamedTuple):
    """One event as it goes over the network."""

    uuid: str
    name: str
    body: bytes


class Request(NamedTuple):
    """One POST: path, JSON, and headers beside the usual ones."""

    path: str
    body: bytes
    headers: Mapping[str, str] = {}
    wants_answer: bool = False
    """Whether an answer of success counts only when its body is there."""


class Verdicts(NamedTuple):
    """The fate of the events of one request, by one attempt.

    `outcome` is that of all events which are neither accepted nor dropped.
    """

    outcome: Outcome
    accepted: int = 0
    dropped: Sequence[tuple[list[str], str, str]] = ()
    """Names of events, why in the words of the journal, and why in those of `reasons`."""
    summary: str = ""
    """The server's own words, counted."""


def prepare(event: Event, common: dict[str, msgspec.Raw], *, uuid: str, distinct_id: str, timestamp: str) -> Prepared:
    """Encode one event, with the properties that it does not have itself taken from `common`.

    `uuid`, `distinct_id` and `timestamp` stand in for missing fields of the event's line. Values are copied as they
    came, but for integers that no server could read. Raises `msgspec.MsgspecError` or `ValueError` when a property's
    name is no text.
    """
    uuid = event.uuid or uuid
    name = event.event
    who = event.distinct_id
    properties = bytes(event.properties)
    own = _decode_properties(mend_integers(properties)) if properties[:1] == b"{" else {}
    fields: dict[str, object] = {
        "uuid": uuid,
        "event": name,
        "distinct_id": distinct_id if who is None or who == "" else str(who),
        "timestamp": event.timestamp or timestamp,
        "properties": {**common, **own},
    }
    context = bytes(event.context)
    if context[:1] == b"{":
        fields["context"] = msgspec.Raw(mend_integers(context))
    return Prepared(uuid, name, encode(fields))


def fill(sizes_bytes: list[int], *, endpoint: str, limit_bytes: int = MAX_REQUEST_BYTES) -> int:
    """Return how many of the waiting events, in order, the next request takes; at least one."""
    if endpoint == "capture":
        return 1
    left_bytes = limit_bytes - _ENVELOPE_BYTES
    for number, size_bytes in enumerate(sizes_bytes[:MAX_REQUEST_EVENTS]):
        left_bytes -= size_bytes + 1  # and a comma
        if left_bytes < 0 and number:
            return number
    return min(len(sizes_bytes), MAX_REQUEST_EVENTS)


class Exchange:
    """All attempts of one request to `/capture/` or `/batch/`, in the shapes of https://posthog.com/docs/api/capture.

    A lone event has the single-event shape, unless `endpoint` wants the other. An import of old events is marked, which
    only a batch can be.
    """

    def __init__(self, events: list[Prepared], *, api_key: str, endpoint: str, historical_migration: bool) -> None:
        self.events = events
        self._beginning = b'{"api_key":' + encode(api_key)
        self._is_single = endpoint == "capture" or (
            endpoint == "auto" and len(events) == 1 and not historical_migration
        )
        self._end = b',"historical_migration":true}' if historical_migration else b"}"

    def request(self, now: str, *, again: bool) -> Request:  # noqa: ARG002 - the server does not want to know
        """Return the next attempt. By `now`, the time of a batch, the server corrects the clock's skew."""
        if self._is_single:
            return Request(CAPTURE_PATH, self._beginning + b"," + self.events[0].body[1:])
        bodies = b",".join([event.body for event in self.events])
        return Request(BATCH_PATH, self._beginning + b',"batch":[' + bodies + b'],"sent_at":' + encode(now) + self._end)

    def judge(self, outcome: Outcome) -> Verdicts:
        """Return the fate of the events by the outcome of an attempt: one for all of them."""
        return Verdicts(outcome)
