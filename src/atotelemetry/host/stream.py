"""The first and the last line of a sender's input.

Runs in the host, on the thread that feeds the sender. Holds nothing of the client, which may be forgotten before its
events are handed over.
"""

from __future__ import annotations

import os
from time import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.stats import Counts

__all__ = ["Stream"]


def _always() -> bool:
    return True


class Stream:
    """What one client's senders are told beside the events.

    `settings` are fields of `wire.Hello`, `properties` those that every event gets.
    """

    def __init__(self, settings: dict[str, Any], properties: dict[str, Any]) -> None:
        self.settings = settings
        self.properties = properties
        self.holds: Callable[[], bool] = _always
        """Whether the person still agrees. Asked on the thread that feeds, before events are written."""

    def hello(self) -> bytes:
        """Return the first line."""
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
        hello = wire.Hello(protocol=wire.PROTOCOL_VERSION, properties=msgspec.Raw(properties), cwd=cwd, **self.settings)
        return wire.encode(hello)

    def network_pause(self) -> float:
        """Return for how many seconds no sender should be started, because the network to the server fails."""
        from atotelemetry.facts import breaker

        return breaker.pause_left(self.settings["app"], self.settings["host"], time())

    def end(self, counts: Counts, *, discard: bool = False) -> bytes:
        """Return the last line; with `discard` it tells the sender to drop what it has not posted."""
        from atotelemetry import wire

        dropped = sum(counts.dropped.values())
        return wire.encode(wire.End(captured=counts.captured, dropped=dropped, discard=discard))
