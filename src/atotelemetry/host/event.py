"""From a caller's arguments to a line of JSON, or the reason why there is none.

Runs in the host, on whichever thread captures: also in signal handlers and in a `__del__` that the garbage collector
runs in the middle of another `capture`. So there is no lock here, and no call stores its state in an object that others
use. The ordinary event takes the fast path: msgspec encodes the caller's values as they are. Only when it cannot (a
cycle, a lone surrogate, an object of the host's) are the values made plain first.

This module is loaded at the first event, because it needs msgspec.
"""

from __future__ import annotations

from _thread import get_ident

from atotelemetry.host.debug import debug
from atotelemetry.host.lazy import load
from atotelemetry.host.stats import FILTERED, Lost
from atotelemetry.ids import uuid7_generator

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.reports import Reports

__all__ = ["BeforeSend", "Encoder", "encode_common"]

# PostHog's parser refuses a body nested deeper than 128 levels. A line below these sizes cannot nest too deeply.
# Anything larger takes the slow path, which limits depth.
_HARMLESS_BYTES = 400
_HARMLESS_CONTAINERS = 100
# The options of an event in protocol v1, and the properties that mean the same in both protocols.
_OPTIONS = {
    "process_person_profile": "$process_person_profile",
    "cookieless_mode": "$cookieless_mode",
    "disable_skew_correction": "$ignore_sent_at",
    "product_tour_id": "$product_tour_id",
}
_LINE_BREAK = 10  # "\n"
_ENVELOPE_BYTES = 16 * 1024  # what an event may need beside its properties: two texts of 1024 characters, escaped
_CONTEXT_BYTES = 64 * 1024  # what the common properties, or a context, may take of one line


