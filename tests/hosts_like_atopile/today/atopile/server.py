"""`ato serve`: a server that ends with its event loop, and cleans up on the way out."""

from __future__ import annotations

import asyncio
import signal
import sys

from atopile.telemetry import telemetry


async def serve(*, crash):
    """Serve until SIGTERM, or until a task in the background fails; return the exit code."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, ended.set_result, None)
    loop.set_exception_handler(lambda _, context: ended.set_exception(context["exception"]))
    if crash:
        loop.call_soon(lambda: 1 // 0)
    print("serving", flush=True)
    try:
        await ended
    except Exception as error:
        telemetry.capture_exception(error)
        return 1
    finally:
        telemetry.Telemetry.get().flush()
    return 0


def main(*, crash):
    """Run the server."""
    with telemetry.capture(lambda: "cli:serve_core_start", lambda: "cli:serve_core_end", {"port": 0}):
        code = asyncio.run(serve(crash=crash))
    if code:
        sys.exit(code)
