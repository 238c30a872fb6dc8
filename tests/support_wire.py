"""Lines of a stream, and their decoded messages in a form that can be compared."""

from __future__ import annotations

from atotelemetry.wire import (
    LineDecoder,
    OutgoingEvent,
    encode,
)

UUID = "0193b5a4-7c1e-7d33-9c1e-8f2a7d9b6e10"


GOOD = b'{"event":"good"}'


def event_line(name: str = "built", properties: object = None, context: object = None) -> bytes:
    return encode(OutgoingEvent(UUID, name, "me", "2026-01-02T03:04:05.000006Z", properties or {}, context))


def decode(*parts: bytes) -> list:
    """Decode a whole stream that arrives in these parts."""
    decoder = LineDecoder()
    messages = [message for part in parts for message in decoder.feed(part)]
    return messages + decoder.close()


def event_of(size_bytes: int) -> bytes:
    """Return a good event line that is exactly so long."""
    head, tail = b'{"event":"big","properties":{"a":"', b'"}}'
    return head + b"x" * (size_bytes - len(head) - len(tail)) + tail
