"""A small CLI that is measured: the model for one's own, and what `make demo` runs.

To see its events arrive: `atotelemetry serve` in one terminal, `python tests/demo/example.py` in another.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from atotelemetry import Telemetry
from atotelemetry.version import __version__


def main() -> int:
    """Build a board that does not exist; return the exit code."""
    # EXAMPLE_SERVICES_TELEMETRY_URL and EXAMPLE_TELEMETRY_API_KEY override what is built in, EXAMPLE_TELEMETRY=off
    # and DO_NOT_TRACK=1 say no.
    telemetry = Telemetry(
        app="example",
        app_version=__version__,
        api_key="phc_example",
        host="http://127.0.0.1:8000",
        notice=None,  # nobody reads it here; a CLI of one's own has one
        report_crash="--crashed" in sys.argv,  # with native extensions: True
    )
    telemetry.capture_event("cli:start", {"arguments": len(sys.argv) - 1})
    with telemetry.capture("build:start", "build:end", {"board": "blinky"}):
        parts = sum(number % 7 == 0 for number in range(100_000)) % 12 + 1  # its work
    print(f"built blinky, {parts} parts", flush=True)
    telemetry.capture_event("cli:end", {"parts": parts})
    if len(sys.argv) > 1:  # the demo's: an end at once after the last event was handed over
        while telemetry.client.stats.queued:
            time.sleep(0.001)
        if "--crashed" in sys.argv:
            crash()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return 0


def crash() -> None:
    """Read from address 0, as an extension module with a bug may do."""
    import ctypes

    ctypes.string_at(0)


if __name__ == "__main__":
    sys.exit(main())
