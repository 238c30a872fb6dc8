"""Telemetry for command-line programs that the person at the terminal never feels.

    from atotelemetry import Telemetry

    telemetry = Telemetry(app="mytool", api_key="phc_…", host="https://eu.i.posthog.com")

    @telemetry.run  # a pair of events for each run
    def main():
        with telemetry.capture("build_start", "build_end") as block:
            block["files"] = 12
        telemetry.capture_event("cache_hit", {"entries": 3})

`Telemetry` is one application: with consent, identity, and facts about the run. `TelemetryClient` is the layer below.
`capture`, `capture_event`, `capture_exception` and `client` belong to the default instance, atopile's.

The measured program (the *host*) encodes an event and puts it on a bounded queue; a feeder thread writes it into the
stdin pipe of a short-lived, detached child process (the *sender*), and the sender talks to the network:

    capture() ─encode─▶ bounded queue ─▶ feeder thread ══pipe══▶ sender: read ─▶ batch ─▶ POST ─▶ PostHog

The folders are the processes: `host/` runs inside the CLI, `sender/` in the child, `command/` when a person calls
`atotelemetry`; `wire.py` defines the lines in the pipe. Names are resolved at their first use, so this import takes
about a millisecond.
"""

from __future__ import annotations

import atexit
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.facts import WORKER_WAKE_INTERVAL
    from atotelemetry.facts.run import RUN_PROPERTIES
    from atotelemetry.host.arguments import CaptureArgs
    from atotelemetry.host.client import TelemetryClient
    from atotelemetry.host.consent import TelemetryConfig
    from atotelemetry.host.default import capture, capture_event, capture_exception, client
    from atotelemetry.host.properties import PropertyLoaders, TelemetryProperties, ThinProperties
    from atotelemetry.host.stats import Stats
    from atotelemetry.host.telemetry import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, PH_API_ENDPOINT, PH_API_HOST, Telemetry
    from atotelemetry.version import __version__ as __version__

__all__ = [
    "DEFAULT_QUEUE_SIZE",
    "FLUSH_TIMEOUT",
    "PH_API_ENDPOINT",
    "PH_API_HOST",
    "RUN_PROPERTIES",
    "WORKER_WAKE_INTERVAL",
    "CaptureArgs",
    "PropertyLoaders",
    "Stats",
    "Telemetry",
    "TelemetryClient",
    "TelemetryConfig",
    "TelemetryProperties",
    "ThinProperties",
    "capture",
    "capture_event",
    "capture_exception",
    "client",
]

# The modules of the public names. Each is imported when one of its names is first used.
_MODULES = {
    "atotelemetry.facts": ("WORKER_WAKE_INTERVAL",),
    "atotelemetry.facts.run": ("RUN_PROPERTIES",),
    "atotelemetry.host.arguments": ("CaptureArgs",),
    "atotelemetry.host.client": ("TelemetryClient",),
    "atotelemetry.host.consent": ("TelemetryConfig",),
    "atotelemetry.host.default": ("capture", "capture_event", "capture_exception", "client"),
    "atotelemetry.host.properties": ("PropertyLoaders", "TelemetryProperties", "ThinProperties"),
    "atotelemetry.host.stats": ("Stats",),
    "atotelemetry.host.telemetry": (
        "DEFAULT_QUEUE_SIZE",
        "FLUSH_TIMEOUT",
        "PH_API_ENDPOINT",
        "PH_API_HOST",
        "Telemetry",
    ),
    "atotelemetry.version": ("__version__",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def _hand_over_at_exit() -> None:
    """Hand over the captured events, if there are any."""
    process = sys.modules.get("atotelemetry.host.process")
    if process is not None:
        process.flush_all_at_exit()


# Here, and not where the first client is made, because the last hook is called first: so events of hooks
# that the host registered after this import still arrive.
atexit.register(_hand_over_at_exit)


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(home)  # `importlib.import_module` would first have to be imported itself
    value = getattr(sys.modules[home], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for `dir`, shells and `pydoc`."""
    return sorted(_HOMES)
