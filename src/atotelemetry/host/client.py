"""`TelemetryClient`: takes an event, makes it one line of JSON, and puts that on the queue.

Runs in the host, on whichever thread captures: also in signal handlers and in a `__del__` that the garbage collector
runs in the middle of another `capture`. So there is no lock on this path, and nothing of a call is kept in the client
while other code could run. The ordinary event takes the fast path: msgspec encodes the caller's values as they are.
Only when it cannot (a cycle, a lone surrogate, an object of the host's) are the values made plain first.

Everything costly happens later or elsewhere: msgspec is imported at the first event, the feeder's thread started by it
starts the sender, and the sender knows the network.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock, get_ident
from _weakref import ref
from itertools import count

from atotelemetry.facts.address import fault_of_address
from atotelemetry.host import imports
from atotelemetry.host.debug import debug
from atotelemetry.host.feeder import Deadline, Feeder, reason_not_to_start_threads
from atotelemetry.host.imports import load
from atotelemetry.host.spawn import reason_not_to_spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["DEFAULT_QUEUE_SIZE", "FLUSH_TIMEOUT", "Stats", "TelemetryClient"]

DEFAULT_QUEUE_SIZE = 256
"""Events that wait in the host at most; one more is dropped and counted."""

FLUSH_TIMEOUT = 2.0
"""The most that the exit of a host may cost, ever."""

_ENDPOINTS = ("auto", "capture", "batch")
_LONGEST = 1e9  # seconds; JSON has no infinity to tell the sender
_FILTERED = "before_send"  # the one reason that is no loss: the host wanted it so
# PostHog's parser refuses a body nested deeper than 128 levels. A line this short, or with no more containers than
# that, cannot be so deep; with any other, making the values plain bounds the depth.
_HARMLESS_BYTES = 400
_LINE_BREAK = 10  # "\n"
_MAX_EVENT_BYTES = 900 * 1024  # as `wire.MAX_EVENT_BYTES`, which is not loaded before the first event
_HARMLESS_CONTAINERS = 100
_ENVELOPE_BYTES = 16 * 1024  # what an event may need beside its properties: two texts of 1024 characters, escaped
_CONTEXT_BYTES = 64 * 1024  # what the common properties, or a context, may take of one line


class Counter:
    """A number that any thread, signal handler or finalizer may add one to.

    `next` on an `itertools.count` is one step of the interpreter, where `+= 1` is three; there is no lock to be caught
    holding.
    """

    def __init__(self) -> None:
        self._count = count()
        self.add = self._count.__next__

    @property
    def value(self) -> int:
        """How often `add` was called."""
        return int(repr(self._count)[6:-1])  # "count(7)": the one way to look without counting


class Stats:
    """What became of the events so far: `captured == handed_over + dropped + queued`, always.

    `captured` counts every `capture` of an enabled client that was given an event, `handed_over` those written into a
    sender's pipe, `dropped` those lost in the host (`dropped_by_reason` says why), `queued` those on their way.
    """

    __slots__ = ("captured", "dropped", "dropped_by_reason", "handed_over", "queued")

    def __init__(self, captured: int, handed_over: int, dropped_by_reason: dict[str, int]) -> None:
        self.captured = captured
        self.handed_over = handed_over
        self.dropped_by_reason = dropped_by_reason
        self.dropped = sum(dropped_by_reason.values())
        self.queued = captured - handed_over - self.dropped

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Stats({fields})"


class TelemetryClient:
    """Sends events to a PostHog-compatible server through a detached sender process.

    Args:
        api_key: the project's write-only key; an empty one disables the client.
        host: base URL of the server, such as "https://eu.i.posthog.com"; an empty one disables the client. No query, no
            fragment.
        app: name of the measured program; becomes the `User-Agent`.
        app_version: its version; None lets the sender look up the installed distribution named `app`.
        queue_size: events that may wait in the host.
        before_send: called with the assembled event, a dict with `uuid`, `event`, `distinct_id`, `timestamp`,
            `properties` and perhaps `context`. What it returns is sent; None, or an exception, drops the event.
        endpoint: "auto" posts a lone event to /capture/ and several to /batch/; "capture" or "batch": always that one.
        compression: gzip request bodies: always, never, or (None) above a small size.
        max_retries: attempts after the first for a request that may succeed later.
        request_timeout: seconds for each network operation.
        sender_deadline: seconds that a sender may live on after it was handed the last event.
        properties: added to every event of this client; an event's own win.
        run_properties: names of the run properties that the sender works out and adds (see `PropertyLoaders`).

    Nothing here raises into the host, waits for a network or prints; reasons go to the logger `atotelemetry` at DEBUG.
    Only a wrong constructor argument raises, because that is a mistake in the host's own code: `ValueError`.

    """

    # A `__del__` may flush when the interpreter has cleared this module's names already.
    _debug = staticmethod(debug)

    disabled: bool
    """True makes every capture a no-op: no thread, no process, no file. May be set at any time."""

    def __init__(
        self,
        api_key: str,
        host: str,
        *,
        app: str = "atopile",
        app_version: str | None = None,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
        endpoint: str = "auto",
        compression: bool | None = None,
        max_retries: int = 1,
        request_timeout: float = 5.0,
        sender_deadline: float = 15.0,
        properties: Mapping[str, Any] | None = None,
        run_properties: tuple[str, ...] = (),
    ) -> None:
        if endpoint not in _ENDPOINTS:
            raise ValueError(f"endpoint must be one of {', '.join(_ENDPOINTS)}, not {endpoint!r}")
        for name, value, least in (("queue_size", queue_size, 1), ("max_retries", max_retries, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")
        for name, seconds in (("request_timeout", request_timeout), ("sender_deadline", sender_deadline)):
            if not isinstance(seconds, (int, float)) or not 0 < seconds < _LONGEST:
                raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
        for name, text in (("app", app), ("app_version", app_version)):
            if not isinstance(text, str) and (text is not None or name == "app"):
                raise ValueError(f"{name} must be a text, not {text!r}")
        fault = fault_of_address(host) if host else ""
        if fault:
            raise ValueError(fault)
        self.api_key = api_key
        self.host = host
        self.app = app
        self._settings: dict[str, Any] = {
            "app_version": app_version,
            "endpoint": endpoint,
            "compression": compression,
            "max_retries": max_retries,
            "request_timeout": request_timeout,
            "sender_deadline": sender_deadline,
            "run_properties": tuple(run_properties),
        }
        self._properties = dict(properties or {})
        self._before_send = before_send
        self._filtering: set[int] = set()  # threads inside `before_send`
        self._feeder = Feeder(
            queue_size=queue_size,
            hello=self._hello,
            end=self._end,
            on_drop=self._drop,
            on_give_up=self._give_up,
        )
        self._reset_counts()
        self._prepared = False
        self._ordinary = False  # whether the fast path may be taken
        self._following = allocate_lock()
        reason = reason_not_to_spawn() or reason_not_to_start_threads()
        reason = reason or ("" if api_key and host else "no api_key or no host")
        self.disabled = bool(reason)
        if reason:
            debug("telemetry is off: %s", reason)
        else:
            self._follow_the_process()

    # ---- capture

    def capture(
        self,
        event: str,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: datetime.datetime | str | None = None,
        context: Mapping[str, Any] | None = None,
        uuid: object = None,
    ) -> str | None:
        """Queue one event; return its uuid, or None when nothing was queued.

        Values are encoded now: later changes to `properties` change nothing. `distinct_id` is a str, a UUID or
        anything with a `str`; without one the event gets a random id and PostHog makes no person of it
        (`$process_person_profile: False`). `timestamp` is a datetime in any timezone (a naive one is UTC) or an ISO
        8601 text; now, if it is neither. `uuid` makes the event idempotent on the server.

        Never blocks and never raises.
        """
        if self.disabled:
            return None
        if properties is None:
            properties = {}
        try:
            line = None
            if (
                (self._ordinary or self._becomes_ordinary())
                and type(event) is str
                and type(distinct_id) is str
                and type(properties) is dict
                and event
                and distinct_id
                and timestamp is None
                and context is None
                and uuid is None
            ):
                # The fast path: one expression from the caller's values to the line. A failure is no loss yet.
                try:
                    name = self._new_uuid()
                    line = self._encode(self._event(name, event, distinct_id, self._now(self._utc), properties))
                    # Only a `msgspec.Raw` of the caller's brings a line break. (A number is found five times as fast as
                    # `b"\n"`, which CPython first tries to take for one.)
                    if (len(line) > _HARMLESS_BYTES and not _is_harmless(line)) or _LINE_BREAK in line:
                        line = None
                except Exception:
                    line = None
            if line is None:
                assembled = self._assemble(event, distinct_id, properties, timestamp, context, uuid)
                if assembled is None:
                    return None
                name, line = assembled
        except Exception as error:
            self._refuse(error)
            return None
        except BaseException:  # Ctrl-C in the middle: the host's affair, but the count must add up
            self._lose("interrupted")
            raise
        self._count_captured()
        try:
            if self._feeder.put(line):
                return name
            self._drop(self._feeder.refusal)
        except Exception:
            return None  # no stack left to say so
        return None

    def capture_exception(
        self,
        exception: object = None,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: datetime.datetime | str | None = None,
        context: Mapping[str, Any] | None = None,
        uuid: object = None,
    ) -> str | None:
        """Queue one `$exception` event; return its uuid, or None when nothing was queued.

        `exception` is an exception, an `exc_info` tuple, or None for the one being handled now. An exception object
        that was reported before is not reported again in this process. `properties` win over what is said about the
        exception. Never blocks and never raises.
        """
        if self.disabled:
            return None
        try:
            # Only a program in trouble pays for these.
            exceptions, values = load("atotelemetry.host.exceptions"), load("atotelemetry.host.values")
            load("traceback")
            caught = exceptions.current_exception(exception)
            if caught is None or not exceptions.mark_reported(caught):
                return None
            if not self._prepared:
                self._prepare()
            person = "" if distinct_id is None else values.plain_text(distinct_id)
            described: dict[str, Any] = {}
            if not person:
                person = self._new_uuid()
                described["$process_person_profile"] = False
            # The application's own frames are "in app" also where pip has put them beside everybody else's.
            module = sys.modules.get(self.app.replace("-", "_"))
            root = getattr(module, "__file__", None)
            if root and hasattr(module, "__path__"):  # a single module is its own file, and not all that lies beside it
                root = os.path.dirname(root)
            described.update(exceptions.exception_properties(caught, distinct_id=person, project_root=root))
            described.update(properties or {})
        except Exception as error:
            self._refuse(error)
            return None
        return self.capture(
            "$exception", distinct_id=person, properties=described, timestamp=timestamp, context=context, uuid=uuid
        )

    def _assemble(
        self,
        event: object,
        distinct_id: object,
        properties: object,
        timestamp: object,
        context: object,
        uuid: object,
    ) -> tuple[str, bytes] | None:
        """Encode an event that is no ordinary one; return its uuid and line, or None when it was lost."""
        if not self._prepared:
            self._prepare()
        values = load("atotelemetry.host.values")
        name = self._new_uuid() if uuid is None else self._uuid(uuid)
        when = self._now(self._utc) if timestamp is None else self._timestamp(timestamp)
        known = properties if isinstance(properties, dict) else _mapping(values.plain(properties))
        person = "" if distinct_id is None else values.plain_text(distinct_id)
        if not person:
            # PostHog makes no person of an event whose distinct_id means nothing.
            person = self._new_uuid()
            known = {"$process_person_profile": False, **known}
        extra = context if context is None or isinstance(context, dict) else _mapping(values.plain(context))
        if self._before_send is not None:
            return self._filter(name, event, person, when, known, extra)
        title = values.plain_text(event) if event is not None else ""
        if not title:
            self._lose("no event name")
            return None
        return name, self._encode_odd(name, title, person, when, known, extra)

    def _filter(
        self,
        name: str,
        event: object,
        person: str,
        when: datetime.datetime,
        properties: dict[str, Any],
        context: dict[str, Any] | None,
    ) -> tuple[str, bytes] | None:
        """Let `before_send` see and change the event, then encode what it returns."""
        values = load("atotelemetry.host.values")
        thread = get_ident()
        if thread in self._filtering:
            # Captured by `before_send` itself, which would be called for this event, too, without end.
            self._lose("captured inside before_send")
            return None
        message: dict[str, Any] = {
            "uuid": name,
            "event": event,
            "distinct_id": person,
            "timestamp": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "properties": {**self._properties, **properties},
        }
        if context is not None:
            message["context"] = context
        self._filtering.add(thread)
        try:
            filtered = None if self._before_send is None else self._before_send(message)
        except Exception as error:
            self._lose("before_send raised", error)
            return None
        finally:
            self._filtering.discard(thread)
        if filtered is None:
            self._lose(_FILTERED)
            return None
        message = filtered
        name = self._uuid(message.get("uuid"))
        title = values.plain_text(message.get("event") or "")
        if not title:
            self._lose("no event name")
            return None
        return name, self._encode_odd(
            name,
            title,
            values.plain_text(message.get("distinct_id") or person),
            self._timestamp(message.get("timestamp")),
            message.get("properties") or {},
            message.get("context"),
        )

    def _encode_odd(
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
        event, distinct_id = values.plain_text(event), values.plain_text(distinct_id)
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

    def _uuid(self, uuid: object) -> str:
        """Return the caller's uuid in its canonical form, or a new one if it is none."""
        from uuid import UUID

        if isinstance(uuid, UUID):
            return str(uuid)
        try:
            return str(UUID(uuid)) if isinstance(uuid, str) else self._new_uuid()
        except ValueError:
            return self._new_uuid()

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

    def _refuse(self, error: Exception) -> None:
        try:
            self._lose("error", error)
        except Exception:
            return  # so deep in the stack that not even the loss can be counted

    # ---- hand over

    def flush(self, timeout: float | None = FLUSH_TIMEOUT, *, delivered: bool = False) -> bool:
        """Hand over every event captured so far; True when that was done within `timeout` seconds (None: no limit).

        The sender then drains and exits by itself; the next capture starts a new one. With `delivered=True` this also
        waits, within the same timeout, for the senders to exit, and is True only if everything captured since the last
        such call was accepted by the server. Never raises.
        """
        try:
            return self._feeder.flush(timeout, delivered=delivered)
        except Exception as error:
            self._debug("flush failed: %r", error)
            return False

    def shutdown(self, timeout: float | None = FLUSH_TIMEOUT) -> bool:
        """Refuse every further event, then `flush`; also ends the feeder's thread. Never raises."""
        self.disabled = True
        try:
            return self._feeder.flush(timeout, stop=True)
        except Exception as error:
            self._debug("shutdown failed: %r", error)
            return False

    @property
    def stats(self) -> Stats:
        """What became of the events so far, in this process."""
        # In the order opposite to an event's way: one that moves on meanwhile counts as queued, never twice.
        handed_over = self._feeder.handed_over
        dropped = {reason: counter.value for reason, counter in list(self._dropped.items())}
        return Stats(self._captured.value, handed_over, dropped)

    # ---- what the feeder asks for, on its thread

    def _hello(self) -> bytes:
        import msgspec

        from atotelemetry import wire

        properties = b"{}"
        if self._properties and self._before_send is None:  # `before_send` has them in front of it, in each event
            from atotelemetry.host import values

            properties = wire.encode(values.cut_to_fit(values.plain(self._properties), _CONTEXT_BYTES, wire.encode))
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None
        hello = wire.Hello(
            protocol=wire.PROTOCOL_VERSION,
            api_key=self.api_key,
            host=self.host,
            app=self.app,
            properties=msgspec.Raw(properties),
            cwd=None if cwd is None else cwd.encode("utf-8", "replace").decode(),
            **self._settings,
        )
        return wire.encode(hello)

    def _end(self) -> bytes:
        from atotelemetry import wire

        stats = self.stats
        return wire.encode(wire.End(captured=stats.captured, dropped=stats.dropped))

    def _give_up(self, reason: str) -> None:
        self.disabled = True
        debug("telemetry is off: %s", reason)

    def _lose(self, reason: str, error: Exception | None = None) -> None:
        """Count an event that never came as far as the queue."""
        losses = self._losses(reason, error)
        self._count_captured()
        losses.add()

    def _drop(self, reason: str, count: int = 1) -> None:
        """Count events that were captured and are lost."""
        losses = self._losses(reason)
        for _ in range(count):
            losses.add()

    def _losses(self, reason: str, error: Exception | None = None) -> Counter:
        """Return the counter of a reason, with one line for the first: a full queue must not fill a log, too."""
        if reason != _FILTERED:
            self._feeder.note_loss()
        counter = self._dropped.get(reason)
        if counter is None:
            counter = self._dropped.setdefault(reason, Counter())
            debug("dropped an event (%s)%s; any more are only counted", reason, "" if error is None else f": {error!r}")
        return counter

    # ---- the life of the process

    def _becomes_ordinary(self) -> bool:
        """Prepare for the first event; whether the fast path may be taken from here on."""
        if not self._prepared:
            try:
                self._prepare()
            except Exception:
                return False  # the general path tries again, and counts the loss
        return self._ordinary

    def _prepare(self) -> None:
        """Load what the first event of a process needs.

        Raises when a signal handler or a `__del__` brings us here in the middle of these very imports: msgspec in
        company of a half-loaded `datetime` would crash the process.
        """
        thread = get_ident()
        if thread in _loading:
            raise RuntimeError("captured while an earlier event was loading what the first one needs")
        reason = reason_not_to_start_threads()
        if reason:
            self._give_up(reason)
            raise RuntimeError(reason)
        _loading.add(thread)
        try:
            datetime = load("datetime")
            if not hasattr(datetime, "datetime_CAPI"):  # the last thing that the module gets
                raise RuntimeError("captured in the middle of the import of datetime")
            load("msgspec")  # the one costly import of the host
            wire = load("atotelemetry.wire")
        finally:
            _loading.discard(thread)
        self._now = datetime.datetime.now
        self._utc = datetime.UTC
        self._encode = wire.encode
        self._event = wire.OutgoingEvent
        self._new_uuid = uuid_generator()
        self._follow_the_process()
        _flush_when_multiprocessing_ends(self)
        self._prepared = True
        self._ordinary = self._before_send is None

    def _reset_counts(self) -> None:
        self._captured = Counter()
        self._count_captured = self._captured.add
        self._dropped: dict[str, Counter] = {}

    def _follow_the_process(self) -> None:
        """Be told, once, of the process's forks and of its end."""
        if not self._following.acquire(False):
            return
        _clients.append(ref(self, _clients.remove))
        if _following_began.acquire(False) and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
            )

    def _after_fork_in_child(self) -> None:
        self._feeder.after_fork_in_child()
        self._filtering.intersection_update((get_ident(),))
        self._reset_counts()
        self._prepared = self._ordinary = False


