"""The rules of PostHog's capture protocol v1: which requests it refuses, and its verdict on each event.

Source: `rust/capture/src/v1` in github.com/PostHog/posthog. Pure: a request that was received in, its events, their
verdicts and a refusal out. Runs on the thread of the request's connection.
"""

from __future__ import annotations

import datetime
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from atotelemetry.ids import canonical
from atotelemetry.testing.posthog import JSON_ERRORS, read_json, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atotelemetry.testing.http import RecordedRequest

__all__ = ["PATH", "STORED", "answer_body", "as_v0", "is_v1", "key_of", "read_body"]

PATH = "/i/v1/analytics/events"
STORED = frozenset({"ok", "warning", "limited"})
"""The verdicts on events that are kept."""

_HEADERS = (
    "PostHog-Sdk-Info",
    "PostHog-Attempt",
    "PostHog-Request-Id",
    "PostHog-Request-Timestamp",
    "Content-Type",
    "User-Agent",
)
_LONGEST = 200  # of an event's name and of a distinct_id
# Options and fields of an event, and the properties of the older protocol that they replace.
_PROPERTIES = {
    "process_person_profile": "$process_person_profile",
    "cookieless_mode": "$cookieless_mode",
    "disable_skew_correction": "$ignore_sent_at",
    "product_tour_id": "$product_tour_id",
    "session_id": "$session_id",
    "window_id": "$window_id",
}
_BOOLEAN_OPTIONS = ("cookieless_mode", "disable_skew_correction", "process_person_profile")

Refusal = tuple[int, str]
"""HTTP status and body."""


def is_v1(path: str) -> bool:
    """Whether a request to `path` is one of this protocol."""
    return path.partition("?")[0].removesuffix("/") == PATH


def read_body(request: RecordedRequest) -> Refusal | None:
    """Fill in the request's events and verdicts; return PostHog's refusal of the whole, or None."""
    refusal = _read_headers(request)
    unpacked = unpack(request)
    if unpacked is not None:
        status, reason = unpacked
        tag = "payload_too_large" if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else "request_decoding_error"
        return refusal or _refuse(status, tag, reason)
    if not request.body:
        return refusal or _refuse(HTTPStatus.BAD_REQUEST, "empty_body", "request body is empty")
    try:
        payload = read_json(request.body)
    except JSON_ERRORS as error:
        return refusal or _refuse(HTTPStatus.BAD_REQUEST, "request_parsing_error", f"failed to parse request: {error}")
    return refusal or _read_batch(request, payload)


def key_of(event: Mapping[str, Any]) -> str:
    """Return the uuid of an event as the answer names it; empty if it is none."""
    return canonical(event["uuid"]) or ""


def answer_body(request: RecordedRequest, wanted: Mapping[str, Any]) -> str:
    """Return the answer to a request that was not refused.

    `wanted` maps an event's uuid or name to its verdict: a result, or a mapping with `result` and `details`. They are
    noted in the request.
    """
    for event in request.events:
        verdict = wanted.get(event["uuid"], wanted.get(event["event"]))
        if verdict is not None:
            request.verdicts[key_of(event)] = {"result": verdict} if isinstance(verdict, str) else dict(verdict)
    return json.dumps({"results": request.verdicts})


