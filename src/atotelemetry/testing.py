"""A local PostHog-compatible endpoint, for this project's tests and for its users' tests.

    from atotelemetry.testing import Answer, CaptureServer

    with CaptureServer() as server:
        subprocess.run(["my-cli", "build"], env={**os.environ, "MY_TELEMETRY_URL": server.url})
        (event,) = server.wait_for_events(1)
        assert event["event"] == "build finished"

        server.script(Answer(status=503), Answer(reset=True))  # what the next two requests get

It runs in the test's process: one thread accepts, one thread serves each connection, and every wait in them ends when
the server stops. Requests are judged as PostHog's capture endpoint judges them, so what a test sends and PostHog would
refuse is refused here too. Only loopback is listened on. Never imported by the host or by the sender.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import selectors
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message
    from ssl import SSLContext
    from types import TracebackType

__all__ = ["Answer", "AnswerSource", "CaptureServer", "RecordedRequest"]

BODY_LIMIT_BYTES = 20 * 1024 * 1024
CAPTURE_PATHS = frozenset({"/capture", "/batch", "/e", "/i/v0/e"})

_BACKLOG = 256
_CHUNK_BYTES = 64 * 1024
# serde_json reads one level less than its limit of 128.
_DEEPEST = 127
_LARGEST_DIGITS = 308  # an integer of no more digits than that is finite as a float
_CONTAINERS = frozenset((dict, list))
_LOOK_INTERVAL = 0.05  # how often a thread that waits for a callback's end looks whether the server stops
# Threads end when their socket does; the limit only matters for an `on_request` or answer function that never returns.
_JOIN_TIMEOUT = 5.0
_RESET_ON_CLOSE = struct.pack("hh" if hasattr(socket, "SO_EXCLUSIVEADDRUSE") else "ii", 1, 0)
_UUID = re.compile(r"(?:urn:uuid:)?[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server does with one request; `Answer()` is PostHog's success, 200 `{"status": 1}`.

    Answers with `hang`, `reset`, `drop` or `garbage` are no HTTP answer: such a request gets no status and none of its
    events counts as accepted.
    """

    status: int = 200
    """HTTP status; 2xx accepts the request's events, unless PostHog would refuse the request."""
    body: str | bytes | None = None
    """None: `{"status": 1}` after 2xx, the reason as plain text after anything else."""
    headers: Sequence[tuple[str, str]] = ()
    """More headers, for instance `[("Retry-After", "2")]`; a Content-Type or Content-Length replaces the server's."""
    delay: float = 0.0
    """Seconds before anything else happens."""
    hang: bool = False
    """Say nothing until the client goes away or the server stops."""
    reset: bool = False
    """Break the connection with a TCP reset."""
    drop: bool = False
    """Close the connection without an answer."""
    garbage: bool = False
    """Send bytes that are not HTTP, then close."""
    trickle: float | None = None
    """Seconds between single bytes of the answer, headers included; without a `body` it never ends."""
    close: bool = False
    """Answer, then close without having announced it; add a `Connection: close` header to announce it."""


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One request as it arrived. Everything but `answer` and `status` is there when the request is first seen."""

    method: str
    path: str
    """As sent, with its query and any doubled slash."""
    headers: Message
    """Lookup ignores case: `request.headers["user-agent"]`."""
    body: bytes
    """Decompressed; as sent if that failed or gave more than the 20 MB limit, empty if more than that was sent."""
    wire_bytes: int
    """Length of the body on the wire."""
    received_at: float
    """`time.time()` when the last byte of the body was read."""
    connection: int
    """Which connection it came on, counted from 0: equal numbers prove keep-alive."""
    api_key: str | None = None
    sent_at: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """What could be read from the body, also when the request was refused."""
    answer: Answer | None = None
    """None until it is decided."""
    status: int | None = None
    """None until the answer begins, and for good when there is none."""

    @property
    def accepted(self) -> bool:
        """Whether it was answered 2xx."""
        return _is_success(self.status)


AnswerSource: TypeAlias = Answer | Callable[[RecordedRequest], Answer]
"""An answer, or a function that chooses one; it runs on the connection's thread and must not raise."""


