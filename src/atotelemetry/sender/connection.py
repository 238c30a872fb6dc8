"""The network: the thread of one connection, and the way to the server. The only file that knows httpx.

Runs in the sender. A lane gives its connection an attempt, and waits for it within its own limit. The first connection
imports httpx: a sender with nothing to send never pays for it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from _queue import SimpleQueue  # `queue` loads more than that
from typing import TYPE_CHECKING, Any

from atotelemetry.facts.address import without_credentials
from atotelemetry.sender import reasons
from atotelemetry.sender.outcome import DELIVERED, REJECTED, RETRY, STALE, STOPPED, Outcome, judge, parse_retry_after

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    import httpx

    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.proxy import Way

__all__ = ["Attempt", "Connection", "Network"]

_RESPONSE_CAP_BYTES = 64 * 1024
_ANSWER_CAP_BYTES = 1024 * 1024  # a verdict on each of a thousand events
_REASON_LENGTH = 200
_KEEP_ALIVE = 60.0
_MOST_REDIRECTS = 2
_HEADS_CAP_BYTES = 256 * 1024  # four reads of the library: one head, and any number of interim responses before it


class Network:
    """The way to one server, found out once and shared by its connections: proxy and certificates.

    Args:
        user_agent: the header of that name.
        request_timeout: seconds for each network operation.
        directory: the host's working directory, where relative paths in variables start.
        journal: gets a line for each unusable variable.
        is_stopped: whether the person said no meanwhile; called right before each request.

    """

    def __init__(
        self,
        *,
        user_agent: str,
        request_timeout: float,
        directory: str | None,
        journal: Journal,
        is_stopped: Callable[[], bool] = bool,
    ) -> None:
        self.request_timeout = request_timeout
        self.is_stopped = is_stopped
        self._user_agent = user_agent
        self._directory = directory
        self._journal = journal
        # Held by one connection while it finds out. A lock, because several lanes begin at once.
        self._finding_out = threading.Lock()
        self._ways: dict[tuple[str, str, int | None], Way] = {}
        self._trust: ssl.SSLContext | None = None

    def client(self, url: httpx.URL) -> tuple[httpx.Client, str]:
        """Return a client for requests to `url`, and the proxy that it uses (empty: none).

        Raises `UnusableProxy` when the proxy that a person names cannot be used.
        """
        library = _import_httpx()
        with self._finding_out:
            way = self._find_way(url)
            tls_to_proxy = way is not None and way.scheme == "https"
            trust = self._find_trust() if url.scheme == "https" or tls_to_proxy else _nobody()
        through = None
        if way is not None:
            own_trust = trust if tls_to_proxy else None
            through = library.Proxy(f"{way.scheme}://{way.address}", auth=way.credentials, ssl_context=own_trust)
        client: httpx.Client = library.Client(
            headers={
                "User-Agent": self._user_agent,
                "Content-Type": "application/json",
                "Accept": "application/json, text/plain",
                "Accept-Encoding": "identity",
            },
            timeout=library.Timeout(self.request_timeout),
            verify=trust,
            limits=library.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEP_ALIVE),
            follow_redirects=False,
            trust_env=False,
            proxy=through,
        )
        return client, "" if way is None else way.address

    def _find_way(self, url: httpx.URL) -> Way | None:
        """Return the way through a proxy, or None for the direct one. Raises `UnusableProxy`."""
        from urllib.request import getproxies  # httpx has loaded it

        if not getproxies():  # the usual case: no variable, and no setting of the system
            return None
        from atotelemetry.sender import proxy

        target = url.scheme, url.raw_host.decode("ascii"), url.port
        way = self._ways.get(target)
        if way is None:
            way = self._ways[target] = proxy.find_way(*target, os.environ, self._journal.detail)
        if way.fault:
            raise proxy.UnusableProxy(way.fault)
        return way if way.address else None

    def _find_trust(self) -> ssl.SSLContext:
        if self._trust is None:
            from atotelemetry.sender.certificates import trusted

            self._trust = trusted(self._directory, self._journal.detail)
        return self._trust


class _Stopped(Exception):
    """The person said no while this request waited for its connection."""


class Attempt:
    """One POST, and the knowledge that its thread has of it so far."""

    def __init__(self, url: str, content: bytes, headers: dict[str, str], *, wants_answer: bool = False) -> None:
        self.url = url
        self.content = content
        self.headers = headers
        self.wants_answer = wants_answer
        self.outcome: Outcome | None = None
        self.proxy = ""
        """Host and port of the proxy; empty without one."""
        self.redirected = ""
        """The address that the server redirected to."""
        self.answered = threading.Event()
        """Set when `outcome` is known: with the head of the response or, if wanted, its body."""
        self.finished = threading.Event()
        """Set when there is nothing more to wait for."""
        self.kept = False
        """Whether the connection is fit for another request."""


class Connection:
    """An httpx client, the thread that uses it, and its socket. The client is ready before the first attempt."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host
        self._attempts: SimpleQueue[Attempt | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._abandoned = False
        self._socket: socket.socket | None = None
        # Below here: the thread's own.
        self._client: httpx.Client | None = None
        self._scheme = ""
        self._proxy = ""
        self._has_connected = False
        """Whether this request made a connection of its own."""
        self._head_bytes: int | None = None
        """Bytes read while a response is awaited; None while none is."""
        threading.Thread(target=self._work, name="connection", daemon=True).start()

    def take(self, attempt: Attempt) -> None:
        """Make this attempt after the present one."""
        self._attempts.put(attempt)

    def abandon(self) -> None:
        """Shut the socket down, which ends every wait for it. The thread ends when it can."""
        with self._lock:
            self._abandoned = True
            self._shut_down()
        self._attempts.put(None)

    # ---- the connection's own thread

    def _work(self) -> None:
        try:
            self._client_for(_import_httpx().URL(self._host))  # beside other work, before the first attempt is there
        except Exception:
            pass  # the attempt tries again, and reports the error
        if not gc.isenabled():  # see `sender/__main__.py`
            gc.freeze()  # no loaded module is garbage
            gc.enable()
        while (attempt := self._attempts.get()) is not None and not self._abandoned:
            try:
                self._post(attempt)
            except _Stopped:
                attempt.outcome = STOPPED
            except Exception as error:
                if attempt.outcome is None:  # a known answer outlives the loss of its end
                    outcome = _translate(error)
                    attempt.outcome = outcome._replace(kind=STALE) if self._is_stale(error) else outcome
            finally:
                attempt.answered.set()
                attempt.finished.set()
        if self._client is not None:
            self._client.close()

    def _client_for(self, url: httpx.URL) -> httpx.Client:
        """Return the client for this scheme. http and https may have different proxies."""
        if self._client is None or self._scheme != url.scheme:
            if self._client is not None:
                self._client.close()
                self._client = None
            self._client, self._proxy = self._network.client(url)
            self._scheme = url.scheme
        return self._client

    def _post(self, attempt: Attempt) -> None:
        """Post, and follow redirects on the same host."""
        self._has_connected = False
        url = _import_httpx().URL(attempt.url)
        for redirects_left in range(_MOST_REDIRECTS, -1, -1):
            client = self._client_for(url)
            attempt.proxy = self._proxy
            client.cookies.clear()  # no session with the server
            extensions = {"trace": self._watch}
            request = client.build_request(
                "POST", url, content=attempt.content, headers=attempt.headers, extensions=extensions
            )
            response = client.send(request, stream=True)
            try:
                target = _redirect(response, url) if redirects_left else None
                if target is None:
                    _take_answer(response, attempt)
                    return
                _read(response)  # to its end: the connection is used again
                url = target
                attempt.redirected = without_credentials(str(url))
            finally:
                response.close()

    def _is_stale(self, error: Exception) -> bool:
        """Whether a request failed because the server had closed the kept connection."""
        if self._has_connected or self._client is None:  # without a client the library may be missing
            return False
        httpx = _import_httpx()
        return isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))

    def _watch(self, event: str, info: dict[str, Any]) -> None:
        """Note each socket as it is connected, and each response as it begins (httpcore's `trace` extension)."""
        step = event.partition(".")[2]  # before the point: the kind of connection
        if step == "send_request_headers.started":
            if self._network.is_stopped():
                raise _Stopped  # httpcore closes the connection and lets it through
            self._head_bytes = 0
        elif step == "receive_response_headers.complete":
            self._head_bytes = None
        elif step in ("connect_tcp.complete", "start_tls.complete"):
            self._limit_heads(info["return_value"])
            if step == "connect_tcp.complete":
                self._keep_socket(info["return_value"].get_extra_info("socket"))

    def _limit_heads(self, stream: Any) -> None:  # noqa: ANN401 - httpcore's, which has no public type
        """Bound the bytes read from this stream before a response begins.

        The library skips interim responses (1xx; RFC 9110, section 15.2) without a limit, at 20 µs of CPU each.
        """
        read = stream.read

        def limited(*arguments: Any, **options: Any) -> bytes:  # noqa: ANN401 - as httpcore's
            data: bytes = read(*arguments, **options)
            if self._head_bytes is not None:
                self._head_bytes += len(data)
                if self._head_bytes > _HEADS_CAP_BYTES:
                    raise _import_httpx().RemoteProtocolError(f"more than {_HEADS_CAP_BYTES} bytes before a response")
            return data

        stream.read = limited

    def _keep_socket(self, opened: socket.socket) -> None:
        self._has_connected = True
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            try:
                # A duplicate: when TLS begins, the object that was connected loses its descriptor to another.
                self._socket = opened.dup()
            except (OSError, AttributeError):
                self._socket = None  # no descriptor left: then this connection cannot be shut down from outside
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
            self._socket.close()
            self._socket = None


