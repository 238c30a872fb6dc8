"""The end of the process at the deadline, whatever the rest of it is stuck in.

Runs in the sender. Two alarms: a thread that still says what was lost (*bark*), and behind it one that needs neither
Python nor its lock (*bite*): a library that holds the interpreter lock for good, a log on a dead network drive and a
stderr that nobody reads are no reason to live on.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Countdown", "bite_after", "hold"]

_LONGEST = 1e6  # more than eleven days is for ever, and more than a lock can wait
_LAST_WORDS = 0.5  # kept of the time, or a fifth of a short one: to give up in good order and say what was lost


class Countdown:
    """The time that is left, once the input has ended; before that there is no limit.

    Args:
        on_stuck: called shortly before the deadline if the process is still there; should end it.

    """

    def __init__(self, on_stuck: Callable[[], None]) -> None:
        self._on_stuck = on_stuck
        self._changed = threading.Condition()
        self._ends_at: float | None = None

    def start(self, deadline: float) -> None:
        """From here on the process has `deadline` seconds to live. Only the first call counts. Never raises."""
        deadline = min(deadline, _LONGEST)
        reserve = min(_LAST_WORDS, deadline / 5)
        with self._changed:
            if self._ends_at is not None:
                return
            self._ends_at = time.monotonic() + deadline - reserve
            self._changed.notify_all()
        bite_after(deadline)
        try:
            threading.Thread(target=self._bark, args=(deadline - reserve / 2,), name="watchdog", daemon=True).start()
        except RuntimeError:
            return  # no thread to be had: the end comes without a word

    def left(self) -> float | None:
        """Seconds left for work, 0.0 when there are none; None while the input goes on."""
        ends_at = self._ends_at
        return None if ends_at is None else max(0.0, ends_at - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the time that is left, even if the countdown starts meanwhile."""
        until = time.monotonic() + seconds
        with self._changed:
            while True:
                ends_at = until if self._ends_at is None else min(until, self._ends_at)
                left = ends_at - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _bark(self, after: float) -> None:
        time.sleep(after)
        self._on_stuck()


def bite_after(seconds: float) -> None:
    """End the process, with exit code 1, after so many seconds, even if Python is stuck; replaces an earlier call.

    `faulthandler` waits on a native thread of its own, which needs no interpreter lock, and leaves by `_exit(1)`.
    Never raises.
    """
    import faulthandler

    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())
    except (RuntimeError, OSError, ValueError):
        _bite_by_alarm(seconds)  # no thread to be had, or nothing to write to


def hold() -> None:
    """Call off `bite_after`."""
    import faulthandler

    faulthandler.cancel_dump_traceback_later()
    if hasattr(_signal(), "setitimer"):
        _signal().setitimer(_signal().ITIMER_REAL, 0)


def _bite_by_alarm(seconds: float) -> None:
    """Do the same by a signal that nobody handles, which needs no thread; the exit status is that signal's."""
    signal = _signal()
    if hasattr(signal, "setitimer"):
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        except ValueError:
            pass  # on the reader's thread; it is the default unless the host ignored it
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _signal() -> Any:
    import signal

    return signal


def _nowhere() -> int:
    """Return a descriptor that takes the traceback which comes with the bite, and which nobody wants to see."""
    global _null  # noqa: PLW0603 - one for the process; closing it would leave faulthandler with somebody else's
    if _null < 0:
        try:
            _null = os.open(os.devnull, os.O_WRONLY)
        except OSError:
            _null = os.pipe()[1]  # no null device in this container: a pipe that nobody reads takes as much
    return _null


_null = -1
