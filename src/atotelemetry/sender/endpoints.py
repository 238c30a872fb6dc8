"""The endpoint in use: first by the settings, then by the server's answers.

Runs in the sender; one object for all lanes to a server. A server without an endpoint answers 404; a proxy with a list
of allowed paths answers 404 or 405. Then the next of these is used for the rest of the sender's life:

    /i/v1/analytics/events  →  /batch/  →  /capture/, one event at a time  →  /batch/, whose answer is final

The steps after the first are for endpoint="auto" only. A named endpoint is never left.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from atotelemetry.sender import batch

if TYPE_CHECKING:
    from atotelemetry.sender.batch import Prepared
    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.protocol_v1 import Exchange as ExchangeV1
    from atotelemetry.wire import Hello

__all__ = ["Endpoints"]

_NOT_FOUND, _NOT_ALLOWED = 404, 405
_IN_TURN = (batch.BATCH_PATH, batch.CAPTURE_PATH, batch.BATCH_PATH)


class Endpoints:
    """The endpoints of one server."""

    def __init__(self, settings: Hello, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._lock = threading.Lock()
        v1 = (batch.V1_PATH,) if settings.capture_protocol == "v1" else ()
        self._paths = v1 + (_IN_TURN if settings.endpoint == "auto" else (f"/{settings.endpoint}/",))
        self._used = 0

    @property
    def one_by_one(self) -> bool:
        """Whether a request may hold one event only."""
        return self._paths[self._used] == batch.CAPTURE_PATH

    def exchange(self, events: list[Prepared], now: str) -> batch.Exchange | ExchangeV1:
        """Return the requests for these events, `now` being the time."""
        path, key, is_import = self._paths[self._used], self._settings.api_key, self._settings.historical_migration
        if path == batch.V1_PATH:
            from atotelemetry.sender.protocol_v1 import Exchange  # loaded only where it was chosen

            return Exchange(events, api_key=key, created_at=now, historical_migration=is_import)
        endpoint = path.strip("/") if self._used else self._settings.endpoint
        return batch.Exchange(events, api_key=key, endpoint=endpoint, historical_migration=is_import)

    def leave(self, path: str, status: int) -> bool:
        """Whether a request to `path`, answered with `status`, is to be made to another endpoint."""
        if status != _NOT_FOUND and (status != _NOT_ALLOWED or path == batch.V1_PATH):
            return False
        with self._lock:
            if path != self._paths[self._used]:
                return self._paths.index(path) < self._used  # another lane was faster
            if self._used + 1 == len(self._paths):
                return False
            self._used += 1
            instead = f"{self._paths[self._used]}{' one by one' if self.one_by_one else ''}"
            self._journal.detail(f"the server does not have {path} (HTTP {status}): from now on events go to {instead}")
        return True
