"""`Telemetry`: one application's consent, identity and run, in front of a `TelemetryClient`.

Runs in the host, on the thread that captures. What atopile imports: the module-level names are the default instance,
made at the first use of one of them and not before. The host adds only what only the host knows (`duration`, `run_id`);
the git facts, versions and the rest are the sender's work.
"""

from __future__ import annotations

import os
import sys
import time

from atotelemetry.host.client import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.host.consent import environment_prefix, identity, read_consent
from atotelemetry.host.debug import debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any, Literal, ParamSpec, TypeVar

    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

    client: TelemetryClient

__all__ = [
    "DEFAULT_QUEUE_SIZE",
    "FLUSH_TIMEOUT",
    "PH_API_ENDPOINT",
    "PH_API_HOST",
    "WORKER_WAKE_INTERVAL",
    "Telemetry",
    "capture",
    "capture_event",
    "capture_exception",
    "client",
]

PH_API_HOST = "https://telemetry.atopileapi.com"
PH_API_ENDPOINT = "/capture/"
"""Where a lone event goes; several go to /batch/."""
WORKER_WAKE_INTERVAL = 0.1
"""How long the sender gathers events before it posts them."""

RUN_PROPERTIES = (
    "email",
    "current_git_hash",
    "project_id",
    "ci_provider",
    "via_docker",
    "github_action_repository",
    "github_repository_owner",
    "github_repository",
    "atopile_version",
)
"""What the sender says about a run, unless the host cuts the list."""

_DEFAULT_HOSTS = {"atopile": PH_API_HOST}
_COROUTINE, _GENERATOR = 0x80, 0x20  # flags of a code object (the `inspect` module's CO_COROUTINE and CO_GENERATOR)


class Telemetry:
    """One application's telemetry: events about its runs, if the person at the terminal allows them.

    Args:
        app: the application's name: where its `telemetry.yaml` lies, how its environment variables begin, and the
            `User-Agent`.
        api_key: the project's write-only key. `<APP>_TELEMETRY_API_KEY` overrides it; with none, nothing is sent.
        host: base URL of the server. `<APP>_SERVICES_TELEMETRY_URL` overrides it.
        run_properties: which facts about the run the sender works out and adds.
        options: anything else that `TelemetryClient` takes.

    Nothing here raises into the application, waits for a network or prints (but for `<APP>_TELEMETRY=log`).

    """

    client: TelemetryClient

    def __init__(
        self,
        *,
        app: str = "atopile",
        api_key: str = "",
        host: str = "",
        run_properties: tuple[str, ...] = RUN_PROPERTIES,
        **options: Any,
    ) -> None:
        self.app = app
        self._started = time.perf_counter()
        self._run_id: str | None = None
        self._distinct_id: str | None = None
        prefix = environment_prefix(app)
        self._consent = read_consent(app)
        self.client = TelemetryClient(
            os.environ.get(f"{prefix}_TELEMETRY_API_KEY") or api_key,
            os.environ.get(f"{prefix}_SERVICES_TELEMETRY_URL") or host or _DEFAULT_HOSTS.get(app, ""),
            app=app,
            run_properties=run_properties,
            **options,
        )
        if not self._consent.enabled:
            debug("telemetry is off: %s", self._consent.reason)
            self.client.disabled = True
        elif self._consent.mode == "log":
            _print_instead_of_sending(self.client)

    def capture(self, event_start: str, event_end: str, properties: Mapping[str, Any] | None = None) -> Capture:
        """Capture the beginning and the end of what happens inside: a context manager, and a decorator.

        `event_start` is captured on entering; on leaving `event_end`, or `$exception` when an `Exception` comes out,
        which then goes on unchanged. `KeyboardInterrupt`, `SystemExit` and `GeneratorExit` are left alone. Every event
        has `properties` and `duration`, the seconds since entering.
        """
        return Capture(self, event_start, event_end, properties)

    def capture_event(
        self, event: str, properties: Mapping[str, Any] | None = None, *, flush: bool = False
    ) -> str | None:
        """Capture one event; return its uuid, or None if nothing was queued. `flush` hands it over before returning."""
        uuid = self._send(event, None, properties, self._started)
        if flush:
            self.client.flush()
        return uuid

    def capture_exception(self, exc: object = None, properties: Mapping[str, Any] | None = None) -> str | None:
        """Capture one exception (by default the one being handled) as `$exception`; once for each exception object."""
        return self._send("$exception", exc, properties, self._started)

    def _send(self, event: str, exc: object, properties: Mapping[str, Any] | None, since: float) -> str | None:
        client = self.client
        if client.disabled:
            return None
        try:
            said: dict[str, Any] = {"duration": time.perf_counter() - since, "run_id": self._run()}
            if properties:
                said.update(properties)
            if event == "$exception":
                return client.capture_exception(exc, distinct_id=self._person(), properties=said)
            return client.capture(event, distinct_id=self._person(), properties=said)
        except Exception as error:
            debug("an event was not captured: %r", error)
            return None

    def _run(self) -> str:
        if self._run_id is None:
            import uuid  # loaded by msgspec anyway, but not before the first event

            self._run_id = str(uuid.uuid4())
        return self._run_id

    def _person(self) -> str:
        """Return the user's random id; the first event of a first run creates the file that keeps it."""
        if self._distinct_id is None:
            known = self._consent.id
            if known is None and self._consent.mode == "log":
                known = self._run()  # nothing is sent, and nothing is written
            self._distinct_id = known or identity(self.app, self._consent)
        return self._distinct_id