# Every client that may have something to hand over, so that one hook serves them all and exit costs one FLUSH_TIMEOUT.
_clients: list[ref[TelemetryClient]] = []
_following_began = allocate_lock()

# Threads in the middle of `_prepare`.
_loading: set[int] = set()


def _living() -> list[TelemetryClient]:
    return [client for client in (reference() for reference in list(_clients)) if client is not None]


def flush_all_at_exit() -> None:
    """Hand over what is left; the network is the senders' business. Called by the hook of the package."""
    deadline = Deadline(FLUSH_TIMEOUT)
    try:
        for client in _living():
            client.shutdown(deadline.remaining())
    except BaseException as error:
        # An impatient Ctrl-C, or a signal handler of the host's that raises: here Python would print its traceback, and
        # the host is leaving anyway.
        debug("interrupted at exit: %r", error)


def _before_fork() -> None:
    _run_all([imports.before_fork, *(client._feeder.before_fork for client in _living())])  # noqa: SLF001 - same package


def _after_fork_in_parent() -> None:
    feeders = [client._feeder for client in _living()]  # noqa: SLF001
    _run_all([*(feeder.after_fork_in_parent for feeder in feeders), imports.after_fork_in_parent])


def _run_all(steps: list[Callable[[], None]]) -> None:
    """Run every step, also when a signal handler of the host's raises in the middle of one.

    Python lets nothing out of a hook around a fork: it would print the traceback, and our part would stay half done.
    """
    while steps:
        try:
            while steps:
                steps.pop(0)()
        except BaseException as error:
            debug("interrupted around a fork: %r", error)


