"""Reports exceptions that nothing caught: hooks into `sys`, `threading` and asyncio.

Runs in the host, on the thread of the exception; loaded only where hooks are wanted. Each hook reports, then calls the
hook before it, so the person still sees the traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

__all__ = ["Hooks"]


class Hooks:
    """The hooks of one `Telemetry`.

    Args:
        report: called with an exception that nothing caught; never raises.

    """

    def __init__(self, report: Callable[[BaseException | None], object]) -> None:
        self._report = report
        self._installed: list[tuple[Any, str, Any, Any]] = []  # owner, name, our hook, the former hook
        self._loops: list[tuple[asyncio.AbstractEventLoop, Any, Any]] = []

    def install(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Install the hooks that are not installed yet; asyncio's for `loop`."""
        import threading  # where it is not loaded yet, its hook must be there before the first thread

        if not self._installed:
            self._chain(sys, "excepthook", lambda _kind, error, _traceback: error)
            for owner, name in ((threading, "excepthook"), (sys, "unraisablehook")):
                self._chain(owner, name, lambda args: args.exc_value)
        if loop is not None and all(known is not loop for known, _, _ in self._loops):
            before = loop.get_exception_handler()
            handler = self._in_loop(before)
            loop.set_exception_handler(handler)
            self._loops.append((loop, handler, before))

    def uninstall(self) -> None:
        """Put back the hooks that were there before, where ours is still in place."""
        installed, self._installed = self._installed, []
        for owner, name, hook, before in installed:
            if getattr(owner, name) is hook:
                setattr(owner, name, before)
        loops, self._loops = self._loops, []
        for loop, handler, previous in loops:
            if loop.get_exception_handler() is handler:
                loop.set_exception_handler(previous)

    # Another library may have chained one of ours meanwhile. It then stays in place and only passes on.

    def _chain(self, owner: Any, name: str, exception_of: Callable[..., BaseException | None]) -> None:
        before = getattr(owner, name)

        def hook(*args: Any) -> None:
            try:
                if self._installed:
                    self._report(exception_of(*args))
            finally:  # Ctrl-C while it reports must not cost the traceback
                before(*args)

        self._installed.append((owner, name, hook, before))
        setattr(owner, name, hook)

    def _in_loop(self, before: Any) -> Any:
        def exception_handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            try:
                if any(known is loop for known, _, _ in self._loops):
                    self._report(context.get("exception"))
            finally:
                if before is None:
                    loop.default_exception_handler(context)
                else:
                    before(loop, context)

        return exception_handler
