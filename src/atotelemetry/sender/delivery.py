"""One request to the server, and what came of it. The only file that knows httpx.

Runs in the sender. The network has a thread of its own, because no timeout of an HTTP library bounds a whole request: a
name server that never answers, a server that sends one byte a second, each operation is in time and the sum is not.
When a request is over its limit its socket is shut down, the thread and the connection are left behind, and the caller
goes on with new ones. httpx is imported by the first request, so that a sender with nothing to send never pays for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from atotelemetry.facts.installed import installed_version
from atotelemetry.sender import reasons

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    import httpx

    from atotelemetry.sender.batch import Request
    from atotelemetry.sender.journal import Journal

__all__ = [
    "DELIVERED",
    "REFUSED",
    "REJECTED",
    "RETRY",
    "STALE",
    "TOO_LARGE",
    "Delivery",
    "Outcome",
    "judge",
    "parse_retry_after",
    "user_agent",
]

DELIVERED = "delivered"
RETRY = "retry"
STALE = "stale"
"""The server had closed the connection that was kept open from the request before; a new one may do."""
REFUSED = "refused"
"""The request as a whole was refused (400); a smaller part of it may be accepted."""
TOO_LARGE = "too large"
"""As above, because of its size (413)."""
REJECTED = "rejected"
"""Final."""

_COMPRESS_ABOVE_BYTES = 1024
_COMPRESSION_LEVEL = 3  # JSON shrinks to a tenth already; more costs time and gains little
_RESPONSE_CAP_BYTES = 64 * 1024
_REASON_LENGTH = 200
# A request connects, sends and receives; each may take `request_timeout`.
_OPERATIONS = 3
_BODY_PATIENCE = 0.25  # once the answer is known, for the rest of it: all there is to gain is a kept connection
_KEEP_ALIVE = 60.0
_PORTS = {"http": 80, "https": 443}


class Outcome(NamedTuple):
    """The result of an attempt: its kind, the details, and how many seconds the server asked us to wait."""

    kind: str
    reason: str = ""
    retry_after: float | None = None
    cause: str = ""
    """One of `reasons`, if the events were lost by this result."""


def judge(status: int, retry_after: str | None, text: str, now: float) -> Outcome:
    """Decide what a response means for the request: the table of outcomes in one place.

    `retry_after` is that header's value (RFC 9110, section 10.2.3: seconds or an HTTP date); `now` the time as seconds
    since the epoch, which a date is compared with.
    """
    reason = f"HTTP {status}{': ' + text if text else ''}"
    if 200 <= status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 section 15.3
        return Outcome(DELIVERED, reason)
    cause = reasons.of_status(status)
    if status in (408, 429) or status >= 500:  # noqa: PLR2004 - server errors, section 15.6
        return Outcome(RETRY, reason, parse_retry_after(retry_after, now), cause)
    if status == 400:  # noqa: PLR2004
        return Outcome(REFUSED, reason, cause=cause)
    if status == 413:  # noqa: PLR2004
        return Outcome(TOO_LARGE, reason, cause=cause)
    return Outcome(REJECTED, reason, cause=cause)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None when it says nothing usable."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    import datetime  # only a date needs them
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # the obsolete form without a zone, which is UTC (RFC 9110, section 5.6.7)
            date = date.replace(tzinfo=datetime.UTC)
        return max(0.0, date.timestamp() - now)
    except Exception:
        return None  # the parser has more than one way to refuse garbage


def user_agent(app: str, version: str | None) -> str:
    """Return `<app>/<version>` as a header may hold it (RFC 9110, section 10.1.5)."""
    return f"{_token(app) or 'atotelemetry'}/{_token(version or installed_version(app) or '') or 'unknown'}"


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
        self._host = host.strip().rstrip("/")
        self._user_agent = user_agent
        self._request_timeout = request_timeout
        self._compression = compression
        self._journal = journal
        self._connection: _Connection | None = None
        self._proxy = ""
        self._trust: ssl.SSLContext | None = None

    def url(self, path: str) -> str:
        """Return the address that a request with this path goes to."""
        return self._host + path

    def post(self, request: Request, events: int, time_limit: float | None = None) -> Outcome:
        """Make one attempt, in at most `time_limit` seconds and never more than three operations' time."""
        limit = self._request_timeout * _OPERATIONS
        if time_limit is not None:
            limit = min(limit, time_limit)
        started = time.monotonic()
        content, compressed = self._compressed(request.body)
        outcome = self._attempt(_Attempt(self.url(request.path), content, compressed), limit)
        milliseconds = (time.monotonic() - started) * 1000
        self._journal.detail(
            f"POST {request.path} {events} event{'s' if events != 1 else ''}, {len(request.body)} bytes"
            f"{f' ({len(content)} gzipped)' if compressed else ''}: {outcome.reason} in {milliseconds:.0f} ms"
            f"{f', through the proxy {self._proxy}' if self._proxy else ''}"
        )
        return outcome

    def warm_up(self) -> None:
        """Load the HTTP library and read the certificates, on the connection's thread."""
        try:
            self._connection = _Connection(self._make_client)
        except RuntimeError:
            return  # the system has no thread for us now; the first request tries again

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None

    def _attempt(self, attempt: _Attempt, limit: float) -> Outcome:
        ends_at = time.monotonic() + limit
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = _Connection(self._make_client)
            except RuntimeError as error:
                return Outcome(RETRY, str(error), cause=reasons.NOT_SENDABLE)  # the system has no thread for us now
        connection.take(attempt)
        if attempt.answered.wait(limit):
            attempt.finished.wait(min(_BODY_PATIENCE, max(0.0, ends_at - time.monotonic())))
        self._proxy = connection.proxy
        outcome = attempt.outcome or Outcome(RETRY, f"no answer within {limit:.1f} s", cause=reasons.NETWORK_TIMEOUT)
        if not attempt.kept:
            self.close()
        return outcome

    def _make_client(self) -> httpx.Client:
        """Make the client; called by the connection's thread, so that it counts towards the request's limit."""
        library = _import_httpx()
        if self._trust is None:
            self._trust = _trust(self._host)
        client: httpx.Client = library.Client(
            headers={
                "User-Agent": self._user_agent,
                "Content-Type": "application/json",
                "Accept": "application/json, text/plain",
                "Accept-Encoding": "identity",
            },
            timeout=library.Timeout(self._request_timeout),
            verify=self._trust,
            limits=library.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEP_ALIVE),
            follow_redirects=False,
        )
        return client

    def _compressed(self, body: bytes) -> tuple[bytes, bool]:
        wanted = len(body) > _COMPRESS_ABOVE_BYTES if self._compression is None else self._compression
        if not wanted:
            return body, False
        import zlib

        # 16 asks for a gzip header (zlib manual).
        packer = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return packer.compress(body) + packer.flush(), True


