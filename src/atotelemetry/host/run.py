"""One run of a program: an event at its beginning and one at its end, with command line and exit code.

Runs in the host, on the thread that runs the program.
"""

from __future__ import annotations

import os
import time

from atotelemetry.host.block import Capture, joined, named
from atotelemetry.host.command_line import CommandLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Literal

__all__ = ["Run"]


class Run(Capture):
    """A context manager and a decorator around a whole program. See `Telemetry.run`.

    Args:
        outcome: returns `exit_code` and `outcome` for an exit; None for a failure.
        is_off: whether nothing is captured.
        given: as for `Capture`. `event` is also given properties of ours, and `left` is called for failures only.

    """

    def __init__(
        self, outcome: Callable[[BaseException], dict[str, Any] | None], is_off: Callable[[], bool], *given: Any
    ) -> None:
        super().__init__(*given)
        self._outcome = outcome
        self._is_off = is_off

    def __enter__(self) -> dict[str, Any]:
        start, end = named(self._start), named(self._end)
        line = None if self._is_off() else CommandLine()
        self._event(start, self._properties, None, line.properties() if line else None)
        block: dict[str, Any] = {}
        self._entered.append((os.getpid(), end, time.perf_counter(), block, line))
        return block

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        process, end, entered, block, line = self._entered.pop()
        more: dict[str, Any] = {}
        if line is not None:
            line.stop()
            more = line.properties()
        properties = joined(self._properties, block)
        if error is None:
            code = block.get("exit_code", 0)
            more.update(exit_code=code, outcome="ok" if type(code) is int and code == 0 else "error")
        else:
            outcome = self._outcome(error)
            if outcome is None:
                self._left(error, end, properties, entered)
                outcome = {"exit_code": 1, "outcome": "error"}
            more.update(outcome)
        if os.getpid() == process:  # a child that was forked in the run and leaves it is not the run
            self._event(end, properties, entered, more)
        return False

    def returned(self, value: object) -> None:
        """Take a number that `main` returns for the exit code, as `sys.exit(main())` does. Click ignores it."""
        *_, block, line = self._entered[-1]
        if type(value) is int and line is not None and not line.is_inside:
            block.setdefault("exit_code", value)