def _after_fork_in_child() -> None:
    unharmed = imports.after_fork_in_child()
    _loading.intersection_update((get_ident(),))  # the other threads are not here
    for client in _living():
        client._after_fork_in_child()  # noqa: SLF001
        if not unharmed and not client.disabled:
            client.disabled = True
            debug("telemetry is off: this process was forked in the middle of an import of ours")


def _flush_when_multiprocessing_ends(client: TelemetryClient) -> None:
    """Flush at the end of a `multiprocessing` child that was forked: it leaves by `os._exit`, past `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # loaded by the host, or it would not be such a child

    Finalize(None, client.shutdown, exitpriority=0)


def uuid_generator() -> Callable[[], str]:
    """Return a function that makes UUIDv7 texts, unique to this process (RFC 9562, section 5.7).

    48 bits of milliseconds, 26 that are random for each process, and a counter with a random start: ids made in one
    tick of the clock differ, and sort in the order they were made (section 6.2, method 1). A fifth of the time that a
    capture takes is spent here. Hence the counter is twelve decimal digits, which are hexadecimal ones as they stand
    and need no cutting, and what one tick's ids have in common is made once.
    """
    seed = int.from_bytes(os.urandom(16), "big")
    middle = f"-7{seed & 0xFFF:03x}-{0x8000 | seed >> 12 & 0x3FFF:04x}-"
    next_tail = count(10**11 + (seed >> 26) % (8 * 10**11)).__next__  # always twelve digits
    time_ns = time.time_ns
    made = (-1, "")  # replaced as a whole: other threads are here, too

    def new_uuid() -> str:
        nonlocal made
        tick = time_ns() // 1_000_000
        known, beginning = made
        if tick != known:
            digits = hex(1 << 48 | tick)  # the leading 1 keeps all twelve
            beginning = f"{digits[3:11]}-{digits[11:]}{middle}"
            made = (tick, beginning)
        return f"{beginning}{next_tail()}"

    return new_uuid


def _is_harmless(line: bytes) -> bool:
    """Whether an encoded event is neither too large nor nested too deeply."""
    return len(line) <= _MAX_EVENT_BYTES and line.count(b"{") + line.count(b"[") <= _HARMLESS_CONTAINERS


def _mapping(value: Any) -> dict[str, Any]:
    """Return a plain value that stands where an object must: something else is kept under a name of its own."""
    if isinstance(value, dict):
        return value
    return {} if value is None else {"value": value}