class _Attempt:
    """One POST, and what its thread has found out so far."""

    def __init__(self, url: str, content: bytes, compressed: bool) -> None:
        self.url = url
        self.content = content
        self.headers = {"Content-Encoding": "gzip"} if compressed else {}
        self.outcome: Outcome | None = None
        self.answered = threading.Event()
        """Set when `outcome` says what became of the request: when the head of the response is there."""
        self.finished = threading.Event()
        """Set when there is nothing more to wait for."""
        self.kept = False
        """Whether the connection is fit for another request."""


class _Connection:
    """An httpx client, the thread that uses it, and the sockets that it opens."""

    def __init__(self, make_client: Callable[[], httpx.Client]) -> None:
        self._make_client = make_client
        self._attempts: SimpleQueue[_Attempt | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._abandoned = False
        self._socket: socket.socket | None = None
        self._connects = 0
        self._connects_before = 0
        self._server: tuple[str, int | None] = ("", None)
        self.proxy = ""
        """Host and port of the proxy that it goes through, empty where it goes to the server itself."""
        threading.Thread(target=self._work, name="connection", daemon=True).start()

    def take(self, attempt: _Attempt) -> None:
        """Make this attempt as soon as the one before is finished."""
        self._attempts.put(attempt)

    def abandon(self) -> None:
        """Shut the socket down, which ends whatever waits for it, and let the thread end when it can."""
        with self._lock:
            self._abandoned = True
            self._shut_down()
        self._attempts.put(None)

    # ---- the connection's own thread

    def _work(self) -> None:
        client: httpx.Client | None = None
        try:
            client = self._make_client()  # before the first attempt is there: with luck, beside other work
        except Exception:
            pass  # the attempt tries again, and tells what is wrong
        while (attempt := self._attempts.get()) is not None and not self._abandoned:
            try:
                if client is None:
                    client = self._make_client()
                self._post(client, attempt)
            except Exception as error:
                if attempt.outcome is None:  # a known answer stays known when its end is lost
                    outcome = _translate(error)
                    attempt.outcome = outcome._replace(kind=STALE) if self._is_stale(error) else outcome
            finally:
                attempt.answered.set()
                attempt.finished.set()
        if client is not None:
            client.close()

    def _post(self, client: httpx.Client, attempt: _Attempt) -> None:
        self._connects_before = self._connects
        client.cookies.clear()  # nobody here wants to be recognised
        request = client.build_request(
            "POST",
            attempt.url,
            content=attempt.content,
            headers=attempt.headers,
            extensions={"trace": self._watch},
        )
        self._server = (request.url.raw_host.decode("ascii"), request.url.port or _PORTS.get(request.url.scheme))
        response = client.send(request, stream=True)
        try:
            # Accepted is accepted, also if the rest of the answer never comes.
            retry_after, now = response.headers.get("Retry-After"), time.time()
            attempt.outcome = judge(response.status_code, retry_after, "", now)
            attempt.answered.set()
            body, complete = _read(response)
            if attempt.outcome.kind != DELIVERED:
                attempt.outcome = judge(response.status_code, retry_after, _summary(body), now)
            attempt.kept = complete
        finally:
            response.close()

    def _is_stale(self, error: Exception) -> bool:
        """Whether a request failed because the server had closed the connection after the one before."""
        if self._connects == 0 or self._connects != self._connects_before:
            return False
        httpx = _import_httpx()
        return isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))

    def _watch(self, event: str, info: dict[str, Any]) -> None:
        """Note where it connects to, and each socket as it is connected (httpcore's `trace` extension)."""
        if event == "connection.connect_tcp.started":
            host, port = info["host"], info["port"]
            self.proxy = "" if (host, port) == self._server else f"{host}:{port}"
        if event != "connection.connect_tcp.complete":
            return
        self._connects += 1
        with self._lock:
            self._forget()
            opened = info["return_value"].get_extra_info("socket")
            try:
                # A duplicate: when TLS begins, the object that was connected loses its descriptor to another.
                self._socket = opened.dup()
            except (OSError, AttributeError):
                return  # no descriptor left: then this connection cannot be shut down from outside
            if self._abandoned:
                # The name server answered after all. The same events may be on their way again by now.
                self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            import socket

            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster
            self._forget()

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """Read a response's body, up to a cap; return it, and whether that was all of it."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _RESPONSE_CAP_BYTES:
            return body, False
    return body, True


def _summary(body: bytes) -> str:
    """Return the beginning of an answer in one line."""
    return " ".join(body[: _REASON_LENGTH * 4].decode("utf-8", "replace").split())[:_REASON_LENGTH]


def _translate(error: Exception) -> Outcome:
    """Turn whatever the HTTP library raised into an outcome."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    try:
        httpx = _import_httpx()
    except Exception:
        return Outcome(REJECTED, reason, cause=reasons.NOT_SENDABLE)  # the library itself is broken
    hopeless = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)
    if isinstance(error, httpx.TransportError) and not isinstance(error, hopeless):
        untrusted = _certificate_error(error)
        if untrusted:
            return Outcome(REJECTED, untrusted, cause=reasons.NETWORK_TRUST)
        if isinstance(error, httpx.TimeoutException):
            cause = reasons.NETWORK_TIMEOUT
        else:
            unreachable = isinstance(error, (httpx.ConnectError, httpx.ProxyError))
            cause = reasons.NETWORK_CONNECT if unreachable else reasons.NETWORK_BROKEN
        return Outcome(RETRY, reason, cause=cause)
    return Outcome(REJECTED, reason, cause=reasons.NOT_SENDABLE)


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
    if sys.platform in ("win32", "darwin"):
        # OpenSSL looks at these by itself, which is what counts elsewhere; the native stores of these two do not.
        cafile, capath = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        cafile = cafile if cafile and os.path.isfile(cafile) else None
        capath = capath if capath and os.path.isdir(capath) else None
        if cafile or capath:
            context.load_verify_locations(cafile=cafile, capath=capath)
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


def _token(text: str) -> str:
    """Return `text` with everything that a product name must not hold replaced."""
    allowed = "!#$%&'*+-.^_`|~"
    return "".join(c if (c.isascii() and c.isalnum()) or c in allowed else "-" for c in text)[:_REASON_LENGTH]