class BeforeSend:
    """The host's `before_send`: sees every assembled event, except those that it captures itself."""

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any] | None], common: dict[str, Any]) -> None:
        self._function = function
        self._common = common
        self._threads: set[int] = set()  # inside the function

    def __call__(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what the host makes of the event. Raises `Lost`."""
        thread = get_ident()
        if thread in self._threads:
            # It would be called for this event, too, without end.
            raise Lost("captured inside before_send")
        message["properties"] = {**self._common, **message["properties"]}
        self._threads.add(thread)
        try:
            filtered = self._function(message)
        except Exception as error:
            raise Lost("before_send raised", error) from error
        finally:
            self._threads.discard(thread)
        if filtered is None:
            raise Lost(FILTERED)
        return filtered

    def after_fork_in_child(self) -> None:
        """Forget the threads that are not here."""
        self._threads.intersection_update((get_ident(),))


class Encoder:
    """Makes events of one client into lines, in one process. Made at the first event."""

    def __init__(self, before_send: BeforeSend | None) -> None:
        datetime = load("datetime")
        if not hasattr(datetime, "datetime_CAPI"):  # the last thing that the module gets
            # msgspec in company of a half-loaded `datetime` would crash the process.
            raise RuntimeError("captured in the middle of the import of datetime")
        load("msgspec")  # the one costly import of the host
        wire = load("atotelemetry.wire")
        self.new_uuid = uuid7_generator()
        self._now = datetime.datetime.now
        self._utc = datetime.UTC
        self._encode = wire.encode
        self._event = wire.OutgoingEvent
        self._most_bytes = wire.MAX_EVENT_BYTES
        self._before_send = before_send

    def with_options(self, properties: object, options: Any) -> dict[str, Any]:
        """Return `properties` with an event's options among them, by the names that PostHog has for them there."""
        known = _mapping(load("atotelemetry.host.values").plain(properties))
        chosen = {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS and value is not None}
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            debug("options that PostHog does not have: %r", unknown)
        return {**known, **chosen}

    def line(
        self,
        event: object,
        distinct_id: object,
        properties: object,
        timestamp: object,
        context: object,
        uuid: object,
    ) -> tuple[str, bytes]:
        """Return an event's uuid and its line. Raises `Lost`, or any other exception for a bug of ours."""
        if (
            type(event) is str
            and type(distinct_id) is str
            and type(properties) is dict
            and event
            and distinct_id
            and timestamp is None
            and context is None
            and uuid is None
            and self._before_send is None
        ):
            # The fast path: one expression from the caller's values to the line. A failure is no loss yet.
            try:
                name = self.new_uuid()
                line = self._encode(self._event(name, event, distinct_id, self._now(self._utc), properties))
                # Only a `msgspec.Raw` of the caller's brings a line break. (A number is found five times as fast as
                # `b"\n"`, which CPython first tries to take for one.)
                if (len(line) <= _HARMLESS_BYTES or self._is_harmless(line)) and _LINE_BREAK not in line:
                    return name, line
            except Exception:
                pass  # the slow path takes it, or says why not
        return self._odd_line(event, distinct_id, properties, timestamp, context, uuid)

    def _is_harmless(self, line: bytes) -> bool:
        """Whether an encoded event is neither too large nor nested too deeply."""
        return len(line) <= self._most_bytes and line.count(b"{") + line.count(b"[") <= _HARMLESS_CONTAINERS

    def _odd_line(
        self,
        event: object,
        distinct_id: object,
        properties: object,
        timestamp: object,
        context: object,
        uuid: object,
    ) -> tuple[str, bytes]:
        values = load("atotelemetry.host.values")
        name = self.new_uuid() if uuid is None else self._uuid(uuid)
        when = self._now(self._utc) if timestamp is None else self._timestamp(timestamp)
        known = properties if isinstance(properties, dict) else _mapping(values.plain(properties))
        person = "" if distinct_id is None else values.plain_text(distinct_id)
        if not person:
            # PostHog makes no person of an event whose distinct_id means nothing.
            person = self.new_uuid()
            known = {"$process_person_profile": False, **known}
        extra: Any = context if context is None or isinstance(context, dict) else _mapping(values.plain(context))
        title: Any = event
        if self._before_send is not None:
            message = {
                "uuid": name,
                "event": event,
                "distinct_id": person,
                "timestamp": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "properties": known,
            }
            if extra is not None:
                message["context"] = extra
            message = self._before_send(message)
            name = self._uuid(message.get("uuid"))
            title = message.get("event") or None
            person = values.plain_text(message.get("distinct_id") or person)
            when = self._timestamp(message.get("timestamp"))
            known = message.get("properties") or {}
            extra = message.get("context")
        title = values.plain_text(title) if title is not None else ""
        if not title:
            raise Lost("no event name")
        return name, self._plain_line(name, title, person, when, known, extra)

    def _plain_line(
        self,
        name: str,
        event: str,
        distinct_id: str,
        when: datetime.datetime,
        properties: object,
        context: object,
    ) -> bytes:
        """Encode an event that msgspec did not take as it is: make its values plain, and cut what is too large."""
        wire, values = load("atotelemetry.wire"), load("atotelemetry.host.values")
        known = _mapping(values.plain(properties))
        extra = None if context is None else _mapping(values.plain(context))
        try:
            line: bytes = wire.encode_event(name, event, distinct_id, when, known, extra)
        except wire.EventTooLarge:
            limit_bytes = wire.MAX_EVENT_BYTES - _ENVELOPE_BYTES
            if extra is not None:
                extra = values.cut_to_fit(extra, _CONTEXT_BYTES, wire.encode)
                limit_bytes -= _CONTEXT_BYTES
            known = values.cut_to_fit(known, limit_bytes, wire.encode)
            line = wire.encode_event(name, event, distinct_id, when, known, extra)
        return line

    def exception_properties(
        self,
        reports: Reports,
        caught: BaseException,
        distinct_id: object,
        properties: object,
        *,
        handled: bool,
        repeated: int,
    ) -> tuple[str, dict[str, Any]]:
        """Return the distinct_id and the properties of an `$exception` event."""
        values = load("atotelemetry.host.values")
        person = "" if distinct_id is None else values.plain_text(distinct_id)
        described: dict[str, Any] = {}
        if not person:
            person = self.new_uuid()
            described["$process_person_profile"] = False
        if repeated:
            described["$exception_repeated"] = repeated
        described.update(reports.describe(caught, person, handled=handled))
        described.update(properties or {})  # type: ignore[call-overload]
        return person, described

    def _uuid(self, uuid: object) -> str:
        """Return the caller's uuid in its canonical form, or a new one if it is none."""
        from uuid import UUID

        if isinstance(uuid, UUID):
            return str(uuid)
        try:
            return str(UUID(uuid)) if isinstance(uuid, str) else self.new_uuid()
        except ValueError:
            return self.new_uuid()

    def _timestamp(self, timestamp: object) -> datetime.datetime:
        """Return the caller's instant in UTC, or now if it is none."""
        import datetime

        try:
            if isinstance(timestamp, str):
                timestamp = datetime.datetime.fromisoformat(timestamp)
            elif isinstance(timestamp, datetime.date) and not isinstance(timestamp, datetime.datetime):
                timestamp = datetime.datetime(timestamp.year, timestamp.month, timestamp.day, tzinfo=datetime.UTC)
            if isinstance(timestamp, datetime.datetime):
                aware = timestamp if timestamp.tzinfo is not None else timestamp.replace(tzinfo=datetime.UTC)
                instant = aware.astimezone(datetime.UTC)
                # A subclass (pandas has one) would be encoded its own way.
                return datetime.datetime.combine(instant.date(), instant.time(), datetime.UTC)
        except Exception as error:
            debug("unusable timestamp, taking now: %r", error)
        return datetime.datetime.now(datetime.UTC)


def encode_common(properties: dict[str, Any]) -> bytes:
    """Encode the properties that are common to all events of a client, cut to their share of a line."""
    wire, values = load("atotelemetry.wire"), load("atotelemetry.host.values")
    encoded: bytes = wire.encode(values.cut_to_fit(values.plain(properties), _CONTEXT_BYTES, wire.encode))
    return encoded


def _mapping(value: Any) -> dict[str, Any]:
    """Return a plain value that stands where an object must: something else is kept under a name of its own."""
    if isinstance(value, dict):
        return value
    return {} if value is None else {"value": value}
