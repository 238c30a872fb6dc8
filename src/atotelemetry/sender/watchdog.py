"""Ends the process at its deadline, even if its other threads are stuck.

Runs in the sender. Two alarms. A thread still reports the events that were lost (`report_stuck`). Behind it a native
timer ends the process (`kill_after`). It needs neither Python nor the GIL: a library may hold the GIL for good, and the
report may hang on a dead network drive.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Countdown", "cancel_kill", "kill_after", "leave", "nowhere", "on_terminate"]

_LONGEST = 1e6  # eleven days; a lock has a longest wait (`threading.TIMEOUT_MAX`)
_LAST_WORDS = 1.0  # the last part of the time, or a fifth of a short one, is for reporting the losses


class Countdown:
    """The time left, once there is a limit. Shortly before, `report_stuck` is called, which should end the process."""

    def __init__(self, report_stuck: Callable[[], None]) -> None:
        self._report_stuck = report_stuck
        self._changed = threading.Condition()
        self._ends_at: float | None = None
        self._stopped = False

    def start(self, deadline: float) -> None:
        """End the process in `deadline` seconds. A later end than one already set is ignored. Never raises."""
        deadline = min(deadline, _LONGEST)
        reserve = min(_LAST_WORDS, deadline / 5)
        ends_at = time.monotonic() + deadline - reserve
        with self._changed:
            if self._ends_at is not None and self._ends_at <= ends_at:
                return
            self._ends_at = ends_at
            self._changed.notify_all()
        kill_after(deadline)
        try:
            threading.Thread(target=self._wait, args=(deadline - reserve / 2,), name="watchdog", daemon=True).start()
        except RuntimeError:
            return  # no thread: the process ends without a report

    def stop(self) -> None:
        """Leave no time from now on, because the person said no."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def left(self) -> float | None:
        """Seconds left for work, 0.0 when there are none; None while there is no limit."""
        ends_at = self._ends_at
        if self._stopped:
            return 0.0
        return None if ends_at is None else max(0.0, ends_at - time.monotonic())

    def pause(self, seconds: float, *, until_limited: bool = False) -> None:
        """Wait, but not beyond the time left, even if a limit is set meanwhile.

        With `until_limited`, do not wait beyond the moment in which the first limit is set.
        """
        until = time.monotonic() + seconds
        with self._changed:
            unlimited = self._ends_at is None
            while not self._stopped and not (until_limited and unlimited and self._ends_at is not None):
                ends_at = until if self._ends_at is None else min(until, self._ends_at)
                left = ends_at - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self._report_stuck()


def on_terminate(call: Callable[[], None]) -> None:
    """Call `call`, on a thread of its own, when SIGTERM comes. The signal ends the process no more.

    Call this before other threads are started: they inherit the blocked signal. A waiting thread gets the signal also
    while the main thread is in a system call, where no Python handler runs.
    """
    signal = _signal()
    if not hasattr(signal, "sigwait"):
        return

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        call()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        threading.Thread(target=wait, name="terminate", daemon=True).start()
    except RuntimeError:  # no thread to be had: the signal ends the process, as always
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def kill_after(seconds: float) -> None:
    """End the process with exit code 1 after so many seconds, even if Python is stuck. Replaces an earlier call.

    `faulthandler` waits on a native thread, which needs no interpreter lock, and leaves by `_exit(1)`. Never raises.
    """
    import faulthandler

    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere())
    except (RuntimeError, OSError, ValueError):
        _kill_by_alarm(seconds)  # no thread to be had, or nothing to write to


def cancel_kill() -> None:
    """Take back `kill_after`."""
    import faulthandler

    faulthandler.cancel_dump_traceback_later()
    if hasattr(_signal(), "setitimer"):
        _signal().setitimer(_signal().ITIMER_REAL, 0)


def _kill_by_alarm(seconds: float) -> None:
    """Kill the process after `seconds` by SIGALRM, which needs no thread. The exit status is that signal's."""
    signal = _signal()
    if hasattr(signal, "setitimer"):
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        except ValueError:
            pass  # on the reader's thread; it is the default unless the host ignored it
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _signal() -> Any:  # noqa: ANN401 - a module
    import signal

    return signal


def leave(code: int) -> NoReturn:
    """End the process at once, whatever its other threads do."""
    if sys.platform == "win32":
        import _winapi

        # Not by ExitProcess, as `os._exit` does: it may wait for ever for a lock of a thread that it has ended before.
        _winapi.TerminateProcess(_winapi.GetCurrentProcess(), code)
    os._exit(code)


def nowhere() -> int:
    """Return a descriptor for text that nobody wants to see."""
    global _null  # noqa: PLW0603 - one for the process; closing it would leave faulthandler with another file's
    if _null < 0:
        try:
            _null = os.open(os.devnull, os.O_WRONLY)
        except OSError:
            _null = os.pipe()[1]  # no null device in this container: a pipe that nobody reads takes as much
    return _null


_null = -1
