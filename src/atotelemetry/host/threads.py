"""Threads and how long to wait for them.

Runs in the host, on any thread.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, get_ident
from time import sleep

from atotelemetry.host.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "Deadline",
    "Interrupted",
    "OutOfTime",
    "Work",
    "is_owned",
    "is_sub_interpreter",
    "reason_not_to_start_threads",
    "wait_for_end_of_thread",
]

_FOR_EVER = 1e6  # a longer timeout than a lock takes is for ever
_FORK_INSISTENCE = 2.0  # how long a fork waits for the work to stop anywhere; the machine may be busy


class Deadline:
    """One point in time for a wait of several steps. None means: wait for ever."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + min(max(0.0, timeout), _FOR_EVER)

    def remaining(self, at_most: float = -1.0) -> float:
        """Return the seconds left, at most `at_most`; 0.0 when it has passed, -1.0 for ever (as a lock's timeout)."""
        if self._end is None:
            return at_most
        left = max(0.0, self._end - monotonic())
        return left if at_most < 0 else min(left, at_most)

    def passed(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and monotonic() >= self._end


class Interrupted(Exception):
    """A fork wants the work. The next thread that has it goes on where it stopped."""


class OutOfTime(Exception):
    """The deadline passed while a sender's pipe was full."""


class Work:
    """The right to do the feeder's work: one thread at a time. A fork takes it, and gives it back.

    `qsize` tells how many events are queued.
    """

    def __init__(self, qsize: Callable[[], int]) -> None:
        self._lock = RLock()  # reentrant, because a signal handler may fork in the middle of the work
        self._qsize = qsize
        self.deadline: Deadline | None = None
        """When it must end; None on the feeder's own thread, which works for ever."""
        self._worker = 0  # the thread that does it; a fork only holds it
        self._forks = 0  # number of forks that have the work, or wait for it
        self._forker = 0  # the thread of the last fork
        self._insists_at = 0.0  # until then that fork lets the queue drain

    def acquire(self, timeout: float = -1.0) -> bool:
        """Take the work."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def begin(self, deadline: Deadline | None) -> None:
        """Note that this thread, which has the work, does it until a deadline."""
        assert self.is_mine()  # noqa: S101 - every change of the feeder's state relies on it
        self._worker, self.deadline = get_ident(), deadline

    def end(self) -> None:
        """Note that nobody does it."""
        self._worker = 0

    def within(self, seconds: float) -> float:
        """Return the seconds left until the deadline, at most `seconds`."""
        return seconds if self.deadline is None else self.deadline.remaining(seconds)

    def check(self) -> None:
        """Raise `OutOfTime` after the deadline, and `Interrupted` for a fork that no longer lets the queue drain."""
        if self.deadline is not None and self.deadline.passed():
            raise OutOfTime
        if self.fork_is_due() and (not self._qsize() or monotonic() > self._insists_at):
            raise Interrupted

    def is_done_here(self) -> bool:
        """Whether this thread does it, further up its stack."""
        return self._worker == get_ident()

    def fork_begins(self, patience: float) -> Deadline:
        """Ask for the work, for a fork on this thread; return the deadline of that wait."""
        if not (self._forker == get_ident() and self.is_forking()):
            self.recover()  # else a signal handler forks in the middle of a fork, which goes on afterwards
        self._forks += 1
        self._forker = get_ident()
        self._insists_at = monotonic() + patience
        return Deadline(patience + _FORK_INSISTENCE)

    def fork_ends(self) -> None:
        """Give the work back, if the fork got it in time."""
        if self.is_mine():
            self._lock.release()
        self._forks = max(0, self._forks - 1)

    def is_forking(self) -> bool:
        """Whether a thread forks, or waits to."""
        # Limited in time, because a signal handler that raises in the middle of a fork leaves it counted.
        return self._forks > 0 and monotonic() < self._insists_at + _FORK_INSISTENCE

    def fork_is_due(self) -> bool:
        """Whether another thread forks, or waits to."""
        return self._forker != get_ident() and self.is_forking()

    def recover(self) -> None:
        """Release the work if a fork on this thread did not: a signal handler may have raised in the middle of it."""
        while self.is_mine():
            self._lock.release()
            self._forks = 0

    def is_mine(self) -> bool:
        """Whether this thread has the work."""
        return is_owned(self._lock)


def is_owned(lock: Any) -> bool:  # noqa: ANN401 - an RLock, whose type has no public name
    """Whether this thread holds a reentrant lock."""
    owned: bool = lock._is_owned()  # noqa: SLF001 - as `threading.Condition` does
    return owned


def reason_not_to_start_threads() -> str:
    """Why no thread of ours can run beside the host, or an empty string.

    gevent and eventlet turn threads into coroutines. One that waits in C, as the feeder does for its queue, then stops
    the whole program.
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
        return _is_sub_interpreter_of_old()
    return not _is_main_interpreter()


def _is_sub_interpreter_of_old() -> bool:
    import _signal as signal  # type: ignore[import-not-found]

    try:
        signal.signal(0, signal.SIG_DFL)  # always refused: first outside of the main thread of the main interpreter
    except ValueError as error:
        if "out of range" in str(error):
            return False
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # costs more than all the rest

    return bool(interpreters.get_current() != interpreters.get_main())


def wait_for_end_of_thread(native_id: int) -> None:
    """Wait until the operating system has ended a thread: Python's warning at a fork asks it for a count."""
    entry = f"/proc/self/task/{native_id}"  # elsewhere the thread is as good as gone
    for _ in range(100):
        if not os.path.exists(entry):
            return
        sleep(0.0005)
