"""The default instance, atopile's: the module-level names of the package.

Runs in the host, on the thread that captures. The instance is made at the first use of one of the names and not before.
If several threads make it at once, `dict.setdefault` decides. No lock: a signal handler could interrupt its holder.
"""

from __future__ import annotations

from atotelemetry.host.client import FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.host.consent import Consent
from atotelemetry.host.debug import debug
from atotelemetry.host.telemetry import Telemetry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from atotelemetry.host.block import Capture

    client: TelemetryClient

__all__ = ["capture", "capture_event", "capture_exception", "client"]


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
    """Return the default instance, made at the first call; on any error one that is off."""
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
    """Hand over the default instance's events, within FLUSH_TIMEOUT, and disable it.

    The package does so at interpreter exit. This is for a host that ends in another way.
    """
    for telemetry in list(_defaults.values()):
        telemetry.client.shutdown(FLUSH_TIMEOUT)


def capture(
    event_start: str | Callable[[], str],
    event_end: str | Callable[[], str],
    properties: Mapping[str, Any] | None = None,
) -> Capture:
    """Capture the beginning and the end of a block; see `Telemetry.capture`."""
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
