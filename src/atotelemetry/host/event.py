"""From a caller's arguments to a line of JSON, or the reason why there is none.

Runs in the host, on any thread, also in signal handlers, and in a `__del__` in the middle of another `capture`. So
there is no lock here, and no call keeps its state in a shared object. An ordinary event takes the fast path: its
properties are copied, checked and encoded. The values of any other are made plain first, one by one.

This module is loaded at the first event, because it needs msgspec.
"""

from __future__ import annotations

from _thread import _local

from atotelemetry.host.clock import utc_text, wall_clock
from atotelemetry.host.debug import debug, is_for_the_host
from atotelemetry.host.lazy import load
from atotelemetry.host.ordinary import copy_of_ordinary, has_few_names, line_maker
from atotelemetry.host.stats import FILTERED, Lost
from atotelemetry.ids import Uuid7

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.values import Walk

    Description = Callable[[str, Walk], dict[str, object]]

__all__ = ["BeforeSend", "Encoder", "encode_common", "merged"]

# The options of an event in protocol v1, and the properties with the same meaning in both protocols.
_OPTIONS = {
    "process_person_profile": "$process_person_profile",
    "cookieless_mode": "$cookieless_mode",
    "disable_skew_correction": "$ignore_sent_at",
    "product_tour_id": "$product_tour_id",
}
_ENVELOPE_BYTES = 16 * 1024  # room beside the properties: two texts of 1024 characters, escaped
_CONTEXT_BYTES = 64 * 1024  # the share of a line for the common properties, or for a context


class _Merged:
    """Properties from several places, of any kind and size."""

    def __init__(self, parts: tuple[Any, ...], without: tuple[str, ...]) -> None:
        self._parts = parts
        self._without = without

    def as_dict(self, convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Merge them, each made a dict of ours by `convert`."""
        result: dict[str, Any] = {}
        for part in self._parts:
            if part is not None:
                result.update(convert(part))
        for name in self._without:
            result.pop(name, None)
        return result


def merged(*parts: object, without: tuple[str, ...] = ()) -> Any:
    """Return properties for a capture: each part wins over those before it. Those named in `without` are left out.

    Large or odd ones are merged when the event is made, and bounded there. None is no part.
    """
    result: dict[str, Any] = {}
    for part in parts:
        if has_few_names(part):
            result.update(part)  # type: ignore[call-overload]
        elif part is not None and (type(part) is not dict or part):
            return _Merged(parts, without)
    for name in without:
        result.pop(name, None)
    return result


class BeforeSend:
    """The host's `before_send`: sees every assembled event but its own."""

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any] | None], common: dict[str, Any]) -> None:
        self._function = function
        self._common = common
        self._thread = _local()  # `inside`: this thread is inside the function

    def __call__(self, message: dict[str, Any], walk: Walk) -> Any:
        """Return the event as the host filtered it. Raises `Lost`."""
        if getattr(self._thread, "inside", False):
            # It would be called for this event, too, without end.
            raise Lost("captured inside before_send")
        message["properties"] = {**_as_given(walk, self._common), **message["properties"]}
        self._thread.inside = True
        try:
            filtered = self._function(message)
        except BaseException as error:
            if is_for_the_host(error):
                raise
            raise Lost("before_send raised", error) from None
        finally:
            self._thread.inside = False
        if filtered is None:
            raise Lost(FILTERED)
        return filtered