def _import_httpx() -> Any:  # noqa: ANN401 - a module
    """Return the HTTP library."""
    # httpx's own command line would load click, rich and pygments where they are installed: a hundred milliseconds of
    # CPU. httpx works without it.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    import httpx

    return httpx


def _nobody() -> ssl.SSLContext:
    """Return TLS settings that trust nobody, for http: reading certificates would cost time for nothing."""
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _redirect(response: httpx.Response, url: httpx.URL) -> httpx.URL | None:
    """Return the redirect's address, on the same host and not from https to http; None for any other."""
    if response.status_code not in (307, 308):  # the two that keep method and body (RFC 9110, section 15.4)
        return None
    try:
        target = url.join(response.headers["Location"]).copy_with(userinfo=url.userinfo, fragment=None)
    except Exception:
        return None  # no such header, or no address in it
    same = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
    safer = (url.scheme, target.scheme) == ("http", "https") and target.host == url.host
    return target if same or safer else None


def _take_answer(response: httpx.Response, attempt: Attempt) -> None:
    """Judge a response by its head, and again when its text is there."""
    retry_after, now = response.headers.get("Retry-After"), time.time()
    attempt.outcome = judge(response.status_code, retry_after, "", now)
    if not attempt.wants_answer:
        attempt.answered.set()  # accepted is accepted, also if the rest of the answer never comes
    body, attempt.kept = _read(response, _ANSWER_CAP_BYTES if attempt.wants_answer else _RESPONSE_CAP_BYTES)
    if attempt.outcome.kind != DELIVERED:
        text = " ".join(body[: _REASON_LENGTH * 4].decode("utf-8", "replace").split())[:_REASON_LENGTH]
        location = response.headers.get("Location")
        if location and response.has_redirect_location:
            text = f"it redirects to {without_credentials(location)[:_REASON_LENGTH]}"
        attempt.outcome = judge(response.status_code, retry_after, text, now)
    if attempt.wants_answer:
        attempt.outcome = attempt.outcome._replace(body=body, retry_after=parse_retry_after(retry_after, now))


