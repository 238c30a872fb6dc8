"""HTTP on one connection: requests as they were received, answers as a test wants them.

Runs on the connection's own thread. `Serving` reads requests until either side ends the connection. The
server's `arrived` decides the answer to each; `answering` is called before its first byte. An answer may be no HTTP at
all: a reset, a hang, garbage.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, TypeAlias

from atotelemetry.testing.posthog import BODY_LIMIT_BYTES
from atotelemetry.testing.posthog_v1 import STORED, key_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator
    from email.message import Message

__all__ = ["Answer", "AnswerSource", "RecordedRequest", "Serving", "is_success"]

_CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("hh" if hasattr(socket, "SO_EXCLUSIVEADDRUSE") else "ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The server's answer to one request; `Answer()` is PostHog's success, 200 `{"status": 1}`.

    With `hang`, `reset`, `drop` or `garbage` there is no HTTP answer: no status, and no accepted event.
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
    results: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    """Verdicts of protocol v1 by uuid or name of the event: "drop", or `{"result": "drop", "details": "…"}`."""


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
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)
    """The server's verdicts on the events, by canonical uuid (protocol v1)."""

    @property
    def accepted(self) -> bool:
        """Whether it was answered 2xx."""
        return is_success(self.status)

    @property
    def accepted_events(self) -> list[dict[str, Any]]:
        """The events that the server has taken; of protocol v1 those with a verdict that says so."""
        if not self.accepted:
            return []
        if not self.verdicts:
            return self.events
        return [event for event in self.events if self.verdicts[key_of(event)]["result"] in STORED]


AnswerSource: TypeAlias = Answer | Callable[[RecordedRequest], Answer]
"""An answer, or a function that chooses one; it runs on the connection's thread and must not raise."""


class Serving(BaseHTTPRequestHandler):
    """Serves one connection in its constructor, until either side ends it. Raises OSError when the client goes away.

    `arrived` records a request and returns the answer. `answering` is told the status before it is sent; None when the
    answer is no HTTP. `stopping` ends delays and slow answers.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(
        self,
        connection: socket.socket,
        number: int,
        stopping: threading.Event,
        arrived: Callable[[RecordedRequest], Answer],
        answering: Callable[[RecordedRequest, int | None], None],
    ) -> None:
        self._number = number
        self._stopping = stopping
        self._arrived = arrived
        self._answering = answering
        # The base class only passes address and server on, to its log and to subclasses.
        super().__init__(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests read the record."""

    def do_POST(self) -> None:
        """Record the request and do as its answer says."""
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
        answer = self._arrived(request)
        if answer.delay:
            self._stopping.wait(answer.delay)
        if self._stopping.is_set():
            self.close_connection = True
            return
        silent = answer.hang or answer.reset or answer.drop or answer.garbage
        self._answering(request, None if silent else answer.status)
        if silent or answer.close or ("connection", "close") in {(n.lower(), v.lower()) for n, v in answer.headers}:
            self.close_connection = True
        self._send(answer)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815  looked up by name

    def _receive_body(self) -> tuple[bytes, int] | None:
        """Return the body (empty if over the limit) and its length; None if the client went away inside it."""
        body, total = bytearray(), 0
        try:
            for length in self._lengths():
                total += length
                left = length
                while left:  # to the end in any case: a client hears its 413 only after it could send everything
                    data = self.rfile.read(min(left, _CHUNK_BYTES))
                    if not data:
                        return None
                    left -= len(data)
                    if total <= BODY_LIMIT_BYTES:
                        body += data
        except ValueError:
            return None
        return bytes(body) if total <= BODY_LIMIT_BYTES else b"", total

    def _lengths(self) -> Iterator[int]:
        """Yield the length of each part of the body, before it is read. Raises ValueError if one is no length."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            yield _length(self.headers.get("Content-Length", "0"), 10)
            return
        while length := _length(self.rfile.readline(_CHUNK_BYTES).split(b";")[0], 16):
            yield length
            self.rfile.readline(_CHUNK_BYTES)
        self.rfile.readline(_CHUNK_BYTES)

    def _send(self, answer: Answer) -> None:
        if answer.hang:
            # Ends with the client's connection or with ours, which `stop` shuts down.
            while self.connection.recv(_CHUNK_BYTES):
                pass
        elif answer.reset:
            # With a linger time of zero, close() discards unsent bytes and sends a reset.
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
            if self._stopping.wait(interval):
                self.close_connection = True
                return


def _length(text: str | bytes, base: int) -> int:
    length = int(text, base)
    if length < 0:
        raise ValueError(text)
    return length


def is_success(status: int | None) -> bool:
    """Whether the status is 2xx."""
    return status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def _phrase(status: int) -> str:
    return Serving.responses.get(status, ("Unknown", ""))[0]


def _body_of(answer: Answer) -> bytes:
    if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return b""  # HTTP allows none here: a client would take it for the next answer
    if answer.body is None:
        return b'{"status": 1}' if is_success(answer.status) else _phrase(answer.status).encode()
    return answer.body.encode() if isinstance(answer.body, str) else answer.body


def _head_of(answer: Answer, length: int | None) -> bytes:
    headers = {"content-type": "application/json" if is_success(answer.status) else "text/plain; charset=utf-8"}
    if length is not None and answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        headers["content-length"] = str(length)
    for name, _ in answer.headers:
        headers.pop(name.lower(), None)
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in (*headers.items(), *answer.headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
