"""One request to the server, and what came of it. The only file that knows httpx.

Runs in the sender. Each attempt runs on a thread of its own, because no timeout of an HTTP library bounds a whole
request: a name server that never answers, a server that sends one byte a second, each operation is in time and the
sum is not. When an attempt is over its limit its socket is shut down, its thread and its connection are left behind,
and the caller goes on. httpx is imported at the first request, so that a sender with nothing to send never pays for
it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import socket
    import ssl

    import httpx

    from atotelemetry.sender.batch import Request
    from atotelemetry.sender.journal import Journal

__all__ = ["DELIVERED", "REFUSED", "REJECTED", "RETRY", "Delivery", "Outcome", "judge"]

DELIVERED = "delivered"
RETRY = "retry"
REFUSED = "refused"
"""The request as a whole was refused (400, 413); a smaller part of it may be accepted."""
REJECTED = "rejected"

_COMPRESS_ABOVE_BYTES = 1024
_RESPONSE_CAP_BYTES = 64 * 1024
# An attempt connects, sends and receives; each may take `request_timeout`.
_OPERATIONS = 3
_BAD_REQUEST, _TIMEOUT, _TOO_LARGE, _TOO_MANY = 400, 408, 413, 429


class Outcome(NamedTuple):
    """What came of an attempt: one of the four kinds, why, and how many seconds the server asked us to wait."""

    kind: str
    reason: str = ""
    retry_after: float | None = None


def judge(status: int, retry_after: str | None, text: str, now: float) -> Outcome:
    """Decide what a response means for the request: the table of outcomes in one place.

    `retry_after` is that header's value (RFC 9110, section 10.2.3: seconds or an HTTP date); `now` the time as seconds
    since the epoch, which a date is compared with.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 section 15.3
        return Outcome(DELIVERED)
    reason = f"HTTP {status}{': ' + text if text else ''}"
    if status in (_TIMEOUT, _TOO_MANY) or status >= 500:  # noqa: PLR2004 - server errors, section 15.6
        return Outcome(RETRY, reason, parse_retry_after(retry_after, now))
    if status in (_BAD_REQUEST, _TOO_LARGE):
        return Outcome(REFUSED, reason)
    return Outcome(REJECTED, reason)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None when it says nothing usable."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


class Delivery:
    """Posts requests to one server over one kept connection.

    Args:
        host: base URL of the server.
        user_agent: `<app>/<version>`.
        request_timeout: seconds for each network operation.
        compression: gzip bodies: True, False, or None for those above a small size.
        journal: told of each request.

    """

    def __init__(
        self, *, host: str, user_agent: str, request_timeout: float, compression: bool | None, journal: Journal
    ) -> None:
        self._host = host.rstrip("/")
        self._headers = {
            "User-Agent": user_agent,
            "Content-Type": "application/json",
            "Accept": "application/json, text/plain",
            "Accept-Encoding": "identity",
        }
        self._request_timeout = request_timeout
        self._compression = compression
        self._journal = journal
        self._connection: _Connection | None = None

    def url(self, path: str) -> str:
        """Return the address that a request with this path goes to."""
        return self._host + path

    def post(self, request: Request, events: int, time_limit: float | None = None) -> Outcome:
        """Make one attempt, in at most `time_limit` seconds and never more than three operations' time."""
        limit = self._request_timeout * _OPERATIONS
        if time_limit is not None:
            limit = min(limit, time_limit)
        started = time.monotonic()
        outcome = self._attempt(request, limit)
        milliseconds = (time.monotonic() - started) * 1000
        self._journal.detail(
            f"POST {request.path} {events} event{'s' if events != 1 else ''}, {len(request.body)} bytes: "
            f"{outcome.reason or 'accepted'} ({milliseconds:.0f} ms)"
        )
        return outcome

    def _attempt(self, request: Request, limit: float) -> Outcome:
        ends_at = time.monotonic() + limit
        while True:
            if self._connection is None:
                self._connection = _Connection(self._headers, self._request_timeout, self._host)
            connection = self._connection
            attempt = _Attempt(connection, self.url(request.path), *self._compressed(request.body))
            thread = threading.Thread(target=attempt.run, name="attempt", daemon=True)
            thread.start()
            if not attempt.done.wait(max(0.0, ends_at - time.monotonic())):
                connection.abandon()
                self._connection = None
                return Outcome(RETRY, f"no complete answer within {limit:.1f} s")
            if not attempt.stale:
                return attempt.outcome
            # The server had closed the kept connection. Nobody was asked anything yet: ask once more, on a new one.
            connection.abandon()
            self._connection = None

    def _compressed(self, body: bytes) -> tuple[bytes, bool]:
        wanted = len(body) > _COMPRESS_ABOVE_BYTES if self._compression is None else self._compression
        if not wanted:
            return body, False
        import zlib

        packer = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS | 16)  # 16: with a gzip header (zlib manual)
        return packer.compress(body) + packer.flush(), True


