"""Telemetry for command-line programs that the person at the terminal never feels.

The measured program (the *host*) encodes an event and puts it on a bounded queue; a feeder thread writes it into the
stdin pipe of a short-lived, detached child process (the *sender*), and that one talks to the network:

    capture() ─encode─▶ bounded queue ─▶ feeder thread ══pipe══▶ sender: read ─▶ batch ─▶ POST ─▶ PostHog

The folders are the processes: `host/` runs inside the CLI, `sender/` in the child, `command/` when a person calls
`atotelemetry`; `wire.py` is what crosses the pipe. Names are resolved when they are first used, so that importing this
package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.host.client import DEFAULT_QUEUE_SIZE as DEFAULT_QUEUE_SIZE
    from atotelemetry.host.client import FLUSH_TIMEOUT as FLUSH_TIMEOUT
    from atotelemetry.host.client import Stats as Stats
    from atotelemetry.host.client import TelemetryClient as TelemetryClient

__version__ = "0.1.0"

# Where each public name lives.
_HOMES = {
    "DEFAULT_QUEUE_SIZE": "atotelemetry.host.client",
    "FLUSH_TIMEOUT": "atotelemetry.host.client",
    "Stats": "atotelemetry.host.client",
    "TelemetryClient": "atotelemetry.host.client",
}

__all__ = ["DEFAULT_QUEUE_SIZE", "FLUSH_TIMEOUT", "Stats", "TelemetryClient"]


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
