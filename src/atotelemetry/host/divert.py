"""Events that go to a function instead of to a sender: log mode, `atotelemetry show`, and tests.

Runs in the host, on the thread that captures. An ordinary run does not import this.
"""

from __future__ import annotations

import sys

from atotelemetry.facts.text import printable
from atotelemetry.host.debug import debug
from atotelemetry.host.lazy import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.client import TelemetryClient
    from atotelemetry.host.feeder import Feeder

__all__ = ["divert", "read_event", "show_on_stderr"]

_UNMASKED = "shown unmasked: home directories and secrets are masked before an exception is sent"


class _Diversion:
    """Stands in a client where the feeder does, and gives each event's line to a function."""

    refusal = "not taken"

    def __init__(self, feeder: Feeder, take: Callable[[bytes], object]) -> None:
        self._feeder = feeder
        self._take = take

    def put(self, line: bytes) -> bool:
        """Give the line away."""
        try:
            self._take(line)
        except Exception as error:
            debug("an event went nowhere: %r", error)
            return False
        self._feeder.counts.handed_over += 1
        return True

    def fate(self) -> tuple[int, dict[str, int]]:
        """Return the counts as `Feeder.fate` does: each event that was taken has arrived."""
        return self._feeder.counts.handed_over, {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a feeder has
        """Leave the rest to the feeder, which has nothing to do."""
        return getattr(self._feeder, name)


def divert(client: TelemetryClient, take: Callable[[bytes], object]) -> Callable[[], None]:
    """Give every event of `client` to `take`, as its line for the sender, and start no sender.

    Needs no key and no consent: nothing is sent. `take` is called on the thread that captures. An exception in it loses
    the event, no more. Returns a function that ends the diversion.
    """
    return client.divert(lambda feeder: _Diversion(feeder, take))


def read_event(client: TelemetryClient, line: bytes) -> dict[str, Any]:
    """Return the event in a diverted line, with the properties of the hello."""
    decode = load("atotelemetry.wire").decode_json
    event: dict[str, Any] = decode(line)
    hello = decode(client.stream.hello())
    event["properties"] = {**hello.get("properties", {}), **event["properties"]}
    return event


def show_on_stderr(client: TelemetryClient) -> None:
    """Print every event of `client` on stderr, with the properties of the hello."""
    stream = client.stream

    def show(line: bytes) -> None:
        is_exception = b'"event":"$exception"' in line
        if stream.properties or is_exception:
            event = read_event(client, line)
            if is_exception and stream.settings.get("scrub") is not False:
                event["note"] = _UNMASKED
            line = load("atotelemetry.wire").encode(event)
        # In one write, so that the lines of several threads do not mix.
        sys.stderr.write(printable(line.decode()) + "\n")

    divert(client, show)
