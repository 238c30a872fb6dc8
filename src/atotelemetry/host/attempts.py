"""Whether a sender may be started now: failures in a row, pauses, and the end of all attempts.

Runs in the host, on the thread that has the feeder's work.
"""

from __future__ import annotations

import errno

from atotelemetry.host.clock import monotonic
from atotelemetry.host.debug import debug
from atotelemetry.host.spawn import CannotSpawn, start_sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.host.child import Sender
    from atotelemetry.host.stream import Stream

__all__ = ["MAX_FAILURES", "Attempts"]

MAX_FAILURES = 3
"""So many senders in a row that could not be started, or never read their input, end the attempts."""

_NO_SENDER = "no sender"
_NETWORK_DOWN = "network down"

_SHORTAGE_PAUSE = 10.0  # after so many attempts in vain for want of descriptors, processes or memory
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


class Attempts:
    """One client's attempts to start a sender. During a pause, events wait, and a flush drops them for its `reason`."""

    def __init__(self, stream: Stream, *, patient: bool) -> None:
        self._stream = stream
        self._insists = self._patient = patient
        self._failures = 0
        self._paused_until = 0.0
        self.reason = _NO_SENDER
        self.are_over = False
        """Whether no sender will be started any more."""

    def start(self, *, urgent: bool) -> tuple[Sender, bytes] | None:
        """Start a sender; return it and its first line. None when that failed, or a pause is not over."""
        if self._paused_until > monotonic():
            return None
        self._paused_until = 0.0
        try:
            pause = 0.0 if self._insists or urgent else self._stream.network_pause()
            if pause:
                debug("the network is down: no sender for %d s", pause)
                self._pause(_NETWORK_DOWN, pause)
                return None
            hello = self._stream.hello()
            watch = self._stream.last_words is not None
            return start_sender(urgent=urgent, watch=watch, dumps=self._stream.listen()), hello
        except CannotSpawn as error:
            self._give_up(str(error))
        except Exception as error:
            debug("no sender could be started: %s", error)
            self.failed(str(error), temporary=isinstance(error, OSError) and error.errno in _SHORTAGES)
        return None

    def are_pausing(self) -> bool:
        """Whether it makes no sense to try again at once."""
        return self._paused_until > 0

    def pause_left(self) -> float:
        """Return how many seconds a pause has left."""
        return max(0.0, self._paused_until - monotonic())

    def resume(self, *, insists: bool) -> None:
        """End a pause for a flush; one for a dead network only if the flush insists."""
        if insists or self.reason != _NETWORK_DOWN:
            self._paused_until = 0.0
            self._insists = insists or self._patient

    def insist_no_longer(self) -> None:
        """End the influence of a flush."""
        self._insists = self._patient

    def succeeded(self) -> None:
        """Note that a sender read its input."""
        self._failures = 0

    def failed(self, reason: str, *, temporary: bool) -> None:
        """Note that a sender could not be started, or never read its input."""
        self._failures += 1
        if self._failures < MAX_FAILURES:
            return
        if temporary:
            self._failures = 0
            self._pause(_NO_SENDER, _SHORTAGE_PAUSE)
        else:
            self._give_up(f"{self._failures} senders in a row failed: {reason}")

    def _pause(self, reason: str, seconds: float) -> None:
        self.reason, self._paused_until = reason, monotonic() + seconds

    def _give_up(self, reason: str) -> None:
        self.reason, self.are_over = _NO_SENDER, True
        debug("telemetry gave up: %s", reason)
