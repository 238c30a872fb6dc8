"""Senders that are real processes, and servers that stall in every way a network knows.

    done = run_sender(hello(server.url), event("built"), END)
    assert done.exit_code == 0

A sender gets an environment without anybody's proxies, certificates and `PYTHON*` settings. Nothing here waits for a
fixed time: a test waits for the process, for a connection, or for what the server saw.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import atotelemetry
from atotelemetry.wire import Answer, AnswerDecoder, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from atotelemetry.testing import CaptureServer

SOURCE = str(Path(atotelemetry.__file__).parents[1])
END = b'{"type":"end"}\n'
KEY = "phc_test"

# Everything that a test waits for happens within seconds on an idle machine; this is for a busy one.
PATIENCE = 40.0

_DROPPED_VARIABLES = ("PYTHON", "ATO_", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_", "COV_CORE_", "COVERAGE_")


def hello(host: str, **settings: Any) -> bytes:
    """Return a hello line for a server."""
    return json.dumps({"type": "hello", "protocol": 1, "api_key": KEY, "host": host, **settings}).encode() + b"\n"


def event(name: str, number: int = 0, **fields: Any) -> bytes:
    """Return a whole event line; the same name and number make the same uuid."""
    known = {
        "uuid": f"0190c0de-0000-7000-8000-{number:012x}",
        "event": name,
        "distinct_id": "me",
        "timestamp": "2030-01-02T03:04:05.678901Z",
        "properties": {"number": number},
    }
    return json.dumps({**known, **fields}).encode() + b"\n"


def events(count: int, name: str = "e", **fields: Any) -> bytes:
    """Return the lines of events named e0, e1, and so on."""
    return b"".join(event(f"{name}{number}", number, **fields) for number in range(count))


def to(host: str, **options: Any) -> list[str]:
    """Return the options that send to a server; `max_retries=0` becomes `--max-retries 0`."""
    arguments = ["--host", host, "--api-key", KEY, "-v"]
    for name, value in options.items():
        arguments += ["--" + name.replace("_", "-"), str(value)]
    return arguments


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would change how a sender works."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DROPPED_VARIABLES) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": SOURCE, **(extra or {})}


@dataclass
class Done:
    """What is left of a sender that has ended."""

    exit_code: int
    """Of a detached one: that of the process that was started, which leaves at once."""
    stdout: str
    stderr: str
    seconds: float
    """From the end of its input to the end of the process."""

    @property
    def answers(self) -> list[Answer]:
        """What it answered, if it was detached."""
        return AnswerDecoder().feed(self.stdout.encode())

    @property
    def outcome(self) -> Outcome:
        """Its last words to the host."""
        last = self.answers[-1]
        assert isinstance(last, Outcome), self.answers
        assert last.last, self.answers
        return last

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return self.stderr.splitlines()

    @property
    def summary(self) -> str:
        """The closing line; empty where a busy machine had no time for it before the deadline."""
        return next((line for line in reversed(self.lines) if line.startswith("done: ")), "")

    def dropped(self) -> list[str]:
        """Return the names of the events that it said were dropped."""
        names: list[str] = []
        for line in self.lines:
            if line.startswith("dropped "):
                for item in line.partition("(")[2].partition("):")[0].split(", "):
                    name, _, count = item.partition(" x ")
                    names += [name] * int(count or 1)
        return names


class RunningSender:
    """A sender whose input is still open."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        detached: bool = False,
        patch: str = "",
        pass_fds: Collection[int] = (),
        dumps: int | None = None,
    ) -> None:
        self._detached = detached
        extra = {**(env or {}), **({"ATO_TELEMETRY_SENDER": "1"} if detached else {})}
        start = ["-m", "atotelemetry.sender"]
        if patch:
            script = f"{patch}\nimport runpy\nrunpy.run_module('atotelemetry.sender', run_name='__main__')"
            start = ["-c", script]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *start, *(["--detached"] if detached else []), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if dumps is None else dumps,
            env=environment(extra),
            bufsize=0,
            start_new_session=detached,
            pass_fds=pass_fds,
        )
        self._ended_at = time.monotonic()

    def send(self, number: int) -> None:
        """Send the sender a signal."""
        if sys.platform == "win32":
            pytest.skip("signals of POSIX")
        if self._detached:
            os.killpg(self.process.pid, number)  # its session's only group; the process that was started has left it
        else:
            self.process.send_signal(number)

    @property
    def input(self) -> int:
        """The descriptor that its stdin is fed through."""
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    def write(self, *lines: bytes) -> None:
        """Feed it."""
        assert self.process.stdin is not None
        data = memoryview(b"".join(lines))
        while data:
            data = data[self.process.stdin.write(data) or 0 :]

    def close(self) -> None:
        """End its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._ended_at = time.monotonic()

    def read_answers(self, decoder: AnswerDecoder) -> list[Answer]:
        """Wait for more answers of a detached one."""
        assert self.process.stdout is not None
        if sys.platform != "win32":  # where only sockets can be waited for
            assert select.select([self.process.stdout], [], [], PATIENCE)[0]
        return decoder.feed(os.read(self.process.stdout.fileno(), 65536))

    def fill_stdout(self) -> None:
        """Fill the pipe that it answers into, with line ends."""
        assert self.process.stdout is not None
        if sys.platform == "win32":
            pytest.skip("a pipe opened anew through /proc")
        # A pipe can be opened anew through /proc, for the other direction, too (proc(5)).
        pipe = os.open(f"/proc/self/fd/{self.process.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, b"\n" * 4096)
        os.close(pipe)

    def finish(self) -> Done:
        """End its input if that was not done, and wait for the process."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.close()
        self.process.stdin = None
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - self._ended_at
        return Done(self.process.returncode, (stdout or b"").decode(), (stderr or b"").decode(), seconds)

    def wait(self) -> Done:
        """Wait for the process while its input stays open."""
        stdin, self.process.stdin = self.process.stdin, None
        assert stdin is not None
        with stdin:
            stdout, stderr = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, stdout.decode(), stderr.decode(), time.monotonic() - self._ended_at)

    def read_stderr_until(self, text: str) -> list[str]:
        """Read its stderr up to a line that holds `text`; return what was read."""
        assert self.process.stderr is not None
        lines: list[str] = []
        while not (lines and text in lines[-1]):
            line = self.process.stderr.readline().decode()
            assert line, f"{text!r} never came: {lines}"
            lines.append(line.rstrip("\n"))
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._detached and sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run_sender(
    *lines: bytes,
    arguments: list[str] | None = None,
    env: Mapping[str, str] | None = None,
    detached: bool = False,
    patch: str = "",
) -> Done:
    """Run a sender on these lines to its end."""
    with RunningSender(*(arguments or []), env=env, detached=detached, patch=patch) as sender:
        with contextlib.suppress(BrokenPipeError):  # a sender that was called wrongly does not read to the end
            sender.write(*lines)
        return sender.finish()