class Encoder:
    """Makes events of one client into lines, in one process. Made at the first event."""

    def __init__(self, before_send: BeforeSend | None) -> None:
        if not hasattr(load("datetime"), "datetime_CAPI"):  # the last thing that the module gets
            # msgspec in company of a half-loaded `datetime` would crash the process.
            raise RuntimeError("captured in the middle of the import of datetime")
        load("msgspec")  # the one costly import of the host
        wire = load("atotelemetry.wire")
        self.now_ns = wall_clock()
        self.new_uuid = Uuid7()
        self.event = wire.OutgoingEvent
        self.encode = wire.encode
        self.most_bytes: int = wire.MAX_EVENT_BYTES
        self._before_send = before_send
        self.ordinary_line = None
        """The fast path; None with a `before_send`, which sees every event."""
        if before_send is None:
            self.ordinary_line = line_maker(wire, self.new_uuid, self.now_ns)

    def line(
        self,
        event: object,
        distinct_id: object,
        properties: object,
        timestamp: object,
        context: object,
        uuid: object,
        options: object = None,
        *,
        describe: Description | None = None,
        is_odd: bool = False,
    ) -> tuple[str, bytes]:
        """Return the uuid and the line of any event. `is_odd`: the fast path has refused the properties.

        For an exception, `describe` is given the distinct_id and the walk. Raises `Lost`, an exception for the host
        (Ctrl-C), or any other for a bug of ours.
        """
        values = load("atotelemetry.host.values")
        walk = values.Walk()  # one for all parts of an event, because it bounds what they cost together
        now = self.now_ns()
        name = walk.uuid(uuid) or self.new_uuid(now)
        when = walk.instant(timestamp) or _stamp(now)
        person, own = self._person(walk, distinct_id, now)
        if describe is not None:
            own.update(describe(person, walk))
        chosen = {} if options is None else _chosen(_plain(walk, options))
        if self._before_send is not None:
            message = {"uuid": name, "event": event, "distinct_id": person, "timestamp": when}
            message["properties"] = {**own, **_as_given(walk, properties), **chosen}
            if context is not None:
                message["context"] = _as_given(walk, context)
            filtered = self._before_send(message, walk)
            walk.start_clock()  # the host's own time is no part of the cost
            message = filtered if has_few_names(filtered) else walk.properties(filtered)
            name = walk.uuid(message.get("uuid")) or name
            event = message.get("event")
            person, own = self._person(walk, message.get("distinct_id", person), now)
            when = walk.instant(message.get("timestamp")) or when
            chosen, properties, context = {}, message.get("properties"), message.get("context")
        title = "" if event is None else walk.text(event)
        if not title:
            raise Lost("no event name")
        known = {**own, **_plain(walk, properties, is_odd=is_odd), **chosen}
        extra = None if context is None else _plain(walk, context)
        return name, self._fitting_line((name, title, person, when), known, extra, walk)

    def _person(self, walk: Walk, distinct_id: object, now: int) -> tuple[str, dict[str, Any]]:
        """Return the distinct_id as text, or a random one; and the properties that this adds."""
        person = "" if distinct_id is None else walk.text(distinct_id)
        # PostHog makes no person of an event without a meaningful distinct_id.
        return (person, {}) if person else (self.new_uuid(now), {"$process_person_profile": False})

    def _fitting_line(
        self, fields: tuple[str, str, str, str], known: dict[str, Any], extra: dict[str, Any] | None, walk: Walk
    ) -> bytes:
        """Encode plain values; cut them if they are too large."""
        encode = self.encode
        try:
            line: bytes = encode(self.event(*fields, known, extra))
        except Exception:
            known = _without_surrogates(walk, known)
            extra = None if extra is None else _without_surrogates(walk, extra)
            line = encode(self.event(*fields, known, extra))
        if len(line) <= self.most_bytes and not walk.cut:
            return line
        del line  # it may be large, and so may those be that are made now
        cut_to_fit = load("atotelemetry.host.cut").cut_to_fit
        limit_bytes = self.most_bytes - _ENVELOPE_BYTES
        if extra is not None:
            extra = cut_to_fit(extra, _CONTEXT_BYTES)
            limit_bytes -= _CONTEXT_BYTES
        known = cut_to_fit(known, limit_bytes, [name for name in walk.cut if name in known])
        return encode(self.event(*fields, known, extra))  # type: ignore[no-any-return]


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Return an event's options as the properties that PostHog has for them."""
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        debug("options that PostHog does not have: %r", unknown)
    return {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS and value is not None}


def _as_given(walk: Walk, value: object) -> dict[str, Any]:
    """Return properties or a context for `before_send`: as they were given, in a dict of ours."""
    if type(value) is _Merged:
        return value.as_dict(lambda part: _as_given(walk, part))
    return value.copy() if has_few_names(value) else walk.properties(value)  # type: ignore[attr-defined]


def _plain(walk: Walk, value: object, *, is_odd: bool = False) -> dict[str, Any]:
    """Return properties or a context as a plain dict (but for lone surrogates)."""
    if type(value) is _Merged:
        return value.as_dict(lambda part: _plain(walk, part))
    if type(value) is dict and not is_odd:
        try:
            copied, room = copy_of_ordinary(value, walk.room)
            if room >= 0:
                walk.room = room
                return copied  # type: ignore[no-any-return]
        except BaseException as error:
            if is_for_the_host(error):
                raise
    return walk.properties(value)


def _without_surrogates(walk: Walk, plain: dict[str, Any]) -> dict[str, Any]:
    """Return `plain` as it is, or without the lone surrogates that keep it from being encoded."""
    try:
        load("atotelemetry.wire").encode(plain)
    except Exception:
        return walk.properties(plain)
    return plain


def _stamp(now_ns: int) -> str:
    """Return a time as the text of an event's timestamp."""
    second, rest = divmod(now_ns, 1_000_000_000)
    return f"{utc_text(second)}.{rest // 1000:06d}Z"


def encode_common(properties: object) -> bytes:
    """Encode a client's common properties, cut to their share of a line."""
    encode, walk = load("atotelemetry.wire").encode, load("atotelemetry.host.values").Walk()
    plain = walk.properties(properties)
    encoded: bytes = encode(load("atotelemetry.host.cut").cut_to_fit(plain, _CONTEXT_BYTES, walk.cut))
    return encoded
