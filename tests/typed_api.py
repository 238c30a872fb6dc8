"""Typed calls of the public interface: checked by the type checker (`make types`) and never run.

What stands here must type-check; a line with `# type: ignore[…]` must not, or the checker complains that the comment is
unused. So a change of a public type shows here first.
"""

from __future__ import annotations

import asyncio
import datetime
import uuid
from typing import Any, assert_type

import atotelemetry
from atotelemetry import (
    DEFAULT_QUEUE_SIZE,
    FLUSH_TIMEOUT,
    PH_API_ENDPOINT,
    PH_API_HOST,
    RUN_PROPERTIES,
    WORKER_WAKE_INTERVAL,
    CaptureArgs,
    PropertyLoaders,
    Stats,
    Telemetry,
    TelemetryClient,
    TelemetryConfig,
    TelemetryProperties,
    ThinProperties,
    capture,
    capture_event,
    capture_exception,
    client,
)
from atotelemetry.command import telemetry_command
from atotelemetry.testing import Answer, CaptureServer, RecordedRequest

whole: int = DEFAULT_QUEUE_SIZE
seconds: float = FLUSH_TIMEOUT + WORKER_WAKE_INTERVAL
text: str = PH_API_HOST + PH_API_ENDPOINT
assert_type(atotelemetry.__version__, str)
assert_type(client, TelemetryClient)


def clients() -> None:
    """Check the client's constructor and methods."""

    def keep(event: dict[str, Any]) -> dict[str, Any] | None:
        return event if event["event"] else None

    made = TelemetryClient("key", "https://eu.i.posthog.com")
    made = TelemetryClient(
        "key",
        "https://eu.i.posthog.com",
        app="tool",
        app_version="1.2",
        queue_size=DEFAULT_QUEUE_SIZE,
        before_send=keep,
        endpoint="batch",
        protocol="v1",
        disable_geoip=False,
        historical_migration=True,
        compression=None,
        max_retries=2,
        request_timeout=1.5,
        sender_deadline=10,
        properties={"edition": "free"},
        run_properties=("email",),
        in_app=("mytool",),
        source_lines=False,
        scrub=("argv",),
    )
    assert_type(made.disabled, bool)
    made.disabled = True

    assert_type(made.capture("built"), str | None)
    made.capture("built", distinct_id="me", properties={"n": 1}, context={"k": [1]}, uuid=uuid.uuid4())
    made.capture("built", distinct_id=uuid.uuid4(), timestamp=datetime.datetime.now(datetime.UTC), uuid="text")
    made.capture("built", distinct_id=7, timestamp="2026-01-02T03:04:05Z", options={"cookieless_mode": True})
    assert_type(made.capture_exception(), str | None)
    made.capture_exception(ValueError("x"), distinct_id="me", properties={"n": 1}, handled=False)
    assert_type(made.flush(), bool)
    assert_type(made.flush(None, delivered=True), bool)
    assert_type(made.flush(timeout=FLUSH_TIMEOUT), bool)
    assert_type(made.shutdown(1.0), bool)

    stats = made.stats
    assert_type(stats, Stats)
    assert_type(stats.captured + stats.handed_over + stats.dropped + stats.queued, int)
    assert_type(stats.dropped_by_reason, dict[str, int])

    made.capture()  # type: ignore[call-arg]
    made.capture("built", "me")  # type: ignore[call-arg]
    made.capture("built", properties=["no mapping"])  # type: ignore[arg-type]
    made.capture("built", colour="red")  # type: ignore[call-arg]
    made.flush("soon")  # type: ignore[arg-type]
    made.stats = stats  # type: ignore[misc]
    TelemetryClient("key")  # type: ignore[call-arg]
    TelemetryClient("key", "host", before_send=lambda: None)  # type: ignore[arg-type, misc]


def wrapper(event: str, **arguments: Any) -> None:
    """Check a wrapper that passes keywords on."""
    known: CaptureArgs = {"distinct_id": "me", "properties": {"n": 1}}
    wrong: CaptureArgs = {"colour": "red"}  # type: ignore[typeddict-unknown-key]
    del wrong, arguments
    client.capture(event, distinct_id=known.get("distinct_id"), properties=known.get("properties"))


@capture("build_start", "build_end")
def build(target: str, *, fast: bool = False) -> int:
    """Check that a decorated function keeps its signature."""
    return len(target) if fast else 0


@capture("fetch_start", "fetch_end", {"n": 1})
async def fetch(url: str) -> bytes:
    """Check that a decorated coroutine function does, too."""
    return url.encode()


def application() -> None:
    """Check the application's layer, as atopile uses it."""
    assert_type(build("a", fast=True), int)
    build(7)  # type: ignore[arg-type]
    build("a", slow=True)  # type: ignore[call-arg]

    with capture("start", "end"):
        pass
    with capture("start", "end", properties={"n": 1}) as block:
        assert_type(block, dict[str, Any])
    assert_type(capture_event("built", {"n": 1}, flush=True), str | None)
    assert_type(capture_event("built"), str | None)
    assert_type(capture_exception(ValueError("x"), {"n": 1}), str | None)
    capture_event("built", None, True)  # type: ignore[call-arg]

    own = Telemetry(app="tool", api_key="key", host="https://example.invalid", run_properties=("email",), queue_size=9)
    assert_type(own.client, TelemetryClient)
    own.client.disabled = True
    assert_type(own.disabled, bool)
    own.disabled = True
    assert_type(own.stats, Stats)
    assert_type(own.flush(1.0, delivered=True), bool)
    assert_type(own.shutdown(), bool)
    with own.capture("start", "end"):
        own.capture_event("built", {"n": 1})
        own.capture_exception(ValueError("x"))


