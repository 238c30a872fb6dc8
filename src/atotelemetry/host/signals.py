"""Keeps signals away from where the feeder's work is done: the host's own, and a SIGPIPE that would kill the host.

Runs in the host. SIGPIPE goes to the writing thread. Blocked there, the write just fails with EPIPE (signal(7),
pipe(7)).
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the built-in half of `signal`, in every interpreter

from atotelemetry.host.debug import attempt

__all__ = ["BrokenPipeIgnored", "block_signals"]


def block_signals() -> None:
    """Keep the host's signals for its own threads: here, one would not interrupt the main thread's system call."""
    if hasattr(signal, "pthread_sigmask"):  # Windows runs handlers on the main thread, and interrupts no other
        why, signals = "the feeder's signals stay unblocked: %r", signal.valid_signals()
        attempt(signal.pthread_sigmask, signal.SIG_BLOCK, signals, default=None, why=why)


class BrokenPipeIgnored:
    """Blocks SIGPIPE on a thread of the host's while it does the feeder's work."""

    def __enter__(self) -> None:
        self._is_held = hasattr(signal, "SIGPIPE") and attempt(_hold, default=False, why="SIGPIPE stays as it is: %r")

    def __exit__(self, *_: object) -> None:
        """Take a SIGPIPE of ours off the thread, then let others through again."""
        if self._is_held:
            attempt(_release, default=None, why="SIGPIPE stays blocked on this thread: %r")


def _hold() -> bool:
    """Block SIGPIPE; False if the host has done so."""
    return signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})


def _release() -> None:
    if signal.SIGPIPE in signal.sigpending():
        signal.sigwait({signal.SIGPIPE})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