class _Connection:
    """An httpx client and the sockets it opened, so that another thread can shut them down."""

    def __init__(self, headers: dict[str, str], request_timeout: float, host: str) -> None:
        self._headers = headers
        self._request_timeout = request_timeout
        self._host = host
        self._client: httpx.Client | None = None
        self._sockets: list[socket.socket] = []
        self.connects = 0

    def client(self) -> httpx.Client:
        """Return the client, made at the first use: on the attempt's thread, under the attempt's limit."""
        if self._client is None:
            httpx = _import_httpx()
            self._client = httpx.Client(
                headers=self._headers,
                timeout=httpx.Timeout(self._request_timeout),
                verify=_trust(self._host),
                limits=httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=60.0),
                follow_redirects=False,
            )
        return self._client

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Note each socket as it is connected (httpcore's `trace` extension)."""
        if event == "connection.connect_tcp.started":
            self.connects += 1
        elif event == "connection.connect_tcp.complete":
            opened = info["return_value"].get_extra_info("socket")
            if opened is not None:
                self._sockets.append(opened)

    def abandon(self) -> None:
        """Shut every socket down, which ends whatever waits for them."""
        import socket

        for opened in self._sockets:
            try:
                # The plain socket's method: `SSLSocket.shutdown` would forget its TLS state under the other thread.
                socket.socket.shutdown(opened, socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


class _Attempt:
    """One POST on a thread of its own."""

    def __init__(self, connection: _Connection, url: str, content: bytes, compressed: bool) -> None:
        self._connection = connection
        self._url = url
        self._content = content
        self._headers = {"Content-Encoding": "gzip"} if compressed else {}
        self.done = threading.Event()
        self.stale = False
        self.outcome = Outcome(RETRY, "no answer")

    def run(self) -> None:
        try:
            self.outcome = self._post()
        except Exception as error:
            # Translated by `_post` where it is about the network; anything else is final, and never a traceback.
            self.outcome = Outcome(REJECTED, f"{type(error).__name__}: {error}")
        finally:
            self.done.set()

    def _post(self) -> Outcome:
        httpx = _import_httpx()
        connection = self._connection
        connects_before = connection.connects
        try:
            client = connection.client()
            request = client.build_request(
                "POST", self._url, content=self._content, headers=self._headers, extensions={"trace": connection.watch}
            )
            response = client.send(request, stream=True)
            try:
                text = self._read(response)
            finally:
                response.close()
            return judge(response.status_code, response.headers.get("Retry-After"), text, time.time())
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            return Outcome(REJECTED, str(error))
        except httpx.TransportError as error:
            untrusted = _certificate_error(error)
            if untrusted:
                return Outcome(REJECTED, untrusted)
            reused = connection.connects == connects_before and connects_before > 0
            dropped = isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))
            self.stale = reused and dropped
            return Outcome(RETRY, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _read(self, response: httpx.Response) -> str:
        """Read the response to its end, so that the connection can be kept, but only up to a cap."""
        body = b""
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _RESPONSE_CAP_BYTES:
                break
        return " ".join(body[:200].decode("utf-8", "replace").split()) if response.status_code >= 300 else ""  # noqa: PLR2004


def _import_httpx() -> Any:
    # httpx's own command line would pull in click, rich and pygments where they are installed (with typer they are):
    # a hundred milliseconds of CPU for a module that nobody here calls. httpx takes its absence gracefully.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    import httpx

    return httpx


def _trust(host: str) -> ssl.SSLContext:
    """Return the TLS settings for `host`: the certificates that the operating system trusts."""
    import ssl

    if not host.lower().startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used by http; loading no certificate, it trusts nobody
    import truststore

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # OpenSSL looks at these by itself; the native stores of macOS and Windows do not.
    cafile, capath = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if (cafile and os.path.isfile(cafile)) or (capath and os.path.isdir(capath)):
        context.load_verify_locations(
            cafile=cafile if cafile and os.path.isfile(cafile) else None,
            capath=capath if capath and os.path.isdir(capath) else None,
        )
    return context


def _certificate_error(error: BaseException) -> str:
    """Return what is wrong with the server's certificate, when that is what an error is about."""
    import ssl

    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return ""
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: the server's certificate is not trusted: {cause.verify_message or cause}"
        cause = cause.__cause__ or cause.__context__
    return ""