def _read(response: httpx.Response, cap_bytes: int = _RESPONSE_CAP_BYTES) -> tuple[bytes, bool]:
    """Read a response's body, up to a cap; return it, and whether that was all of it."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > cap_bytes:
            return body, False
    return body, True


def _translate(error: Exception) -> Outcome:
    """Turn an error of the HTTP library into an outcome."""
    from atotelemetry.sender.certificates import why_not_trusted
    from atotelemetry.sender.proxy import UnusableProxy

    if isinstance(error, UnusableProxy):
        return Outcome(REJECTED, str(error), cause=reasons.NOT_SENDABLE)
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    try:
        httpx = _import_httpx()
    except Exception:
        return Outcome(REJECTED, reason, cause=reasons.NOT_SENDABLE)  # the library itself is broken
    hopeless = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)
    if isinstance(error, httpx.TransportError) and not isinstance(error, hopeless):
        untrusted = why_not_trusted(error)
        if untrusted:
            return Outcome(REJECTED, untrusted, cause=reasons.NETWORK_TRUST)
        cause = reasons.NETWORK_BROKEN
        if isinstance(error, httpx.TimeoutException):
            cause = reasons.NETWORK_TIMEOUT
        elif isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
            cause = reasons.NETWORK_CONNECT
        return Outcome(RETRY, reason, cause=cause)
    return Outcome(REJECTED, reason, cause=reasons.NOT_SENDABLE)