own = Telemetry(app="tool")


@own.run
def main(arguments: list[str] | None = None) -> int:
    """Check that a decorated program keeps its signature."""
    return len(arguments or [])


@own.run(start="tool:start", end=lambda: "tool:end", properties={"n": 1})
async def service(port: int) -> None:
    """Check that it does, too, with arguments of ours."""


async def runs() -> None:
    """Check a run as a context manager and as a decorator."""
    assert_type(main(["a"]), int)
    assert_type(await service(port=1), None)
    with own.run() as run:
        assert_type(run, dict[str, Any])
        run["files"] = 12
    with own.run(start="a", end="b"):
        pass
    main("a")  # type: ignore[arg-type]
    own.run("cli")  # type: ignore[call-overload]
    own.run(name="cli")  # type: ignore[call-overload]


def options() -> None:
    """Check that an option that is misspelt, or of a wrong kind, is found before the program runs."""
    Telemetry(app="tool", app_version="1.2", properties={"edition": "free"}, sample_rate=0.25, protocol="v1")
    Telemetry(app="tool", run_properties=[*RUN_PROPERTIES, "project"], before_send=lambda event: event, notice=None)
    Telemetry(app="tool", on_error=lambda reason, count: None, compression=False, patient=True, scrub=["argv"])
    Telemetry("tool")  # type: ignore[call-arg]
    Telemetry()  # type: ignore[call-arg]
    Telemetry(app="tool", queue_sise=5)  # type: ignore[call-arg]
    Telemetry(app="tool", before_send=5)  # type: ignore[arg-type]
    Telemetry(app="tool", compression="gzip")  # type: ignore[arg-type]
    Telemetry(app="tool", endpoint="both")  # type: ignore[arg-type]
    Telemetry(app="tool", sample_rate="half")  # type: ignore[arg-type]
    Telemetry(app="tool", properties=["edition"])  # type: ignore[arg-type]


async def asynchronous() -> None:
    """Check the decorated coroutine, and the hooks."""
    assert_type(await fetch("x"), bytes)
    telemetry = Telemetry(app="tool", ignore=(KeyError, KeyboardInterrupt), report_uncaught=True)
    telemetry.install_hooks()
    telemetry.install_hooks(asyncio.get_running_loop())
    telemetry.uninstall_hooks()
    Telemetry(app="tool", ignore=KeyError)  # type: ignore[arg-type]
    Telemetry(app="tool", report_crash=True, report_hang_after=300)
    Telemetry(app="tool", report_crash="tool_died", report_hang_after=None)
    Telemetry(app="tool", report_crash=None)  # type: ignore[arg-type]
    Telemetry(app="tool", report_hang_after="300")  # type: ignore[arg-type]


def returned_from_inside() -> int:
    """Check that a `with` around a return is known not to swallow exceptions."""
    with capture("start", "end"):
        return 1


def identity() -> None:
    """Check the configuration and the properties of a run."""
    config = TelemetryConfig(telemetry=True, id=uuid.uuid4())
    assert_type(config.id, uuid.UUID)
    assert_type(TelemetryConfig.load(), TelemetryConfig)
    known = TelemetryProperties()
    assert_type(known.prepare({"n": 1}), dict[str, Any])
    assert_type(known.run_id, str)
    assert_type(known.email, str | None)
    assert_type(PropertyLoaders, type[PropertyLoaders])
    thin = ThinProperties(extra={"n": 1})
    assert_type(thin.dump(), dict[str, Any])
    assert_type(TelemetryProperties(thin=thin).dump(), dict[str, Any])
    Telemetry()  # type: ignore[call-arg]
    Telemetry(app="tool", in_ci=True, notice=None)
    Telemetry(app="tool", notice="Hello")
    Telemetry(app="tool", notice=True)
    Telemetry(app="tool", notice=5)  # type: ignore[arg-type]
    own = Telemetry(app="tool")
    assert_type(own.status().text, str)
    assert_type(own.enable().exit_code, int)
    assert_type(own.disable().exit_code, int)
    assert_type(telemetry_command(["status"], own), int)
    Telemetry(app="tool", identity=lambda: "me", run_properties=(*RUN_PROPERTIES, "project"))
    Telemetry(app="tool", identity=lambda: ("me", None))
    Telemetry(app="tool", identity=lambda: None)
    Telemetry(app="tool", identity=lambda: 5)  # type: ignore[arg-type,return-value]
    with capture(lambda: "start", lambda: "end"):
        pass


def testing() -> None:
    """Check what users' tests use."""

    def choose(request: RecordedRequest) -> Answer:
        return Answer(status=503 if request.path == "/batch/" else 200)

    with CaptureServer() as server:
        assert_type(server.url, str)
        assert_type(server.events, list[dict[str, Any]])
        assert_type(server.wait_for_events(1, timeout=2.0), list[dict[str, Any]])
        assert_type(server.wait_for_crash(timeout=2.0), dict[str, Any])
        assert_type(server.requests, list[RecordedRequest])
        server.respond(choose)
        server.script(Answer(status=429, headers=[("Retry-After", "1")]), Answer(reset=True), choose)
        server.respond()
