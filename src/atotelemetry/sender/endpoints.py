"""The endpoint in use: first by the settings, then by the server's answers.

Runs in the sender; one object for all lanes to a server. A server without an endpoint answers 404; a proxy with a list
of allowed paths answers 404 or 405. Then an older one is used for the rest of the sender's life:

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
# In use, beside the words that a person may choose: auto, capture, batch.
_V1, _SINGLE, _EXHAUSTED = "v1", "single", "exhausted"


class Endpoints:
    """The endpoints of one server.

    Args:
        settings: of the stream.
        journal: gets a line for each missing endpoint.

    """

    def __init__(self, settings: Hello, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._lock = threading.Lock()
        self._is_auto = settings.endpoint == "auto"
        self._used = _V1 if settings.capture_protocol == "v1" else settings.endpoint

    @property
    def one_by_one(self) -> bool:
        """Whether a request may hold one event only."""
        return self._used == _SINGLE

    def exchange(self, events: list[Prepared], now: str) -> batch.Exchange | ExchangeV1:
        """Return the requests for these events, `now` being the time."""
        used, key, is_import = self._used, self._settings.api_key, self._settings.historical_migration
        if used == _V1:
            from atotelemetry.sender.protocol_v1 import Exchange  # loaded only where it was chosen

            return Exchange(events, api_key=key, created_at=now, historical_migration=is_import)
        endpoint = {_SINGLE: "capture", _EXHAUSTED: "batch"}.get(used, used)
        return batch.Exchange(events, api_key=key, endpoint=endpoint, historical_migration=is_import)

    def leave(self, path: str, status: int) -> bool:
        """Whether a request to `path`, answered with `status`, is to be made to another endpoint."""
        if status != _NOT_FOUND and (status != _NOT_ALLOWED or path == batch.V1_PATH):
            return False
        with self._lock:
            following = self._after(path)
            if following and following != self._used:  # another lane may have been faster
                self._used = following
                instead = {
                    _SINGLE: f"events go to {batch.CAPTURE_PATH} one by one",
                    _EXHAUSTED: f"{batch.BATCH_PATH} has the last word",
                }.get(following, f"events go to /{following}/")
                self._journal.detail(f"the server does not have {path} (HTTP {status}): from now on {instead}")
        return bool(following)

    def _after(self, path: str) -> str:
        """Return the next endpoint's word, when the server lacks the one at `path`."""
        if path == batch.V1_PATH:
            older = "capture" if self._settings.endpoint == "capture" else "batch"
            return older if self._used == _V1 else self._used
        if path == batch.BATCH_PATH and self._is_auto and self._used != _EXHAUSTED:
            return _SINGLE
        if path == batch.CAPTURE_PATH and self._used in (_SINGLE, _EXHAUSTED):
            return _EXHAUSTED
        return ""
