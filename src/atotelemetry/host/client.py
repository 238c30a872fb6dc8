"""`TelemetryClient`: takes an event and puts its line on the queue.

Runs in the host, on any thread, also in signal handlers, and in a `__del__` in the middle of another `capture`. So
there is no lock on this path, and no call stores its state on the client.

Costly work happens later or elsewhere. The first event imports msgspec and starts the feeder's thread, which starts the
sender, which knows the network.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock

from atotelemetry.facts.address import fault_of_address
from atotelemetry.host import process
from atotelemetry.host.debug import debug, is_for_the_host
from atotelemetry.host.feeder import Feeder
from atotelemetry.host.lazy import load
from atotelemetry.host.options import DEFAULT_QUEUE_SIZE, check
from atotelemetry.host.process import FLUSH_TIMEOUT
from atotelemetry.host.spawn import reason_not_to_spawn
from atotelemetry.host.stats import Lost, Stats
from atotelemetry.host.stream import Stream
from atotelemetry.host.threads import is_sub_interpreter, reason_not_to_start_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any, Literal

    from atotelemetry.host.event import BeforeSend, Encoder
    from atotelemetry.host.reports import Claim, Reports
    from atotelemetry.host.values import Walk

__all__ = ["DEFAULT_QUEUE_SIZE", "FLUSH_TIMEOUT", "TelemetryClient"]

_OF_THE_SENDER = (
    *("host", "app", "app_version", "endpoint", "disable_geoip", "historical_migration", "compression", "max_retries"),
    *("request_timeout", "sender_deadline", "patient"),
)
_LONGEST_NAMES = 1024  # characters of an event's name and distinct_id, on the fast path


class TelemetryClient:
    """Sends events to a PostHog-compatible server through a detached sender process.

    Args:
        api_key: the project's write-only key; an empty one disables the client.
        host: base URL of the server, such as "https://eu.i.posthog.com"; an empty one disables the client. No query, no
            fragment.
        options: `app` to `wait_for_delivery`, as `Telemetry` explains them. By default there are no `run_properties`.

    Nothing here raises into the host, waits for a network or prints; reasons go to the logger `atotelemetry` at DEBUG.
    Only a wrong constructor argument raises ValueError, as a mistake in the host's own code.

    """

    # A `__del__` may flush when the interpreter has cleared this module's names already.
    _debug = staticmethod(debug)

    def __init__(
        self,
        api_key: str | None,
        host: str,
        *,
        app: str = "atopile",
        app_version: str | None = None,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
        endpoint: Literal["auto", "capture", "batch"] = "auto",
        protocol: Literal["v0", "v1"] = "v0",
        disable_geoip: bool = True,
        historical_migration: bool = False,
        compression: bool | None = None,
        max_retries: int = 1,
        request_timeout: float = 5.0,
        sender_deadline: float = 15.0,
        properties: Mapping[str, Any] | None = None,
        run_properties: Sequence[str] = (),
        in_app: Sequence[str] = (),
        source_lines: bool = True,
        scrub: bool | Sequence[str] = True,
        on_error: Callable[[str, int], object] | None = None,
        patient: bool = False,
        wait_for_delivery: bool | None = None,
    ) -> None:
        options = dict(locals())
        check(**options)
        fault = fault_of_address(host) if host else ""
        if fault:
            raise ValueError(fault)
        self.api_key = api_key = api_key or ""
        self.host = host
        self.app = app
        settings: dict[str, Any] = {
            **{name: options[name] for name in _OF_THE_SENDER},
            "api_key": api_key,
            "capture_protocol": protocol,
            "run_properties": tuple(run_properties),
            "scrub": scrub if isinstance(scrub, bool) else tuple(scrub),
        }
        self.described_by = (app, _maker(), tuple(in_app), source_lines)
        """The arguments of `Reports`."""
        self._reports: Reports | None = None  # made at the first exception
        common = dict(properties or {})
        self._before_send: BeforeSend | None = None
        if before_send is not None:
            from atotelemetry.host.event import BeforeSend

            self._before_send = BeforeSend(before_send, common)
            common = {}  # `before_send` has them in front of it, in each event
        self.stream = Stream(settings, common)
        self._feeder = Feeder(
            queue_size=queue_size,
            stream=self.stream,
            on_error=on_error,
            wait_for_delivery=wait_for_delivery,
        )
        self.counts = self._feeder.counts
        self._refuses = False  # for any reason
        self.switched_off = False
        """Whether the host set `disabled`."""
        self._locked = False
        self._left_out = False  # by chance, as `sample_rate` says
        self._encoder: Encoder | None = None  # made at the first event of a process
        self._following = allocate_lock()
        reason = reason_not_to_spawn() or reason_not_to_start_threads()
        reason = reason or ("" if api_key and host else "no api_key or no host")
        if reason:
            self._turn_off(reason)
        else:
            self._follow_the_process()

    def __repr__(self) -> str:
        return f"TelemetryClient(app={self.app!r}, host={self.host!r}, disabled={self._refuses})"

    @property
    def disabled(self) -> bool:
        """True makes every capture a no-op: no thread, no process, no file. May be set at any time.

        Setting it to True also drops the queue, and the events that the sender has not posted.
        """
        return self._refuses

    @disabled.setter
    def disabled(self, disabled: bool) -> None:
        self.switched_off = bool(disabled)
        self._refuses = self.switched_off or self._locked or self._left_out
        if disabled:
            self._feeder.discard()
        elif not self._refuses:
            self._feeder.admit()

    def leave_out(self) -> None:
        """Be disabled in this process, because the run is not in the sample."""
        self._left_out = True
        self._turn_off("this run is not in the sample")

    def lock(self) -> None:
        """Be disabled for good by the person's no: the feeder starts no sender and writes nothing."""
        self._refuses = self._locked = True
        self._feeder.discard(for_good=True)

    def divert(self, around: Callable[[Feeder], Any]) -> Callable[[], None]:
        """Replace the feeder by `around(feeder)` and take events even while disabled. Returns a function that ends it.

        Needs no key and no consent: nothing is sent.
        """
        feeder, refused, reasons = self._feeder, self._refuses, (self.switched_off, self._locked)
        self._feeder = around(feeder)
        self._refuses = False

        def undo() -> None:
            self._feeder = feeder
            # A no that was said meanwhile stays.
            self._refuses = refused or reasons != (self.switched_off, self._locked)

        return undo

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
        options: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Queue one event; return its uuid, or None when nothing was queued.

        Values are encoded now: later changes to `properties` change nothing. `distinct_id` is a str, a UUID or anything
        with a `str`. Without one the event gets a random id, and makes no person (`$process_person_profile: False`).
        `timestamp` is a datetime in any timezone (a naive one is UTC) or an ISO 8601 text; now, if it is neither.
        `uuid` makes the event idempotent on the server. `options` are PostHog's: `process_person_profile`,
        `cookieless_mode`, `disable_skew_correction`, `product_tour_id`.

        Never blocks and never raises.
        """
        if self._refuses:
            return None
        if properties is None:
            properties = {}
        line = None
        is_odd = False
        try:
            encoder = self._encoder or self._make_encoder()
            ordinary_line = encoder.ordinary_line
            if (
                ordinary_line is not None
                and type(properties) is dict
                and type(event) is str
                and type(distinct_id) is str
                and timestamp is None
                and context is None
                and uuid is None
                and options is None
                and event
                and distinct_id
                and len(event) + len(distinct_id) <= _LONGEST_NAMES
            ):
                try:
                    name, line = ordinary_line(event, distinct_id, properties)
                except BaseException as error:
                    # No loss yet: the general path takes the event, or says why not.
                    if is_for_the_host(error):
                        raise
                    is_odd = True
            if line is None:
                name, line = encoder.line(
                    event, distinct_id, properties, timestamp, context, uuid, options, is_odd=is_odd
                )
        except BaseException as error:
            try:
                if self.refuse(error):
                    raise
            except RecursionError:
                pass  # so deep in the stack that not even the loss can be counted
            return None
        # As `_queue`, without the call.
        try:
            if self._feeder.put(line):
                self.counts.capture()
                return name
            self.counts.drop(self._feeder.refusal)
            self.counts.capture()
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
        handled: bool = True,
    ) -> str | None:
        """Queue one `$exception` event; return its uuid, or None when nothing was queued.

        `exception` is an exception, an `exc_info` tuple, or None for the handled one. An exception object that was
        queued before is not queued again in this process. `properties` win over the exception's description. `handled`
        is False for an exception that the program did not expect. Of the same type from the same function, ten are sent
        in ten seconds. Never blocks and never raises.
        """
        if self._refuses:
            return None
        claimed: Claim | None = None
        try:
            encoder = self._encoder or self._make_encoder()
            if self._reports is None:  # only a program in trouble pays for it
                self._reports = load("atotelemetry.host.reports").Reports(*self.described_by)
            reports = self._reports
            claimed = reports.claim(exception)
            if claimed is None:
                return None
            caught, repeated, _ = claimed

            def describe(person: str, walk: Walk) -> dict[str, object]:
                more = {"$exception_repeated": repeated} if repeated else {}
                return {**more, **reports.describe(caught, person, walk=walk, handled=handled)}

            name, line = encoder.line(
                "$exception", distinct_id, properties, timestamp, context, uuid, describe=describe
            )
        except BaseException as error:
            try:
                if claimed is not None:
                    reports.release(claimed)
                if self.refuse(error):
                    raise
            except RecursionError:
                pass  # as above
            return None
        if self._queue(line):
            return name
        reports.release(claimed)
        return None

    def _queue(self, line: bytes) -> bool:
        """Hand an event's line to the feeder, and count it; False when it is lost there."""
        # Counted last: an exception of a signal handler's may come in between. `stats` makes up for a missing count.
        try:
            if self._feeder.put(line):
                self.counts.capture()
                return True
            self.counts.drop(self._feeder.refusal)
            self.counts.capture()
        except Exception:
            return False  # no stack left to say so
        return False

    def refuse(self, error: BaseException) -> bool:
        """Count an event lost before the queue; return whether `error` is meant for the host.

        Raises only `RecursionError`, at the end of the stack.
        """
        is_interrupted = is_for_the_host(error)
        try:
            if type(error) is Lost:  # not `isinstance`, which asks the host's object for its `__class__`
                self._lose(error.reason, error.error)
            elif is_interrupted:
                self._lose("interrupted")
            else:
                self._lose("error", error)
        except Exception:
            return is_interrupted  # as above
        return is_interrupted

    # ---- hand over

    def flush(self, timeout: float | None = FLUSH_TIMEOUT, *, delivered: bool = False) -> bool:
        """Hand over every event captured so far; True when that was done within `timeout` seconds (None: no limit).

        The sender then drains and exits by itself; the next capture starts a new one. With `delivered=True` this also
        waits for the senders' answers, within the same timeout. True then means: the server accepted every event since
        the last such call. Never raises.
        """
        try:
            return self._feeder.flush(timeout, delivered=delivered)
        except Exception as error:
            self._debug("flush failed: %r", error)
            return False

    def shutdown(self, timeout: float | None = FLUSH_TIMEOUT) -> bool:
        """Refuse every further event, then `flush`; also ends the feeder's thread. Never raises."""
        self.close()
        try:
            return self._feeder.flush(timeout, stop=True)
        except Exception as error:
            self._debug("shutdown failed: %r", error)
            return False

    @property
    def stats(self) -> Stats:
        """The fate of the events so far, in this process."""
        # Read the counters last stage first, so an event that moves meanwhile is never counted twice.
        delivered, lost = self._feeder.fate()
        added = self._feeder.added()
        handed_over = self.counts.handed_over + added
        dropped = self.counts.dropped
        return Stats(self.counts.captured + added, handed_over, dropped, delivered, lost)

    def _lose(self, reason: str, error: BaseException | None = None) -> None:
        """Count an event that never came as far as the queue."""
        self.counts.drop(reason, error=error)
        self.counts.capture()

    # ---- the life of the process

    def close(self) -> None:
        """Refuse every further event."""
        self._refuses = True

    def _turn_off(self, reason: str) -> None:
        self._refuses = True
        debug("telemetry is off: %s", reason)

    def _make_encoder(self) -> Encoder:
        """Load the modules that a first event needs. Raises when that cannot be, or not now."""
        reason = reason_not_to_start_threads() or ("a sub-interpreter has no threads of ours" * is_sub_interpreter())
        if reason:
            self._turn_off(reason)
            raise RuntimeError(reason)
        encoder: Encoder = load("atotelemetry.host.event").Encoder(self._before_send)
        self._follow_the_process()
        process.flush_when_multiprocessing_ends()
        self._encoder = encoder
        return encoder

    def _follow_the_process(self) -> None:
        """Be told, once, of the process's forks and of its end."""
        if self._following.acquire(False):
            process.follow(self, self._feeder)

    def after_fork_in_child(self, *, unharmed: bool) -> None:
        """Start anew: the parent's events are the parent's. Called by `process`."""
        self._feeder.after_fork_in_child()
        self.counts = self._feeder.counts
        self._encoder = None
        if not unharmed and not self._refuses:
            self._turn_off("this process was forked in the middle of an import of ours")


def _maker() -> str:
    """Return the import name of the module that makes a client; `__main__` for a script."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to see one's caller
    while frame is not None:
        name = dict.get(frame.f_globals, "__name__")  # `exec` takes subclasses of dict
        if not isinstance(name, str) or name.partition(".")[0] != __name__.partition(".")[0]:
            # `python -m` calls a module `__main__`, and its spec knows the name.
            known = getattr(dict.get(frame.f_globals, "__spec__"), "name", None) if name == "__main__" else None
            return str(known or name or "")
        frame = frame.f_back
    return ""
