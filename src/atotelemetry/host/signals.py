"""Keeps signals away from where the feeder's work is done: the host's own, and a SIGPIPE that would kill the host.

Runs in the host. SIGPIPE goes to the writing thread. Blocked there, the write just fails with EPIPE (signal(7),
pipe(7)).
"""

from __future__ import annotations

from atotelemetry.host.debug import debug

__all__ = ["BrokenPipeIgnored", "block_signals"]


def block_signals() -> None:
    """Keep the host's signals for its own threads: here, one would not interrupt the main thread's system call."""
    try:
        # The built-in half of `signal`, which every interpreter has loaded: nothing to wait for, see `_wait_writable`.
        import _signal as signal  # type: ignore[import-not-found]

        if hasattr(signal, "pthread_sigmask"):  # Windows runs handlers on the main thread, and interrupts no other
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    except Exception as error:
        debug("the feeder's signals stay unblocked: %s", error)


class BrokenPipeIgnored:
    """Holds SIGPIPE back on a thread of the host's while it does the feeder's work, and takes it off again after."""

    def __init__(self) -> None:
        self._signal = None
        self._was_blocked = True
        try:
            import _signal as signal  # as in `block_signals`

            if hasattr(signal, "SIGPIPE"):
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
                self._signal = signal
                self._was_blocked = signal.SIGPIPE in before
        except Exception as error:
            debug("SIGPIPE stays as it is: %s", error)

    def restore(self) -> None:
        """Take a SIGPIPE of ours off the thread, then let others through again."""
        signal = self._signal
        if signal is None or self._was_blocked:
            return
        try:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
        except Exception as error:
            debug("SIGPIPE stays blocked on this thread: %s", error)
