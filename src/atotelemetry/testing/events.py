"""`captured`: the events of a test's own process, in a list.

Runs in the process under test, on the thread that captures. No thread, process, file or socket is made.
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atotelemetry.host.client import TelemetryClient
    from atotelemetry.host.telemetry import Telemetry

__all__ = ["captured"]

_PERSON = "00000000-0000-4000-8000-000000000000"


@contextlib.contextmanager
def captured(telemetry: Telemetry | TelemetryClient | ModuleType | None = None) -> Iterator[list[dict[str, Any]]]:
    """Put the events of `telemetry` into a list while the block lasts; nothing is sent.

    Works also where telemetry is off: by consent, for want of a key, by `disabled`. Functions that were decorated
    before the block are captured as well.

    Arguments:
        telemetry: a `Telemetry` or a `TelemetryClient`. By default, or for the package itself, the default instance.

    Each event is a dict with `uuid`, `event`, `distinct_id`, `timestamp`, `properties` and perhaps `context`. It lacks
    the facts that the sender adds (versions, git, CI), and nothing is masked yet. Where nobody is signed in,
    `distinct_id` is a made-up id: no file is read or created.
    """
    from atotelemetry.host.client import TelemetryClient
    from atotelemetry.host.default import _get_telemetry
    from atotelemetry.host.divert import divert, read_event

    events: list[dict[str, Any]] = []
    # The package stands for its default instance.
    whose = _get_telemetry() if telemetry is None or isinstance(telemetry, ModuleType) else telemetry
    client = whose if isinstance(whose, TelemetryClient) else whose.client
    with contextlib.ExitStack() as undo:
        undo.callback(divert(client, lambda line: events.append(read_event(client, line))))
        if not isinstance(whose, TelemetryClient):
            undo.callback(whose.go_by, whose.go_by(_PERSON))
        yield events
