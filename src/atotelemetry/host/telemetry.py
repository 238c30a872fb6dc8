"""`Telemetry`: one application's consent, identity and run, in front of a `TelemetryClient`.

Runs in the host, on the thread that captures. What atopile imports: the module-level names are the default instance,
made at the first use of one of them and not before. The host adds only what only the host knows (`duration`, `run_id`);
the git facts, versions and the rest are the sender's work. Where several threads make one thing at once (the default
instance, the run's id), `dict.setdefault` decides: a lock could be held by the code that a signal handler interrupts.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from atotelemetry.facts.address import ATOPILE_HOST, fault_of_address
from atotelemetry.facts.run import RUN_PROPERTIES, run_id
from atotelemetry.facts.text import environment_prefix
from atotelemetry.host.block import Capture
from atotelemetry.host.client import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.host.consent import Consent, read_consent, take_identity
from atotelemetry.host.debug import debug
from atotelemetry.host.home import is_app_name
from atotelemetry.host.lazy import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from types import EllipsisType
    from typing import Any

    from atotelemetry.host.hooks import Hooks
    from atotelemetry.host.status import Report

    client: TelemetryClient

__all__ = [
    "DEFAULT_QUEUE_SIZE",
    "FLUSH_TIMEOUT",
    "PH_API_ENDPOINT",
    "PH_API_HOST",
    "Telemetry",
    "capture",
    "capture_event",
    "capture_exception",
    "client",
]

PH_API_HOST = ATOPILE_HOST
PH_API_ENDPOINT = "/capture/"
"""Where a lone event goes; several go to /batch/."""

_DEFAULT_HOSTS = {"atopile": PH_API_HOST}


class Telemetry:
    """One application's telemetry: events about its runs, if the person at the terminal allows them.

    Args:
        app: the application's name: where its `telemetry.yaml` lies, how its environment variables begin, and the
            `User-Agent`.
        api_key: the project's write-only key. `<APP>_TELEMETRY_API_KEY` overrides it; with none, nothing is sent.
        host: base URL of the server. `<APP>_SERVICES_TELEMETRY_URL` overrides it; one that is no URL turns
            telemetry off.
        run_properties: which facts about the run the sender works out and adds: `RUN_PROPERTIES` by default, without
            `email` for applications other than atopile, which have to ask for it by name. So has everybody for
            "project", the normalised address of the repository.
        identity: called for each event, on the thread that captures. Returns the distinct id of the person who is
            signed in, or (distinct id, e-mail), or None for the installation's id. Neither can be overridden by an
            event's properties. Its e-mail wins over git's. What it raises counts as None.
        in_ci: also measure runs in CI (the variable `CI` is set).
        notice: whether, at a terminal, the first run prints a notice and only the next one sends; or the notice's text.
            Runs without a terminal then never send before that. None, the default for atopile alone: the first run
            sends, and prints nothing.
        ignore: classes of exceptions that are no failures, beside the exits that are known (see `capture`).
        report_uncaught: whether to call `install_hooks`.
        options: anything else that `TelemetryClient` takes.

    Raises ValueError for an `app` other than `[A-Za-z0-9][A-Za-z0-9._-]*`, or a wrong option. Otherwise nothing here
    raises into the application, waits for a network or prints (but for the notice and `<APP>_TELEMETRY=log`).

    """

    client: TelemetryClient
    _ignore: tuple[type[BaseException], ...] = ()
    _hooks: Hooks | None = None

    def __init__(
        self,
        *,
        app: str,
        api_key: str = "",
        host: str = "",
        run_properties: tuple[str, ...] | None = None,
        identity: Callable[[], str | tuple[str, str | None] | None] | None = None,
        in_ci: bool = False,
        notice: bool | str | EllipsisType | None = ...,
        ignore: tuple[type[BaseException], ...] = (),
        report_uncaught: bool = False,
        **options: Any,
    ) -> None:
        if not is_app_name(app):
            raise ValueError(f"app must match [A-Za-z0-9][A-Za-z0-9._-]*, not {app!r}")
        self.app = app
        self.made_with = {
            "app": app,
            "api_key": api_key,
            "host": host,
            "run_properties": run_properties,
            "identity": identity,
            "in_ci": in_ci,
            "notice": notice,
            **options,
        }
        if notice is ...:
            notice = app != "atopile"
        self._notice = notice if isinstance(notice, str) else ""
        self._rules = {"in_ci": in_ci, "notice": bool(notice)}
        if run_properties is None:
            run_properties = tuple(name for name in RUN_PROPERTIES if name != "email" or app == "atopile")
        self._notice_given = allocate_lock()
        if type(ignore) is not tuple or not all(issubclass(type(kind), type) for kind in ignore):
            raise ValueError(f"ignore must be classes, as a tuple, not {ignore!r}")
        self._ignore = ignore
        self._started = time.perf_counter()
        self._distinct_id: str | None = None
        # Loaded for those who use it.
        self._identity = None if identity is None else load("atotelemetry.host.identity").Identity(identity)
        prefix = environment_prefix(app)
        self._consent = read_consent(app, **self._rules)
        variable = f"{prefix}_SERVICES_TELEMETRY_URL"
        address = os.environ.get(variable) or ""
        # A wrong address is the person's mistake here, not the programmer's, who would be told by an exception.
        fault = fault_of_address(address) if address else ""
        if fault:
            debug("telemetry is off: %s: %s", variable, fault)
        self.client = TelemetryClient(
            os.environ.get(f"{prefix}_TELEMETRY_API_KEY") or api_key,
            "" if fault else address or host or _DEFAULT_HOSTS.get(app, ""),
            app=app,
            run_properties=run_properties,
            **options,
        )
        self.client._stream.holds = self._consent.holds  # noqa: SLF001 - asked where events are written
        if not self._consent.enabled:
            self.client.lock()
        elif self._consent.mode == "log":
            load("atotelemetry.host.divert").show_on_stderr(self.client)
        if report_uncaught:
            self.install_hooks()

    def capture(
        self,
        event_start: str | Callable[[], str],
        event_end: str | Callable[[], str],
        properties: Mapping[str, Any] | None = None,
    ) -> Capture:
        """Capture the beginning and the end of what happens inside: a context manager, and a decorator.

        `event_start` is captured on entering; on leaving `event_end`, or `$exception` when an exception comes out. The
        exception goes on unchanged. Every event has `duration`, the seconds since the block was entered, and
        `properties` as they are at that moment: what is put into the dict meanwhile is on the later event. A name may
        be a function without arguments, which is called on entering.

        An exit is no exception: `SystemExit`, `KeyboardInterrupt`, click's and typer's `Exit`, `Abort` and
        `ClickException` (with `UsageError`), and the classes in `ignore`. `event_end` is captured then, with
        `exit_code` and `outcome` ("ok", "error", "interrupted" or "usage"). `CancelledError` and `GeneratorExit` have
        the outcome "cancelled" and no code.
        """
        return Capture(self._event, self._left, event_start, event_end, properties)

    def capture_event(
        self, event: str, properties: Mapping[str, Any] | None = None, *, flush: bool = False
    ) -> str | None:
        """Capture one event; return its uuid, or None if nothing was queued. `flush` hands it over before returning.

        It has `properties` and `duration`, the seconds since this object was made.
        """
        uuid = self._event(event, properties, self._started)
        if flush:
            self.client.flush()
        return uuid

    def capture_exception(self, exc: object = None, properties: Mapping[str, Any] | None = None) -> str | None:
        """Capture one exception (by default the one being handled) as `$exception`; once for each exception object.

        The event has `properties` and `duration`, the seconds since this object was made. Returns its uuid, or None if
        nothing was queued. Exits (see `capture`) are no exceptions.
        """
        return self._exception(exc, properties, self._started)

    def install_hooks(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Report the exceptions that nothing catches: at the end of the program, in threads, in finalizers.

        Also those of the tasks and callbacks of `loop`, which is given for asyncio. Hooks that are there already are
        called as before. Calling this again for another loop adds that one. Without consent nothing is installed.
        """
        if self.client.disabled:
            return
        if self._hooks is None:
            self._hooks = load("atotelemetry.host.hooks").Hooks(self._report_uncaught)
        self._hooks.install(loop)

    def uninstall_hooks(self) -> None:
        """Take back `install_hooks`. A hook on which another library built meanwhile stays, and does nothing."""
        if self._hooks is not None:
            self._hooks.uninstall()

    def _left(self, error: BaseException, end: str, properties: Mapping[str, Any] | None, since: float) -> None:
        """Capture how a block ended that `error` comes out of."""
        exit_properties = self._exit_properties(error)
        if exit_properties is None:
            self._exception(error, properties, since, handled=False)
        else:
            self._event(end, properties, since, exit_properties)

    def _report_uncaught(self, error: BaseException | None) -> None:
        if error is not None:
            self._exception(error, {"$exception_level": "fatal"}, self._started, handled=False)

    def _exit_properties(self, error: BaseException) -> dict[str, Any] | None:
        if self.client.disabled:
            return {}
        try:
            exit_properties: dict[str, Any] | None = load("atotelemetry.host.outcome").exit_properties(
                error, self._ignore
            )
        except Exception as fault:
            debug("an exception is taken for a failure: %r", fault)
            return None
        return exit_properties

    def _event(
        self,
        event: str,
        properties: Mapping[str, Any] | None,
        since: float | None,
        more: dict[str, Any] | None = None,
    ) -> str | None:
        client = self.client
        try:
            installation = self._installation()
            if installation is None:
                return None
            person, known = self._person_and_properties(installation, properties, since)
            if more:
                known = {**more, **known}
            return client.capture(event, distinct_id=person, properties=known)
        except BaseException as error:
            if client._refuse(error):  # noqa: SLF001 - one layer in two: what is lost here is lost, too
                raise
            return None

    def _exception(
        self, exc: object, properties: Mapping[str, Any] | None, since: float, *, handled: bool = True
    ) -> str | None:
        client = self.client
        try:
            installation = self._installation()
            if installation is None:
                return None
            caught = load("atotelemetry.host.exceptions").current_exception(exc)
            if caught is None or self._exit_properties(caught) is not None:
                return None
            person, known = self._person_and_properties(installation, properties, since)
            return client.capture_exception(caught, distinct_id=person, properties=known, handled=handled)
        except BaseException as error:
            if client._refuse(error):  # noqa: SLF001
                raise
            return None

    def status(self) -> Report:
        """Say whether the next run will be measured, why, and under which id."""
        from atotelemetry.host import status  # not needed by a run, so not loaded by one

        return status.Report(status.status_text(self.known()))

    def known(self) -> dict[str, object]:
        """Return what `status` says, as values."""
        from atotelemetry.host import status  # as above

        client = self.client
        return status.status(self.app, endpoint=client.host, has_key=bool(client.api_key), **self._rules)

    def enable(self) -> Report:
        """Make the person's file say yes. The next run is measured; a run that began with a no stays unmeasured."""
        from atotelemetry.host import status  # as above

        return status.choose(self.app, enabled=True, **self._rules)

    def disable(self) -> Report:
        """Make the person's file say no, and send nothing more of this run."""
        from atotelemetry.host import status  # as above

        self.client.lock()
        return status.choose(self.app, enabled=False, **self._rules)

    def _person_and_properties(
        self, installation: str, properties: Mapping[str, Any] | None, since: float | None
    ) -> tuple[str, dict[str, Any]]:
        known = _with_own(properties, since)
        person = installation
        if self._identity is not None:
            known.pop("email", None)  # the one property that a caller's does not win over
            signed_in, email = self._identity()
            person = signed_in or person
            if email is not None:
                known["email"] = email
        return person, known

    def _installation(self) -> str | None:
        """Return the installation's random id, None if there is nothing to send.

        The first event of a first run creates the file that keeps the id. It also prints the notice, if one is due.
        """
        client = self.client
        if client.disabled:
            # Without a key, or in the test suite of a host that switched us off, nothing would ever be sent.
            is_due = self._consent.mode == "waiting" and client.api_key and client.host and not client._switched_off  # noqa: SLF001
            if is_due and self._notice_given.acquire(False):
                load("atotelemetry.host.notice").give(self.app, self._consent.path, self._notice)
            return None
        if self._consent.withdrawn:
            client.lock()
            return None
        if self._distinct_id is None:
            known = take_identity(self.app, self._consent)
            if known is None:
                client.lock()
                return None
            self._go_by(known)
        return self._distinct_id

    def _go_by(self, installation: str) -> None:
        """Take `installation` for the id of this installation, and let the sender salt the project's id with it."""
        self._distinct_id = installation
        if self.app != "atopile":
            self.client._stream.settings["salt"] = installation  # noqa: SLF001 - known at the first event, before any sender


