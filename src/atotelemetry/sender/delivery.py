"""One request to the server, and its outcome, within a time limit.

Runs in the sender, on the thread of a lane. No timeout of an HTTP library bounds a whole request: think of a name
server that never answers, or a server that sends one byte a second. So the network has a thread of its own
(`connection.py`). Over the limit, the socket is shut down, thread and connection are abandoned, and the next request
gets new ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from atotelemetry.facts.installed import installed_version
from atotelemetry.sender import reasons
from atotelemetry.sender.connection import Attempt, Connection
from atotelemetry.sender.outcome import RETRY, Outcome
from atotelemetry.sender.tally import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atotelemetry.sender.batch import Request
    from atotelemetry.sender.connection import Network
    from atotelemetry.sender.journal import Journal

__all__ = ["Delivery", "user_agent"]

_COMPRESS_ABOVE_BYTES = 1024
_COMPRESSION_LEVEL = 3  # JSON shrinks to a tenth already; more costs time and gains little
# A request connects, sends and receives; each may take `request_timeout`.
_OPERATIONS = 3
_BODY_PATIENCE = 0.25  # for the rest of a known answer; it only gains a kept connection
_LONGEST_TOKEN = 200


def user_agent(app: str, version: str | None, path: Sequence[str] = ()) -> str:
    """Return `<app>/<version>` as a header may hold it (RFC 9110, section 10.1.5)."""
    return f"{_token(app) or 'atotelemetry'}/{_token(version or installed_version(app, path) or '') or 'unknown'}"


class Delivery:
    """Posts requests to one server over one kept connection.

    `compression`: gzip bodies, or not; None for those above a small size. `note` is called with each outcome.
    """

    def __init__(
        self,
        *,
        host: str,
        network: Network,
        compression: bool | None,
        journal: Journal,
        note: Callable[[Outcome], object] = bool,
    ) -> None:
        self._host = host.strip().rstrip("/")
        self._network = network
        self._compression = compression
        self._journal = journal
        self._note = note
        self._connection: Connection | None = None

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return self._host + path

    def post(self, request: Request, events: int, time_limit: float | None = None) -> Outcome:
        """Make one attempt, in at most `time_limit` seconds and never more than three operations' time."""
        limit = self._network.request_timeout * _OPERATIONS
        if time_limit is not None:
            limit = min(limit, time_limit)
        started = time.monotonic()
        content, compressed = self._compressed(request.body)
        headers = {**request.headers, "Content-Encoding": "gzip"} if compressed else {**request.headers}
        attempt = Attempt(self.url(request.path), content, headers, wants_answer=request.wants_answer)
        outcome = self._make(attempt, limit)
        milliseconds = (time.monotonic() - started) * 1000
        self._journal.detail(
            f"POST {request.path} {counted(events)}, {len(request.body)} bytes"
            f"{f' ({len(content)} gzipped)' if compressed else ''}: {outcome.reason} in {milliseconds:.0f} ms"
            f"{f', through the proxy {attempt.proxy}' if attempt.proxy else ''}"
            f"{f', redirected to {attempt.redirected}' if attempt.redirected else ''}"
        )
        self._note(outcome)
        return outcome

    def warm_up(self) -> None:
        """Load the HTTP library and read the certificates, on the connection's thread."""
        try:
            self._connection = Connection(self._network, self._host)
        except RuntimeError:
            return  # the system has no thread for us now; the first request tries again

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None

    def _make(self, attempt: Attempt, limit: float) -> Outcome:
        ends_at = time.monotonic() + limit
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = Connection(self._network, self._host)
            except RuntimeError as error:
                return Outcome(RETRY, str(error), cause=reasons.NOT_SENDABLE)  # the system has no thread for us now
        connection.take(attempt)
        if attempt.answered.wait(limit):
            attempt.finished.wait(min(_BODY_PATIENCE, max(0.0, ends_at - time.monotonic())))
        outcome = attempt.outcome or Outcome(RETRY, f"no answer within {limit:.1f} s", cause=reasons.NETWORK_TIMEOUT)
        if not attempt.kept:
            self.close()
        return outcome

    def _compressed(self, body: bytes) -> tuple[bytes, bool]:
        wanted = len(body) > _COMPRESS_ABOVE_BYTES if self._compression is None else self._compression
        if not wanted:
            return body, False
        import zlib

        # 16 asks for a gzip header (zlib manual).
        packer = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return packer.compress(body) + packer.flush(), True


def _token(text: str) -> str:
    """Return `text` with everything that a product name must not hold replaced."""
    allowed = "!#$%&'*+-.^_`|~"
    return "".join(c if (c.isascii() and c.isalnum()) or c in allowed else "-" for c in text)[:_LONGEST_TOKEN]
