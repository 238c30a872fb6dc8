"""The answers of a sender to its host: that it reads, and the fate of the events.

Runs in the sender, on any thread. The pipe's write end does not block, so a sender never waits for its host. Counts are
cumulative, so a lost line is made good by the next one.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING

from atotelemetry.sender import reasons
from atotelemetry.wire import Outcome, Ready, encode

if TYPE_CHECKING:
    from atotelemetry.sender.tally import Tally
    from atotelemetry.wire import Answer

__all__ = ["Answers"]

_INTERVAL = 0.1  # while more events are on their way, nobody needs to know sooner
_LAST_TRIES = 10
_LAST_PAUSE = 0.01


class Answers:
    """Writes answers into a pipe (-1: by hand, to nobody). Never raises."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._rest = b""  # of a line that the pipe took only in part
        self._told_at = 0.0
        if pipe >= 0 and sys.platform != "win32":  # there the host saw to it
            os.set_blocking(pipe, False)

    def ready(self) -> None:
        """Answer that the sender reads its input."""
        self._write(Ready())

    def tell(self, tally: Tally) -> None:
        """Answer the counts so far; at most once in a moment while more events are on their way."""
        now = time.monotonic()
        if self._pipe < 0 or (tally.undecided and now < self._told_at + _INTERVAL):
            return
        self._told_at = now
        self._write(_outcome(tally, last=False))

    def last(self, tally: Tally) -> None:
        """Answer the final counts. Try for a moment when the pipe is full."""
        for _ in range(_LAST_TRIES):
            if self._write(_outcome(tally, last=True)):
                break
            time.sleep(_LAST_PAUSE)
        self._pipe = -1

    def _write(self, answer: Answer) -> bool:
        """Write an answer; return whether there is no more to do about it. A full pipe loses it."""
        if self._pipe < 0:
            return True
        line = encode(answer) + b"\n"
        try:
            if self._rest:
                self._rest = self._rest[os.write(self._pipe, self._rest) :]
            if not self._rest:
                self._rest = line[os.write(self._pipe, line) :]
                return not self._rest
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOSPC:  # Windows' word for a full pipe, before Python 3.12
                return False
            self._pipe = -1  # EPIPE: the host is gone
            return True
        return False


def _outcome(tally: Tally, *, last: bool) -> Outcome:
    dropped = dict(tally.lost)
    if tally.bad_lines:
        dropped[reasons.UNREADABLE] = tally.bad_lines
    return Outcome(delivered=tally.delivered, dropped=dropped, added=tally.added, last=last)
