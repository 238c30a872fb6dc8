"""Times what nobody can leave out between 20,000 captures and their acceptance, one thing after another.

    python pipeline.py URL COUNT

Bare libraries: msgspec, zlib, a socket. Prints one JSON object, in seconds of this process's CPU.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import zlib

import msgspec

EVENTS = 1000  # of one request
LEVEL = 3  # as the sender compresses


class Event(msgspec.Struct):
    """A line as the sender reads it: the values stay as they are."""

    uuid: str
    event: str
    distinct_id: str
    timestamp: str
    properties: msgspec.Raw


url, count = sys.argv[1], int(sys.argv[2])
properties = {"command": "build", "ok": True, "targets": 3, "board": "a board with a name", "layers": 4}
encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Event).decode
spent, began = {}, time.process_time()


def spend(what):
    """Note what was spent since the last call."""
    global began
    now = time.process_time()
    spent[what], began = now - began, now


fields = {"event": "streamed", "distinct_id": "me", "timestamp": "2030-01-02T03:04:05.678901Z"}
lines = [
    encode({"uuid": f"0190c0de-0000-7000-8000-{number:012x}", **fields, "properties": properties})
    for number in range(count)
]
spend("encoding")
read_end, write_end = os.pipe()
block = bytes(2**16)
for _ in range(sum(map(len, lines)) // len(block) + 1):
    os.write(write_end, block)
    os.read(read_end, len(block))
spend("pipe")
events = [decode(line) for line in lines]
spend("decoding")
bodies = [
    b'{"api_key":"phc_bench","batch":[' + b",".join(map(encode, events[start : start + EVENTS])) + b"]}"
    for start in range(0, count, EVENTS)
]
spend("encoding_again")
bodies = [zlib.compress(body, LEVEL, zlib.MAX_WBITS | 16) for body in bodies]
spend("gzip")
host, _, port = url.removeprefix("http://").partition(":")
with socket.create_connection((host, int(port))) as connection:
    for body in bodies:
        head = f"POST /batch/ HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.recv(4096)
spend("loopback")
print(json.dumps({**spent, "all": sum(spent.values())}))
