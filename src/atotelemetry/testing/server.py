"""`CaptureServer`: listens on loopback, records requests, answers as it is told.

Runs in the test's process. One thread accepts, and one serves each connection. All their waits end when the server
stops. `_changed` guards all mutable state. HTTP is `http.py`'s business, PostHog's rules are `posthog.py`'s.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from atotelemetry.testing import posthog_v1
from atotelemetry.testing.http import Answer, RecordedRequest, Serving, is_success
from atotelemetry.testing.posthog import read_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext
    from types import TracebackType
    from typing import Literal

    from atotelemetry.testing.http import AnswerSource

__all__ = ["CaptureServer"]

_BACKLOG = 256
_LOOK_INTERVAL = 0.05  # how often a thread that waits for a callback's end looks whether the server stops
# Threads end with their socket. The limit is for an `on_request` or answer function that never returns.
_JOIN_TIMEOUT = 5.0


class CaptureServer:
    """A PostHog-compatible endpoint on a loopback port, answering from `start` (or `with`) until `stop`.

    Arguments:
        port: the port to listen on; 0 takes a free one. A stopped server that is started again keeps its port.
        judge: refuse as PostHog does; False accepts everything.
        on_request: called with each request before its answer is sent, on the connection's thread, never twice at a
            time. It must not raise.
        ssl_context: serve https with this context; the url then names `localhost`.
        protocol: "v0" or "v1": speak only this one, and answer 404 to the other. By default both.

    All methods may be called from any thread. Raises OSError from `start` when the port is taken.

    """

    def __init__(
        self,
        *,
        port: int = 0,
        judge: bool = True,
        on_request: Callable[[RecordedRequest], object] | None = None,
        ssl_context: SSLContext | None = None,
        protocol: Literal["v0", "v1"] | None = None,
    ) -> None:
        self._port = port
        self._judges = judge
        self._on_request = on_request
        self._on_request_lock = threading.Lock()
        self._ssl_context = ssl_context
        self._protocol = protocol

        # Guards everything below; notified when a request arrives and when its fate is known.
        self._changed = threading.Condition()
        self._requests: list[RecordedRequest] = []
        self._accepted_events = 0
        self._default_answer: AnswerSource = Answer()
        self._script: list[AnswerSource] = []
        self._connections: set[socket.socket] = set()
        self._connection_count = 0

        self._stopping = threading.Event()
        self._acceptor: threading.Thread | None = None
        # Touched by the acceptor, and by `stop` once that has ended.
        self._threads: list[threading.Thread] = []

    # -- life

    def start(self) -> None:
        """Listen and answer; returns when clients can connect. Raises OSError when the port is taken."""
        if self._acceptor is not None:
            raise RuntimeError("the capture server is already running")
        listener = socket.create_server(("127.0.0.1", self._port), backlog=_BACKLOG)
        self._port = listener.getsockname()[1]
        self._stopping.clear()
        self._acceptor = threading.Thread(
            target=self._accept_until_stopped, args=(listener,), name="capture-server", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Refuse new connections, break the open ones, and end every thread; never waits for a client.

        The record stays readable. Does nothing when the server is not running.
        """
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is None:
            return
        self._stopping.set()
        # Closing a socket does not wake a thread that waits in accept() on it. A connection does.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), _JOIN_TIMEOUT).close()
        acceptor.join(_JOIN_TIMEOUT)
        with self._changed:
            for connection in self._connections:
                _shut_down(connection)
        for thread in self._threads:
            # A callback on a connection's own thread may stop the server.
            if thread is not threading.current_thread():
                thread.join(_JOIN_TIMEOUT)
        self._threads = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- read by a test

    @property
    def port(self) -> int:
        """The port it listens on, or did until it was stopped."""
        if not self._port:
            raise RuntimeError("the capture server has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        """The client's host. After `stop`, connecting there is refused."""
        if self._ssl_context is not None:
            return f"https://localhost:{self.port}"
        return f"http://127.0.0.1:{self.port}"

    def environment(self, app: str) -> dict[str, str]:
        """Return variables that make `app` send here: also in CI, behind a proxy, and after another variable's no.

        They go on top of `os.environ`. The person's file still counts: give each test its own home, or at least its own
        `XDG_CONFIG_HOME`.
        """
        from atotelemetry.facts.text import environment_prefix

        prefix = environment_prefix(app)
        return {
            "ATOTELEMETRY_OFF": "",
            "DO_NOT_TRACK": "",
            f"{prefix}_TELEMETRY": "on",
            f"{prefix}_TELEMETRY_API_KEY": "test",
            f"{prefix}_SERVICES_TELEMETRY_URL": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request in order of arrival, answered or not; a new list each time."""
        with self._changed:
            return list(self._requests)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of every request answered 2xx, in order of arrival; a new list each time."""
        with self._changed:
            return [event for request in self._requests for event in request.accepted_events]

    @property
    def connection_count(self) -> int:
        """How many TCP connections were accepted, also without any request."""
        with self._changed:
            return self._connection_count

    def wait_for_events(self, count: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Wait until at least `count` events were accepted and return all of them.

        Raises TimeoutError after `timeout` seconds, with a list of the arrivals.
        """
        self._wait(lambda: self._accepted_events >= count, timeout, f"{count} events did not arrive")
        return self.events

    def wait_for_crash(self, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the report of a native crash was accepted (see `Telemetry(report_crash=True)`); return this event.

        Raises TimeoutError after `timeout` seconds, with a list of the arrivals.
        """
        self._wait(lambda: any(map(_is_crash, self.events)), timeout, "no crash was reported")
        return next(filter(_is_crash, self.events))

    def wait_for_requests(self, count: int, timeout: float = 30.0) -> list[RecordedRequest]:
        """Wait until at least `count` requests arrived, answered or not, and return all of them.

        Raises TimeoutError after `timeout` seconds, with a list of the arrivals.
        """
        self._wait(lambda: len(self._requests) >= count, timeout, f"{count} requests did not arrive")
        return self.requests

    def _wait(self, ready: Callable[[], bool], timeout: float, otherwise: str) -> None:
        with self._changed:
            if not self._changed.wait_for(ready, timeout):
                raise TimeoutError(f"{otherwise} within {timeout:g} s; {self._describe()}")

    def clear(self) -> None:
        """Forget every request and event so far; answers that are set stay set."""
        with self._changed:
            self._requests = []
            self._accepted_events = 0

    # -- decided by a test

    def respond(self, answer: AnswerSource | None = None) -> None:
        """From now on answer every request so; None goes back to success."""
        with self._changed:
            self._default_answer = Answer() if answer is None else answer

    def script(self, *answers: AnswerSource) -> None:
        """Give the next requests these answers, one each, after those still waiting from an earlier call.

        A script outranks `respond`, which holds again afterwards.
        """
        with self._changed:
            self._script.extend(answers)

    # -- the connections' side

    def _accept_until_stopped(self, listener: socket.socket) -> None:
        with listener:
            while not self._stopping.is_set():
                with contextlib.suppress(OSError):  # a client may give up before it is accepted
                    connection = listener.accept()[0]
                    if self._stopping.is_set():
                        connection.close()
                    else:
                        self._adopt(connection)

    def _adopt(self, connection: socket.socket) -> None:
        with self._changed:
            number = self._connection_count
            self._connection_count += 1
        if self._ssl_context is not None:
            try:
                # Only wraps: the handshake is the connection's own thread's, a client that stalls it blocks nobody.
                connection = self._ssl_context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
                )
            except OSError:
                connection.close()
                return
        thread = threading.Thread(
            target=self._serve, args=(connection, number), name=f"capture-server-{number}", daemon=True
        )
        with self._changed:
            self._connections.add(connection)
        thread.start()
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self._ssl_context is not None:
                from ssl import SSLSocket  # loaded already by the maker of the context

                assert isinstance(connection, SSLSocket)  # noqa: S101  for the type checker
                connection.do_handshake()
            Serving(connection, number, self._stopping, self._arrived, self._answering)
        except OSError:
            # The client went away, refused our certificate, or the server stops: its connection is all that ends.
            return
        finally:
            with self._changed:
                self._connections.discard(connection)
            connection.close()

    def _arrived(self, request: RecordedRequest) -> Answer:
        """Record it, decide its answer."""
        is_v1 = posthog_v1.is_v1(request.path)
        refusal = posthog_v1.read_body(request) if is_v1 else read_body(request)
        if self._protocol == ("v0" if is_v1 else "v1"):
            refusal = HTTPStatus.NOT_FOUND, "not found"
        with self._changed:
            self._requests.append(request)
            source = self._script.pop(0) if self._script else self._default_answer
            self._changed.notify_all()
        answer = source(request) if callable(source) else source
        # A scripted failure wins, as a broken proxy's would. PostHog's rules only judge a success.
        if self._judges and refusal is not None and is_success(answer.status):
            status, reason = refusal
            answer = replace(answer, status=status, body=reason)
        elif is_v1 and refusal is None and answer.body is None and is_success(answer.status):
            answer = replace(answer, body=posthog_v1.answer_body(request, answer.results))
        request.answer = answer
        return answer

    def _answering(self, request: RecordedRequest, status: int | None) -> None:
        """Count it and wake the waiters, before the client gets its answer."""
        with self._changed:
            request.status = status
            # A request that `clear` forgot while it was delayed is not counted. It is near the end, if anywhere.
            if request.accepted and any(known is request for known in reversed(self._requests)):
                self._accepted_events += len(request.accepted_events)
            self._changed.notify_all()
        if self._on_request is not None:
            # The callback that holds the lock may be stopping us, and then waits for this thread.
            while not self._on_request_lock.acquire(timeout=_LOOK_INTERVAL):
                if self._stopping.is_set():
                    return
            try:
                self._on_request(request)
            finally:
                self._on_request_lock.release()

    def _describe(self) -> str:
        if not self._requests:
            return f"no request came, on {self._connection_count} connections"
        lines = [f"{self._accepted_events} events were accepted, {len(self._requests)} requests came:"]
        for request in self._requests[:20]:
            names = ", ".join(repr(event.get("event")) for event in request.events[:5])
            more = ", …" if len(request.events) > 5 else ""  # as many as above
            reason = ""
            if request.answer is not None and request.answer.body is not None and not request.accepted:
                reason = f" {request.answer.body!r:.200}"
            status = "no answer" if request.status is None else request.status
            lines.append(
                f"  {request.method} {request.path}: {status}{reason}; {len(request.events)} events {names}{more}"
            )
        if len(self._requests) > 20:  # as many as above
            lines.append("  …")
        return "\n".join(lines)


def _is_crash(event: dict[str, Any]) -> bool:
    try:
        mechanism = event["properties"]["$exception_list"][0]["mechanism"]
        return event["event"] == "$exception" and bool(mechanism["type"] == "signal")
    except (KeyError, IndexError, TypeError):  # no exception, or one that was written by hand
        return False


def _shut_down(connection: socket.socket) -> None:
    # The plain socket's method: SSLSocket's would also take the TLS object from the thread that is reading.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    if sys.platform == "win32":  # where that wakes no thread that reads
        with contextlib.suppress(OSError):
            socket.close(connection.detach())
