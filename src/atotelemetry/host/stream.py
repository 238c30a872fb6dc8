"""The lines of a sender's input beside the events.

Runs in the host, on the thread that has the work. Refers to nothing of the client: a forgotten client is gone before
its events are handed over.
"""

from __future__ import annotations

import os
import sys
from time import time

from atotelemetry.host.process import is_multiprocessing_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.last_words import LastWords
    from atotelemetry.host.stats import Counts

__all__ = ["Stream"]

# An executable archive may put every package into a directory of its own.
_MAX_PATH_ENTRIES = 500


class Stream:
    """The messages to one client's senders beside the events.

    `settings` are fields of `wire.Hello`; every event gets `properties`.
    """

    def __init__(self, settings: dict[str, Any], properties: dict[str, Any]) -> None:
        self.settings = settings
        self.properties = properties
        self.patient: bool = settings["patient"]
        """Whether a sender that holds events is not ended while the host lives."""
        self.holds: Callable[[], bool] = lambda: True
        """Whether the person still agrees. Asked before events are written."""
        self.last_words: LastWords | None = None
        """The reports of the host's end. With any, a sender listens as long as the host lives."""

    def hello(self) -> bytes:
        """Return the first line; for a watched child of `multiprocessing`, with the mark of a fork."""
        import msgspec

        from atotelemetry import wire

        properties = b"{}"
        if self.properties:
            from atotelemetry.host.event import encode_common

            properties = encode_common(self.properties)
        try:
            cwd = os.getcwd().encode("utf-8", "replace").decode()
        except OSError:
            cwd = None
        hello = wire.Hello(
            protocol=wire.PROTOCOL_VERSION,
            properties=msgspec.Raw(properties),
            cwd=cwd,
            search_path=_search_path(),
            is_tty=os.isatty(1),
            watch=None if self.last_words is None else wire.Watch(**self.last_words.watch()),
            **self.settings,
        )
        line = wire.encode(hello)
        if self.last_words is not None and is_multiprocessing_child():
            # A pool, or the exit of the parent, ends it by SIGTERM. That is not to be reported.
            line += b"\n" + self.forked()
        return line

    def listen(self) -> int:
        """Return the pipe of the host's dumps for the next sender; -1 where there is none."""
        return -1 if self.last_words is None else self.last_words.listen()

    def mute(self) -> None:
        """Let dumps go nowhere until the next sender listens."""
        if self.last_words is not None:
            self.last_words.mute()

    def watch_no_longer(self) -> None:
        """Leave `faulthandler` to others: no further event will come."""
        if self.last_words is not None:
            self.last_words.disable()

    def network_pause(self) -> float:
        """Return for how many seconds to start no sender, because the network to the server fails."""
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(cache):
            cache = os.path.join(os.path.expanduser("~"), ".cache")
        if not os.path.isdir(os.path.join(cache, self.settings["app"])):
            return 0.0  # the network never failed: nothing to load
        from atotelemetry.facts import breaker

        return breaker.pause_left(self.settings["app"], self.settings["host"], time())

    def forked(self) -> bytes:
        """Return the line that tells of a fork."""
        from atotelemetry import wire

        return wire.encode(wire.Forked())

    def end(self, counts: Counts, *, discard: bool = False) -> bytes:
        """Return the last line; with `discard` the sender drops all unposted events."""
        from atotelemetry import wire

        dropped = sum(counts.dropped.values())
        return wire.encode(wire.End(captured=counts.captured, dropped=dropped, discard=discard))


def _search_path() -> tuple[str, ...]:
    """Return the import path with absolute entries: the sender has another working directory."""
    found = []
    for entry in sys.path[:_MAX_PATH_ENTRIES]:
        try:
            found.append(os.path.abspath(entry).encode("utf-8", "strict").decode())
        except (OSError, TypeError, ValueError):
            continue  # no text, not in UTF-8, or relative to a deleted directory
    return tuple(found)