@contextlib.contextmanager
def one_at_work(server: CaptureServer, **options: Any) -> Iterator[RunningSender]:
    """Start a detached sender, yield it when its first event was delivered."""
    before = len(server.events)
    with RunningSender(detached=True, **options) as sender:
        sender.write(hello(server.url), event("first", 1))
        server.wait_for_events(before + 1)
        yield sender


class Staller:
    """A listener on loopback whose connections are handled by `behave`, which may hang: the end closes its socket.

    `arrived` is set by the first connection.
    """

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.arrived = threading.Event()
        self.connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def url(self, scheme: str = "http") -> str:
        """Return what to give a sender as its host."""
        return f"{scheme}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)
            self.arrived.set()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._behave(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wake(self._listener)
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for connection in self.connections:
            wake(connection)
        for thread in self._threads:
            thread.join(PATIENCE)
        for connection in self.connections:
            connection.close()


def wake(used: socket.socket) -> None:
    """End whatever a thread does with a socket."""
    with contextlib.suppress(OSError):
        used.shutdown(socket.SHUT_RDWR)
    if sys.platform == "win32":  # where that wakes nobody
        with contextlib.suppress(OSError):
            socket.close(used.detach())


def silence(connection: socket.socket) -> None:
    """Read what comes and say nothing, for ever."""
    while connection.recv(65536):
        pass


def deafness(connection: socket.socket) -> None:
    """Neither read nor say anything; the connection stays open until the end."""
    del connection


def read_request(connection: socket.socket) -> bytes:
    """Read one request's head, and its body if it announced a length; return all of it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(rest) < length and (chunk := connection.recv(65536)):
        rest += chunk
    return head + b"\r\n\r\n" + rest


def drip(head: bytes, interval: float = 0.1) -> Callable[[socket.socket], None]:
    """Return a behaviour: read a request, send `head` at once, then a byte at a time for ever."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        stop = threading.Event()
        while True:
            connection.sendall(b"x")
            stop.wait(interval)

    return behave


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port of loopback where connecting takes for ever: nobody accepts, and the queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                queued.connect(listener.getsockname())
        yield listener.getsockname()[1]


@functools.cache
def closed_port() -> int:
    """Return a port of loopback where connecting is refused: it stays bound, so that no other test listens there."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    atexit.register(bound.close)
    return int(bound.getsockname()[1])
