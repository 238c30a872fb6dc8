"""`Telemetry`: one application's consent, identity and run, in front of a `TelemetryClient`.

Runs in the host, on the thread that captures. The host adds only `duration` and `run_id`. The sender adds the git
facts, versions and the rest.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, get_ident

from atotelemetry.facts.address import ATOPILE_HOST, fault_of_address
from atotelemetry.facts.run import RUN_PROPERTIES, run_id
from atotelemetry.facts.text import environment_prefix
from atotelemetry.host.block import Capture
from atotelemetry.host.choice import is_app_name
from atotelemetry.host.client import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.host.consent import read_consent, take_identity
from atotelemetry.host.debug import attempt, debug
from atotelemetry.host.lazy import load
from atotelemetry.host.options import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from types import EllipsisType
    from typing import Any, Literal, ParamSpec, TypeVar, overload

    from atotelemetry.host.hooks import Hooks
    from atotelemetry.host.run import Run
    from atotelemetry.host.stats import Stats
    from atotelemetry.host.status import Report

    Properties = Mapping[str, Any] | None
    Parts = tuple[Properties, ...]
    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

__all__ = ["DEFAULT_QUEUE_SIZE", "FLUSH_TIMEOUT", "PH_API_ENDPOINT", "PH_API_HOST", "Telemetry"]

PH_API_HOST = ATOPILE_HOST
PH_API_ENDPOINT = "/capture/"
"""Where a lone event goes; several go to /batch/."""


class Telemetry:
    """One application's telemetry: events about its runs, if the person at the terminal allows them.

    Everything is given by keyword. Only `app` has no default.

    The application, and where its events go:
        app: the application's name. It is in the path of its `telemetry.yaml`, in its environment variables and in the
            `User-Agent`. It matches `[A-Za-z0-9][A-Za-z0-9._-]*`.
        app_version: its version; None lets the sender look up the installed distribution named `app`.
        api_key: the project's write-only key. `<APP>_TELEMETRY_API_KEY` overrides it; with none, nothing is sent.
        host: base URL of the server. `<APP>_SERVICES_TELEMETRY_URL` overrides it; a value that is no URL turns
            telemetry off.

    The content of the events:
        properties: added to every event; an event's own win.
        run_properties: the facts about the run that the sender adds. By default `RUN_PROPERTIES`; for applications
            other than atopile without `email`. "project", the normalised address of the repository, is never a default.
        identity: called for each event, on the thread that captures. Returns the signed-in person's distinct id, or
            (distinct id, e-mail), or None for the installation's id. They win over an event's properties, and over
            git's e-mail. An exception in it counts as None.
        before_send: called with each event, a dict with `uuid`, `event`, `distinct_id`, `timestamp`, `properties` and
            perhaps `context`. Its result is sent; None, or an exception, drops the event.
        disable_geoip: ask PostHog not to look up the place of the sender's address.
        historical_migration: mark the events as an import of old events.

    Which runs are measured:
        in_ci: also those in CI (the variable `CI` is set).
        notice: whether, at a terminal, the first run prints a notice and only the next one sends; or the notice's text.
            Runs without a terminal then never send before that. None, the default for atopile alone: the first run
            sends, and prints nothing.
        sample_rate: the share of measured runs, from 0 to 1. The `run_id` decides for a whole run with its forked
            processes. Below 1, each event has it as `sample_rate`.

    Exceptions:
        ignore: classes of exceptions that are no failures, beside the known exits (see `capture`).
        report_uncaught: whether to call `install_hooks`.
        report_crash: also report a run that is ended from outside or by a native crash: as `$exception` with the stack,
            or as "run_vanished" where there is none; a text is that event's name. From the first event on, a sender
            lives as long as the host. `faulthandler` is enabled, unless the host has done so.
        report_hang_after: seconds without an event after which the stacks of all threads are reported, as `$exception`
            of the type "Hang"; once for each silence. Nothing is ended. Takes the signal SIGURG. Linux only.
        in_app: import names of the application's packages; PostHog groups exceptions by their frames. By default the
            package named like `app`, and the package of the module that makes this object.
        source_lines: whether an exception's frames have the source lines around them.
        scrub: mask home directories and secrets in an exception's description, and in the properties of these names;
            False masks nothing. The sender does it.

    Delivery:
        queue_size: events that may wait in the host; one more is dropped and counted.
        endpoint: "auto" posts a lone event to /capture/ and several to /batch/; "capture" or "batch" always there.
        protocol: "v1" uses PostHog's newer endpoint, with a verdict on every event. A server without it gets "v0".
        compression: gzip request bodies: always, never, or (None) above a small size.
        max_retries: attempts after the first for a request that may succeed later.
        request_timeout: seconds for each network operation.
        sender_deadline: seconds that a sender may live on after its last event.
        on_error: called with a reason and a count of dropped or lost events, on a thread of this package.
        patient: for daemons and workers: keep events through an outage, and retry while the host lives.
        wait_for_delivery: whether the exit waits for the server, within FLUSH_TIMEOUT. None: only where this process's
            end ends the sender (PID 1 of a container, or its child, without a terminal).

    Raises ValueError for a wrong option, TypeError for an unknown one. Otherwise nothing here raises into the
    application, waits for a network or prints (but for the notice and `<APP>_TELEMETRY=log`).

    """

    client: TelemetryClient
    """The lower layer: `capture`, with PostHog's arguments, for no consent and no identity of ours."""
    _ignore: tuple[type[BaseException], ...] = ()
    _hooks: Hooks | None = None

    def __init__(
        self,
        *,
        app: str,
        app_version: str | None = None,
        api_key: str | None = "",
        host: str = "",
        properties: Mapping[str, Any] | None = None,
        run_properties: Sequence[str] | None = None,
        identity: Callable[[], str | tuple[str, str | None] | None] | None = None,
        before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
        disable_geoip: bool = True,
        historical_migration: bool = False,
        in_ci: bool = False,
        notice: bool | str | EllipsisType | None = ...,
        sample_rate: float = 1.0,
        ignore: tuple[type[BaseException], ...] = (),
        report_uncaught: bool = False,
        report_crash: bool | str = False,
        report_hang_after: float | None = None,
        in_app: Sequence[str] = (),
        source_lines: bool = True,
        scrub: bool | Sequence[str] = True,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        endpoint: Literal["auto", "capture", "batch"] = "auto",
        protocol: Literal["v0", "v1"] = "v0",
        compression: bool | None = None,
        max_retries: int = 1,
        request_timeout: float = 5.0,
        sender_deadline: float = 15.0,
        on_error: Callable[[str, int], object] | None = None,
        patient: bool = False,
        wait_for_delivery: bool | None = None,
    ) -> None:
        options = dict(locals())
        # A twin, as `show` makes one, observes nothing.
        self.made_with = {name: options[name] for name in options if name not in ("self", "report_uncaught")}
        check(**options)
        if not is_app_name(app):
            raise ValueError(f"app must match [A-Za-z0-9][A-Za-z0-9._-]*, not {app!r}")
        self.app = app
        if notice is ...:
            notice = app != "atopile"
        self._notice = notice if isinstance(notice, str) else ""
        self._rules = {"in_ci": in_ci, "notice": bool(notice)}
        if run_properties is None:
            run_properties = [name for name in RUN_PROPERTIES if name != "email" or app == "atopile"]
        if sample_rate < 1:
            properties = {**(properties or {}), "sample_rate": sample_rate}
        self._notice_given = allocate_lock()
        self._ignore = ignore
        self._started = time.perf_counter()
        self._distinct_id: str | None = None
        self._identity = identity
        self._asking: set[int] = set()  # threads that are inside it
        prefix = environment_prefix(app)
        self._consent = read_consent(app, **self._rules)
        variable = f"{prefix}_SERVICES_TELEMETRY_URL"
        address = os.environ.get(variable) or ""
        # A wrong address is the person's mistake here, not the programmer's, so it raises nothing.
        fault = fault_of_address(address) if address else ""
        if fault:
            debug("telemetry is off: %s: %s", variable, fault)
        self.client = TelemetryClient(
            os.environ.get(f"{prefix}_TELEMETRY_API_KEY") or api_key,
            "" if fault else address or host or (PH_API_HOST if app == "atopile" else ""),
            **{name: options[name] for name in TelemetryClient.__init__.__kwdefaults__ or ()}
            | {"properties": properties, "run_properties": run_properties},
        )
        # The run's id is random, and forked processes have the same.
        if sample_rate < 1 and int(run_id()[:8], 16) >= sample_rate * 0x1_0000_0000:
            self.client.leave_out()
        self.client.stream.holds = self._consent.holds
        if not self._consent.enabled:
            self.client.lock()
        elif self._consent.mode == "log":
            load("atotelemetry.host.divert").show_on_stderr(self.client)
        self._nothing = Capture(lambda *_: None, lambda *_: None, "", "", None)  # for want of stack for another one
        if report_uncaught:
            self.install_hooks()
        if (report_crash or report_hang_after) and not self.client.disabled:
            self.client.stream.last_words = load("atotelemetry.host.last_words").LastWords(
                crash=report_crash, hang_after=report_hang_after, client=self.client, consent=self._consent
            )

    def capture(
        self,
        event_start: str | Callable[[], str],
        event_end: str | Callable[[], str],
        properties: Mapping[str, Any] | None = None,
    ) -> Capture:
        """Capture the beginning and the end of a block: a context manager, and a decorator.

        `event_start` is captured on entering; on leaving `event_end`, or `$exception` when an exception comes out. The
        exception goes on unchanged. Every event has `duration`, the seconds since entering, and the present
        `properties`: a value put into the dict meanwhile is on the later event. So is a value put into the dict that
        `with … as block` gives. A name may be a function without arguments, called on entering.

        An exit is no exception: `SystemExit`, `KeyboardInterrupt`, click's and typer's `Exit`, `Abort` and
        `ClickException` (with `UsageError`), and the classes in `ignore`. `event_end` is captured then, with
        `exit_code` and `outcome` ("ok", "error", "interrupted" or "usage"). `CancelledError` and `GeneratorExit` have
        the outcome "cancelled" and no code.
        """
        try:
            return Capture(self._event, self._left, event_start, event_end, properties)
        except RecursionError:
            return self._nothing

    if TYPE_CHECKING:

        @overload
        def run(self, main: Callable[Parameters, Result], /) -> Callable[Parameters, Result]: ...

        @overload
        def run(
            self,
            /,
            *,
            start: str | Callable[[], str] = ...,
            end: str | Callable[[], str] = ...,
            properties: Mapping[str, Any] | None = ...,
        ) -> Run: ...

    def run(
        self,
        main: Callable[..., Any] | None = None,
        /,
        *,
        start: str | Callable[[], str] = "cli:start",
        end: str | Callable[[], str] = "cli:end",
        properties: Mapping[str, Any] | None = None,
    ) -> Any:
        """Capture the beginning and the end of the program: `with telemetry.run() as run:`, or `@telemetry.run`.

        Both events have `properties`. The end event has `exit_code`, `outcome` (see `capture`) and `duration`. An
        exception that comes out is reported, too. Once click, typer or argparse has read the command line, events have
        `command`, such as "build pcb", and `options`, the names of the options used. Values are never told. Values put
        into the dict `run` are on the end event, and win. A number that a decorated function returns is its exit code.
        """
        try:
            made = load("atotelemetry.host.run").Run(
                self._exit_properties,
                lambda: self.client.disabled,
                self._event,
                lambda error, _end, known, since: self._exception(error, known, since, handled=False),
                start,
                end,
                properties,
            )
        except RecursionError:
            made = self._nothing
        except Exception as error:
            debug("a run goes without its command line: %r", error)
            made = self.capture(start, end, properties)
        return made if main is None else made(main)

    def capture_event(
        self, event: str, properties: Mapping[str, Any] | None = None, *, flush: bool = False
    ) -> str | None:
        """Capture one event; return its uuid, or None if nothing was queued. `flush` hands it over before returning.

        It has `properties` and `duration`, the seconds since this object was made.
        """
        try:
            uuid = self._event(event, (properties,), self._started)
            if flush:
                self.client.flush()
        except RecursionError:
            return None  # the end of the stack: not even a loss can be counted
        return uuid

    def capture_exception(self, exc: object = None, properties: Mapping[str, Any] | None = None) -> str | None:
        """Capture an exception, by default the handled one, as `$exception`; once for each exception object.

        The event has `properties` and `duration`, the seconds since this object was made. Returns its uuid, or None if
        nothing was queued. Exits (see `capture`) are no exceptions.
        """
        try:
            return self._exception(exc, (properties,), self._started)
        except RecursionError:
            return None  # as above

    def install_hooks(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Report the exceptions that nothing catches: at the end of the program, in threads, in finalizers.

        With `loop`, also in its asyncio tasks and callbacks. Hooks that are there already are called as before. Call it
        again to add another loop. Without consent nothing is installed.
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

    def _left(self, error: BaseException, end: str, parts: Parts, since: float) -> None:
        """Capture how a block ended that `error` comes out of."""
        exit_properties = self._exit_properties(error)
        if exit_properties is None:
            self._exception(error, parts, since, handled=False)
        else:
            self._event(end, (exit_properties, *parts), since)

    def _report_uncaught(self, error: BaseException | None) -> None:
        if error is not None:
            self._exception(error, ({"$exception_level": "fatal"},), self._started, handled=False)

    def _exit_properties(self, error: BaseException) -> dict[str, Any] | None:
        if self.client.disabled:
            return {}
        why = "an exception is taken for a failure: %r"
        known: dict[str, Any] | None = attempt(
            lambda: load("atotelemetry.host.outcome").exit_properties(error, self._ignore), default=None, why=why
        )
        return known

    def _event(self, event: str, parts: Parts, since: float | None) -> str | None:
        client = self.client
        try:
            installation = self._installation()
            if installation is None:
                return None
            person, known = self._person_and_properties(installation, parts, since)
        except BaseException as error:
            if client.refuse(error):
                raise
            return None
        return client.capture(event, distinct_id=person, properties=known)

    def _exception(self, exc: object, parts: Parts, since: float, *, handled: bool = True) -> str | None:
        client = self.client
        try:
            installation = self._installation()
            if installation is None:
                return None
            caught = load("atotelemetry.host.exceptions").current_exception(exc)
            if caught is None or self._exit_properties(caught) is not None:
                return None
            person, known = self._person_and_properties(installation, parts, since)
        except BaseException as error:
            if client.refuse(error):
                raise
            return None
        return client.capture_exception(caught, distinct_id=person, properties=known, handled=handled)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT, *, delivered: bool = False) -> bool:
        """Wait until every event is handed over, or with `delivered` until the server accepted it.

        Returns False after `timeout` seconds (None: no limit), or where an event was lost. The exit does the first by
        itself. Never raises.
        """
        return self.client.flush(timeout, delivered=delivered)

    def shutdown(self, timeout: float | None = FLUSH_TIMEOUT) -> bool:
        """Refuse every further event, then `flush`. No program has to call this. Never raises."""
        return self.client.shutdown(timeout)

    @property
    def disabled(self) -> bool:
        """True makes every capture a no-op: no thread, no process, no file. May be set at any time.

        Setting it to True also drops the queue. Setting it to False opens nothing that a person closed.
        """
        return self.client.disabled

    @disabled.setter
    def disabled(self, disabled: bool) -> None:
        self.client.disabled = disabled

    @property
    def stats(self) -> Stats:
        """The fate of the events so far, in this process."""
        return self.client.stats

    def __repr__(self) -> str:
        client = self.client
        why = f" ({self._consent.reason})" if client.disabled and not self._consent.enabled else ""
        return f"<Telemetry {self.app!r}: {'off' if client.disabled else 'on'}{why}, host {client.host!r}>"

    def status(self) -> Report:
        """Say whether the next run will be measured, why, and under which id."""
        from atotelemetry.host import status  # not needed by a run, so not loaded by one

        return status.Report(status.status_text(self.known()))

    def known(self) -> dict[str, object]:
        """Return the facts behind `status`, as values."""
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

    def _person_and_properties(self, installation: str, parts: Parts, since: float | None) -> tuple[str, Any]:
        """Return the distinct id, and `duration` and `run_id` with the caller's properties, which win."""
        duration = 0.0 if since is None else time.perf_counter() - since
        person = installation
        parts = ({"duration": duration, "run_id": run_id()}, *parts)
        without: tuple[str, ...] = ()
        if self._identity is not None:
            signed_in, email = self._signed_in(self._identity)
            person = signed_in or person
            # Here the caller's property does not win.
            if email is None:
                without = ("email",)
            else:
                parts = (*parts, {"email": email})
        return person, load("atotelemetry.host.event").merged(*parts, without=without)

    def _signed_in(self, ask: Callable[[], str | tuple[str, str | None] | None]) -> tuple[str | None, str | None]:
        """Return the distinct id and the e-mail address of the person, asked anew: they may sign in during a run."""

        def answer() -> tuple[str | None, str | None]:
            found = ask()
            person, email = found if isinstance(found, tuple) else (found, None)
            return _text(person), _text(email)

        nobody: tuple[str | None, str | None] = (None, None)
        thread = get_ident()
        if thread in self._asking:
            # The function itself captured something (a handler of its log): asking it again would never end.
            return nobody
        self._asking.add(thread)
        try:
            # Also SystemExit ends here: a failed sign-in must not end the program from within a capture.
            return attempt(answer, default=nobody, why="the identity is not known: %r")
        finally:
            self._asking.discard(thread)

    def _installation(self) -> str | None:
        """Return the installation's random id, None if there is nothing to send.

        The first event of a first run creates the file that keeps the id. It also prints the notice, if one is due.
        """
        client = self.client
        if client.disabled:
            # No notice where nothing would ever be sent: without a key, or in a host's test suite.
            is_due = self._consent.mode == "waiting" and client.api_key and client.host and not client.switched_off
            if is_due and self._notice_given.acquire(False):
                watched = bool(self.made_with["report_crash"] or self.made_with["report_hang_after"])
                load("atotelemetry.host.notice").give(self.app, self._consent.path, self._notice, watched=watched)
            return None
        if self._consent.withdrawn:
            client.lock()
            return None
        if self._distinct_id is None:
            known = take_identity(self.app, self._consent)
            if known is None:
                client.lock()
                return None
            self.go_by(known)
        return self._distinct_id

    def go_by(self, installation: str | None) -> str | None:
        """Use this id for the installation, and to salt the project's id; None finds it later. Return the former."""
        before, self._distinct_id = self._distinct_id, installation
        if self.app != "atopile":
            # Before the first event, and so before any sender.
            self.client.stream.settings["salt"] = installation or ""
        return before


def _text(value: object) -> str | None:
    # Of a subclass of str, too, the characters.
    return (str.strip(str(value)) or None) if value is not None else None
