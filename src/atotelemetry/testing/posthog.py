"""PostHog's rules: which requests its capture endpoint refuses, and with which status and reason.

Source: the handler of PostHog's capture service (`rust/capture` in github.com/PostHog/posthog). Pure: a request that
was received in, its events and a refusal out. Runs on the thread of the request's connection.
"""

from __future__ import annotations

import json
import math
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from atotelemetry.ids import is_uuid

if TYPE_CHECKING:
    from atotelemetry.testing.http import RecordedRequest

__all__ = ["BODY_LIMIT_BYTES", "JSON_ERRORS", "read_body", "read_json", "unpack"]

JSON_ERRORS = (ValueError, RecursionError)
"""The errors of a body that is no JSON to PostHog."""

BODY_LIMIT_BYTES = 20 * 1024 * 1024
CAPTURE_PATHS = frozenset({"/capture", "/batch", "/e", "/i/v0/e"})

# serde_json reads one level less than its limit of 128.
_DEEPEST = 127
_LARGEST_DIGITS = 308  # a longer integer may be infinite as a float
_CONTAINERS = frozenset((dict, list))


def read_body(request: RecordedRequest) -> tuple[int, str] | None:
    """Fill in the request's events; return PostHog's refusal (status and reason), or None.

    Every path takes an event, a batch or an array of events. One bad event refuses the whole request.
    """
    refusal: tuple[int, str] | None = None
    if request.path.partition("?")[0].removesuffix("/") not in CAPTURE_PATHS:
        refusal = HTTPStatus.NOT_FOUND, "not found"
    elif request.method != "POST":
        refusal = HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed"
    unpacked = unpack(request)
    if unpacked is not None:
        return refusal or unpacked
    try:
        payload = _load(request.body)
    except JSON_ERRORS as error:
        return refusal or (HTTPStatus.BAD_REQUEST, f"failed to parse request: {error}")
    # Read in any case: the author of a refused request wants to see its events.
    verdict = _read_payload(request, payload)
    fault = _fault_of(request.body, payload)
    if fault:
        verdict = HTTPStatus.BAD_REQUEST, f"failed to parse request: {fault}"
    return refusal or verdict


def unpack(request: RecordedRequest) -> tuple[int, str] | None:
    """Decompress the request's body; return PostHog's refusal, or None."""
    if request.wire_bytes > BODY_LIMIT_BYTES:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "length limit exceeded"
    if request.headers.get("Content-Encoding", "").strip().lower() == "gzip":
        decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            # Never more than one byte over the limit, however small the data.
            body = decompressor.decompress(request.body, BODY_LIMIT_BYTES + 1)
        except zlib.error as error:
            return HTTPStatus.BAD_REQUEST, f"failed to decode request: {error}"
        if len(body) > BODY_LIMIT_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "length limit exceeded"
        if not decompressor.eof:
            return HTTPStatus.BAD_REQUEST, "failed to decode request: the compressed data ends early"
        request.body = body
    return None


def read_json(body: bytes) -> Any:
    """Return the value that a body holds. Raises one of `JSON_ERRORS` where PostHog's parser refuses it."""
    payload = _load(body)
    fault = _fault_of(body, payload)
    if fault:
        raise ValueError(fault)
    return payload


def _load(body: bytes) -> Any:
    # As text: from bytes, `json` would also take UTF-16 and encoded surrogates, which PostHog does not.
    return json.loads(body.decode(), parse_constant=_finite, parse_float=_finite, parse_int=_integer)


def _fault_of(body: bytes, payload: Any) -> str:
    if _is_too_deep(payload):
        return "recursion limit exceeded"
    if b"\\u" in body and _has_lone_surrogate(payload):
        return "lone surrogate in a hex escape"
    return ""


def _read_payload(request: RecordedRequest, payload: Any) -> tuple[int, str] | None:
    events: Any = payload
    key: Any = None
    if isinstance(payload, dict):
        key = payload.get("api_key", payload.get("token"))
        sent_at = payload.get("sent_at")
        request.sent_at = sent_at if isinstance(sent_at, str) else None
        if "batch" in payload:
            events = payload["batch"]
        else:
            # Keys of the request are taken out of its event, so both shapes read the same.
            about_request = ("api_key", "token", "sent_at")
            events = [{name: value for name, value in payload.items() if name not in about_request}]
    if isinstance(events, list):
        request.events = [event for event in events if isinstance(event, dict)]
    if not isinstance(events, list) or len(request.events) != len(events):
        return HTTPStatus.BAD_REQUEST, "failed to parse request: not an event, a batch or an array of events"
    keys = {key} if isinstance(key, str) else {_key_of(event) for event in request.events} - {""}
    request.api_key = min(keys, default=None)
    for index, event in enumerate(request.events):
        if (reason := _malformed(event)) is not None:
            return HTTPStatus.BAD_REQUEST, f"failed to parse request: event {index}: {reason}"
    if not request.events:
        return HTTPStatus.BAD_REQUEST, "request holds no event"
    if not request.api_key:
        return HTTPStatus.UNAUTHORIZED, "event submitted without an api_key"
    if len(keys) > 1:
        return HTTPStatus.UNAUTHORIZED, "batch submitted with inconsistent api_key values"
    for index, event in enumerate(request.events):
        if not event["event"]:
            return HTTPStatus.BAD_REQUEST, f"event {index} submitted with an empty event name"
        if event.get("distinct_id", event.get("properties", {}).get("distinct_id")) in (None, ""):
            return HTTPStatus.BAD_REQUEST, f"event {index} submitted without a distinct_id"
    return None


def _malformed(event: dict[str, Any]) -> str | None:
    if not isinstance(event.get("event"), str):
        return "missing field `event`"
    if not isinstance(event.get("properties", {}), dict):
        return "`properties` is not an object"
    uuid = event.get("uuid")
    # An empty one counts as none.
    if uuid is not None and uuid != "" and not (isinstance(uuid, str) and is_uuid(uuid.removeprefix("urn:uuid:"))):
        return f"invalid uuid {uuid!r:.80}"
    return None


def _key_of(event: dict[str, Any]) -> str:
    properties = event.get("properties")
    key = event.get("api_key", event.get("token"))
    if key is None and isinstance(properties, dict):
        key = properties.get("token")
    return key if isinstance(key, str) else ""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number out of range: {text:.20}")
    return number


def _integer(text: str) -> int:
    if len(text) > _LARGEST_DIGITS:
        _finite(text)  # serde_json reads an integer beyond 64 bits as a float
    return int(text)


def _is_too_deep(payload: Any) -> bool:
    level = [payload] if isinstance(payload, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [child for container in level for child in _containers_in(container)]
        if not level:
            return False
    return True


def _containers_in(container: Any) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    # Most hold none, and skip the slow look at each value: a test's program must not wait for its server.
    if _CONTAINERS.isdisjoint(map(type, values)):
        return []
    return [value for value in values if type(value) in _CONTAINERS]


def _has_lone_surrogate(payload: Any) -> bool:
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
