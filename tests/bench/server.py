"""The servers that every contender talks to, in one process of their own: one port for each behaviour.

Run as `python -m tests.bench.server`. Prints the addresses as one line of JSON, then answers a line of JSON on stdin
with one on stdout: `{"do": "reset"}`, or `{"do": "wait", "events": N, "within": SECONDS}`, which returns when N
different events were accepted. Ends with its stdin. A thread serves each connection.

Much less than `atotelemetry.testing.CaptureServer`: it judges nothing and keeps nothing but the events' ids, so that
it is never what limits a contender. It speaks as much of PostHog's and of Sentry's protocol as their SDKs look at.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import zlib

import msgspec

DELAY = 0.1
"""Seconds that the healthy server takes for an answer: a round trip to the next continent."""

BEHAVIOURS = ("fast", "healthy", "hanging", "refusing", "unavailable", "dead")

_ACCEPTED = b'{"status": 1}'


class Identified(msgspec.Struct):
    uuid: str = ""


class Body(msgspec.Struct):
    """A PostHog request, single or batch, as far as it is counted."""

    batch: list[Identified] | None = None
    uuid: str = ""


decode_body = msgspec.json.Decoder(Body).decode


class Tally:
    """Which events were accepted, and when the last of them was."""

    def __init__(self):
        self.changed = threading.Condition()
        self.reset()

    def reset(self):
        with self.changed:
            self.ids = set()
            self.events = self.requests = 0
            self.last_at = time.monotonic()

    def add(self, ids):
        with self.changed:
            self.requests += 1
            self.events += len(ids)
            self.ids.update(ids)
            self.last_at = time.monotonic()
            self.changed.notify_all()

    def wait(self, events, within):
        with self.changed:
            self.changed.wait_for(lambda: len(self.ids) >= events, within)
            return {
                "events": self.events,
                "distinct": len(self.ids),
                "requests": self.requests,
                "last_at": self.last_at,
            }


def ids_in(path, body):
    if "/envelope" in path:  # Sentry: a header line, then for each item a header line and a payload
        header, _, items = body.partition(b"\n")
        kind = msgspec.json.decode(items.partition(b"\n")[0]).get("type")
        return [msgspec.json.decode(header)["event_id"]] if kind == "event" else []
    read = decode_body(body)
    return [read.uuid] if read.batch is None else [event.uuid for event in read.batch]


def read_request(stream):
    """Return path and body of the next request; None at the end of the connection."""
    line = stream.readline()
    if not line:
        return None
    path = line.split()[1].decode()
    headers = {}
    while (line := stream.readline()) not in {b"\r\n", b""}:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get(b"content-length", b"0"))
    body = stream.read(length)
    if len(body) < length:  # the client was killed in the middle
        return None
    if headers.get(b"content-encoding") in {b"gzip", b"deflate"}:
        body = zlib.decompress(body, zlib.MAX_WBITS | 32)
    return path, body


def serve(connection, behaviour, tally):
    status = "503 Service Unavailable" if behaviour == "unavailable" else "200 OK"
    answer = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(_ACCEPTED)}\r\n\r\n".encode()
        + _ACCEPTED
    )
    try:
        with connection, connection.makefile("rb") as stream:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (request := read_request(stream)) is not None:
                if behaviour == "hanging":
                    stream.read()  # until the client gives up
                    return
                if behaviour == "healthy":
                    time.sleep(DELAY)
                connection.sendall(answer)
                if behaviour != "unavailable":
                    tally.add(ids_in(*request))
    except OSError:
        return  # the client went away


def accept(listener, behaviour, tally):
    while True:
        connection = listener.accept()[0]
        threading.Thread(target=serve, args=(connection, behaviour, tally), daemon=True).start()


def main():
    tally = Tally()
    urls = {}
    listeners = []
    for behaviour in BEHAVIOURS:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listeners.append(listener)
        urls[behaviour] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if behaviour == "dead":  # a full backlog that nobody empties: the kernel swallows whoever else tries to connect
            listener.listen(0)
            for _ in range(4):
                listeners.append(socket.socket())
                listeners[-1].setblocking(False)
                listeners[-1].connect_ex(listener.getsockname())
        elif behaviour != "refusing":  # bound, so that nobody else takes the port, but never listening
            listener.listen(256)
            threading.Thread(target=accept, args=(listener, behaviour, tally), daemon=True).start()
    print(json.dumps(urls), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "reset":
            tally.reset()
            reply = {}
        else:
            reply = tally.wait(command["events"], command["within"])
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
