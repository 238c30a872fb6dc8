"""PostHog's capture protocol v1: its requests, and the server's verdict on every event.

Pure: no I/O, no clock. Runs in the sender, on the thread of a lane. Events come as the older protocol wants them
(`batch.py`), because a server without v1 gets them so. Here each takes its new shape, once for all attempts.

Sources: PostHog's capture service (`rust/capture/src/v1` in github.com/PostHog/posthog) and its Python SDK
(`posthog/capture_v1.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.ids import canonical, uuid4
from atotelemetry.sender import reasons
from atotelemetry.sender.batch import V1_PATH, Request, Verdicts
from atotelemetry.sender.outcome import DELIVERED, REJECTED, RETRY, Outcome
from atotelemetry.version import __version__
from atotelemetry.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.sender.batch import Prepared

__all__ = ["Exchange", "to_v1"]

_STORED = frozenset({"ok", "warning", "limited"})
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 30.0  # of the waits that a server may ask for, as in PostHog's SDKs
_LONGEST_DETAILS = 80

_IN_THE_HEADER = ("$lib", "$lib_version")


class _Event(msgspec.Struct):
    """An event of the older protocol; its values stay encoded."""

    event: msgspec.Raw
    uuid: str
    distinct_id: msgspec.Raw
    timestamp: str
    properties: dict[str, msgspec.Raw]
    context: msgspec.Raw = msgspec.Raw()


class _Verdict(msgspec.Struct):
    result: str = ""
    details: Any = None


class _Answer(msgspec.Struct):
    results: dict[str, _Verdict]


_UNNAMED = _Verdict("ok")  # an event that the answer does not name is accepted

_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class Exchange:
    """All attempts of one request: its id and time of creation stay, its events become fewer."""

    def __init__(self, events: list[Prepared], *, api_key: str, created_at: str, historical_migration: bool) -> None:
        self._waiting = [(event, to_v1(event.body)) for event in events]
        self._beginning = b'{"created_at":' + encode(created_at)
        if historical_migration:
            self._beginning += b',"historical_migration":true'
        self._id = uuid4()
        self._api_key = api_key
        self._attempt = 0

    @property
    def events(self) -> list[Prepared]:
        """The events that no attempt has decided so far."""
        return [event for event, _ in self._waiting]

    def request(self, now: str, *, again: bool) -> Request:
        """Return the next attempt, `now` being the time. `again`: the attempt before did not reach the server."""
        if not again:
            self._attempt += 1
        headers = {
            "Authorization": f"Bearer {self._api_key}",
            "PostHog-Sdk-Info": f"atotelemetry/{__version__}",
            "PostHog-Attempt": str(self._attempt),
            "PostHog-Request-Id": self._id,
            "PostHog-Request-Timestamp": now,
        }
        body = self._beginning + b',"batch":[' + b",".join([body for _, body in self._waiting]) + b"]}"
        return Request(V1_PATH, body, headers, wants_answer=True)

    def judge(self, outcome: Outcome) -> Verdicts:
        """Return the fate of the events by the outcome of an attempt."""
        if not outcome.status:  # nothing was sent, or nothing came back
            return Verdicts(outcome)
        if outcome.kind != DELIVERED:
            return Verdicts(_judge_failure(outcome))
        try:
            results = _decode_answer(outcome.body).results
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            reason = f"{outcome.reason}, but the verdicts cannot be read"
            return Verdicts(Outcome(REJECTED, reason, cause=reasons.NO_VERDICT))
        verdicts = {canonical(uuid): verdict for uuid, verdict in results.items()}
        waiting = []
        accepted = 0
        dropped: dict[str, list[str]] = {}
        said: Counter[str] = Counter()
        for event, body in self._waiting:
            verdict = verdicts.get(canonical(event.uuid), _UNNAMED)
            details = _cut(verdict.details)
            said[f"{_cut(verdict.result)} ({details})" if details else _cut(verdict.result)] += 1
            if verdict.result in _STORED:
                accepted += 1
            elif verdict.result == "retry":
                waiting.append((event, body))
            else:
                why = details if verdict.result == "drop" else f"unknown verdict {_cut(verdict.result)!r}"
                dropped.setdefault(why, []).append(event.name)
        self._waiting = waiting
        if waiting:
            reason = f"{outcome.reason}: the server wants it again"
            outcome = Outcome(RETRY, reason, _bounded(outcome.retry_after), reasons.NOT_STORED)
        return Verdicts(
            outcome,
            accepted,
            [
                (names, f"the server dropped it{f': {why}' if why else ''}", reasons.of_details(why))
                for why, names in dropped.items()
            ],
            "; ".join(f"{count} x {words}" for words, count in said.items()),
        )


def to_v1(body: bytes) -> bytes:
    """Return an event of the older protocol in the shape of this one. Values are copied as they are."""
    event = _decode_event(body)
    properties = event.properties
    for name in _IN_THE_HEADER:
        properties.pop(name, None)
    options: dict[str, object] = {}
    fields: dict[str, object] = {
        "event": event.event,
        "uuid": event.uuid,
        "distinct_id": event.distinct_id,
        "timestamp": _utc(event.timestamp),
    }
    for name, (read, is_option, field) in _MOVED.items():
        value = read(properties.pop(name)) if name in properties else None
        if value is not None:
            (options if is_option else fields)[field] = value
    if bytes(event.context):  # has no place of its own any more
        properties.setdefault("context", event.context)
    if options:
        fields["options"] = options
    fields["properties"] = properties
    return encode(fields)


def _boolean(raw: msgspec.Raw) -> bool | None:
    """Return a yes or a no as the server reads it; None for any other value, which would cost the event."""
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int, float)) else None


def _text(raw: msgspec.Raw) -> str | None:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else None


# Properties that move: how each is read, whether into `options` or to the root of the event, and its name there.
_MOVED: dict[str, tuple[Callable[[msgspec.Raw], object], bool, str]] = {
    "$process_person_profile": (_boolean, True, "process_person_profile"),
    "$cookieless_mode": (_boolean, True, "cookieless_mode"),
    "$ignore_sent_at": (_boolean, True, "disable_skew_correction"),
    "$product_tour_id": (_text, True, "product_tour_id"),
    "$session_id": (_text, False, "session_id"),
    "$window_id": (_text, False, "window_id"),
}


def _utc(timestamp: str) -> str:
    """Return a time in the server's form, RFC 3339 in UTC; any other text unchanged."""
    if timestamp.endswith("Z"):  # the host's
        return timestamp
    import datetime

    try:
        time = datetime.datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    aware = time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)
    return aware.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _judge_failure(outcome: Outcome) -> Outcome:
    """Judge a status other than 2xx. The older protocol tries more of them again."""
    status = outcome.status
    tag, description = _error(outcome.body)
    reason = f"HTTP {status}: {description}" if description else outcome.reason
    cause = reasons.TOO_BIG if status == 413 else outcome.cause
    if status == 402 or tag == "billing_limit_exceeded":
        cause = reasons.OVER_QUOTA
    kind = REJECTED if outcome.kind == RETRY and status not in _AGAIN else outcome.kind
    return Outcome(kind, reason, _bounded(outcome.retry_after), cause, status)


def _error(body: bytes) -> tuple[str, str]:
    """Return the tag and the description of an error; empty texts if the answer has none."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""
    texts = [text for name in ("error_description", "error", "detail") if isinstance(text := answer.get(name), str)]
    tag = answer.get("error")
    return tag if isinstance(tag, str) else "", " ".join(texts[0].split())[:200] if texts else ""


def _cut(words: object) -> str:
    return " ".join(words.split())[:_LONGEST_DETAILS] if isinstance(words, str) else ""


def _bounded(retry_after: float | None) -> float | None:
    return None if retry_after is None else min(retry_after, _LONGEST_WAIT)
