"""Threads and how long to wait for them.

Runs in the host, on any thread.
"""

from __future__ import annotations

import os
import sys
from time import sleep

from atotelemetry.host.clock import monotonic

__all__ = ["Deadline", "is_sub_interpreter", "reason_not_to_start_threads", "wait_for_end_of_thread"]

_FOR_EVER = 1e6  # a longer timeout than a lock takes is for ever


class Deadline:
    """One point in time that spans a wait of several steps. None means: wait for ever."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + min(max(0.0, timeout), _FOR_EVER)

    def remaining(self, at_most: float = -1.0) -> float:
        """Seconds left, 0.0 when it has passed, -1.0 for ever (what a lock's timeout takes); no more than `at_most`."""
        if self._end is None:
            return at_most
        left = max(0.0, self._end - monotonic())
        return left if at_most < 0 else min(left, at_most)

    def passed(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and monotonic() >= self._end


def reason_not_to_start_threads() -> str:
    """Why no thread of ours can run beside the host, or an empty string.

    Where gevent or eventlet have turned threads into coroutines, one that waits in C, as the feeder does for its queue,
    stops the whole program.
    """
    for library, is_patched, part in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        module = sys.modules.get(library)
        if module is not None and getattr(module, is_patched)(part):
            return f"{library.partition('.')[0]} has replaced the threads"
    return ""


def is_sub_interpreter() -> bool:
    """Whether this is not the main interpreter of the process.

    One that has a thread when it ends takes the whole process with it.
    """
    try:
        from _thread import _is_main_interpreter  # type: ignore[attr-defined]
    except ImportError:  # before Python 3.12
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

        return bool(interpreters.get_current() != interpreters.get_main())
    return not _is_main_interpreter()


def wait_for_end_of_thread(native_id: int) -> None:
    """Wait until the operating system has ended a thread, too; it counts threads for Python's warning at a fork."""
    entry = f"/proc/self/task/{native_id}"  # elsewhere the thread is as good as gone
    for _ in range(100):
        if not os.path.exists(entry):
            return
        sleep(0.0005)
