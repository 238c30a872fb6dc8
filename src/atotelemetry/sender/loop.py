"""The life of a sender: read, gather, deliver, drain, and be gone in time.

Runs in the sender. Three threads: the *reader* takes lines from stdin into a bounded buffer (and stops reading while
that is full, which is how backpressure reaches the host); the *deliverer*, the caller of `run`, turns the buffer into
requests and waits out retries; the *watchdog*, started at the end of the input, ends the process at the deadline
whatever the others are stuck in.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from atotelemetry.sender import batch
from atotelemetry.sender.delivery import DELIVERED, REFUSED, RETRY, Delivery, Outcome
from atotelemetry.wire import PROTOCOL_VERSION, End, Event, Hello, LineDecoder, LineError, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.sender.journal import Journal

__all__ = ["RETRY_DELAY", "SENDER_IDLE", "WORKER_WAKE_INTERVAL", "Buffer", "Sender", "Tally", "backoff"]

WORKER_WAKE_INTERVAL = 0.1
"""How long the sender gathers events before it posts them."""

SENDER_IDLE = 60.0
"""When nothing has arrived for so long, the input counts as ended."""

RETRY_DELAY = 0.5
"""Before the first retry; doubled for each further one."""

BUFFER_BYTES = 8 * 1024 * 1024

_READ_BYTES = 64 * 1024  # a pipe's capacity
_JITTER = 0.25
_HANGUP_CHECK = 0.25  # how often a reader that may not read looks whether the host is gone
_LAST_WORDS = 0.2  # before the deadline, to say what was lost


def backoff(attempt: int, retry_after: float | None, spread: float) -> float:
    """Return the seconds to wait before retry number `attempt` (from 0).

    `RETRY_DELAY`, doubling, longer by up to a quarter (`spread` is 0 to 1) so that many senders do not come back as
    one; a server's `retry_after` wins when it is longer.
    """
    delay: float = RETRY_DELAY * 2**attempt * (1 + _JITTER * spread)
    return delay if retry_after is None else max(delay, retry_after)


class Tally(NamedTuple):
    """What became of everything that was read."""

    events: int
    delivered: int
    dropped: dict[str, int]
    bad_lines: int

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not self.dropped and not self.bad_lines

    def __str__(self) -> str:
        lost = sum(self.dropped.values())
        text = f"{self.events} events read, {self.delivered} delivered, {lost} dropped"
        if self.dropped:
            text += " (" + "; ".join(f"{count} x {reason}" for reason, count in self.dropped.items()) + ")"
        if self.bad_lines:
            text += f", {self.bad_lines} bad lines"
        return text


class Buffer:
    """Events between the reader and the deliverer, bounded by the bytes of their lines."""

    def __init__(self, limit_bytes: int = BUFFER_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self.closed = False
        self.arrived_at = time.monotonic()

    def put(self, events: list[Event], while_full: Callable[[], None]) -> None:
        """Add events; while the buffer is full, wait, and call `while_full` from time to time."""
        for event in events:
            with self._changed:
                while self._events and self._bytes + event.size_bytes > self._limit_bytes:
                    self._changed.wait(_HANGUP_CHECK)
                    while_full()
                self._events.append(event)
                self._bytes += event.size_bytes
                self._changed.notify_all()

    def touch(self) -> None:
        """Note that something arrived."""
        self.arrived_at = time.monotonic()

    def close(self) -> None:
        """No more events will come."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def take(self, *, endpoint: str, gather: float, idle: float | None) -> list[Event]:
        """Return the events of the next request; an empty list when the input has ended, or was idle for too long.

        Waits for the first event, then up to `gather` seconds for more, unless the input ends or a request is full.
        """
        with self._changed:
            while not self._events:
                if self.closed:
                    return []
                left = None if idle is None else self.arrived_at + idle - time.monotonic()
                if left is not None and left <= 0:
                    return []
                self._changed.wait(left)
            ends_at = time.monotonic() + gather
            while not self.closed and endpoint != "capture" and not self._request_is_full():
                left = ends_at - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._pop(endpoint)

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the input: the deadline counts from there."""
        with self._changed:
            if self.closed:
                closed_already = True
            else:
                closed_already = False
                self._changed.wait_for(lambda: self.closed, seconds)
        if closed_already:
            time.sleep(seconds)

    def __len__(self) -> int:
        return len(self._events)

    def _request_is_full(self) -> bool:
        return len(self._events) >= batch.MAX_REQUEST_EVENTS or self._bytes >= batch.MAX_REQUEST_BYTES

    def _pop(self, endpoint: str) -> list[Event]:
        sizes_bytes = []
        for event in self._events:
            sizes_bytes.append(event.size_bytes)
            if len(sizes_bytes) >= batch.MAX_REQUEST_EVENTS:
                break
        events = [self._events.popleft() for _ in range(batch.fill(sizes_bytes, endpoint=endpoint))]
        self._bytes -= sum(event.size_bytes for event in events)
        self._changed.notify_all()
        return events


class Sender:
    """Everything between stdin and the server.

    Args:
        settings: what a `hello` would say; None waits for the stream's own.
        journal: told of every problem, request and drop.
        stop_at_end: whether an `end` line ends the input; a person may have put several streams into one file.
        idle: seconds without input after which it counts as ended; None for never.
        dry_run: called with each request instead of sending it.

    """

    def __init__(
        self,
        *,
        settings: Hello | None,
        journal: Journal,
        stop_at_end: bool = True,
        idle: float | None = SENDER_IDLE,
        dry_run: Callable[[batch.Request], None] | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._stop_at_end = stop_at_end
        self._idle = idle
        self._dry_run = dry_run
        self._buffer = Buffer()
        self._delivery: Delivery | None = None
        self._common: dict[str, msgspec.Raw] = {}
        self._enriching: threading.Thread | None = None
        self._ended_at: float | None = None
        self._events = 0
        self._delivered = 0
        self._dropped: dict[str, int] = {}
        self._bad_lines = 0
        self.called_wrongly = ""
        """Why nothing could be sent at all: the stream did not say where to."""

    @property
    def tally(self) -> Tally:
        """What became of everything read so far."""
        return Tally(self._events, self._delivered, dict(self._dropped), self._bad_lines)

    def run(self, stdin: int) -> Tally:
        """Deliver what comes from the descriptor `stdin` until it ends; return what became of it."""
        if self._settings is not None:
            self._take_settings(self._settings)
        threading.Thread(target=self._read, args=(stdin,), name="reader", daemon=True).start()
        while True:
            settings = self._settings
            events = self._buffer.take(
                endpoint="auto" if settings is None else settings.endpoint,
                gather=WORKER_WAKE_INTERVAL,
                idle=self._idle,
            )
            if not events:
                break
            self._deliver(self._prepare(events))
        self._end_of_input()
        return self.tally

    # ---- reader thread

    def _read(self, stdin: int) -> None:
        decoder = LineDecoder()
        try:
            while data := os.read(stdin, _READ_BYTES):
                self._buffer.touch()
                if self._take(decoder.feed(data), stdin):
                    break
            else:
                self._take(decoder.close(), stdin)
        except OSError as error:
            self._journal.problem(f"reading stopped: {error}")
        except Exception as error:
            self._bad_lines += 1
            self._journal.problem(f"reading failed: {error!r}")
        finally:
            self._end_of_input()
            self._buffer.close()

    def _take(self, messages: list[Event | Hello | End | LineError], stdin: int) -> bool:
        """Take decoded lines; True when they say that the input ends here."""
        events: list[Event] = []
        ended = False
        for message in messages:
            if isinstance(message, Event):
                events.append(message)
            elif isinstance(message, LineError):
                self._bad_lines += 1
                self._journal.problem(f"skipped {message}")
            elif isinstance(message, Hello):
                self._greet(message)
            else:
                if message.dropped:
                    self._journal.detail(f"the host captured {message.captured} events and dropped {message.dropped}")
                if self._stop_at_end:
                    ended = True
                    break
        if events and self._settings is None:
            self.called_wrongly = "events came before any hello line, and no --host and --api-key were given"
            return True
        self._events += len(events)
        self._buffer.put(events, lambda: self._look_for_hangup(stdin))
        return ended

    def _greet(self, hello: Hello) -> None:
        if self._settings is not None:
            if hello != self._settings:
                self._journal.detail("a further hello line changes nothing")
            return
        if hello.protocol != PROTOCOL_VERSION:
            self._journal.problem(f"the stream speaks protocol {hello.protocol}, this sender {PROTOCOL_VERSION}")
        self._settings = hello
        self._take_settings(hello)

    def _look_for_hangup(self, stdin: int) -> None:
        """Notice that the host is gone even while the buffer is too full to read up to the end of the pipe."""
        if self._ended_at is not None:
            return
        try:
            import select

            poll = select.poll()
            poll.register(stdin, 0)  # POLLHUP and POLLERR are always reported
            if poll.poll(0):
                self._end_of_input()
        except (AttributeError, ImportError, OSError):
            return  # no such call on Windows: the end is noticed when the buffer has room again

    # ---- deliverer thread

    def _take_settings(self, settings: Hello) -> None:
        """Start what can go on while events gather: the properties that only cost the sender."""
        self._enriching = threading.Thread(target=self._enrich, args=(settings,), name="enrich", daemon=True)
        self._enriching.start()

    def _enrich(self, settings: Hello) -> None:
        from atotelemetry.sender import enrich

        try:
            known: dict[str, object] = dict(enrich.library_properties())
            if settings.run_properties:
                known.update(
                    enrich.run_properties(
                        settings.run_properties,
                        cwd=settings.cwd,
                        app=settings.app,
                        app_version=settings.app_version,
                        time_limit=min(3.0, settings.sender_deadline / 4),
                    )
                )
            common = {name: msgspec.Raw(encode(value)) for name, value in known.items()}
            common.update(msgspec.json.decode(settings.properties, type=dict[str, msgspec.Raw]))
            self._common = common
        except Exception as error:
            self._journal.problem(f"some common properties are missing: {error!r}")

    def _prepare(self, events: list[Event]) -> list[batch.Prepared]:
        if self._enriching is not None:
            self._enriching.join()
            self._enriching = None
        prepared = []
        for event in events:
            common, uuid, distinct_id, timestamp = self._common, "", "", ""
            if not (event.uuid and event.distinct_id and event.timestamp):  # written by hand
                uuid, distinct_id, timestamp = _new_uuid(), _new_uuid(), _utc_now()
                if event.distinct_id is None or event.distinct_id == "":
                    common = {**common, "$process_person_profile": msgspec.Raw(b"false")}
            try:
                prepared.append(batch.prepare(event, common, uuid=uuid, distinct_id=distinct_id, timestamp=timestamp))
            except (msgspec.MsgspecError, ValueError) as error:
                self._drop([event.event], f"not encodable: {error}")
        return prepared

    def _deliver(self, events: list[batch.Prepared]) -> None:
        """Deliver events in order; halve what is refused as a whole until the bad event is alone."""
        waiting = [events] if events else []
        while waiting:
            part = waiting.pop()
            outcome = self._send(part)
            if outcome.kind == DELIVERED:
                self._delivered += len(part)
            elif outcome.kind == REFUSED and len(part) > 1:
                first, second = batch.halve(part)
                self._journal.detail(f"{outcome.reason}: trying {len(first)} and {len(second)} events")
                waiting += [second, first]
            else:
                self._drop([event.name for event in part], outcome.reason)

    def _send(self, events: list[batch.Prepared]) -> Outcome:
        """Post one request, as often as it makes sense."""
        settings = self._settings
        assert settings is not None  # noqa: S101 - there are no events without
        attempt = 0
        while True:
            left = self._time_left()
            if left is not None and left <= 0:
                return Outcome(RETRY, "no time left before the deadline")
            request = batch.request(events, api_key=settings.api_key, endpoint=settings.endpoint, sent_at=_utc_now())
            if self._dry_run is not None:
                self._dry_run(request)
                return Outcome(DELIVERED)
            outcome = self._courier(settings).post(request, len(events), left)
            if outcome.kind != RETRY or attempt >= settings.max_retries:
                return outcome
            pause = backoff(attempt, outcome.retry_after, os.urandom(1)[0] / 255)
            left = self._time_left()
            if pause >= (settings.sender_deadline if left is None else left):
                return Outcome(RETRY, f"{outcome.reason}; a retry in {pause:.1f} s would be past the deadline")
            self._journal.detail(f"retry {attempt + 1} of {settings.max_retries} in {pause:.2f} s")
            self._pause(pause)
            attempt += 1

    def _courier(self, settings: Hello) -> Delivery:
        if self._delivery is None:
            self._delivery = Delivery(
                host=settings.host,
                user_agent=f"{settings.app}/{settings.app_version or _installed_version(settings.app)}",
                request_timeout=settings.request_timeout,
                compression=settings.compression,
                journal=self._journal,
            )
        return self._delivery

    def _pause(self, seconds: float) -> None:
        """Wait for a retry's moment."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            time_left = self._time_left()
            if time_left is not None:
                time.sleep(max(0.0, min(left, time_left)))
                return
            self._buffer.wait(left)

    def _drop(self, names: list[str], reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + len(names)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
        self._journal.problem(f"dropped {len(names)} event{'s' if len(names) != 1 else ''} ({shown}): {reason}")

    # ---- the end

    def _time_left(self) -> float | None:
        """Seconds until the deadline, less what the last words take; None while the input goes on."""
        if self._ended_at is None or self._settings is None:
            return None
        return self._ended_at + self._settings.sender_deadline - _LAST_WORDS - time.monotonic()

    def _end_of_input(self) -> None:
        """Start the clock: from here on there is a deadline."""
        if self._ended_at is not None or self._settings is None:
            return
        self._ended_at = time.monotonic()
        deadline = self._settings.sender_deadline
        threading.Thread(target=self._bark, args=(deadline,), name="watchdog", daemon=True).start()
        _bite_at(deadline)

    def _bark(self, deadline: float) -> None:
        """End the process shortly before the deadline, with a word about what was lost."""
        time.sleep(max(0.0, deadline - _LAST_WORDS / 2))
        lost = self._events - self._delivered - sum(self._dropped.values())
        if lost:
            self._drop(["…"] * lost, "still undelivered at the deadline")
        self._journal.detail(f"done: {self.tally}; out of time")
        os._exit(1)


def _bite_at(deadline: float) -> None:
    """End the process at the deadline even if Python itself is stuck.

    `faulthandler` keeps its own native thread, which needs no interpreter lock and leaves by `_exit(1)`.
    """
    import faulthandler

    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        nowhere = 2
    faulthandler.dump_traceback_later(deadline, exit=True, file=nowhere)


def _utc_now() -> str:
    import datetime

    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _new_uuid() -> str:
    import uuid

    return str(uuid.uuid4())


def _installed_version(app: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(app)
    except Exception:
        return "unknown"  # the app is no installed distribution, or its metadata is damaged