def as_v0(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as the older protocol, and so a sender's input, has it."""
    old = {name: value for name, value in event.items() if name not in ("options", *_PROPERTIES)}
    moved = {**event, **event.get("options", {})}
    back = {name: moved[field] for field, name in _PROPERTIES.items() if field in moved}
    return {**old, "properties": {**event.get("properties", {}), **back}} if back else old


def _read_headers(request: RecordedRequest) -> Refusal | None:
    headers = request.headers
    if request.method != "POST":
        return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed")
    authorization = headers.get("Authorization")
    if authorization is None:
        return _refuse(HTTPStatus.UNAUTHORIZED, "missing_authorization", "request has no Authorization header")
    missing = [name for name in _HEADERS if name not in headers]
    if missing:
        return _refuse(HTTPStatus.BAD_REQUEST, "missing_required_headers", f"request is missing headers: {missing}")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return _wrong_header("Authorization must use Bearer scheme")
    request.api_key = key.strip()
    if not request.api_key or request.api_key.startswith("phx_"):
        return _refuse(HTTPStatus.UNAUTHORIZED, "invalid_api_token", "The provided API token is not valid.")
    if headers["Content-Type"].partition(";")[0].strip().lower() != "application/json":
        return _unsupported("unsupported_content_type", headers["Content-Type"])
    if headers.get("Content-Encoding", "gzip").lower() != "gzip":  # PostHog knows more, this server does not
        return _unsupported("unsupported_encoding", headers["Content-Encoding"])
    if canonical(headers["PostHog-Request-Id"]) is None:
        return _wrong_header("PostHog-Request-Id is not a valid UUID")
    attempt = headers["PostHog-Attempt"]
    if not attempt.isascii() or not attempt.isdigit() or int(attempt) < 1:
        return _wrong_header("PostHog-Attempt must be a positive integer")
    if not _is_time(headers["PostHog-Request-Timestamp"]):
        return _wrong_header("PostHog-Request-Timestamp is not valid RFC 3339")
    return None


def _read_batch(request: RecordedRequest, payload: Any) -> Refusal | None:
    events = payload.get("batch") if isinstance(payload, dict) else None
    if not isinstance(events, list) or not isinstance(payload.get("created_at"), str):
        return _malformed("not an object with `created_at` and `batch`")
    request.events = [event for event in events if isinstance(event, dict)]
    if not isinstance(payload.get("historical_migration", False), bool):
        return _malformed("`historical_migration` is no boolean")
    for index, event in enumerate(events):
        if not isinstance(event, dict):
            return _malformed(f"event {index} is no object")
        given = [name for name in ("session_id", "window_id") if event.get(name) is not None]
        for name in ("event", "uuid", "distinct_id", "timestamp", *given):
            if not isinstance(event.get(name), str):
                return _malformed(f"event {index}: `{name}` is no text")
    if not events:
        return _refuse(HTTPStatus.BAD_REQUEST, "empty_batch", "request batch is empty")
    if not _is_time(payload["created_at"]):
        return _refuse(HTTPStatus.BAD_REQUEST, "invalid_batch", "created_at is not valid RFC 3339")
    seen = set()
    for event in events:
        key = key_of(event)
        if not key:
            return _refuse(HTTPStatus.BAD_REQUEST, "invalid_event_uuid", "event submitted with an invalid uuid")
        if key in seen:
            return _refuse(HTTPStatus.BAD_REQUEST, "duplicate_event_uuid", f"duplicate event uuid: {key}")
        seen.add(key)
        fault = _fault_of(event)
        request.verdicts[key] = {"result": "drop", "details": fault} if fault else {"result": "ok"}
    return None


def _fault_of(event: dict[str, Any]) -> str:
    """Return why PostHog drops an event, in its own words, or an empty string."""
    name, distinct_id, options = event["event"], event["distinct_id"].strip(), event.get("options")
    if not name:
        return "missing_event_name"
    if len(name.encode()) > _LONGEST:
        return "event_name_too_long"
    if not distinct_id:
        return "missing_distinct_id"
    if len(distinct_id.encode()) > _LONGEST:
        return "distinct_id_too_large"
    if not _is_time(event["timestamp"]):
        return "invalid_event_timestamp"
    if not isinstance(event.get("properties", {}), dict):
        return "malformed_event_properties"
    if options is None:
        return ""
    if not isinstance(options, dict):
        return "invalid_options"
    readable = all(_is_boolean(options[name]) for name in _BOOLEAN_OPTIONS if options.get(name) is not None)
    tour = options.get("product_tour_id")
    is_id = tour is None or (isinstance(tour, (str, int)) and not isinstance(tour, bool))
    return "" if readable and is_id else "invalid_options"


def _is_boolean(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in {"true", "false", "1", "0"}
    return isinstance(value, (bool, int, float))


def _is_time(text: str) -> bool:
    """Whether a text is a time as RFC 3339 has it, with a zone."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return time.tzinfo is not None and len(text) > len("2030-01-02T03:04:05")


def _wrong_header(description: str) -> Refusal:
    return _refuse(HTTPStatus.BAD_REQUEST, "invalid_header_value", f"invalid header value: {description}")


def _malformed(description: str) -> Refusal:
    text = f"Failed to parse request body: {description}"
    return _refuse(HTTPStatus.BAD_REQUEST, "request_parsing_error", text)


def _unsupported(tag: str, value: str) -> Refusal:
    return _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, tag, f"{tag.replace('_', ' ')}: {value}")


def _refuse(status: int, tag: str, description: str) -> Refusal:
    body = {"error": tag, "error_description": description, "error_uri": "https://posthog.com/docs/api"}
    return status, json.dumps(body)