class CaptureServer:
    """A PostHog-compatible endpoint on a loopback port, answering from `start` (or `with`) until `stop`.

    Arguments:
        port: the port to listen on; 0 takes a free one. A stopped server that is started again keeps its port.
        judge: refuse what PostHog refuses; False accepts everything and still reads what it can.
        on_request: called with every request once its answer is decided and before it is sent, on the connection's
            thread and never twice at a time. It must not raise.
        ssl_context: serve https with this context; the url then names `localhost`.

    All methods may be called from any thread. Raises OSError from `start` when the port is taken.

    """

    def __init__(
        self,
        *,
        port: int = 0,
        judge: bool = True,
        on_request: Callable[[RecordedRequest], object] | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self._port = port
        self._judges = judge
        self._on_request = on_request
        self._on_request_lock = threading.Lock()
        self._ssl_context = ssl_context

        # Guards everything below; notified when a request arrives and when its fate is known.
        self._changed = threading.Condition()
        self._requests: list[RecordedRequest] = []
        self._accepted_events = 0
        self._default_answer: AnswerSource = Answer()
        self._script: list[AnswerSource] = []
        self._connections: set[socket.socket] = set()
        self._connection_count = 0

        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._waker: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        # Touched by the acceptor, and by `stop` once that has ended.
        self._threads: list[threading.Thread] = []

    # -- life

    def start(self) -> None:
        """Listen and answer; returns when clients can connect. Raises OSError when the port is taken."""
        if self._listener is not None:
            raise RuntimeError("the capture server is already running")
        self._listener = _listen(self._port)
        self._port = self._listener.getsockname()[1]
        self._stopping.clear()
        # Closing a socket does not wake a thread that waits in accept() on it; the end of this pair does, everywhere.
        self._waker, wakened = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept_until_stopped, args=(self._listener, wakened), name="capture-server", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Refuse new connections, break those that are open, hanging ones too, and end every thread; never waits.

        What was recorded stays readable. Does nothing when the server is not running.
        """
        listener, waker, acceptor = self._listener, self._waker, self._acceptor
        if listener is None or waker is None or acceptor is None:
            return
        self._listener = self._waker = self._acceptor = None
        self._stopping.set()
        waker.close()
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

    # -- what a test reads

    @property
    def port(self) -> int:
        """The port it listens on, or did until it was stopped."""
        if not self._port:
            raise RuntimeError("the capture server has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        """What to give a client as its host; after `stop` connecting there is refused."""
        if self._ssl_context is not None:
            return f"https://localhost:{self.port}"
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request in order of arrival, answered or not; a new list each time."""
        with self._changed:
            return list(self._requests)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of every request that was answered 2xx, in order of arrival; a new list each time."""
        with self._changed:
            return [event for request in self._requests if request.accepted for event in request.events]

    @property
    def connection_count(self) -> int:
        """How many TCP connections were accepted, also those that never sent a request."""
        with self._changed:
            return self._connection_count

    def wait_for_events(self, count: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Wait until at least `count` events were accepted and return all of them.

        Raises TimeoutError after `timeout` seconds, saying what did arrive.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._accepted_events >= count, timeout):
                raise TimeoutError(f"{count} events did not arrive within {timeout:g} s; {self._describe()}")
        return self.events

    def wait_for_requests(self, count: int, timeout: float = 30.0) -> list[RecordedRequest]:
        """Wait until at least `count` requests arrived, answered or not, and return all of them.

        Raises TimeoutError after `timeout` seconds, saying what did arrive.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout):
                raise TimeoutError(f"{count} requests did not arrive within {timeout:g} s; {self._describe()}")
        return self.requests

    def clear(self) -> None:
        """Forget every request and event so far; answers that are set stay set."""
        with self._changed:
            self._requests = []
            self._accepted_events = 0

    # -- what a test decides

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

    def _accept_until_stopped(self, listener: socket.socket, wakened: socket.socket) -> None:
        with listener, wakened, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wakened, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                # A client that gave up between select() and accept() must not hold us here: the listener never blocks.
                with contextlib.suppress(OSError):
                    self._adopt(listener.accept()[0])

    def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(True)  # some systems let it inherit the listener's mode
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
                from ssl import SSLSocket  # whoever made the context paid for the import

                assert isinstance(connection, SSLSocket)  # noqa: S101  for the type checker
                connection.do_handshake()
            _Handler(connection, number, self)
        except OSError:
            # The client went away, refused our certificate, or the server stops: its connection is all that ends.
            return
        finally:
            with self._changed:
                self._connections.discard(connection)
            connection.close()

    def _arrived(self, request: RecordedRequest) -> Answer:
        """Record it, decide its answer."""
        refusal = _read_body(request)
        with self._changed:
            self._requests.append(request)
            source = self._script.pop(0) if self._script else self._default_answer
            self._changed.notify_all()
        answer = source(request) if callable(source) else source
        # A failure that was asked for stands before PostHog, as a broken proxy would; a success is PostHog's to give.
        if self._judges and refusal is not None and _is_success(answer.status):
            status, reason = refusal
            answer = replace(answer, status=status, body=reason)
        request.answer = answer
        return answer

    def _answering(self, request: RecordedRequest, status: int | None) -> None:
        """Count it and tell whoever waits, before the client can know: a client that is answered finds it counted."""
        with self._changed:
            request.status = status
            # A request that `clear` forgot while it was delayed is not counted. It is near the end, if anywhere.
            if request.accepted and any(known is request for known in reversed(self._requests)):
                self._accepted_events += len(request.events)
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
            more = ", …" if len(request.events) > 5 else ""  # noqa: PLR2004  as many as above
            reason = ""
            if request.answer is not None and request.answer.body is not None and not request.accepted:
                reason = f" {request.answer.body!r:.200}"
            status = "no answer" if request.status is None else request.status
            lines.append(
                f"  {request.method} {request.path}: {status}{reason}; {len(request.events)} events {names}{more}"
            )
        if len(self._requests) > 20:  # noqa: PLR2004  as many as above
            lines.append("  …")
        return "\n".join(lines)


