"""Writes the breaker's note: the network to this server failed, or works again.

Runs in the sender, on the threads of the lanes. See `facts/breaker.py`. Without a place for the note
there is no breaker.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from atotelemetry.facts import breaker
from atotelemetry.sender import reasons
from atotelemetry.sender.outcome import DELIVERED, STALE

if TYPE_CHECKING:
    from atotelemetry.sender.outcome import Outcome

__all__ = ["Breaker"]


class Breaker:
    """The note about one server. A failure counts only if it is this sender's first outcome."""

    def __init__(self, app: str, address: str) -> None:
        self._path = breaker.note_of(app, address)
        self._lock = threading.Lock()
        self._is_first = True
        self._is_well = False

    def note(self, outcome: Outcome) -> None:
        """Take an attempt's outcome. Never raises."""
        if self._path is None or self._is_well or outcome.kind == STALE:
            return
        with self._lock:  # a backlog's attempts end at the same time
            try:
                if outcome.kind == DELIVERED or reasons.is_an_answer(outcome.cause):
                    self._is_well = True
                    os.unlink(self._path)
                elif self._is_first and reasons.is_of_the_network(outcome.cause):
                    _write(self._path, breaker.encode(breaker.read(self._path)[0] + 1, time.time()))
            except (OSError, ValueError):
                pass  # none was there, or there is no place for it
            self._is_first = False


def _write(path: str, data: bytes) -> None:
    """Replace a file atomically; make its directory, and the cache if only that is missing."""
    directory = os.path.dirname(path)
    for needed in (os.path.dirname(directory), directory):
        try:
            os.mkdir(needed, 0o700)
        except FileExistsError:
            continue
    part = f"{path}.{os.getpid()}"
    try:
        with open(part, "xb") as file:
            file.write(data)
        os.replace(part, path)
    except OSError:
        os.unlink(part)
        raise