def _with_own(properties: Mapping[str, Any] | None, since: float | None) -> dict[str, Any]:
    """Return what only the host knows, under the caller's properties, which win. `since` None is now."""
    known: dict[str, Any] = {"duration": 0.0 if since is None else time.perf_counter() - since, "run_id": run_id()}
    if properties is None:
        return known
    if type(properties) is not dict:
        properties = load("atotelemetry.host.values").Walk().properties(properties)  # only for what is no ordinary dict
    known.update(properties)
    return known


# ---- the default instance: atopile's


class _Off(Telemetry):
    """Stands in for a `Telemetry` that could not be made."""

    def __init__(self) -> None:
        self.app = "atopile"
        self._started = 0.0
        self._consent = Consent("off", "telemetry could not be made")
        self._rules = {}
        self.client = TelemetryClient("", "")


_defaults: dict[str, Telemetry] = {}


def _get_telemetry() -> Telemetry:
    """Return the default instance, made at the first call; one that is off if anything is wrong."""
    telemetry = _defaults.get("atopile")
    if telemetry is None:
        try:
            telemetry = Telemetry(app="atopile")
        except Exception as error:
            debug("telemetry is off: %r", error)
            telemetry = _Off()
        telemetry = _defaults.setdefault("atopile", telemetry)
    return telemetry


def _get_telemetry_client() -> TelemetryClient:
    """Return the default instance's client; a disabled one if anything is wrong."""
    return _get_telemetry().client


def _flush_telemetry_on_exit() -> None:
    """Hand over what the default instance captured, within FLUSH_TIMEOUT, and disable it.

    The package does this by itself at interpreter exit; this is for a host that ends in another way.
    """
    for telemetry in list(_defaults.values()):
        telemetry.client.shutdown(FLUSH_TIMEOUT)


def capture(
    event_start: str | Callable[[], str],
    event_end: str | Callable[[], str],
    properties: Mapping[str, Any] | None = None,
) -> Capture:
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