class _Handler(BaseHTTPRequestHandler):
    """One connection, served by its constructor: requests one after the other until either side ends it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, connection: socket.socket, number: int, server: CaptureServer) -> None:
        self._number = number
        self._capture_server = server
        # The base class only passes address and server on, to its log and to subclasses.
        super().__init__(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing: tests read what was recorded."""

    def do_POST(self) -> None:
        """Record the request and do as its answer says."""
        server = self._capture_server
        received = self._receive_body()
        if received is None:
            self.close_connection = True
            return
        body, wire_bytes = received
        request = RecordedRequest(
            method=self.command,
            # The base class folds leading slashes, which would hide a client that joins its url carelessly.
            path=self.requestline.split()[1],
            headers=self.headers,
            body=body,
            wire_bytes=wire_bytes,
            received_at=time.time(),
            connection=self._number,
        )
        answer = server._arrived(request)  # noqa: SLF001  two classes, one module
        if answer.delay:
            server._stopping.wait(answer.delay)  # noqa: SLF001
        if server._stopping.is_set():  # noqa: SLF001
            self.close_connection = True
            return
        silent = answer.hang or answer.reset or answer.drop or answer.garbage
        server._answering(request, None if silent else answer.status)  # noqa: SLF001
        if silent or answer.close or ("connection", "close") in {(n.lower(), v.lower()) for n, v in answer.headers}:
            self.close_connection = True
        self._send(answer)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815  looked up by name

    def _receive_body(self) -> tuple[bytes, int] | None:
        """Return the body (empty if over the limit) and its length; None if the client went away inside it."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._receive_chunks()
        try:
            length = int(self.headers.get("Content-Length", 0))
        except ValueError:
            return None
        return self._receive(length)

    def _receive(self, length: int) -> tuple[bytes, int] | None:
        if length <= BODY_LIMIT_BYTES:
            body = self.rfile.read(max(length, 0))
            return (body, length) if len(body) == length else None
        # Too much to keep, but a client hears its 413 only after it could send everything.
        left = length
        while left:
            chunk = self.rfile.read(min(left, _CHUNK_BYTES))
            if not chunk:
                return None
            left -= len(chunk)
        return b"", length

    def _receive_chunks(self) -> tuple[bytes, int] | None:
        chunks: list[bytes] = []
        total = 0
        while True:
            try:
                length = int(self.rfile.readline(_CHUNK_BYTES).split(b";")[0], 16)
            except ValueError:
                return None
            received = self._receive(length)
            if received is None:
                return None
            self.rfile.readline(_CHUNK_BYTES)
            if not length:
                return b"".join(chunks) if total <= BODY_LIMIT_BYTES else b"", total
            total += length
            if total <= BODY_LIMIT_BYTES:
                chunks.append(received[0])

    def _send(self, answer: Answer) -> None:
        if answer.hang:
            # Ends with the client's connection or with ours, which `stop` shuts down.
            while self.connection.recv(_CHUNK_BYTES):
                pass
        elif answer.reset:
            # With a linger time of zero, close() discards what is under way and sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        elif answer.garbage:
            self.wfile.write(b"\x00\xff garbage \r\n\r\n\x16\x03\x01 \xfe" * 4)
        elif answer.trickle is not None:
            self._trickle(answer, answer.trickle)
        elif not answer.drop:
            body = _body_of(answer)
            # A HEAD request is told the length and spared the body.
            self.wfile.write(_head_of(answer, len(body)) + (body if self.command != "HEAD" else b""))

    def _trickle(self, answer: Answer, interval: float) -> None:
        response: Iterable[int]
        if answer.body is None:
            # No length is announced, so for the client more is always to come.
            self.close_connection = True
            response = itertools.chain(_head_of(answer, None), itertools.repeat(ord(" ")))
        else:
            body = _body_of(answer)
            response = _head_of(answer, len(body)) + body
        for byte in response:
            self.wfile.write(bytes((byte,)))
            if self._capture_server._stopping.wait(interval):  # noqa: SLF001
                self.close_connection = True
                return


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            # On Windows SO_REUSEADDR would let two servers share a port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _shut_down(connection: socket.socket) -> None:
    # The plain socket's method: SSLSocket's would also take the TLS object from the thread that is reading.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _is_success(status: int | None) -> bool:
    return status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _body_of(answer: Answer) -> bytes:
    if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return b""  # HTTP allows none here: a client would take it for the next answer
    if answer.body is None:
        return b'{"status": 1}' if _is_success(answer.status) else _phrase(answer.status).encode()
    return answer.body.encode() if isinstance(answer.body, str) else answer.body


def _head_of(answer: Answer, length: int | None) -> bytes:
    headers = {"content-type": "application/json" if _is_success(answer.status) else "text/plain; charset=utf-8"}
    if length is not None and answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        headers["content-length"] = str(length)
    for name, _ in answer.headers:
        headers.pop(name.lower(), None)
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in (*headers.items(), *answer.headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_body(request: RecordedRequest) -> tuple[int, str] | None:
    """Fill in what the body holds; return the status and the reason that PostHog would refuse the request with.

    Source: the handler of PostHog's capture service (rust/capture in its repository): every path takes an event, a
    batch or an array of events; one bad event refuses the whole request.
    """
    if request.wire_bytes > BODY_LIMIT_BYTES:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "length limit exceeded"
    refusal: tuple[int, str] | None = None
    if request.path.partition("?")[0].removesuffix("/") not in CAPTURE_PATHS:
        refusal = HTTPStatus.NOT_FOUND, "not found"
    elif request.method != "POST":
        refusal = HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed"
    if request.headers.get("Content-Encoding", "").strip().lower() == "gzip":
        try:
            body = _gunzip(request.body)
        except zlib.error as error:
            return refusal or (HTTPStatus.BAD_REQUEST, f"failed to decode request: {error}")
        if body is None:
            return refusal or (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "length limit exceeded")
        request.body = body
    try:
        # As text: from bytes, `json` would also take UTF-16 and encoded surrogates, which PostHog does not.
        text = request.body.decode()
        payload = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        return refusal or (HTTPStatus.BAD_REQUEST, f"failed to parse request: {error}")
    # Read in any case: who looks for a request that was refused wants to see what was in it.
    verdict = _read_payload(request, payload)
    if _is_too_deep(payload):
        verdict = HTTPStatus.BAD_REQUEST, "failed to parse request: recursion limit exceeded"
    elif "\\u" in text and _has_lone_surrogate(payload):
        verdict = HTTPStatus.BAD_REQUEST, "failed to parse request: lone surrogate in a hex escape"
    return refusal or verdict


def _read_payload(request: RecordedRequest, payload: Any) -> tuple[int, str] | None:
    events: Any = payload
    key: Any = None
    if isinstance(payload, dict):
        key = payload.get("api_key", payload.get("token"))
        sent_at = payload.get("sent_at")
        request.sent_at = sent_at if isinstance(sent_at, str) else None
        if "batch" in payload:
            events = payload["batch"]
        else:
            # What the request says once belongs to it, not to its event, so that both shapes read the same.
            about_request = ("api_key", "token", "sent_at")
            events = [{name: value for name, value in payload.items() if name not in about_request}]
    if isinstance(events, list):
        request.events = [event for event in events if isinstance(event, dict)]
    if not isinstance(events, list) or len(request.events) != len(events):
        return HTTPStatus.BAD_REQUEST, "failed to parse request: not an event, a batch or an array of events"
    keys = {key} if isinstance(key, str) else {_key_of(event) for event in request.events} - {""}
    request.api_key = min(keys, default=None)
    for index, event in enumerate(request.events):
        if (reason := _malformed(event)) is not None:
            return HTTPStatus.BAD_REQUEST, f"failed to parse request: event {index}: {reason}"
    if not request.events:
        return HTTPStatus.BAD_REQUEST, "request holds no event"
    if not request.api_key:
        return HTTPStatus.UNAUTHORIZED, "event submitted without an api_key"
    if len(keys) > 1:
        return HTTPStatus.UNAUTHORIZED, "batch submitted with inconsistent api_key values"
    for index, event in enumerate(request.events):
        if not event["event"]:
            return HTTPStatus.BAD_REQUEST, f"event {index} submitted with an empty event name"
        if _distinct_id_of(event) in {None, ""}:
            return HTTPStatus.BAD_REQUEST, f"event {index} submitted without a distinct_id"
    return None


def _malformed(event: dict[str, Any]) -> str | None:
    if not isinstance(event.get("event"), str):
        return "missing field `event`"
    if not isinstance(event.get("properties", {}), dict):
        return "`properties` is not an object"
    uuid = event.get("uuid")
    # An empty one counts as none.
    if uuid is not None and uuid != "" and not (isinstance(uuid, str) and _UUID.fullmatch(uuid)):
        return f"invalid uuid {uuid!r:.80}"
    return None


def _key_of(event: dict[str, Any]) -> str:
    properties = event.get("properties")
    key = event.get("api_key", event.get("token"))
    if key is None and isinstance(properties, dict):
        key = properties.get("token")
    return key if isinstance(key, str) else ""


def _distinct_id_of(event: dict[str, Any]) -> str | None:
    distinct_id = event.get("distinct_id")
    if distinct_id is None:
        distinct_id = event.get("properties", {}).get("distinct_id")
    return distinct_id if distinct_id is None or isinstance(distinct_id, str) else json.dumps(distinct_id)


def _gunzip(data: bytes) -> bytes | None:
    """Decompress one gzip member; None when it holds more than the limit. Raises zlib.error when it is no gzip."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    # Never decompresses more than one byte over the limit, however small the data.
    body = decompressor.decompress(data, BODY_LIMIT_BYTES + 1)
    if len(body) > BODY_LIMIT_BYTES:
        return None
    if not decompressor.eof:
        raise zlib.error("the compressed data ends early")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in {math.inf, -math.inf}:
        raise ValueError("number out of range")
    return number


def _integer(text: str) -> int:
    if len(text) > _LARGEST_DIGITS:
        _finite(text)  # what does not fit 64 bits is a float to serde_json
    return int(text)


def _is_too_deep(payload: Any) -> bool:
    level = [payload] if isinstance(payload, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [child for container in level for child in _containers_in(container)]
        if not level:
            return False
    return True


def _containers_in(container: Any) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    # Most hold none, and are not looked at value by value: a measured program should not wait for its test server.
    if _CONTAINERS.isdisjoint(map(type, values)):
        return []
    return [value for value in values if type(value) in _CONTAINERS]


def _has_lone_surrogate(payload: Any) -> bool:
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