class Capture:
    """What `Telemetry.capture` returns."""

    def __init__(self, telemetry: Telemetry, start: str, end: str, properties: Mapping[str, Any] | None) -> None:
        self._telemetry = telemetry
        self._start = start
        self._end = end
        self._properties = properties
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.perf_counter()
        self._telemetry._send(self._start, None, self._properties, self._entered)  # noqa: SLF001 - one class in two

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        send = self._telemetry._send  # noqa: SLF001
        if error is None:
            send(self._end, None, self._properties, self._entered)
        elif isinstance(error, Exception):
            send("$exception", error, self._properties, self._entered)
        return False

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Capture every call of `function`; of a coroutine or generator function for its whole life."""
        from functools import wraps  # whoever decorates functions has it

        def again() -> Capture:
            return Capture(self._telemetry, self._start, self._end, self._properties)

        flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
        target: Any = function
        wrapper: Any
        if flags & _COROUTINE:

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return await target(*args, **kwargs)

        elif flags & _GENERATOR:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return (yield from target(*args, **kwargs))

        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return target(*args, **kwargs)

        wrapped: Callable[Parameters, Result] = wraps(function)(wrapper)
        return wrapped


class _Printer:
    """Stands in a client where the feeder does, and prints each event as a line of JSON on stderr."""

    def __init__(self) -> None:
        self.handed_over = 0

    def put(self, line: bytes) -> bool:
        sys.stderr.write(line.decode() + "\n")
        self.handed_over += 1
        return True

    def flush(self, timeout: float | None, *, delivered: bool = False, stop: bool = False) -> bool:
        del timeout, delivered, stop
        return True

    def before_fork(self) -> None:
        """There is no pipe to think of."""

    after_fork_in_parent = after_fork_in_child = before_fork


def _print_instead_of_sending(client: TelemetryClient) -> None:
    client._feeder = _Printer()  # type: ignore[assignment]  # noqa: SLF001 - the one other place an event may go
    client.disabled = False  # a person who wants to see the events needs no key


# ---- the default instance: atopile's

_default: Telemetry | None = None


def _get_telemetry() -> Telemetry:
    """Return the default instance, made at the first call."""
    global _default  # noqa: PLW0603 - the module-level names are this instance, by contract
    if _default is None:
        _default = Telemetry()
    return _default


def _get_telemetry_client() -> TelemetryClient:
    """Return the default instance's client; a disabled one if anything is wrong."""
    try:
        return _get_telemetry().client
    except Exception as error:
        debug("telemetry is off: %r", error)
        return TelemetryClient("", "")


def _flush_telemetry_on_exit() -> None:
    """Hand over what the default instance captured, within FLUSH_TIMEOUT, and disable it.

    The package does this by itself at interpreter exit; this is for a host that ends in another way.
    """
    if _default is not None:
        _default.client.flush(timeout=FLUSH_TIMEOUT)
        _default.client.disabled = True


def capture(event_start: str, event_end: str, properties: Mapping[str, Any] | None = None) -> Capture:
    """Capture the beginning and the end of what happens inside; see `Telemetry.capture`."""
    return _get_telemetry().capture(event_start, event_end, properties)


def capture_event(event: str, properties: Mapping[str, Any] | None = None, *, flush: bool = False) -> str | None:
    """Capture one event; see `Telemetry.capture_event`."""
    return _get_telemetry().capture_event(event, properties, flush=flush)


def capture_exception(exc: object = None, properties: Mapping[str, Any] | None = None) -> str | None:
    """Capture one exception; see `Telemetry.capture_exception`."""
    return _get_telemetry().capture_exception(exc, properties)


def __getattr__(name: str) -> object:
    """Make the default client when it is first asked for."""
    if name == "client":
        return _get_telemetry_client()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
