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

__all__ = ["Nowhere", "divert", "show_on_stderr"]

_UNMASKED = "shown unmasked: home directories and secrets are masked before an exception is sent"


class Nowhere:
    """Stands in a client where the feeder does, and takes nothing. Knows what came of the events before."""

    refusal = "not taken"

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder
        self.counts = feeder.counts

    @property
    def handed_over(self) -> int:
        """Number of events that a sender got."""
        return self._feeder.handed_over

    def fate(self) -> tuple[int, dict[str, int]]:
        """Return what `Feeder.fate` does."""
        return self._feeder.fate()

    def put(self, line: bytes) -> bool:
        """Take nothing."""
        del line
        return False

    def __getattr__(self, name: str) -> Any:
        """Leave flushes and the process's hooks to the feeder: they are about the events before."""
        return getattr(self._feeder, name)

    def after_fork_in_child(self) -> None:
        """Count the child's own."""
        self._feeder.after_fork_in_child()
        self.counts = self._feeder.counts


class _Diversion(Nowhere):
    """Gives each event's line to a function."""

    def __init__(self, feeder: Feeder, take: Callable[[bytes], object]) -> None:
        super().__init__(feeder)
        self._take = take

    def put(self, line: bytes) -> bool:
        try:
            self._take(line)
        except Exception as error:
            debug("an event went nowhere: %r", error)
            return False
        self._feeder.handed_over += 1
        return True

    def fate(self) -> tuple[int, dict[str, int]]:
        return self.handed_over, {}


def divert(client: TelemetryClient, take: Callable[[bytes], object]) -> None:
    """Give every event of `client` to `take`, as the line that a sender would read, and start no sender.

    Needs no key. `take` is called on the thread that captures; what it raises loses the event, no more.
    """
    diversion = _Diversion(client._feeder, take)  # noqa: SLF001 - the one other place an event may go
    client._feeder = diversion  # type: ignore[assignment]  # noqa: SLF001
    client._refuses = False  # noqa: SLF001 - also for an opted-out person: nothing is sent


def show_on_stderr(client: TelemetryClient) -> None:
    """Print every event of `client` on stderr, with the properties that the sender would be told once for all."""
    stream = client._stream  # noqa: SLF001 - as in `divert`

    def show(line: bytes) -> None:
        is_exception = b'"event":"$exception"' in line
        if stream.properties or is_exception:
            json = load("msgspec").json
            event = json.decode(line)
            hello = json.decode(stream.hello())
            event["properties"] = {**hello.get("properties", {}), **event["properties"]}
            if is_exception and hello.get("scrub") is not False:
                event["note"] = _UNMASKED
            line = json.encode(event)
        # In one write, so that the lines of several threads do not mix.
        sys.stderr.write(printable(line.decode()) + "\n")

    divert(client, show)
